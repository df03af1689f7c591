"""Rollouts decided on simulated users: false aborts under peeking, time to detect, users needed.

`python -m bench.rollouts [--quick] [--rollouts N] [--seconds S] [--out FOLDER]` writes
rollouts.md, rollouts.json and SVG curves. Only the whole controller's rollouts, the last table,
are bounded by `--seconds`; the table says how many there were. Exits with 1 where a figure misses
what must hold.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.rollout_bars import PLANNED, missed
from bench.rollout_looks import WorldLooks, fixed_users, look_at, users_until_passed
from bench.rollout_tables import markdown, pictures
from cluster.rollouts.deciding.rollout_plan import RolloutPlan, built_in
from cluster.rollouts.simulation.simulated_rollout import usual_looks
from cluster.rollouts.simulation.simulation_report import RuleReport, simulate_setting, wilson
from cluster.rollouts.simulation.traffic_shape import Effect, TrafficShape
from recsys.evidence.metric_rules import METRICS
from recsys.evidence.simulated_users import SHOWN, SimulatedRollout

ALPHA = 0.05
_CLICKS = SHOWN * 0.075
_HIGH = SimulatedRollout(n_users=20_000, n_looks=30)
WORLDS = {
    "high traffic": _HIGH,
    "low traffic": replace(_HIGH, n_users=1_000),
    "skewed": replace(_HIGH, spread=1.2, activity=1.2),
    "sparse": replace(_HIGH, ctr=0.002),
    "drifting": replace(_HIGH, drift=1.0),
}
PLANTED = -0.05
_EFFECTS = (PLANTED, -0.1, -0.2, -0.4)
_PLANNED, _PLANNED_MARGIN = replace(_HIGH, n_users=60_000), 0.04
"""Users enough that an equal canary passes, so that a promotion of a worse one could be seen."""
_MARGINS = (0.02, 0.03, 0.05, 0.1)
_CLICKS_PER_USER = (0.3, 1.5, 6.0)
_STANDARD = TrafficShape(requests_per_minute=6_000, users=60_000)
_CONTROLLED = (Effect(), Effect(ctr=-0.4), Effect(error_rate=0.05), Effect(latency=1.0))


@dataclass(frozen=True)
class Setting:
    """A world, the allowed loss, and what was seen of it."""

    traffic: str
    world: SimulatedRollout
    margin: float
    seen: WorldLooks

    @property
    def is_null(self) -> bool:
        """Whether an equal canary is judged without any allowed loss, and so cannot pass."""
        return self.margin == 0

    @property
    def sized_users(self) -> float:
        """Users per arm of a z test that was sized for this loss; NaN of an allowed one."""
        distance = -self.world.effect - self.margin
        if distance <= 0:
            return math.nan
        return fixed_users(self.seen.error, self.world.n_users, distance, ALPHA)


@dataclass(frozen=True)
class Needed:
    """Users per arm until four of five equal canaries have passed."""

    clicks_per_user: float
    margin: float
    users: float


@dataclass(frozen=True)
class Found:
    """All that was simulated."""

    settings: tuple[Setting, ...]
    needed: tuple[Needed, ...]
    controlled: tuple[tuple[RuleReport, ...], ...]


def settings(n_rollouts: int) -> list[Setting]:
    """Equal canaries without any allowed loss, and worse ones with the usual one."""
    margin = METRICS["ctr"].margin
    cases = [(name, world, 0.0) for name, world in WORLDS.items()]
    cases += [
        (name, replace(WORLDS[name], effect=effect), margin)
        for name in ("high traffic", "low traffic")
        for effect in _EFFECTS
    ]
    cases += [
        (PLANNED, replace(_PLANNED, effect=effect), _PLANNED_MARGIN) for effect in (0.0, PLANTED)
    ]
    found = []
    for seed, (name, world, allowed) in enumerate(cases):
        # Rates of a few percent need many rollouts, median times do not.
        is_full = world.effect >= PLANTED and name != PLANNED
        n = n_rollouts if is_full else -(-n_rollouts // 4)
        seen = look_at(world, allowed, n, alpha=ALPHA, seed=seed)
        found.append(Setting(name, world, allowed, seen))
        print(f"{name}, CTR {world.effect:+.0%}: {n} rollouts", flush=True)
    return found


def needed(n_rollouts: int, plan: RolloutPlan) -> list[Needed]:
    """What each margin costs in users, at the level that the plan gives to one metric."""
    found = []
    for clicks in _CLICKS_PER_USER:
        # Users arrive evenly, so that the average one has been there for half the time.
        world = SimulatedRollout(n_looks=40, slates_per_user=2 * clicks / _CLICKS)
        for margin in _MARGINS:
            guess = 2 * (1 / clicks + 0.3) * (5 / margin) ** 2
            wide = replace(world, n_users=int(1.6 * guess))
            users = users_until_passed(
                wide, margin, n_rollouts, alpha=plan.alpha / plan.n_critical, seed=7
            )
            found.append(Needed(clicks, margin, users))
    return found


def controlled(plan: RolloutPlan, n_rollouts: int, seconds: float) -> list[tuple[RuleReport, ...]]:
    """Whole rollouts by the controller's own turns, as many as fit into the seconds."""
    looks, found = usual_looks(plan, 40), []
    deadline_s = time.monotonic() + seconds
    for place, effect in enumerate(_CONTROLLED):
        began_s = time.monotonic()
        simulate_setting(plan, _STANDARD, effect, 1, looks, 99)
        one_s = time.monotonic() - began_s
        share_s = (deadline_s - time.monotonic()) / (len(_CONTROLLED) - place)
        n = max(2, min(n_rollouts, int(share_s / one_s)))
        found.append(simulate_setting(plan, _STANDARD, effect, n, looks, place))
        print(f"the plan {plan.name}, {effect.text}: {n} rollouts", flush=True)
    return found


