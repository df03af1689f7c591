"""Tuning baselines: on the training part alone, the best setting, and reasons where none runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from recsys.settings import Settings
from recsys.types import FloatArray, RowArray
from train_app.evaluation.evaluation_protocols import HeldOut, Protocol, hold_out
from train_app.evaluation.rivals.lenskit_scores import (
    MatrixScores,
    Options,
    Pairs,
    behind_by_popularity,
)
from train_app.evaluation.rivals.rival_grids import RIVALS, Rival
from train_app.evaluation.rivals.tune_rivals import fit_rivals, pairs_of, validation_of
from train_app.examples.interactions import Interactions, interactions_from_columns

N_ITEMS = 12


def a_walk(n_users: int = 30) -> Interactions:
    """Users who walk through the items in order: the next one is one step further."""
    rows = [
        (f"u{user}", f"i{(user + step) % N_ITEMS:02}", user + 100 * step)
        for step in range(6)
        for user in range(n_users)
    ]
    users, items, times = zip(*rows, strict=True)
    return interactions_from_columns(users, items, ["view"] * len(users), times)


def steps(pairs: Pairs, options: Options, seed: int) -> StepScores:
    """A baseline that says the next item is `step` further than the newest of the history."""
    return StepScores(pairs.n_items, int(options["step"]))


class StepScores:
    """One item scores 1, all others 0."""

    def __init__(self, n_items: int, step: int) -> None:
        self._n_items = n_items
        self._step = step

    def __call__(self, histories: Sequence[RowArray]) -> FloatArray:
        scores = np.zeros((len(histories), self._n_items), np.float32)
        for query, history in enumerate(histories):
            if len(history):
                scores[query, (history[-1] + self._step) % self._n_items] = 1.0
        return scores


def nothing(pairs: Pairs) -> str | None:
    """It always runs."""
    return None


WALKER = Rival("walker", steps, {"step": 3}, (("step", (2, 1, 4)),), nothing)


def held_out_of(data: Interactions, protocol: Protocol) -> HeldOut:
    """A protocol; `time` holds out the last step."""
    return hold_out(protocol, data, cutoff_ms=500, negative_kinds=(), seed=0)


def silent(label: str, share: float) -> None:
    """Nobody reads this progress."""


@pytest.mark.parametrize("protocol", ["time", "leave-one-out", "ncf"])
def test_the_best_setting_is_found_on_the_training_part(protocol: Protocol) -> None:
    """One step is right; the note says how many were tried, and the meter what it cost."""
    held_out = held_out_of(a_walk(), protocol)
    fitted, notes = fit_rivals(held_out, Settings(), tune=True, report=silent, rivals=[WALKER])
    assert notes == []
    assert fitted[0].options == {"step": 1}
    assert "the best of 4 settings of 4" in fitted[0].note
    assert fitted[0].tuning is not None
    lists = fitted[0].ranker(held_out)["walker"]
    assert (lists[:, 0] == held_out.targets).mean() > 0.9


def test_untuned_baselines_keep_their_start() -> None:
    """And say so."""
    held_out = held_out_of(a_walk(), "time")
    fitted, _ = fit_rivals(held_out, Settings(), tune=False, report=silent, rivals=[WALKER])
    assert fitted[0].options == {"step": 3}
    assert fitted[0].tuning is None
    assert "not tuned" in fitted[0].note


@pytest.mark.parametrize("protocol", ["time", "leave-one-out", "ncf"])
def test_validation_is_of_the_training_part_alone(protocol: Protocol) -> None:
    """Its queries are training engagements, held out as the test part was."""
    held_out = held_out_of(a_walk(), protocol)
    validation = validation_of(held_out, Settings())
    assert validation is not None
    assert len(validation.interactions) == int(held_out.is_train.sum())
    assert validation.protocol == protocol


def test_what_is_too_large_or_too_little_is_left_out_with_the_reason() -> None:
    """A baseline's own limit, and data with a single item."""
    large = Rival("large", steps, {"step": 1}, (), lambda pairs: "it does not fit")
    held_out = held_out_of(a_walk(), "time")
    fitted, notes = fit_rivals(held_out, Settings(), tune=True, report=silent, rivals=[large])
    assert (fitted, notes) == ([], ["large is left out: it does not fit"])
    lonely = interactions_from_columns(["u", "v", "w"], ["a", "a", "b"], ["view"] * 3, [1, 2, 600])
    fitted, notes = fit_rivals(
        held_out_of(lonely, "time"), Settings(), tune=True, report=silent, rivals=[WALKER]
    )
    assert fitted == []
    assert "2 users and 1 items" in notes[0]


def test_without_a_validation_part_nothing_is_tuned() -> None:
    """Two engagements at one moment cannot be split again."""
    data = interactions_from_columns(["u", "v", "w"], ["a", "b", "c"], ["view"] * 3, [1, 1, 600])
    held_out = held_out_of(data, "time")
    assert validation_of(held_out, Settings()) is None
    fitted, _ = fit_rivals(held_out, Settings(), tune=True, report=silent, rivals=[WALKER])
    assert "not tuned" in fitted[0].note


def test_pairs_are_counted_once_and_without_negative_kinds() -> None:
    """A repeat is one pair; a dismissal is none."""
    data = interactions_from_columns(
        ["u", "u", "u", "v"], ["a", "a", "b", "b"], ["view", "view", "dismiss", "view"], range(4)
    )
    pairs = pairs_of(data, ("dismiss",))
    assert pairs.users.tolist() == [0, 1]
    assert pairs.rows.tolist() == [0, 1]
    assert pairs.popularity().tolist() == [1, 1]


def test_each_baseline_says_when_data_is_too_large_for_it() -> None:
    """EASE by items, iALS by pairs, neighbours by the pairs within histories."""
    many_items = Pairs(np.zeros(20_000, np.int64), np.arange(20_000), 20_000)
    reasons = {rival.name: rival.why_not(many_items) for rival in RIVALS}
    assert reasons["EASE"] is not None
    assert reasons["iALS"] is None
    long = Pairs(np.zeros(200_000, np.int64), np.arange(200_000) % 10, 10)
    assert {rival.name: rival.why_not(long) for rival in RIVALS}["item-kNN"] is not None


def test_what_is_not_scored_comes_last_by_popularity() -> None:
    """Scored items keep their order above all others."""
    scores = np.array([[np.nan, -3.0, np.nan, 2.0], [np.nan] * 4], np.float32)
    filled = behind_by_popularity(scores, np.array([5, 0, 9, 0], np.float32))
    assert np.argsort(-filled[0], kind="stable").tolist() == [3, 1, 2, 0]
    assert np.argsort(-filled[1], kind="stable").tolist() == [2, 0, 1, 3]


def test_a_matrix_scores_histories_and_ignores_unknown_items() -> None:
    """Rows 1 and 3 are known; row 0 and 2 come by popularity."""
    weights = np.array([[0.0, 2.0], [1.0, 0.0]], np.float32)
    scores_of = MatrixScores(np.array([1, 3]), weights, np.array([1, 1, 2, 1], np.float32))
    both, unknown = scores_of([np.array([1, 0, 1], np.int32), np.array([2], np.int32)])
    assert np.argsort(-both, kind="stable").tolist() == [3, 1, 2, 0]
    assert both[3] == pytest.approx(2.0)
    assert np.argsort(-unknown, kind="stable").tolist()[0] == 2
