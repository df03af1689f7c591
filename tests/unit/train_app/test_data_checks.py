"""Data checks: what refuses training, and what is only told."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.errors import DataRefused
from recsys.settings import Settings
from recsys.types import Item
from train_app.examples.data_checks import Finding, check, refuse_unfit
from train_app.examples.interactions import Interactions, interactions_from_columns

NOW_MS = 1_700_000_000_000


def some(
    n_events: int = 1000,
    n_users: int = 100,
    n_items: int = 50,
    kinds: tuple[str, ...] = ("view", "buy"),
    step_ms: int = 1000,
    titled: bool = True,
) -> Interactions:
    """Engagements spread evenly, up to now."""
    numbers = np.arange(n_events)
    rows = (numbers + numbers // n_users) % n_items
    return interactions_from_columns(
        [f"u{n}" for n in numbers % n_users],
        [f"i{n}" for n in rows],
        [kinds[n % len(kinds)] for n in numbers],
        NOW_MS - (n_events - numbers) * step_ms,
        items=[Item(f"i{n}", f"Title {n}" if titled else "") for n in range(n_items)],
    )


def findings(interactions: Interactions) -> dict[str, Finding]:
    """What the checks find, by name."""
    return {finding.name: finding for finding in check(interactions, Settings(), NOW_MS)}


def test_ordinary_data_has_no_findings() -> None:
    """And is not refused."""
    assert findings(some()) == {}
    refuse_unfit([])


@pytest.mark.parametrize(
    ("name", "interactions"),
    [
        ("too few engagements", some(n_events=199)),
        ("too few users", some(n_users=1)),
        ("too few items", some(n_items=1)),
        ("one time only", some(step_ms=0)),
        ("only negative kinds", some(kinds=("dismiss", "hide"))),
        ("empty catalogue", interactions_from_columns([], [], [], [])),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(name: str, interactions: Interactions) -> None:
    """The refusal names the finding's numbers."""
    found = findings(interactions)
    assert found[name].level == "error"
    with pytest.raises(DataRefused) as caught:
        refuse_unfit(list(found.values()))
    assert found[name].detail in str(caught.value)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("name", "interactions"),
    [
        ("few users", some(n_users=20)),
        ("few items", some(n_items=10)),
        ("short histories", some(n_events=300, n_users=200)),
        ("future times", some(step_ms=-36_000_000)),
        ("one kind", some(kinds=("view",))),
        ("no titles", some(titled=False)),
        ("many repeats", some(n_events=2000, n_users=60, n_items=10)),
    ],
)
def test_odd_data_is_told_and_not_refused(name: str, interactions: Interactions) -> None:
    """A warning with what to do."""
    found = findings(interactions)
    assert found[name].level == "warning"
    refuse_unfit([found[name]])


def test_one_user_or_item_with_most_of_the_data_is_told() -> None:
    """A robot and a placeholder look like this."""
    users = ["robot"] * 600 + [f"u{n % 60}" for n in range(400)]
    items = [f"i{n % 100}" for n in range(1000)]
    times = NOW_MS - np.arange(1000)
    found = findings(interactions_from_columns(users, items, ["view"] * 1000, times))
    assert "60% of the engagements are of user robot" in found["one user dominates"].detail
    swapped = findings(interactions_from_columns(items, users, ["view"] * 1000, times))
    assert "of item robot" in swapped["one item dominates"].detail


def test_many_equal_times_of_a_user_are_told() -> None:
    """Their order of arrival is what training goes by."""
    base = some()
    coarse = base.timestamps_ms // 600_000 * 600_000
    users = [base.user_ids[user] for user in base.user_of_event()]
    items = [base.items[row].item_id for row in base.rows]
    found = findings(interactions_from_columns(users, items, ["view"] * len(base), coarse))
    assert found["equal times"].level == "warning"


def test_errors_come_first() -> None:
    """So that a reader sees why before what else."""
    levels = [f.level for f in check(some(n_events=50, n_users=20), Settings(), NOW_MS)]
    assert levels == sorted(levels)
    assert levels[0] == "error"
