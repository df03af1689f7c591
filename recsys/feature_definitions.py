"""What the live features mean: windows, window counts, trend, pairs and neighbours.

Pure, and written once: the feature stream, the stores and `feature_columns` (the same over columns
of past events) all ask here. Knows no store and no settings tree.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from recsys.types import HistoryEvent

WINDOWS_S = (300, 3600, 86_400)
"""The windows features are counted in, in seconds of event time."""
BUCKETS_PER_WINDOW = 12
MS_PER_DAY = 86_400_000
TREND_SHORT_S = 3600
TREND_LONG_S = 86_400
TREND_PRIOR = 1.0
"""Engagements every item is expected to get in the short window whatever it got before."""
NEIGHBOUR_SHRINKAGE = 5.0
"""A pair seen so often counts for half of what its cosine says."""


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """Engagements in each of `WINDOWS_S`: of all kinds but the negative ones, and of those."""

    positives: tuple[int, ...]
    negatives: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ItemCounts:
    """The window counts of one item over all partitions."""

    item_id: str
    counts: WindowCounts


NO_COUNTS = WindowCounts((0,) * len(WINDOWS_S), (0,) * len(WINDOWS_S))


def bucket_width_ms(window_s: int) -> int:
    """The width of a window's buckets, in ms."""
    return max(1, window_s * 1000 // BUCKETS_PER_WINDOW)


def bucket_of(timestamp_ms: int, window_s: int) -> int:
    """The start of the bucket a time lies in, in ms."""
    return timestamp_ms - timestamp_ms % bucket_width_ms(window_s)


def first_bucket(now_ms: int, window_s: int) -> int:
    """The oldest bucket of the window at a time.

    A window is the 12 buckets that end with the one of `now_ms`: between 11 and 12 twelfths of
    its length, so that a count changes by buckets alone and is the same wherever it is summed.
    """
    return bucket_of(now_ms, window_s) - (BUCKETS_PER_WINDOW - 1) * bucket_width_ms(window_s)


def day_of(timestamp_ms: int) -> int:
    """The UTC day of a time, counted from 1970."""
    return timestamp_ms // MS_PER_DAY


def is_late(timestamp_ms: int, watermark_ms: int, lateness_ms: int) -> bool:
    """Whether an event comes too late to change any window or pair of its partition."""
    return timestamp_ms < watermark_ms - lateness_ms


def advanced_watermark(watermark_ms: int, timestamp_ms: int, received_at_ms: int) -> int:
    """The newest event time of a partition after one more event.

    A time ahead of the receiving clock does not count as progress: one client whose clock is an
    hour fast would else make everybody else's events late.
    """
    return max(watermark_ms, min(timestamp_ms, received_at_ms))


def user_window_counts(
    history: Sequence[HistoryEvent], now_ms: int, negative_kinds: Collection[str]
) -> WindowCounts:
    """A user's window counts at a time, of the events before it; at most what a history holds."""
    positives, negatives = [], []
    for window_s in WINDOWS_S:
        start_ms = first_bucket(now_ms, window_s)
        inside = [event for event in history if start_ms <= event.timestamp_ms < now_ms]
        n_negative = sum(event.kind in negative_kinds for event in inside)
        positives.append(len(inside) - n_negative)
        negatives.append(n_negative)
    return WindowCounts(tuple(positives), tuple(negatives))


def summed_counts(buckets: Iterable[tuple[int, int, int, int]], now_ms: int) -> WindowCounts:
    """An item's window counts from its buckets.

    Args:
        buckets: (window in seconds, start in ms, positives, negatives), each summed or not.
    """
    bounds = {w: (first_bucket(now_ms, w), bucket_of(now_ms, w)) for w in WINDOWS_S}
    totals = {window_s: [0, 0] for window_s in WINDOWS_S}
    for window_s, bucket_ms, n_positive, n_negative in buckets:
        if window_s in bounds and bounds[window_s][0] <= bucket_ms <= bounds[window_s][1]:
            totals[window_s][0] += n_positive
            totals[window_s][1] += n_negative
    return WindowCounts(
        tuple(totals[window_s][0] for window_s in WINDOWS_S),
        tuple(totals[window_s][1] for window_s in WINDOWS_S),
    )


def trend_score(n_short: int, n_long: int) -> float:
    """How far an item's last hour stands above what its day let expect, in standard deviations.

    The rest of the day gives the expected number e of engagements in an hour. Counts of
    independent acts are near Poisson, whose variance is its mean, so the score is
    (n - e) / sqrt(e): the signed root of Pearson's chi-square. The prior is added to e: it keeps
    one click on an item nobody looks at from being a trend, and fades where there is traffic.
    """
    rest_s = TREND_LONG_S - TREND_SHORT_S
    expected = TREND_PRIOR + max(0, n_long - n_short) * TREND_SHORT_S / rest_s
    return (n_short - expected) / math.sqrt(expected)


def paired_items(
    before: Iterable[HistoryEvent],
    item_id: str,
    timestamp_ms: int,
    negative_kinds: Collection[str],
    limit: int,
    window_ms: int,
) -> list[str]:
    """The items a positive engagement forms a pair with, each once.

    Those of the user's last `limit` positive engagements with other items before it, unless they
    are more than `window_ms` older: near in a user's path is what makes items go together, and the
    limit keeps one restless user from making most of the pairs.

    Args:
        before: what stands before it in the user's history, newest first.
    """
    partners: list[str] = []
    for event in before:
        if len(partners) == limit or event.timestamp_ms < timestamp_ms - window_ms:
            break
        if event.item_id != item_id and event.kind not in negative_kinds:
            partners.append(event.item_id)
    return list(dict.fromkeys(partners))


def neighbour_score(n_pairs: int, degree: int, other_degree: int) -> float:
    """How strongly two items go together, 0 to 1.

    The cosine of item-to-item filtering (Linden, Smith and York 2003, doi:10.1109/MIC.2003.1167344)
    over the pairs each item is in, times n / (n + shrinkage), which holds back what few pairs say
    (Bell and Koren 2007, doi:10.1109/ICDM.2007.90).
    """
    cosine = n_pairs / math.sqrt(degree * other_degree)
    return cosine * n_pairs / (n_pairs + NEIGHBOUR_SHRINKAGE)


def best_neighbours(
    pairs: Mapping[str, int], degree: int, degrees: Mapping[str, int], limit: int
) -> list[tuple[str, float]]:
    """An item's neighbours with their scores, best first; equal scores by item id."""
    scored = (
        (other, neighbour_score(n_pairs, degree, degrees[other]))
        for other, n_pairs in pairs.items()
    )
    return sorted(scored, key=lambda entry: (-entry[1], entry[0]))[:limit]
