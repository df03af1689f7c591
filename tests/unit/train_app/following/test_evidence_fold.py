"""Evidence of a stream: equal to the plain computation, however it arrives."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import Event, Forgotten
from tests.evidence_by_hand import (
    GAP_MS,
    HOUR_MS,
    LATENESS_MS,
    NEGATIVE,
    START_MS,
    WINDOW_MS,
    a_random_log,
    a_slate,
    an_act,
    an_outcome,
    evidence_by_hand,
    outcomes_by_hand,
)
from tests.fakes_evidence import MemoryEvidence
from train_app.following.evidence.evidence_delta import MAX_VALUE
from train_app.following.evidence.user_trail import EvidenceRules

RULES = EvidenceRules(
    window_ms=WINDOW_MS,
    session_gap_ms=GAP_MS,
    lateness_ms=LATENESS_MS,
    dedup_ms=48 * HOUR_MS,
    negative_kinds=frozenset(NEGATIVE),
)
NO_CELL = ("", "organic", "", "")


def counted(*events: Event | bytes, rules: EvidenceRules = RULES) -> MemoryEvidence:
    """The evidence of events that arrive one by one."""
    evidence = MemoryEvidence(rules)
    for event in events:
        evidence.take([event])
    return evidence


def total(evidence: MemoryEvidence, table: str, column: str) -> int:
    """The sum of one column of a table."""
    return sum(sums.get(column, 0) for sums in evidence.tables[table].values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 70))
def test_the_stream_counts_what_the_plain_computation_counts(seed: int, batch: int) -> None:
    """Whatever the batches, the doubles and the order of arrival within the bound."""
    log = a_random_log(seed, 100)
    evidence = MemoryEvidence(RULES)
    for start in range(0, len(log), batch):
        evidence.take(log[start : start + batch])
    expected = evidence_by_hand(log)
    assert evidence.tables["hours"] == expected["hours"]
    assert evidence.tables["kinds"] == expected["kinds"]
    assert evidence.named("users") == expected["users"]
    assert evidence.named("user_kinds") == expected["user_kinds"]
    outcomes = {(key[4], key[5]): sums["n"] for key, sums in evidence.tables["outcomes"].items()}
    by_reason: dict[tuple[int | str, ...], int] = {}
    for (status, reason), n in outcomes.items():
        by_reason[status, reason] = by_reason.get((status, reason), 0) + n
    assert sum(by_reason.values()) <= sum(outcomes_by_hand(log).values())
    assert total(evidence, "outcomes", "n") == sum(outcomes_by_hand(log).values())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_another_order_within_the_bound_changes_nothing(seed: int) -> None:
    """Who comes first is not evidence."""
    log = a_random_log(seed, 60)
    other = list(log)
    rng = random.Random(seed)
    for at in range(len(other) - 1):
        first, second = other[at], other[at + 1]
        if rng.random() < 0.5 and abs(first.timestamp_ms - second.timestamp_ms) < HOUR_MS // 20:
            other[at], other[at + 1] = second, first
    wide = replace(RULES, lateness_ms=2 * LATENESS_MS)
    assert counted(*log, rules=wide).tables["hours"] == counted(*other, rules=wide).tables["hours"]


def test_a_reaction_is_credited_to_the_request_it_names() -> None:
    """Though another slate with the item was shown later."""
    evidence = counted(
        a_slate("r1", "u", START_MS, ["a", "b"], bundle_id="old"),
        a_slate("r2", "u", START_MS + 10, ["a", "c"], bundle_id="new"),
        an_act("e", "u", START_MS + 20, "a", request_id="r1", value=2.5),
    )
    [(key, sums)] = evidence.tables["kinds"].items()
    assert key[1] == "old"
    assert sums == {"n": 1, "items": 1, "slates": 1, "value_milli": 2500}


def test_a_reaction_that_names_no_request_goes_to_the_newest_slate_before_it() -> None:
    """Of those that showed the item."""
    evidence = counted(
        a_slate("r1", "u", START_MS, ["a"], bundle_id="first"),
        a_slate("r2", "u", START_MS + 10, ["a"], bundle_id="second"),
        a_slate("r3", "u", START_MS + 15, ["b"], bundle_id="without"),
        a_slate("r4", "u", START_MS + 30, ["a"], bundle_id="later"),
        an_act("e", "u", START_MS + 20, "a"),
    )
    assert [key[1] for key in evidence.tables["kinds"]] == ["second"]


def test_a_reaction_before_its_slate_waits_and_is_credited_then() -> None:
    """Organic until the slate arrives."""
    act = an_act("e", "u", START_MS + 5, "a", request_id="r")
    waiting = counted(act)
    assert [key[1:5] for key in waiting.tables["kinds"]] == [NO_CELL]
    waiting.take([a_slate("r", "u", START_MS, ["a"])])
    assert [key[1] for key in waiting.tables["kinds"]] == ["b1"]
    assert [key[2] for key in waiting.tables["user_kinds"]] == ["b1"]
    assert total(waiting, "hours", "engaged_slates") == 1


def test_a_reaction_waits_no_longer_than_the_bound() -> None:
    """What was organic then stays so."""
    evidence = counted(
        an_act("e", "u", START_MS, "a", request_id="r"),
        an_act("f", "u", START_MS + LATENESS_MS + 1, "z"),
        a_slate("r", "u", START_MS, ["a"]),
    )
    assert {key[2] for key in evidence.tables["kinds"]} == {"organic"}


def test_an_item_that_was_not_in_the_slate_is_credited_to_nobody() -> None:
    """It is counted beside the slate it names."""
    evidence = counted(
        a_slate("r", "u", START_MS, ["a"]), an_act("e", "u", START_MS + 1, "z", request_id="r")
    )
    assert total(evidence, "hours", "off_slate") == 1
    assert total(evidence, "hours", "touched_items") == 0
    assert evidence.tables["kinds"] == {}


def test_a_request_of_long_ago_is_credited_with_nothing_any_more() -> None:
    """Neither by its name nor by its item."""
    evidence = counted(
        a_slate("r", "u", START_MS, ["a"]),
        an_act("e", "u", START_MS + WINDOW_MS + 1, "b", request_id="unknown"),
        an_act("f", "u", START_MS + WINDOW_MS + LATENESS_MS + 1, "a", request_id="r"),
    )
    assert total(evidence, "hours", "engaged_slates") == 0
    assert {key[2] for key in evidence.tables["kinds"]} == {"organic"}


def test_another_persons_reaction_is_not_credited() -> None:
    """Even if it names the request."""
    evidence = counted(
        a_slate("r", "u", START_MS, ["a"]), an_act("e", "v", START_MS + 1, "a", request_id="r")
    )
    assert {key[2] for key in evidence.tables["kinds"]} == {"organic"}


def test_what_nobody_touched_is_wasted() -> None:
    """A view keeps an item from being wasted, and is no engagement."""
    evidence = counted(
        a_slate("r", "u", START_MS, ["a", "b", "c", "d"]),
        an_act("e", "u", START_MS + 1, "a", kind="view", request_id="r"),
        an_act("f", "u", START_MS + 2, "b", kind="dismiss", request_id="r"),
        an_act("g", "u", START_MS + 3, "c", kind="click", request_id="r"),
    )
    [sums] = evidence.tables["hours"].values()
    assert (sums["shown"], sums["touched_items"], sums["engaged_items"]) == (4, 3, 1)


def test_the_same_event_again_counts_once_within_the_window() -> None:
    """And again after it."""
    act = an_act("e", "u", START_MS, "a")
    evidence = counted(act, act, an_act("f", "u", START_MS + RULES.dedup_ms + 1, "a"), act)
    assert total(evidence, "kinds", "n") == 3
    assert evidence.n_repeated == 1


def test_a_request_that_was_logged_twice_counts_once() -> None:
    """Under whatever event id."""
    slate = a_slate("r", "u", START_MS, ["a"])
    again = a_slate("r", "u", START_MS + 1, ["a"])
    evidence = MemoryEvidence(RULES)
    evidence.take([slate, type(again)(**{**_fields(again), "event_id": "other"})])
    assert total(evidence, "hours", "slates") == 1
    assert evidence.n_repeated == 1


def test_a_forgotten_person_leaves_no_row_and_starts_anew() -> None:
    """What was counted of everybody together stays."""
    gone = Forgotten(event_id="x", user_id="u", timestamp_ms=START_MS + 5)
    before = [
        a_slate("r", "u", START_MS, ["a"]),
        an_act("e", "u", START_MS + 1, "a", request_id="r"),
        an_act("e2", "v", START_MS + 1, "a"),
    ]
    for split in (counted(*before, gone), MemoryEvidence(RULES)):
        if not split.tables["hours"]:
            split.take([*before, gone])
        assert {key[0] for key in split.named("users")} == {"v"}
        assert total(split, "hours", "slates") == 1
        split.take([an_act("f", "u", START_MS + 9, "a", request_id="r")])
        assert {key[1:5] for key in split.tables["kinds"]} == {
            NO_CELL, ("b1", "stable", "", "user_age=returning;device=none;surface=none"),
        }  # fmt: skip


@pytest.mark.parametrize("key", ["device", "surface"])
def test_segments_are_few_whatever_clients_send(key: str) -> None:
    """The first values have rows of their own, the rest is `other`."""
    slates = [
        a_slate(f"r{n}", "u", START_MS + n, ["a"], context={key: f"v{n}" + "\0;=" * (n % 2)})
        for n in range(60)
    ]
    segments = {str(row[4]) for row in counted(*slates).tables["hours"]}
    assert len(segments) == 13
    assert any(f"{key}=other" in segment for segment in segments)
    assert not any("\0" in segment for segment in segments)


def test_kinds_and_reasons_are_bounded_too() -> None:
    """A client can not fill the store with names."""
    events: list[Event] = [an_act(f"e{n}", "u", START_MS, "a", kind=f"k{n}") for n in range(99)]
    events += [an_outcome(f"o{n}", "u", START_MS, 503, f"reason {n}") for n in range(99)]
    evidence = counted(*events)
    assert len({key[5] for key in evidence.tables["kinds"]}) == 65
    assert len({key[5] for key in evidence.tables["outcomes"]}) == 65


def test_records_that_are_no_event_are_set_aside() -> None:
    """A void record is passed over silently."""
    future = an_act("e", "u", START_MS + 2 * HOUR_MS, "a", received_ms=START_MS)
    ancient = a_slate("r", "u", 5, ["a"])
    evidence = counted(b"{", b'{"type":"void"}', b'{"type":"catalogue","x', future, ancient)
    assert evidence.n_bad == 3
    assert not any(evidence.tables.values())


def test_absurd_values_do_not_overflow_sums() -> None:
    """They are cut to a bound."""
    evidence = counted(
        an_act("e", "u", START_MS, "a", value=1e300), an_act("f", "u", START_MS, "a", value=-0.0015)
    )
    assert total(evidence, "kinds", "value_milli") == MAX_VALUE * 1000 - 2


def test_slates_made_without_the_history_are_of_unknown_age() -> None:
    """A version of 0 says nothing then."""
    slate = a_slate("r", "u", START_MS, ["a"], history_version=0, degraded=("features: away",))
    [key] = counted(slate).tables["hours"]
    assert str(key[4]).startswith("user_age=unknown")


def _fields(event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


def test_an_outcome_counts_for_as_many_requests_as_it_stands_for() -> None:
    """A full gateway records those it refuses together."""
    one = an_outcome("o1", "", START_MS, 503, "shed")
    many = msgspec.structs.replace(an_outcome("o2", "", START_MS, 503, "shed"), n_requests=70)
    evidence = counted(one, many)
    assert total(evidence, "outcomes", "n") == 71