def document(found: Found) -> dict[str, Any]:
    """Every figure, with the machine."""
    return {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "alpha": ALPHA,
        "settings": [
            {
                "traffic": one.traffic,
                "world": asdict(one.world),
                "margin": one.margin,
                "error_at_end": one.seen.error,
                "rules": {
                    name: {
                        "aborted": asdict(wilson(rule.n_aborted, len(rule.users_at_abort))),
                        "promoted": asdict(
                            wilson(int(rule.is_promoted.sum()), len(rule.users_at_abort))
                        ),
                        "median_users_at_abort": _number(rule.median_users()),
                    }
                    for name, rule in one.seen.rules.items()
                },
            }
            for one in found.settings
        ],
        "needed": [asdict(one) | {"users": _number(one.users)} for one in found.needed],
        "plan": [[report.to_json() for report in reports] for reports in found.controlled],
    }


def main() -> int:
    """Simulate and write; the exit code is 1 where something missed that must hold."""
    parser = argparse.ArgumentParser(description="Rollouts on simulated users.")
    parser.add_argument("--quick", action="store_true", help="a few rollouts, to try it")
    parser.add_argument(
        "--rollouts", type=int, default=2_000, help="per setting; of losses beyond 5 %% a quarter"
    )
    parser.add_argument("--seconds", type=float, default=100.0, help="for whole rollouts, about")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    chosen = parser.parse_args()
    n, seconds = (100, 10.0) if chosen.quick else (chosen.rollouts, chosen.seconds)
    plan = built_in("standard")
    found = Found(
        tuple(settings(n)),
        tuple(needed(100, plan)),
        tuple(controlled(plan, n, seconds)),
    )
    write(found, chosen.out)
    faults = missed(found.settings, ALPHA)
    for fault in faults:
        print(f"missed: {fault}", file=sys.stderr)
    return int(bool(faults))


def write(found: Found, folder: Path) -> None:
    """The tables, the figures and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rollouts.md").write_text(markdown(found), encoding="utf-8")
    (folder / "rollouts.json").write_text(json.dumps(document(found), indent=1) + "\n")
    for name, picture in pictures(found.settings).items():
        (folder / f"{name}.svg").write_text(picture, encoding="utf-8")


def _number(value: float) -> float | None:
    return value if value == value else None


if __name__ == "__main__":
    sys.exit(main())
