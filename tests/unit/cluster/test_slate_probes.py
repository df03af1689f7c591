"""What a probed answer proves: whole and of its bundle, degraded by its own word, or mixed."""

from __future__ import annotations

from bench.rollouts_under_load import UnderLoad
from bench.slate_probes import SLATE, InForce, Mixed, Seen, is_mixed, planned

ALONE = {
    "forward": {"7": tuple(f"f{n}" for n in range(SLATE))},
    "backward": {"7": tuple(f"b{n}" for n in range(SLATE))},
}


def seen(bundle_id: str, items: tuple[str, ...], *degraded: str) -> Seen:
    """An answer to user 7."""
    return Seen(1_000, 1_010, "7", bundle_id, items, degraded)


def test_an_answer_is_mixed_if_it_is_whole_and_of_another_bundle() -> None:
    """Two items of twenty may differ, as near ties do; three may not."""
    own, other = ALONE["forward"]["7"], ALONE["backward"]["7"]
    assert not is_mixed(seen("forward", own), ALONE)
    assert not is_mixed(seen("forward", tuple(reversed(own))), ALONE)
    assert not is_mixed(seen("forward", own[:18] + other[:2]), ALONE)
    assert is_mixed(seen("forward", own[:17] + other[:3]), ALONE)
    assert is_mixed(seen("forward", own[:17]), ALONE)
    assert is_mixed(seen("forward", other), ALONE)
    assert is_mixed(seen("forward", ()), ALONE)


def test_an_answer_that_says_what_it_lacks_is_not_mixed() -> None:
    """Without scores a slate is in retrieval's order, whichever bundle's."""
    assert not is_mixed(seen("forward", ALONE["backward"]["7"], "scorer: timeout"), ALONE)


def test_a_bundle_counts_as_planned_for_as_long_as_a_gateway_may_follow() -> None:
    """Two seconds after the plan, and no longer."""
    plans = [InForce(0, ("a",)), InForce(10_000, ("b",)), InForce(20_000, ("c",))]
    assert planned(plans, 9_000, 9_020) == {"a"}
    assert planned(plans, 11_000, 11_020) == {"a", "b"}
    assert planned(plans, 13_000, 13_020) == {"b"}
    assert planned(plans, 19_990, 20_010) == {"b", "c"}


def test_a_missed_figure_is_named() -> None:
    """What must hold is said to; latencies are only shown."""
    found = UnderLoad(
        n_swaps=20, n_canaries=5, n_requests=10_000, n_failed=0, n_probed=900, n_degraded=3,
        mixed=(Mixed("7", "forward", 1, {"forward": 0.5}),), n_unplanned=0,
        steady_p99_ms=(90.0, 120.0), changing_p99_ms=(150.0,),
        swap_s=(0.8, 1.3), abort_to_zero_s=(2.5,),
    )  # fmt: skip
    held = {what: holds for what, _, holds in found.rows() if holds is not None}
    assert held == {
        "failed requests": True,
        "mixed answers": False,
        "answers of an unplanned bundle": True,
        "abort to zero canary answers": False,
    }
    assert ("p99 steady, worst of 2", "120.0 ms", None) in found.rows()
