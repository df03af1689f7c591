"""Verdicts on a canary: what fails it, what passes it, and everything that must not."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.comparison import Comparison, Verdict, compare
from recsys.evidence.judgement import Judgement, judge
from recsys.evidence.metric_rules import METRICS, Better, Role, Shape
from recsys.stores.evidence.evidence_sums import LatencyHistogram

PLAN = (
    "error_rate", "p50_ms", "p99_ms", "coverage", "degraded_share", "shed_share",
    "ctr", "utility", "dismiss_rate",
)  # fmt: skip
RULES = [METRICS[name] for name in PLAN]
CTR = METRICS["ctr"]


def arm(
    n_users, ctr=0.08, *, variant="canary", spread=0.15, ms=10.0, seed=2, **counts
) -> ArmSample:
    """Users with 40 slates of 10 items each, whose clicks differ by `spread` between users."""
    rng = np.random.default_rng(seed)
    one = np.ones(n_users)
    clicks = 400.0 * ctr * rng.gamma(1 / spread**2, spread**2, n_users)
    requests = 40.0 * n_users
    totals = {"requests": requests, "slates": requests, "covered": requests}
    totals |= {"errors": 0.0, "shed": 0.0, "degraded": 0.0} | counts
    totals["answered"] = totals["requests"] - totals["errors"] - totals["shed"]
    bucket = math.floor(math.log(ms) / math.log(1.1))
    users = {
        "one": one, "slates": 40 * one, "shown": 400 * one, "engaged_items": clicks,
        "utility": clicks, "dismissed_items": rng.poisson(2.0, n_users) * 1.0,
    }  # fmt: skip
    histogram = LatencyHistogram({bucket: int(requests)} if requests else {})
    return ArmSample(variant, variant, users, None, totals, histogram)


def judged(baseline, canary, rules=RULES, **changed) -> Judgement:
    """The verdict, having gone through JSON as a stored one does."""
    needs = {"alpha": 0.05, "min_users": 100, "min_requests": 500} | changed
    found = judge(rules, baseline, canary, **needs)
    read = Judgement.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert read.to_json() == found.to_json()
    return found


BASELINE = arm(4_000, variant="baseline")


def test_an_equal_canary_passes():
    """With users enough every critical interval excludes its loss."""
    found = judged(BASELINE, arm(4_000))
    assert (found.verdict, found.deciding) == (Verdict.PASS, "metrics")


def test_a_loss_of_clicks_fails_and_says_so_to_a_person():
    """The message has both values, the effect, the interval and the allowed loss."""
    found = judged(BASELINE, arm(4_000, 0.07))
    assert (found.verdict, found.deciding) == (Verdict.FAIL, "ctr")
    assert found.message.startswith("ctr: canary 0.0")
    assert "against baseline 0.0" in found.message
    assert found.message.endswith("a loss beyond the allowed 2 %")


@pytest.mark.parametrize(
    ("changed", "deciding"),
    [
        ({"errors": 20_000.0}, "error_rate"),
        ({"shed": 20_000.0}, "shed_share"),
        ({"degraded": 20_000.0}, "degraded_share"),
        ({"covered": 120_000.0}, "coverage"),
        ({"ms": 100.0}, "p50_ms"),
        ({"errors": 160_000.0}, "answers"),
    ],
)
def test_a_broken_canary_fails_by_what_is_broken(changed, deciding):
    """Each in its own metric."""
    found = judged(BASELINE, arm(4_000, **changed))
    assert (found.verdict, found.deciding) == (Verdict.FAIL, deciding)


def test_a_signal_holds_and_never_aborts():
    """The same loss in a metric that is only a signal."""
    rules = [*RULES[:-3], replace(CTR, role=Role.SIGNAL)]
    found = judged(BASELINE, arm(4_000, 0.07), rules)
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "ctr")
    assert "held" in found.message


def test_more_variance_without_another_mean_is_no_loss():
    """Kayenta #780: users who differ more are not users who click less."""
    found = compare(CTR, BASELINE, arm(4_000, spread=0.9), 0.01)
    assert found.verdict is not Verdict.FAIL
    assert found.low < 0 < found.high
    many = arm(200_000, seed=4, variant="baseline"), arm(200_000, spread=0.9)
    assert compare(CTR, *many, 0.01).verdict is Verdict.PASS


