"""Draws, for the log, candidates that retrieval found and the merge left out of a batch's lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import CandidateSet
from recsys.dropped_candidates import DroppedDraw, draw_dropped
from recsys.types import RowArray
from serve_app.asks import Ask
from serve_app.residents.live_items import LiveRows
from serve_app.stages.retrieval import IndexAnswer


def draw_for_log(
    index: IndexAnswer,
    candidates: CandidateSet,
    excluded: Sequence[RowArray],
    live: LiveRows,
    asks: Sequence[Ask],
    n_drawn: int,
) -> DroppedDraw:
    """At most `n_drawn` per request; the same request id draws the same in any placement."""
    return draw_dropped(
        index.rows, index.scores, candidates, excluded, live.blocked, seeds_of(asks), n_drawn
    )


def seeds_of(asks: Sequence[Ask]) -> NDArray[np.uint64]:
    """The seed of each request, [B]."""
    return np.asarray([ask.seed for ask in asks], np.uint64)
