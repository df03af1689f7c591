"""A step's evidence by the rules of its plan: one way for the controller and for simulations."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.judgement import Judgement, judge
from recsys.traffic import BASELINE, CANARY


def judge_step(plan: RolloutPlan, at: int, samples: Mapping[str, ArmSample]) -> Judgement:
    """The verdict on canary and baseline at step `at` of a plan, counted from 0."""
    step = plan.steps[at]
    return judge(
        plan.rules_of(at),
        samples[BASELINE],
        samples[CANARY],
        alpha=plan.alpha,
        min_users=step.min_users,
        min_requests=step.min_requests,
        n_critical=plan.n_critical,
    )
