"""What a bundle must not cost a replica: time against the stable bundle's, and memory of the node.

Decides on numbers and reads clock and memory through what it is given; which files a stage needs
is known here, what they mean is not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.bundles.bundle import Manifest
from recsys.bundles.golden import Golden, warm_up_batch
from recsys.bundles.item_table import ITEMS_FILE
from recsys.bundles.scorer_space import SCORER_SPACE, SCORER_SPACE_FILES
from recsys.errors import BundleError, FeatureSchemaMismatch
from recsys.features import FeatureSchema
from recsys.stages import GATEWAY, ORDERING, SCORER, SCORER_FILES, TOWER_FILES, VECTORS_FILE, Stage

SLOWER_AT_MOST = 5.0
"""A larger model may cost more; one that costs so many times as much takes the replica with it."""
SLOWER_BY_S = 0.005
"""Below this a ratio of two batches is noise."""
N_ROUNDS = 7
LOADING_FACTOR = 1.5
"""Of a file's bytes, while it is read and its arrays are made."""
ITEMS_FACTOR = 8.0
"""A compressed item table, as strings and numbers."""
RESERVED_SHARE = 0.05
"""Of the node's memory: from there on Ray ends workers, and the system processes."""
METHODS = {SCORER: ("encode", "score"), ORDERING: ("order",)}
SHARD_METHODS = ("search",)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of this node or of its container, whichever is less."""

    free: int
    total: int


class Yardsticks:
    """The stages of bundles this replica holds, to time a new one against; keeps none alive.

    Args:
        clock: seconds of processor time of the calling thread.
    """

    def __init__(self, clock: Callable[[], float], max_batch: int) -> None:
        self._clock = clock
        self._max_batch = max_batch
        self._held: dict[tuple[str, str], tuple[weakref.ref[Stage], Golden]] = {}

    def check(
        self,
        name: str,
        stage: Stage,
        golden: Golden,
        beside: str | None,
        *,
        encodes_to_score: bool = False,
    ) -> None:
        """Time a stage's golden requests against those of the same stage of another bundle.

        Both are asked in turn, and the best of each counts; a stage that is fast once is fast.

        Args:
            beside: the bundle that answers users; where it is not held, nothing is compared.
            encodes_to_score: its scorer has towers of its own, so that to score is to encode too.

        Raises:
            BundleError: it takes too many times as long.
        """
        reference, other_golden = self._held.get((name, beside or ""), (None, golden))
        other = reference() if reference is not None else None
        if other is None:
            return
        for method in METHODS.get(name, SHARD_METHODS):
            beside_too = ("encode",) if encodes_to_score and method == "score" else ()
            best_s = other_best_s = float("inf")
            for _ in range(N_ROUNDS):
                best_s = min(best_s, self._time(stage, method, golden))
                other_s = sum(self._time(other, m, other_golden) for m in (method, *beside_too))
                other_best_s = min(other_best_s, other_s)
                if not is_too_slow(best_s, other_best_s):
                    break
            else:
                raise BundleError(
                    f"{name} takes {best_s * 1000:.1f} ms to {method} {self._max_batch} golden "
                    f"requests, {other_best_s * 1000:.1f} ms in {beside}, which answers users, "
                    f"expected at most {SLOWER_AT_MOST:g} times as long; train a smaller model"
                )

    def keep(self, bundle_id: str, name: str, stage: Stage, golden: Golden) -> None:
        """Time later bundles against this one, for as long as somebody holds it."""
        for key, (reference, _) in list(self._held.items()):
            if reference() is None:
                del self._held[key]
        self._held[name, bundle_id] = (weakref.ref(stage), golden)

    def _time(self, stage: Stage, method: str, golden: Golden) -> float:
        batch = warm_up_batch(method, golden, self._max_batch)
        began_s = self._clock()
        stage(method, batch)
        return self._clock() - began_s


def is_too_slow(new_s: float, beside_s: float) -> bool:
    """Whether a batch takes unreasonably longer than the same in the bundle beside it."""
    return new_s > SLOWER_AT_MOST * beside_s and new_s - beside_s > SLOWER_BY_S


def check_room(manifest: Manifest, parts: Sequence[str], memory: Memory) -> None:
    """Refuse a bundle that would exhaust the node's memory, before any of it is read.

    Args:
        parts: the stages this replica loads, `gateway` among them where it is one.

    Raises:
        BundleError: it needs more than there is; with both numbers.
    """
    needed = sum(_needed(manifest, part) for part in parts)
    spare = memory.free - round(RESERVED_SHARE * memory.total)
    if needed > spare:
        raise BundleError(
            f"bundle {manifest.bundle_id} needs about {needed / 1e6:.0f} MB for "
            f"{', '.join(parts)}, this node has {max(spare, 0) / 1e6:.0f} MB to spare, expected "
            "room for it beside the bundles that answer; lower serve.keep_resident or the size of "
            "the towers, or give the node more memory"
        )


def check_towers(manifest: Manifest, directory: Path) -> None:
    """Refuse a bundle whose towers were made for another feature schema than its manifest names.

    Golden requests need not hold every kind, so no answer would show it before a user does.

    Raises:
        FeatureSchemaMismatch: kinds, history length or content buckets differ; with both values.
        BundleCorrupt: a tower config cannot be read.
    """
    from recsys.two_tower import read_tower_config

    wanted = FeatureSchema.from_json(dict(manifest.feature_schema))
    own = directory / SCORER_SPACE
    for folder in (directory, own) if own.is_dir() else (directory,):
        towers = read_tower_config(folder)
        for name in ("kinds", "history_length", "n_content_buckets"):
            found, expected = getattr(towers, name), getattr(wanted, name)
            if found != expected:
                raise FeatureSchemaMismatch(
                    f"towers of bundle {manifest.bundle_id} ({folder.name}) were made for {name} "
                    f"{found!r}, its manifest's feature schema has {expected!r}, expected the "
                    "same; train the bundle again"
                )


def node_memory() -> Memory:
    """What this process may still take, as the system and its control group say."""
    import psutil

    system = psutil.virtual_memory()
    memory = Memory(int(system.available), int(system.total))
    limit, used = _control_group(Path("/sys/fs/cgroup"))
    if limit is None or limit >= memory.total:
        return memory
    return Memory(min(memory.free, limit - used), limit)


def _control_group(root: Path) -> tuple[int | None, int]:
    """Limit and use in bytes, file cache that can be dropped left out; no limit is None."""
    try:
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        facts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        return limit, used - int(facts.get("inactive_file", 0))
    except (OSError, ValueError):
        return None, 0


def _needed(manifest: Manifest, part: str) -> int:
    """Bytes that loading a part takes, about."""
    sizes = {name: file.size for name, file in manifest.files.items()}
    items = ITEMS_FACTOR * sizes.get(ITEMS_FILE, 0)
    if part == GATEWAY:
        return round(items)
    if part == SCORER:
        # The user tower and the scorer each hold the item vectors.
        names = [*TOWER_FILES, *SCORER_FILES, VECTORS_FILE]
        # So do the towers that a scorer of another training brought along.
        names += [*SCORER_SPACE_FILES, f"{SCORER_SPACE}/{VECTORS_FILE}"]
    elif part == ORDERING:
        return round(items + LOADING_FACTOR * sizes.get(VECTORS_FILE, 0))
    else:
        names = [name for name in sizes if name.startswith(f"index/{part}/")]
    return round(LOADING_FACTOR * sum(sizes.get(name, 0) for name in names))
