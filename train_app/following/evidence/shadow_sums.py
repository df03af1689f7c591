"""What one answer of a shadow adds to its sums, beside the live answer. Pure."""

from __future__ import annotations

from recsys.evidence.rank_difference import overlap_at_k, rank_biased_overlap
from train_app.following.evidence.evidence_records import CountedShadow


def shadow_sums(event: CountedShadow) -> dict[str, int]:
    """The measures of `evidence_tables.SHADOW_MEASURES`.

    A pair of slates is compared where the copy was answered and the live slate shows anything; an
    empty answer to it agrees with nothing.
    """
    is_failed = event.status >= 400
    sums = {"n": 1, "n_failed": int(is_failed), "n_degraded": int(bool(event.degraded))}
    if is_failed or not event.live_items:
        return sums
    live, items = event.live_items, event.items
    return sums | {
        "n_compared": 1,
        "n_same_order": int(live == items),
        "overlap_milli": round(1000 * overlap_at_k(live, items, len(live))),
        "rbo_milli": round(1000 * rank_biased_overlap(live, items)),
    }
