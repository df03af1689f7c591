"""The guardrails: what each measures, when it refuses, and that chance alone refuses nobody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.learning_settings import GateSettings
from train_app.evaluation.gate_guardrails import (
    Calibration,
    Guarded,
    PageFacts,
    changed_share,
    guardrails,
    page_diversity,
)
from train_app.evaluation.gate_rules import Rule

N_ITEMS, K = 60, 10
OFF = GateSettings(
    min_coverage_ratio=None,
    min_diversity_ratio=0,
    min_new_item_ratio=None,
    max_churn=0,
    max_calibration_error=None,
    max_cost_ratio=0,
)


def random_pages(n: int = 200, n_items: int = N_ITEMS, seed: int = 0) -> np.ndarray:
    """Pages of distinct items, drawn uniformly."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_items)[:K] for _ in range(n)]).astype(np.int32)


def guarded(new: PageFacts, stable: PageFacts | None, tokens: np.ndarray | None = None) -> Guarded:
    """Both on the same users; items are of ten categories in turn, every sixth is new."""
    rows = np.arange(N_ITEMS)
    kinds = (rows % 10)[:, None].astype(np.int32) if tokens is None else tokens
    return Guarded(new, stable, np.arange(len(new.lists)), kinds, rows % 6 == 0)


def only(gate: GateSettings, found: Guarded) -> Rule:
    """The one rule that is on."""
    rules = guardrails(found, gate, seed=0)
    assert len(rules) == 1
    return rules[0]


def test_a_bundle_like_stable_passes_every_guardrail() -> None:
    """All are on by default, and each has a figure."""
    calibration = Calibration(np.full(1000, 0.1), np.arange(1000) % 10 == 0)
    new = PageFacts(random_pages(seed=0), calibration, 1.0)
    stable = PageFacts(random_pages(seed=1), None, 1.0)
    rules = guardrails(guarded(new, stable), GateSettings(), seed=0)
    assert len(rules) == 6
    assert all(rule.passed and np.isfinite(rule.figure) for rule in rules)


def test_null_and_zero_switch_every_guardrail_off() -> None:
    """Nothing is decided by what was switched off."""
    facts = PageFacts(random_pages(), Calibration(np.ones(10), np.zeros(10, bool)), 9.0)
    assert guardrails(guarded(facts, facts), OFF, seed=0) == []


def test_one_page_for_everybody_is_refused_for_its_coverage() -> None:
    """Ten items of sixty where stable shows all; the remedy names the setting."""
    same = np.tile(np.arange(K, dtype=np.int32), (200, 1))
    gate = OFF.model_copy(update={"min_coverage_ratio": 0.5})
    rule = only(gate, guarded(PageFacts(same), PageFacts(random_pages())))
    assert not rule.passed
    assert rule.figure == pytest.approx(K / N_ITEMS)
    assert "gate.min_coverage_ratio" in rule.remedy


def test_pages_of_one_category_are_refused_for_their_diversity() -> None:
    """Without categories or creators nothing is measured."""
    tokens = (np.arange(N_ITEMS) // 20)[:, None].astype(np.int32)
    gate = OFF.model_copy(update={"min_diversity_ratio": 0.5})
    narrow = PageFacts(random_pages(n_items=20))
    rule = only(gate, guarded(narrow, PageFacts(random_pages()), tokens))
    assert not rule.passed
    assert rule.figure == 0
    bare = np.full((N_ITEMS, 1), -1, np.int32)
    assert guardrails(guarded(narrow, narrow, bare), gate, seed=0) == []


def test_new_items_may_not_vanish_from_the_page() -> None:
    """Refused where none is left, and passed where one query cannot tell."""
    gate = OFF.model_copy(update={"min_new_item_ratio": 0.2})
    old_only = random_pages()
    old_only[old_only % 6 == 0] += 1
    rule = only(gate, guarded(PageFacts(old_only), PageFacts(random_pages())))
    assert (rule.passed, rule.figure) == (False, 0)


def test_a_breach_that_chance_explains_is_told_and_passes() -> None:
    """A dozen users: the figure is beyond its bound, the interval is not; four cannot tell."""
    gate = OFF.model_copy(update={"max_churn": 0.5})
    stable = random_pages(12)
    new = stable.copy()
    new[:8] = random_pages(8, seed=5)
    rule = only(gate, guarded(PageFacts(new), PageFacts(stable)))
    assert rule.figure > 0.5
    assert rule.passed
    assert "interval" in rule.sentence()
    four = only(gate, guarded(PageFacts((stable[:4] + K) % N_ITEMS), PageFacts(stable[:4])))
    assert four.passed
    assert "too few to tell" in four.sentence()
    other = (random_pages() + K) % N_ITEMS
    assert not only(gate, guarded(PageFacts(other), PageFacts(random_pages()))).passed


def test_overconfident_probabilities_are_refused() -> None:
    """Said 0.9, happened one time in ten; the same as said is no error."""
    outcomes = np.arange(1000) % 10 == 0
    gate = OFF.model_copy(update={"max_calibration_error": 0.1})

    def rule_for(said: float) -> Rule:
        facts = PageFacts(random_pages(), Calibration(np.full(1000, said), outcomes))
        return only(gate, guarded(facts, None))

    assert rule_for(0.1).figure == pytest.approx(0.0)
    rule = rule_for(0.9)
    assert rule.figure == pytest.approx(0.8)
    assert not rule.passed
    assert "at most 0.1000" in rule.sentence()


def test_a_scorer_may_cost_a_few_times_stable_but_no_more() -> None:
    """The times of both stand in the sentence."""
    gate = OFF.model_copy(update={"max_cost_ratio": 3.0})
    pages = random_pages()
    cheap = only(gate, guarded(PageFacts(pages, None, 2.9), PageFacts(pages, None, 1.0)))
    dear = only(gate, guarded(PageFacts(pages, None, 3.1), PageFacts(pages, None, 1.0)))
    assert (cheap.passed, dear.passed) == (True, False)
    assert "3.10 ms against 1.00 ms" in dear.sentence()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_shares_and_diversity_stay_between_0_and_1(seed: int) -> None:
    """For pages of any length, padding and overlap; a page against itself has changed nothing."""
    rng = np.random.default_rng(seed)
    pages, others = random_pages(5, seed=seed), random_pages(5, seed=seed + 1)
    pages[rng.random(pages.shape) < 0.3] = -1
    changed = changed_share(pages, others)
    assert ((changed >= 0) & (changed <= 1)).all()
    assert (changed_share(pages, pages) == 0).all()
    tokens = np.stack([rng.permutation(12)[:3] for _ in range(N_ITEMS)]).astype(np.int32)
    tokens[rng.random(tokens.shape) < 0.3] = -1
    diversity = page_diversity(pages, tokens)
    measured = diversity[np.isfinite(diversity)]
    assert ((measured >= 0) & (measured <= 1)).all()


def test_diversity_is_the_mean_jaccard_distance_of_pairs() -> None:
    """Two of three tokens shared by one pair, none by the other pairs."""
    tokens = np.array([[0, 1, -1], [1, 0, 2], [5, -1, -1], [-1, -1, -1]], np.int32)
    pages = np.array([[0, 1, 2, 3], [3, -1, -1, -1]], np.int32)
    diversity = page_diversity(pages, tokens)
    assert diversity[0] == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert np.isnan(diversity[1])
