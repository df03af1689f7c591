"""Agreement of two slates against the plain formulas, and what must hold of it for any slates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evidence.rank_difference import overlap_at_k, rank_biased_overlap

ITEMS = [f"i{n}" for n in range(12)]
SLATES = st.lists(st.sampled_from(ITEMS), unique=True, max_size=10)


def by_the_formula(a: list[str], b: list[str], p: float) -> float:
    """Equation 32 of the paper, term by term."""
    short, long = sorted((a, b), key=len)
    s, n = len(short), len(long)
    x = {d: len({*short[:d]} & {*long[:d]}) for d in range(1, n + 1)}
    first = sum(x[d] / d * p**d for d in range(1, n + 1))
    second = sum(x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * (first + second) + ((x[n] - x[s]) / n + x[s] / s) * p**n


@settings(max_examples=50, deadline=None)
@given(SLATES.filter(bool), SLATES.filter(bool), st.floats(0.1, 0.98))
def test_it_is_the_papers_equation_for_even_and_uneven_lengths(
    a: list[str], b: list[str], p: float
) -> None:
    """And the same whichever list comes first."""
    found = rank_biased_overlap(a, b, p)
    assert found == pytest.approx(by_the_formula(a, b, p), abs=1e-9)
    assert found == pytest.approx(rank_biased_overlap(b, a, p), abs=1e-12)
    assert 0.0 <= found <= 1.0


@settings(max_examples=50, deadline=None)
@given(SLATES.filter(bool), SLATES)
def test_equal_slates_agree_wholly_and_strangers_not_at_all(a: list[str], b: list[str]) -> None:
    """By both measures; a beginning of a slate agrees with it wholly as far as it goes."""
    strangers = [f"x{item}" for item in b]
    assert rank_biased_overlap(a, a) == pytest.approx(1.0)
    assert rank_biased_overlap(a, strangers) == 0.0
    assert rank_biased_overlap(a, a[: max(1, len(a) // 2)]) == pytest.approx(1.0)
    assert overlap_at_k(a, a, len(a)) == 1.0
    assert overlap_at_k(a, strangers, len(a)) == 0.0


@settings(max_examples=50, deadline=None)
@given(SLATES, SLATES, st.integers(1, 15))
def test_an_overlap_knows_no_order(a: list[str], b: list[str], k: int) -> None:
    """Only which items are among the first k."""
    found = overlap_at_k(a, b, k)
    assert found == overlap_at_k(b, a, k)
    assert found == overlap_at_k(a[:k][::-1] + a[k:], b, k)
    assert 0.0 <= found <= min(len(a), len(b), k) / k


def test_an_exchange_at_the_top_costs_more_than_one_at_the_end() -> None:
    """As a reader sees the top more often."""
    top = ["i1", "i0", *ITEMS[2:]]
    end = [*ITEMS[:-2], "i11", "i10"]
    assert rank_biased_overlap(ITEMS, top) < rank_biased_overlap(ITEMS, end) < 1.0


def test_empty_and_repeated_items_and_wrong_numbers() -> None:
    """A repeated item counts where it first is."""
    assert rank_biased_overlap([], []) == 1.0
    assert rank_biased_overlap(["a"], []) == 0.0
    assert rank_biased_overlap(["a", "a", "b"], ["a", "b"]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="k is 0"):
        overlap_at_k(["a"], ["a"], 0)
    with pytest.raises(ValueError, match=r"p is 1\.0"):
        rank_biased_overlap(["a"], ["a"], 1.0)
