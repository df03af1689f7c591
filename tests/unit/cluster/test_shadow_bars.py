"""What copies may cost users: ratios by round, and which figure of a run misses its bar."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.shadow_bars import BARS, Round, Seen, beside, in_turn, missed
from bench.shadow_cost import document

PLAIN = (Round(100.0, 10.0, 50.0), Round(50.0, 20.0, 100.0), Round(80.0, 10.0, 40.0))
SHARES = (0.0, 0.2, 1.0)


def seen(rounds: Sequence[Round], n_failed: int = 0, **copies: int) -> Seen:
    """A share's rounds, each of 100 requests."""
    statuses = Counter({200: 300 - n_failed, 503: n_failed})
    return Seen([10.0], list(rounds), +statuses, Counter(copies))


def times(rate: float, p50: float, p99: float) -> list[Round]:
    """The plain rounds, each figure so many times as great."""
    return [Round(a * rate, b * p50, c * p99) for a, b, c in PLAIN]


def run(copied: Sequence[Round], n_failed: int = 0) -> dict[str, dict[float, Seen]]:
    """Both loads, with the same rounds wherever requests were copied."""
    copies = {"200": 30, "live waits": 5}
    by_share = {
        0.0: seen(PLAIN),
        0.2: seen(copied, n_failed, **copies),
        1.0: seen(copied, **copies),
    }
    return {"overload": by_share, "moderate": dict(by_share)}


def test_ratios_are_taken_round_by_round() -> None:
    """A slow round is beside its own plain one; the median of three is none of the ends."""
    copied = [Round(90.0, 10.0, 50.0), Round(50.0, 30.0, 300.0), Round(88.0, 8.0, 48.0)]
    found = beside({0.0: seen(PLAIN), 1.0: seen(copied)})
    ends = {name: (one.median, one.lowest, one.highest) for name, one in found[1.0].items()}
    assert ends == {
        "requests_per_s": (1.0, 0.9, 1.1),
        "p50_ms": (1.0, 0.8, 1.5),
        "p99_ms": (1.2, 1.0, 3.0),
    }
    assert {(one.median, one.lowest, one.highest) for one in found[0.0].values()} == {(1, 1, 1)}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 5))
def test_every_share_has_a_turn_in_each_round_and_leads_as_often(n_rounds: int, n: int) -> None:
    """Who leads meets the machine as the round before left it."""
    by_share = {share / 10: Seen() for share in range(n)}
    turns = [share for share, _ in in_turn(n_rounds, by_share)]
    rounds = [turns[at : at + n] for at in range(0, len(turns), n)]
    assert len(rounds) == n_rounds
    assert all(sorted(one) == sorted(by_share) for one in rounds)
    leads = Counter(one[0] for one in rounds)
    assert max(leads.values()) - min(leads[share] for share in by_share) <= 1
    assert all(kept is by_share[share] for share, kept in in_turn(1, by_share))


def test_copies_that_cost_no_more_than_allowed_miss_nothing() -> None:
    """At the very bars too."""
    limits = {(bar.load, bar.figure): bar.limit for bar in BARS}
    rate = limits["overload", "requests_per_s"]
    p50 = limits["moderate", "p50_ms"]
    p99 = min(limits["overload", "p99_ms"], limits["moderate", "p99_ms"])
    assert missed(run(times(rate, p50, p99))) == []


@pytest.mark.parametrize(
    ("copied", "n_failed", "said"),
    [
        (times(0.89, 1, 1), 0, "overload, 20% copied: requests_per_s is 0.89 times"),
        (times(1, 1.2, 1), 0, "moderate, 20% copied: p50_ms is 1.2 times"),
        (times(1, 1, 1.3), 0, "moderate, 100% copied: p99_ms is 1.3 times"),
        (times(1, float("nan"), 1), 0, "moderate, 20% copied: p50_ms is nan times"),
        (times(1, 1, 1), 2, "overload, 20% copied: 2 of 300 users' requests failed"),
    ],
    ids=["throughput", "median", "tail", "not known", "failed"],
)
def test_a_missed_bar_is_one_sentence(copied: list[Round], n_failed: int, said: str) -> None:
    """With load, share, figure and bound."""
    assert any(fault.startswith(said) for fault in missed(run(copied, n_failed)))


def test_a_run_without_copies_proves_nothing() -> None:
    """Neither where none was made nor where all of them were dropped."""
    found = run(PLAIN)
    for by_share in found.values():
        for one in by_share.values():
            one.copies.clear()
    assert sum("no request was copied" in fault for fault in missed(found)) == 4
    for by_share in found.values():
        by_share[0.2].copies["live waits"] = by_share[1.0].copies["live waits"] = 9
    assert missed(found) == ["no copy was answered under any load, so nothing was measured"]


def test_the_document_says_what_was_missed() -> None:
    """Beside the figures of each share."""
    found = run(times(1, 2, 1))
    told = document(found)
    assert told["missed"] == missed(found) and len(told["missed"]) == 2
    assert told["moderate"]["over no copies"]["20%"]["p50_ms"]["median"] == 2.0
    assert set(told["overload"]["figures"]) == {f"{share:.0%}" for share in SHARES}
