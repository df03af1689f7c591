"""What the demo's summary says of what it saw."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cluster.console import as_text
from cluster.demo.demo_rollout import EvidenceVerdict
from cluster.demo.demo_summary import (
    DemoFindings,
    Refusal,
    click_rate,
    document_of,
    paired_lift,
    tables_of,
)
from cluster.demo.demo_traffic import ShownSlate


def slates(clicks: list[int], bundle_id: str = "b1") -> list[ShownSlate]:
    """One slate of ten items per user."""
    return [ShownSlate(f"u{at}", bundle_id, 10, n, (2, 0, at)) for at, n in enumerate(clicks)]


def visits(slates_of_one: list[ShownSlate], n_times: int) -> list[ShownSlate]:
    """The same users again and again, each time with other luck."""
    return [
        replace(slate, luck=(2, turn, *slate.luck[2:]))
        for turn in range(n_times)
        for slate in slates_of_one
    ]


def some_findings(is_simulated: bool = True) -> DemoFindings:
    return DemoFindings(
        data="a simulated world" if is_simulated else "ml-1m",
        is_simulated=is_simulated,
        first_bundle="b1",
        second_bundle="b2",
        before=slates([1, 0, 2, 1]),
        after=slates([2, 1, 2, 3], "b2"),
        n_imported=1000,
        n_events=200,
        n_slates=300,
        n_requests=500,
        failures={},
        swaps=["b1 -> b2"],
        refusal=Refusal("b3", "its weights are NaN", 5, "not finite"),
        promoted=a_verdict("b2", "promoted", "pass", 0.2),
        aborted=a_verdict("b4", "aborted", "fail", -0.5),
        seconds={"import": 1.5, "train": 20.0},
    )


def a_verdict(bundle_id: str, phase: str, verdict: str, effect: float) -> EvidenceVerdict:
    """A rollout that the click rate ended."""
    return EvidenceVerdict(
        rollout_id="r1",
        bundle_id=bundle_id,
        stable_id="b1",
        phase=phase,
        verdict=verdict,
        deciding="ctr",
        message="said so",
        effect=effect,
        low=effect - 0.1,
        high=effect + 0.1,
        n_canary=90,
        n_baseline=100,
        seconds=12.0,
        n_exposed=95,
        share=0.1,
        why=("because",),
    )


def test_the_click_rate_is_clicks_per_shown_item_with_an_interval() -> None:
    """Four clicks on forty items, and a wider interval for fewer slates."""
    rate = click_rate(slates([1, 0, 2, 1]))
    assert rate.ctr == pytest.approx(0.1)
    assert rate.clicks_per_slate == pytest.approx(1.0)
    assert rate.low < 0.1 < rate.high
    many = click_rate(slates([1, 0, 2, 1] * 25))
    assert many.high - many.low == pytest.approx((rate.high - rate.low) / 5)


def test_no_slate_has_a_rate_of_zero_over_zero_slates() -> None:
    """Nothing shown divides by nothing."""
    assert click_rate([]).n_slates == 0


def test_the_lift_is_taken_visit_by_visit() -> None:
    """A constant gain has no spread, however much the users differ."""
    change, half = paired_lift(slates([0, 5, 2, 9]), slates([1, 6, 3, 10], "b2"))
    assert change == pytest.approx(1.0)
    assert half == pytest.approx(0.0)


def test_more_slates_of_the_same_users_do_not_narrow_an_interval_by_themselves() -> None:
    """Five like visits of each user say no more than one; five times the users do."""
    early, late = slates([0, 1, 2, 3] * 25), slates([1, 1, 4, 3] * 25)
    once, again = paired_lift(early, late), paired_lift(visits(early, 5), visits(late, 5))
    assert again == pytest.approx(once)
    rate, repeated = click_rate(early), click_rate(early * 5)
    assert (repeated.low, repeated.high) == pytest.approx((rate.low, rate.high))
    more = paired_lift(slates([0, 1, 2, 3] * 125), slates([1, 1, 4, 3] * 125))
    assert more[1] == pytest.approx(once[1] / 5**0.5, rel=0.02)


def test_visits_without_a_counterpart_are_left_out_of_the_lift() -> None:
    """A failed request on one side does not shift the pairs of other users."""
    before = [slate for slate in slates([0, 5, 2]) if slate.user_id != "u1"]
    change, _ = paired_lift(before, slates([1, 100, 3], "b2"))
    assert change == pytest.approx(1.0)


def test_a_visit_that_failed_on_one_side_shifts_no_other_visit_of_its_user() -> None:
    """Visits are paired by their luck, in whatever order they were answered."""
    early = [ShownSlate("u0", "b1", 10, n, (2, turn, 0)) for turn, n in enumerate((0, 4, 2))]
    late = [replace(slate, bundle_id="b2", n_clicks=slate.n_clicks + 1) for slate in early]
    other = [ShownSlate("u1", "b1", 10, 1, (2, 0, 1))]
    after = [*reversed(late), replace(other[0], n_clicks=2)]
    change, half = paired_lift([*early[1:], *other], after)
    assert change == pytest.approx(1.0)
    assert half == pytest.approx(0.0)


def test_the_document_is_json_and_tells_the_whole_story() -> None:
    """Everything a script would ask for, under stable names."""
    document = json.loads(json.dumps(document_of(some_findings())))
    assert document["ctr"]["before"]["ctr"] == pytest.approx(0.1)
    assert document["ctr"]["relative_change"] == pytest.approx(1.0)
    assert document["failed_requests"] == 0
    assert document["refused"]["exit_code"] == 5
    assert document["bundles"] == {"first": "b1", "second": "b2"}


@pytest.mark.parametrize("is_simulated", [True, False])
def test_made_up_reactions_are_called_made_up(is_simulated: bool) -> None:
    """On real data nobody knows the truth, and the summary says so."""
    text = " ".join(as_text(*tables_of(some_findings(is_simulated))).split())
    assert ("made up" in text) is not is_simulated
    assert "b1 -> b2" in text
    assert "exit 5: not finite" in text


def test_the_summary_tells_what_the_evidence_decided() -> None:
    """Both rollouts stand in the document with their intervals, and in the tables."""
    document = document_of(some_findings())
    assert document["promoted"]["low"] == pytest.approx(0.1)
    assert document["aborted"]["phase"] == "aborted"
    assert "95 users exposed at a share of 10%" in some_findings().aborted.sentence
