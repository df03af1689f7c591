"""A bundle whose stages are watched while it ranks: how long each takes, what the scorer said.

Wraps stages from outside, so that what is measured is what ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter

from recsys.stages import Stage
from recsys.types import Batch
from train_app.evaluation.rankers import BundleParts


@dataclass
class Watch:
    """What was seen."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By stage method: encode, search, score, order."""
    scored: Batch | None = None
    """The newest answer of the scorer, with the `rows` it was asked for."""


class WatchedStage:
    """A stage that tells a watch of every call."""

    def __init__(self, stage: Stage, watch: Watch, now_s: Callable[[], float]) -> None:
        self._stage = stage
        self._watch = watch
        self._now_s = now_s
        self.nbytes = stage.nbytes

    def __call__(self, method: str, batch: Batch) -> Batch:
        """Answer as the stage does."""
        began_s = self._now_s()
        answer = self._stage(method, batch)
        self._watch.seconds[method] += self._now_s() - began_s
        if method == "score":
            self._watch.scored = {**answer, "rows": batch["rows"]}
        return answer


def watched(
    parts: BundleParts, now_s: Callable[[], float] = perf_counter
) -> tuple[BundleParts, Watch]:
    """The same bundle with every stage watched."""
    watch = Watch()
    ordering = parts.ordering
    return replace(
        parts,
        scorer=WatchedStage(parts.scorer, watch, now_s),
        shards=[WatchedStage(shard, watch, now_s) for shard in parts.shards],
        ordering=None if ordering is None else WatchedStage(ordering, watch, now_s),
    ), watch
