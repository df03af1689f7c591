"""Which slate gets the credit, and what credits amount to."""

from __future__ import annotations

import pytest

from train_app.following.evidence.attribution import (
    CLOCK_ERROR_MS,
    best_slate,
    kind_sums,
    slate_sums,
)
from train_app.following.evidence.user_trail import (
    MAX_OPEN_SLATES,
    Cell,
    Credit,
    EvidenceRules,
    OpenSession,
    OpenSlate,
    RecentAct,
    Trail,
    decode_trail,
    encode_trail,
)

CELL = Cell("b", "stable", "", "user_age=new")
WINDOW_MS = 1000
RULES = EvidenceRules(WINDOW_MS, 300, 100, 10_000, frozenset({"dismiss"}))


def a_slate(request_id: str, shown_ms: int, *items: str) -> OpenSlate:
    """A slate that can be credited."""
    return OpenSlate(shown_ms, request_id, CELL, list(items), [])


def an_act(at_ms: int, item_id: str = "a", request_id: str | None = None) -> RecentAct:
    """An engagement."""
    return RecentAct(at_ms, at_ms, "click", item_id, request_id, 0)


@pytest.mark.parametrize(
    ("at_ms", "item", "named", "credited"),
    [
        (50, "a", "r1", "r1"),
        (50, "a", None, "r2"),
        (50, "a", "nobody's", "r2"),
        (50, "c", "r1", "r2"),
        (20, "a", None, "r2"),
        (19, "a", None, "r1"),
        (9, "a", None, None),
        (9, "a", "r1", "r1"),
        (10 - CLOCK_ERROR_MS, "a", "r1", "r1"),
        (9 - CLOCK_ERROR_MS, "a", "r1", None),
        (50, "z", "r1", None),
        (10 + WINDOW_MS, "b", "r1", "r1"),
        (11 + WINDOW_MS, "b", "r1", None),
        (20 + WINDOW_MS, "a", "r1", "r2"),
        (21 + WINDOW_MS, "a", None, None),
    ],
)
def test_the_named_slate_comes_first_then_the_newest_before(
    at_ms: int, item: str, named: str | None, credited: str | None
) -> None:
    """Within the window, and only a slate that showed the item."""
    slates = [a_slate("r1", 10, "a", "b"), a_slate("r2", 20, "c", "a")]
    found = best_slate(an_act(at_ms, item, named), slates, WINDOW_MS)
    assert (None if found is None else found[0].request_id) == credited
    assert found is None or found[0].items[found[1]] == item


def test_credits_amount_to_slates_and_items() -> None:
    """Each counts once, however often it was engaged with."""
    credits = [Credit(0, "click", 5), Credit(0, "click", 7), Credit(1, "view", 0)]
    assert slate_sums(credits, RULES) == {
        "touched_slates": 1, "touched_items": 2, "engaged_slates": 1, "engaged_items": 1,
    }  # fmt: skip
    assert kind_sums(credits, "click") == {"n": 2, "items": 1, "slates": 1, "value_milli": 12}
    assert kind_sums(credits, "buy") == {}
    assert slate_sums([], RULES) == {}
    assert slate_sums([Credit(0, "dismiss", 0)], RULES)["engaged_slates"] == 0


def test_a_trail_comes_back_from_its_bytes() -> None:
    """With its cells, credits and sessions."""
    slate = a_slate("r", 5, "a")
    slate.credits = [Credit(0, "click", 3)]
    trail = Trail([slate], [an_act(7)], [OpenSession(5, 7, (5, "r", CELL))])
    assert decode_trail(encode_trail(trail)) == trail
    assert trail.sessions[0].cell == CELL


def test_a_trail_lets_go_of_what_nothing_can_change() -> None:
    """At the watermark that `expires_ms` names it still holds something, past it nothing."""
    trail = Trail([a_slate("r", 1000, "a")], [an_act(1500)], [OpenSession(1000, 1500)])
    last_ms = trail.expires_ms(RULES)
    trail.prune(last_ms, RULES)
    assert trail != Trail()
    trail.prune(last_ms + 1, RULES)
    assert trail == Trail()
    assert trail.expires_ms(RULES) == 0


def test_a_robots_trail_stays_small() -> None:
    """Its oldest slates are closed early."""
    trail = Trail([a_slate(f"r{n}", n, "a") for n in range(MAX_OPEN_SLATES + 50)])
    trail.prune(0, RULES)
    assert len(trail.slates) == MAX_OPEN_SLATES
    assert trail.slates[0].shown_ms == 50
