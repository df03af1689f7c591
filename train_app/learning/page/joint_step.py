"""The joint step of a training: from trained towers and scorer to the pair that serves.

Makes the moments, keeps the scorer's validation part aside, and calibrates what comes out. Knows
nothing of files.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.settings import Settings
from recsys.two_tower import UserEncoder
from train_app.examples.interactions import Interactions
from train_app.learning.page.page_samples import page_samples
from train_app.learning.page.train_page import JointFit, PageCheck, Pair, train_page
from train_app.learning.ranking.scorer_examples import ScorerExamples, collect_examples, kept_aside
from train_app.learning.ranking.scorer_validation import calibrated_anew, page_ndcg

MIN_MOMENTS = 200
"""With fewer, towers and scorer stay as each was trained."""


def train_jointly(
    train: Interactions,
    held_back: NDArray[np.int64],
    pair: Pair,
    settings: Settings,
    report: Callable[[float], None],
) -> JointFit:
    """Train the pair on the moments that the towers have not learned from.

    The scorer's validation part stays aside here too: it decides which pair is better, and
    calibrates the one that comes out.

    Args:
        held_back: [E] the events that were kept for the scorer.
        report: called with the share that is done.
    """
    joint, seed = settings.train.joint, settings.train.seed
    if not joint.is_on or len(held_back) < MIN_MOMENTS:
        return JointFit(pair, {})
    is_kept = kept_aside(train, held_back)
    aside, learned = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)

    def moments(one: Pair, part: NDArray[np.int64]) -> ScorerExamples:
        vectors = one.model.item_vectors()
        encoder = UserEncoder.of(one.model)
        return collect_examples(train, held_back[part], encoder, vectors, settings)

    def check(one: Pair) -> PageCheck:
        proposed = moments(one, aside)
        return PageCheck(page_ndcg(one.scorer, proposed), proposed.rows[:, : joint.page])

    rng = np.random.default_rng((seed, 3))
    samples = page_samples(
        moments(pair, learned),
        train.rows[held_back[learned]],
        pair.model.item_vectors(),
        joint.n_tail,
        rng,
    )
    n_retrieved = settings.retrieval.n_candidates
    fit = train_page(pair, samples, check, joint, n_retrieved, rng, time.monotonic, report)
    if fit.pair is pair:
        return fit
    scorer, metrics = calibrated_anew(fit.pair.scorer, moments(fit.pair, aside))
    return JointFit(Pair(fit.pair.model, scorer), {**fit.metrics, **metrics})