def test_sparse_zeros_against_few_errors_say_nothing():
    """Kayenta #426: one error more is no regression, and none is no proof."""
    few = arm(8, errors=1.0)
    found = compare(METRICS["error_rate"], arm(8, variant="baseline"), few, 0.01)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "more requests per arm" in found.needed


def test_fewer_than_fifty_users_decide_nothing():
    """However far they differ."""
    found = compare(CTR, arm(49, variant="baseline"), arm(49, 0.001), 0.05)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.needed == "at least 50 users per arm"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n_bad", [1, 4_000])
def test_values_that_are_no_numbers_are_counted_and_never_pass(bad, n_bad):
    """Neither removed nor replaced."""
    canary = arm(4_000)
    users = dict(canary.users)
    users["engaged_items"] = np.where(np.arange(4_000) < n_bad, bad, users["engaged_items"])
    found = judged(BASELINE, replace(canary, users=users))
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "ctr")
    assert f"{n_bad:,} of its 16,000 values are not finite" in found.message


def test_counts_that_are_no_shares_never_pass():
    """More errors than requests, or none that are numbers."""
    for errors in (math.nan, -1.0, 1e9):
        assert judged(BASELINE, arm(4_000, errors=errors)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("n_baseline", "n_canary"), [(0, 0), (4_000, 0), (0, 4_000), (1, 1)])
def test_no_data_decides_nothing(n_baseline, n_canary):
    """Nor does one user, or one arm alone."""
    found = judged(arm(n_baseline, variant="baseline"), arm(n_canary))
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "min_users")
    silent = judged(arm(n_baseline), arm(n_canary), min_users=0, min_requests=0)
    assert silent.verdict is Verdict.INCONCLUSIVE


def test_values_that_are_all_equal_pass_when_there_are_enough():
    """A spread of 0 is no certainty: the interval is about 1/n wide, not a point."""
    same = [replace(arm(n, variant="b"), users=constant(n, 30.0)) for n in (60, 4_000)]
    few, many = (compare(CTR, one, one, 0.01) for one in same)
    assert few.verdict is Verdict.INCONCLUSIVE
    assert few.low < -0.02 < 0.02 < few.high
    assert many.verdict is Verdict.PASS
    assert many.low < 0 < many.high
    worse = replace(same[1], users=constant(4_000, 20.0))
    assert compare(CTR, same[1], worse, 0.01).verdict is Verdict.FAIL


def constant(n, clicks):
    """Every user alike."""
    return {"one": np.ones(n), "shown": np.full(n, 400.0), "engaged_items": np.full(n, clicks)}


def test_a_baseline_of_zero_or_less_is_explained():
    """A relative loss of nothing is nothing."""
    for clicks in (0.0, -3.0):
        baseline = replace(BASELINE, users=constant(4_000, clicks))
        found = compare(CTR, baseline, arm(4_000), 0.05)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "above 0" in found.message
    nothing_shown = replace(BASELINE, users={name: 0 * x for name, x in BASELINE.users.items()})
    assert compare(CTR, nothing_shown, nothing_shown, 0.05).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("unit", [1e-200, 1e-9, 1e12, 1e300])
def test_the_unit_of_a_value_changes_no_verdict(unit):
    """Nor does it overflow."""
    plain = compare(CTR, BASELINE, arm(4_000, 0.07), 0.05)
    scaled = [
        replace(one, users=one.users | {"engaged_items": one.users["engaged_items"] * unit})
        for one in (BASELINE, arm(4_000, 0.07))
    ]
    found = compare(CTR, *scaled, 0.05)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), rel=1e-6)


def test_a_measure_that_is_absent_holds_only_where_it_is_critical():
    """A store that keeps no diversity does not stop a plan that merely watches it."""
    diversity = METRICS["diversity"]
    assert judged(BASELINE, arm(4_000), [*RULES, diversity]).verdict is Verdict.PASS
    critical = [*RULES, replace(diversity, role=Role.CRITICAL)]
    found = judged(BASELINE, arm(4_000), critical)
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "diversity")
    assert "no measure 'diversity'" in found.message


