"""Checks of what is to be learned from: what refuses training, and what is only told."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.settings import Settings
from recsys.types import Item
from train_app.checking.check_report import CheckReport, CheckResult, refusal
from train_app.checking.run_checks import INTERACTION_CHECKS
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


def found(interactions: Interactions) -> dict[str, CheckResult]:
    """The results that found something, by check."""
    results = [check(interactions, Settings()) for check in INTERACTION_CHECKS.values()]
    assert [result.name for result in results] == list(INTERACTION_CHECKS)
    return {result.name: result for result in results if result.level != "ok"}


def test_ordinary_data_has_no_findings() -> None:
    """And is not refused."""
    assert found(some()) == {}


@pytest.mark.parametrize(
    ("name", "interactions", "words"),
    [
        ("sizes", some(n_events=199), "199 engagements, expected at least 200"),
        ("sizes", some(n_users=1), "1 user"),
        ("sizes", some(n_items=1), "1 item"),
        ("order", some(step_ms=0), "have the same time"),
        ("kinds", some(kinds=("dismiss", "hide")), "dismiss, hide"),
        ("catalogue", interactions_from_columns([], [], [], []), "no item"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(
    name: str, interactions: Interactions, words: str
) -> None:
    """The refusal names the finding's figures, and ends with exit code 6."""
    result = found(interactions)[name]
    assert result.level == "error"
    refused = refusal(CheckReport(NOW_MS, (result,)))
    assert refused is not None
    assert words in str(refused)
    assert refused.exit_code == 6


@pytest.mark.parametrize(
    ("name", "interactions", "words"),
    [
        ("sizes", some(n_users=20), "only 20 users"),
        ("sizes", some(n_items=10), "only 10 items"),
        ("sizes", some(n_events=300, n_users=200), "1.5 engagements per user"),
        ("kinds", some(kinds=("view",)), "of kind view"),
        ("catalogue", some(titled=False), "no item has a title"),
        ("balance", some(n_events=2000, n_users=60, n_items=10), "repeat an item"),
    ],
)
def test_odd_data_is_told_and_not_refused(
    name: str, interactions: Interactions, words: str
) -> None:
    """A warning with what to do."""
    result = found(interactions)[name]
    assert result.level == "warning"
    assert any(words in finding.detail for finding in result.findings)
    assert refusal(CheckReport(NOW_MS, (result,))) is None


def test_one_user_or_item_with_most_of_the_data_is_told() -> None:
    """A robot and a placeholder look like this; a person is not named."""
    users = ["robot"] * 600 + [f"u{n % 60}" for n in range(400)]
    items = [f"i{n % 100}" for n in range(1000)]
    times = NOW_MS - np.arange(1000)
    robot = found(interactions_from_columns(users, items, ["view"] * 1000, times))["balance"]
    assert robot.findings[0].detail.startswith("60% of the engagements are of one user")
    swapped = found(interactions_from_columns(items, users, ["view"] * 1000, times))["balance"]
    assert "of item robot" in swapped.findings[0].detail


def test_many_equal_times_of_a_user_are_told() -> None:
    """Their order of arrival is what training goes by."""
    base = some()
    coarse = base.timestamps_ms // 600_000 * 600_000
    users = [base.user_ids[user] for user in base.user_of_event()]
    items = [base.items[row].item_id for row in base.rows]
    result = found(interactions_from_columns(users, items, ["view"] * len(base), coarse))["order"]
    assert result.level == "warning"
