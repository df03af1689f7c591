"""How far two slates agree: pure, over item ids in order; a repeated item counts once."""

from __future__ import annotations

from collections.abc import Sequence

PERSISTENCE = 0.9
"""A reader who looks at the next position with this chance; the first ten then weigh 86 %."""


def overlap_at_k(a: Sequence[str], b: Sequence[str], k: int) -> float:
    """Share of k that the first k of both have in common, 0-1, whatever their order.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    return len({*a[:k]} & {*b[:k]}) / k


def rank_biased_overlap(a: Sequence[str], b: Sequence[str], p: float = PERSISTENCE) -> float:
    """RBO_ext, 0-1: Webber, Moffat & Zobel 2010, equation 32, for lists of any lengths.

    What lies beyond the lists is taken to agree as the last positions seen do. Two empty lists
    agree wholly, an empty one agrees with no other.

    Raises:
        ValueError: p is not between 0 and 1.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p is {p}, expected above 0 and below 1")
    short, long = sorted((list(dict.fromkeys(a)), list(dict.fromkeys(b))), key=len)
    if not short:
        return 0.0 if long else 1.0
    n_short, n_long = len(short), len(long)
    common, in_short, in_long = 0, set[str](), set[str]()
    at_short = 0
    total = 0.0
    for depth, item in enumerate(long, start=1):
        if depth <= n_short:
            other = short[depth - 1]
            in_short.add(other)
            common += other == item or other in in_long
        in_long.add(item)
        # The other half of equal items at one depth was counted above.
        is_counted = depth <= n_short and short[depth - 1] == item
        common += item in in_short and not is_counted
        if depth == n_short:
            at_short = common
        seen = common + (at_short * (depth - n_short) / n_short if depth > n_short else 0.0)
        total += seen / depth * p**depth
    beyond = (common - at_short) / n_long + at_short / n_short
    return min(1.0, (1 - p) / p * total + beyond * p**n_long)
