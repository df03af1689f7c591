"""Puts parts of bundles together from the operator's process, which loads no model.

The check whether a part fits is made here first, so that its reason is this command's own; the
bundle is made and published by `python -m train_app compose`, as a process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cluster.who_and_when import now_ms
from recsys.bundles.composition import (
    CompositionPlan,
    Part,
    has_same_part,
    misfits,
    plan_composition,
)
from recsys.errors import BundleError, ConfigError, FleetError
from recsys.traffic import STABLE

if TYPE_CHECKING:
    from cluster.console import Console
    from recsys.bundles.bundle import Manifest
    from recsys.bundles.registry import Registry


def undo_part(console: Console, part: str, to: str | None) -> str:
    """A published bundle: stable with an earlier bundle's scorer or ordering policy.

    Args:
        part: `scorer` or `ordering`.
        to: the bundle whose part it takes; None for the latest earlier stable bundle whose part
            is another one and fits.

    Returns:
        Its id; it is a new bundle, unless the registry has this composition already.

    Raises:
        FleetError: nothing is stable.
        ConfigError: no earlier bundle has another such part.
        BundleError: the part does not fit, or the composed bundle cannot be made.
    """
    from cluster.rollouts.deciding.rollout_record import earlier_stables
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.bundles.registry import open_registry
    from recsys.stores.control.control import ControlReader

    url = console.settings.control_url
    stable_id = ControlReader(url).view().aliases.get(STABLE)
    if stable_id is None:
        raise FleetError(
            "no bundle is stable yet, expected one to take a part out of; run 'cluster up --wait'"
        )
    registry = open_registry(console.settings)
    wanted = Part(part)
    if to is None:
        rollouts = [stored.rollout for stored in ControlWriter(url).rollouts()]
        earlier = earlier_stables(rollouts, stable_id)
        to = earlier_part(registry, registry.manifest(stable_id), earlier, wanted)
    scorer, ordering = (to, None) if wanted is Part.SCORER else (None, to)
    return str(compose_parts(console, stable_id, scorer, ordering)["bundle_id"])


def earlier_part(registry: Registry, stable: Manifest, earlier: Iterable[str], part: Part) -> str:
    """The first of the earlier bundles with another part that fits stable.

    Raises:
        ConfigError: there is none; the message says what stands in the way of each.
    """
    reasons = []
    for bundle_id in earlier:
        try:
            donor = registry.manifest(bundle_id)
            found = misfits(registry, stable, donor, part)
            if not found and not has_same_part(registry, stable, donor, part):
                return bundle_id
            other = ", ".join(f"another {misfit.what}" for misfit in found)
            reasons.append(f"{bundle_id}: {other or f'the same {part}'}")
        except BundleError as error:
            reasons.append(f"{bundle_id}: {error}")
    raise ConfigError(
        f"no earlier stable bundle has another {part} that fits {stable.bundle_id} "
        f"({'; '.join(reasons) or 'none was stable before'}); name one with --to BUNDLE, or lead "
        "back the whole bundle with 'cluster canary undo'"
    )


def compose_parts(
    console: Console, base: str, scorer: str | None, ordering: str | None
) -> dict[str, Any]:
    """Check the parts, and let the trainer's process make and publish the bundle.

    Returns:
        `bundle_id`, `is_new`, `base`, `scorer`, `ordering`, and of a scorer of another training
        `carries_space` and `n_estimated`.

    Raises:
        ConfigError: nothing would be taken, or nothing would change.
        BundleError: a part does not fit, or the process failed; its own words are on stderr.
        StoreError: the control store is away, so the parts could be removed meanwhile.
    """
    from cluster.bundles.part_leases import PartLeases

    parts = [name for name in (base, scorer, ordering) if name is not None]
    leases = PartLeases(console.settings.control_url)
    try:
        with leases.held(parts, f"compose@{socket.gethostname()}:{os.getpid()}", now_ms):
            return _compose_held(console, base, scorer, ordering)
    finally:
        leases.close()


def _compose_held(
    console: Console, base: str, scorer: str | None, ordering: str | None
) -> dict[str, Any]:
    from cluster.learning_commands import run_learning
    from recsys.bundles.registry import open_registry

    plan = plan_composition(open_registry(console.settings), base, scorer, ordering)
    if plan.existing is not None:
        return outcome(plan, plan.existing, is_new=False)
    arguments = ["compose", "--base", base]
    arguments += ["--scorer", scorer] if scorer is not None else []
    arguments += ["--ordering", ordering] if ordering is not None else []
    exit_code, document = run_learning(console, arguments, reads_result=True)
    if exit_code != 0 or "bundle_id" not in document:
        raise BundleError(
            f"composing {base} failed with exit code {exit_code}, expected a bundle; its reason "
            "stands above, and nothing was published"
        )
    return document


def outcome(plan: CompositionPlan, bundle_id: str, *, is_new: bool) -> dict[str, Any]:
    """What composing came to, as the trainer's process says it."""
    return {
        "bundle_id": bundle_id,
        "is_new": is_new,
        "base": plan.base.bundle_id,
        "scorer": plan.scorer.bundle_id,
        "ordering": plan.ordering.bundle_id,
        "carries_space": plan.carries_space,
        "n_estimated": plan.n_estimated,
    }
