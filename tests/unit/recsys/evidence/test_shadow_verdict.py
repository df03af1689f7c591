"""The verdict on a shadow's answers: what fails for certain, and that nothing passes unknown."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evidence.comparison import Verdict
from recsys.evidence.shadow_sums_json import shadow_sums_from_json, shadow_sums_to_json
from recsys.evidence.shadow_verdict import ShadowNeeds, judge_shadow
from recsys.stores.evidence.evidence_sums import LatencyHistogram, ShadowSums

NEEDS = ShadowNeeds(100, None, 0.05)


def sums(n: int = 120, n_failed: int = 0, **changes: object) -> ShadowSums:
    """Copies that answer as fast as live, with alike slates, unless said otherwise."""
    alike = ShadowSums(
        n,
        n_failed,
        0,
        n - n_failed,
        0.6,
        0.5,
        LatencyHistogram({20: n}),
        LatencyHistogram({21: n - n_failed}),
        {"timeout": n_failed} if n_failed else {},
    )
    return replace(alike, **changes)  # type: ignore[arg-type]


def test_enough_answers_that_are_alike_pass() -> None:
    """With their numbers."""
    found = judge_shadow(sums(n_failed=1), NEEDS)
    assert (found.verdict, found.deciding) == (Verdict.PASS, "answers")
    assert found.message == (
        "119 answers are compared, mean overlap 0.60, 1 of 120 copies failed (timeout 1)"
    )


def test_too_few_answers_are_undecided_and_say_how_many_are_missing() -> None:
    """None at all, too."""
    found = judge_shadow(sums(40), NEEDS)
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "answers")
    assert "40 of 100 answers are compared; needs 60 more" in found.message
    nothing = LatencyHistogram({})
    empty = ShadowSums(0, 0, 0, 0, math.nan, math.nan, nothing, nothing, {})
    for needs in (NEEDS, replace(NEEDS, requests=0), replace(NEEDS, min_overlap=0.0)):
        assert judge_shadow(empty, needs).verdict is Verdict.INCONCLUSIVE


def test_copies_that_fail_where_live_answered_fail_it_early() -> None:
    """With the share, its interval, n, the limit and why they failed."""
    found = judge_shadow(sums(40, n_failed=12), NEEDS)
    assert (found.verdict, found.deciding) == (Verdict.FAIL, "failed_share")
    assert "12 of 40 copies failed (timeout 12) where live answered, 30.00%" in found.message
    assert "allowed 2%" in found.message


def test_a_few_more_failures_than_allowed_are_undecided() -> None:
    """Not a pass because nothing is certain."""
    found = judge_shadow(sums(120, n_failed=4), NEEDS)
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "failed_share")
    assert found.message.endswith("needs more answers to tell")


@pytest.mark.parametrize(("bucket", "verdict"), [(22, Verdict.PASS), (45, Verdict.FAIL)])
def test_answers_that_take_several_times_as_long_fail(bucket: int, verdict: Verdict) -> None:
    """Twice as long is what copies that wait may take."""
    found = judge_shadow(sums(600, shadow_latency=LatencyHistogram({bucket: 600})), NEEDS)
    assert found.verdict is verdict
    if verdict is Verdict.FAIL:
        assert found.deciding == "p50_ms"


def test_slates_below_the_floor_fail_and_unknown_ones_never_pass() -> None:
    """The floor is a plan's; without one slates may differ as they like."""
    floor = replace(NEEDS, min_overlap=0.5)
    assert judge_shadow(sums(overlap=0.05), NEEDS).verdict is Verdict.PASS
    assert judge_shadow(sums(overlap=0.6), floor).verdict is Verdict.PASS
    low = judge_shadow(sums(overlap=0.05), floor)
    assert (low.verdict, low.deciding) == (Verdict.FAIL, "overlap")
    assert judge_shadow(sums(overlap=0.48), floor).verdict is Verdict.INCONCLUSIVE
    assert judge_shadow(sums(overlap=math.nan), floor).verdict is Verdict.INCONCLUSIVE


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(0, 400),
    failed=st.integers(0, 400),
    compared=st.integers(0, 400),
    overlap=st.sampled_from([math.nan, math.inf, -1.0, 0.0, 0.4, 1.0, 7.0]),
    buckets=st.dictionaries(st.integers(-20, 90), st.integers(0, 300), max_size=3),
    floor=st.sampled_from([None, 0.0, 0.5, 1.0]),
)
def test_whatever_is_counted_is_judged_and_nothing_unknown_passes(
    n: int,
    failed: int,
    compared: int,
    overlap: float,
    buckets: dict[int, int],
    floor: float | None,
) -> None:
    """Sums that contradict each other too; and as JSON they are judged alike."""
    odd = sums(n, failed, n_compared=compared, overlap=overlap)
    odd = replace(odd, shadow_latency=LatencyHistogram(buckets))
    needs = replace(NEEDS, min_overlap=floor)
    found = judge_shadow(odd, needs)
    if found.verdict is Verdict.PASS:
        assert compared >= 100
        assert 0 <= failed <= n * 0.02
        assert sum(buckets.values()) > 0
        assert floor is None or floor <= overlap <= 1.0
    document = json.loads(json.dumps(shadow_sums_to_json(odd), allow_nan=False))
    again = judge_shadow(shadow_sums_from_json(document), needs)
    assert json.dumps(again.to_json(), allow_nan=False) == json.dumps(found.to_json())


def test_an_equal_bundle_is_hardly_ever_failed_at_any_look() -> None:
    """One failure in a hundred copies, looked at after every one."""
    for n in range(1, 400, 3):
        found = judge_shadow(sums(n, n_failed=n // 100), NEEDS)
        assert found.verdict is not Verdict.FAIL


def test_the_first_copies_of_a_cold_bundle_decide_nothing_but_failures() -> None:
    """20 slow, strange and degraded copies of 500 are undecided; failures abort at once."""
    needs = replace(NEEDS, requests=500, min_overlap=0.5)
    cold = sums(20, overlap=0.0, n_degraded=20, shadow_latency=LatencyHistogram({60: 20}))
    assert judge_shadow(cold, needs).verdict is Verdict.INCONCLUSIVE
    assert judge_shadow(replace(cold, n_failed=20), needs).deciding == "failed_share"


def test_copies_that_lack_a_stage_fail_once_there_are_enough() -> None:
    """A few say nothing."""
    assert judge_shadow(sums(n_degraded=1), NEEDS).verdict is Verdict.PASS
    found = judge_shadow(sums(n_degraded=60), NEEDS)
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "degraded_share")


def test_a_tail_that_may_be_within_its_limit_holds_nothing_back() -> None:
    """A p99 of a few answers is known too loosely; the steps judge it on equal slices."""
    slow_tail = LatencyHistogram({20: 117, 60: 3})
    found = judge_shadow(sums(shadow_latency=slow_tail), NEEDS)
    assert found.verdict is Verdict.PASS
    p99 = next(check for check in found.checks if check.metric == "p99_ms")
    assert p99.verdict is Verdict.INCONCLUSIVE