def test_arms_of_another_size_than_set_hold():
    """Whoever is missing from one arm may be those who would have clicked."""
    found = judged(BASELINE, arm(3_000))
    assert (found.verdict, found.deciding) == (Verdict.INCONCLUSIVE, "sample_ratio")
    assert judged(BASELINE, arm(3_000), expected_ratio=0.75).verdict is Verdict.PASS


def test_what_is_missing_is_named():
    """Users, requests, metrics, or evidence of one of them."""
    assert judged(BASELINE, arm(4_000), min_users=4_001).deciding == "min_users"
    assert judged(BASELINE, arm(4_000), min_requests=160_001).deciding == "min_requests"
    assert judged(BASELINE, arm(4_000), []).verdict is Verdict.INCONCLUSIVE
    small = judged(arm(300), arm(300), [CTR])
    assert small.verdict is Verdict.INCONCLUSIVE
    assert "more users per arm" in small.comparisons[0].needed


def test_what_is_needed_decides_when_it_is_there():
    """The forecast of an undecided metric, tried with that many users alike."""
    first, second = arm(400, variant="baseline"), arm(400)
    found = compare(CTR, first, second, 0.05)
    more = int(found.needed.removeprefix("about ").split(" ")[0].replace(",", ""))
    times = math.ceil((400 + more) / 400 * 1.1)
    larger = [
        replace(one, users={name: np.tile(x, times) for name, x in one.users.items()})
        for one in (first, second)
    ]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert compare(CTR, *larger, 0.05).verdict is not Verdict.INCONCLUSIVE


def test_alpha_is_split_over_all_critical_metrics_of_the_rollout():
    """So an interval is wider in a plan that judges by more."""
    alone, split = (
        judged(BASELINE, arm(4_000), [CTR], n_critical=n).comparisons[0] for n in (None, 12)
    )
    assert split.low < alone.low < alone.high < split.high


def test_users_own_past_narrows_the_interval():
    """CUPED reaches the comparison, and users without a past do not disturb it."""
    canary = arm(4_000)
    past = {}
    for one in (BASELINE, canary):
        before = {name: column.copy() for name, column in one.users.items()}
        before["engaged_items"][::7] = np.nan
        past[one.variant] = replace(one, before=before)
    plain = compare(CTR, BASELINE, canary, 0.05)
    found = compare(CTR, past["baseline"], past["canary"], 0.05)
    assert found.high - found.low < 0.6 * (plain.high - plain.low)


def test_a_comparison_without_figures_reads_back():
    """Null is infinite at the ends and NaN elsewhere."""
    found = compare(CTR, arm(0), arm(0), 0.05)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (document["low"], document["effect"]) == (None, None)
    read = Comparison.from_json(document)
    assert (read.low, read.high, math.isnan(read.effect)) == (-math.inf, math.inf, True)


def test_the_catalogue_is_consistent():
    """Names, shapes and margins of every metric can be judged."""
    for name, rule in METRICS.items():
        assert rule.name == name
        assert 0 < rule.margin < 1
        assert (rule.shape is Shape.QUANTILE) == (0 < rule.quantile < 1)
        assert bool(rule.denominator) == (rule.shape in {Shape.RATIO, Shape.RATE})
    assert METRICS["dismiss_rate"].better is Better.LOWER


def test_a_guard_aborts_a_loss_that_is_shown_and_is_not_waited_for():
    """Too few users exclude a loss of 2 %; a critical metric would hold, a guard does not."""
    guard = [replace(CTR, role=Role.GUARD), METRICS["error_rate"]]
    few = arm(300, variant="baseline", spread=1.0), arm(300, spread=1.0, seed=3)
    assert judged(*few, [CTR, METRICS["error_rate"]]).deciding == "ctr"
    assert judged(*few, guard).verdict is Verdict.PASS
    failed = judged(BASELINE, arm(4_000, 0.06), guard)
    assert (failed.verdict, failed.deciding) == (Verdict.FAIL, "ctr")


def test_guards_and_critical_metrics_share_alpha():
    """Whoever may abort widens the others' intervals."""
    pair = BASELINE, arm(4_000)
    alone = judged(*pair, [CTR]).comparisons[0]
    shared = judged(*pair, [CTR, replace(METRICS["utility"], role=Role.GUARD)]).comparisons[0]
    assert shared.low < alone.low < alone.high < shared.high
