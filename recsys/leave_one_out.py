"""What a candidate owes to each event of the history and to each input of the scorer.

Leave-one-out: the user is encoded and the candidates are scored once more without it, so what
both stages make of it counts. Which candidates there are, and their sources, stay as retrieved.
Legend: B requests, L history length, K candidates, R events, V variants of a request, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.features import PADDING_KIND
from recsys.scorer_network import ScorerInputs
from recsys.stages import ATTRIBUTED
from recsys.types import NO_ROW, Batch, FloatArray, RowArray

if TYPE_CHECKING:
    from recsys.scorer import CandidateScorer
    from recsys.two_tower import UserEncoder

_N_NEUTRAL = len(ATTRIBUTED) - 1  # a history is left out before the user is encoded
_HISTORY = ("items", "kinds", "ages_s")
_CANDIDATES = ("rows", "sources", "ranks")
_PADDING = {"items": NO_ROW, "kinds": PADDING_KIND, "ages_s": 0.0}


def attribute(encoder: UserEncoder, scorer: CandidateScorer, batch: Batch) -> Batch:
    """Utility of each candidate less its utility without an event, or without a feature.

    Contributions do not add up to the utility: events that say the same each count for little.

    Args:
        batch: "items", "kinds", "ages_s" [B, L], "rows", "sources", "ranks" [B, K] as for
            `CandidateScorer.score`; "n_events" [1], R, the newest events that are tried.

    Returns:
        "places" int32 [B, R], columns of the history, newest first, -1 where it is shorter;
        "events" float32 [B, R, K] and "features" float32 [B, F, K], contributions in units of
        utility; NaN at padding and where an estimate is not finite.
    """
    n_requests, n_candidates = batch["rows"].shape
    places = newest_places(batch["items"], int(batch["n_events"][0]))
    events = np.full((*places.shape, n_candidates), np.nan, np.float32)
    features = np.full((n_requests, len(ATTRIBUTED), n_candidates), np.nan, np.float32)
    # One request after the other: memory stays that of one, and neighbours change nothing.
    for i in range(n_requests):
        request = {name: batch[name][i : i + 1] for name in (*_HISTORY, *_CANDIDATES)}
        tried = places[i][places[i] >= 0]
        losses = _losses(encoder, scorer, request, tried)
        events[i, : len(tried)] = losses[: len(tried)]
        features[i] = losses[len(tried) :]
    return {"places": places, "events": events, "features": features}


def newest_places(items: RowArray, n_events: int) -> RowArray:
    """Columns of the newest events of each history [B, L], newest first, [B, R]; -1 is padding."""
    length = items.shape[1]
    columns = np.where(items >= 0, np.arange(length, dtype=np.int32), NO_ROW)
    newest_first = np.sort(columns, axis=1)[:, ::-1]
    return np.ascontiguousarray(newest_first[:, :n_events], dtype=np.int32)


def without_each(history: Batch, places: RowArray) -> Batch:
    """One history [1, L] without the event at each place [V]: older events move up by one.

    A place of -1 leaves the history whole.
    """
    length = history["items"].shape[1]
    columns = np.arange(length)
    taken = columns - (columns <= places[:, None])  # [V, L], -1 where nothing is left to move up
    return {
        name: np.where(taken < 0, _PADDING[name], history[name][0][taken]).astype(
            history[name].dtype
        )
        for name in _HISTORY
    }


def _losses(
    encoder: UserEncoder, scorer: CandidateScorer, request: Batch, places: RowArray
) -> FloatArray:
    """Utility lost without each event and without each feature, [R + F, K]."""
    whole = np.full(1, NO_ROW, np.int32)
    variants = without_each(request, np.concatenate([whole, places, whole]))
    for name, padding in _PADDING.items():
        variants[name][-1] = padding
    n_variants = len(variants["items"])
    asked: Batch = {
        **variants,
        "user_emb": encoder.encode(variants),
        **{name: np.repeat(request[name], n_variants, axis=0) for name in _CANDIDATES},
    }
    with torch.inference_mode():
        inputs, _ = scorer.inputs(asked)
        _, worth = scorer.estimates(_with_neutral_features(inputs))
    utility: NDArray[np.float32] = worth.numpy()
    usable = (request["rows"] >= 0) & np.isfinite(utility[:1]) & np.isfinite(utility[1:])
    # Where an estimate is not finite, nothing can be said of the difference.
    with np.errstate(invalid="ignore"):
        return np.where(usable, utility[:1] - utility[1:], np.nan).astype(np.float32)


def _with_neutral_features(inputs: ScorerInputs) -> ScorerInputs:
    """The variants and four more of the first one, each with one feature at its neutral value."""
    first = ScorerInputs(*(part[:1].expand(_N_NEUTRAL, *part.shape[1:]) for part in inputs))
    scores, side = first.scores.clone(), first.side.clone()
    scores[0], side[0, :, 0] = 0.0, 0.0
    side[1, :, 1] = 0.0
    side[2, :, 2:] = 0.0
    chances = first.chances.clone()
    chances[3] = 0.0
    neutral = first._replace(scores=scores, side=side, chances=chances)
    return ScorerInputs(*(torch.cat(pair) for pair in zip(inputs, neutral, strict=True)))
