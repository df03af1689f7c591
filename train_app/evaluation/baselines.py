"""What any model must beat: popularity, of all time and recent.

Knows engagements as arrays; deterministic, no training. Baselines that learn are in `rivals`.
"""

from __future__ import annotations

import numpy as np

from recsys.types import FloatArray
from train_app.examples.interactions import Interactions

RECENT_SHARE = 0.1
"""The recent window is this newest share of the engagements."""


def popularity(
    interactions: Interactions, negative_kinds: tuple[str, ...], since_ms: int | None = None
) -> FloatArray:
    """Engagements of each item, without those of negative kinds, [N].

    Args:
        since_ms: count only engagements from this moment on.
    """
    counted = np.asarray([kind not in negative_kinds for kind in interactions.kinds], np.bool_)
    keep = counted[interactions.kind_ids]
    if since_ms is not None:
        keep &= interactions.timestamps_ms >= since_ms
    counts = np.bincount(interactions.rows[keep], minlength=interactions.n_items)
    return counts.astype(np.float32)


def recent_since_ms(interactions: Interactions, share: float = RECENT_SHARE) -> int:
    """When the newest `share` of the engagements begins; 0 if there are none."""
    if not len(interactions):
        return 0
    return int(np.quantile(interactions.timestamps_ms, 1.0 - share, method="lower"))
