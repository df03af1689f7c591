"""Logged slates as examples for the scorer, and the head that explains their positions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.learning_settings import ScorerSettings, TowerSettings, TrainSettings
from recsys.scorer import load_scorer
from recsys.scorer_network import Estimates
from recsys.settings import RetrievalSettings, Settings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Source
from tests.example_lake import HOUR, MINUTE, NOON, a_lake, an_impression
from tests.untrained_models import some_interactions
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.slates.scorer_positions import PositionHead, slate_loss
from train_app.learning.slates.scorer_slates import (
    MIN_UNPROMPTED,
    ShownExamples,
    slate_examples,
    without_prompts,
)
from train_app.learning.slates.shown_slates import ShownSlates, load_shown_slates, no_slates
from train_app.learning.train_joint import train_models


def a_log() -> Interactions:
    """Ann engages with a, b and c, an hour apart, likes b a minute later; Bob with a."""
    acts = [("ann", "a", 0), ("ann", "b", HOUR), ("ann", "c", 2 * HOUR), ("bob", "a", 0)]
    return interactions_from_columns(
        [*(user for user, _, _ in acts), "ann"],
        [*(item for _, item, _ in acts), "b"],
        ["click"] * 4 + ["like"],
        [*(NOON + at for _, _, at in acts), NOON + HOUR + MINUTE],
    )


def slates_of(log: Interactions, *shown: tuple[str, str, int]) -> ShownSlates:
    """Slates of user, items and time."""
    row_of = {item.item_id: row for row, item in enumerate(log.items)}
    rows = np.array([[row_of[item] for item in items] for _, items, _ in shown], np.int32)
    return ShownSlates(
        np.array([log.user_ids.index(user) for user, _, _ in shown]),
        np.array([NOON + at for _, _, at in shown]),
        rows,
        np.tile(np.arange(rows.shape[1], dtype=np.int32), (len(rows), 1)),
        np.zeros(rows.shape, np.int8),
        np.zeros(rows.shape, np.int32),
    )


def examples_of(log: Interactions, slates: ShownSlates, taught: list[int]) -> ShownExamples:
    """With untrained towers and a window of half an hour."""
    config = TowerConfig(log.n_items, 8, 1, 1, 4, log.kinds, 16)
    content = np.full((log.n_items, 1), -1, np.int32)
    encoder = UserEncoder.of(TwoTower(config, content, np.ones(log.n_items, dtype=bool)).eval())
    rng = np.random.default_rng(0)
    return slate_examples(log, slates, np.array(taught, np.int64), encoder, HOUR // 2, rng)


def test_an_engagement_labels_the_newest_slate_that_showed_its_item() -> None:
    """With all its kinds, at its place, and the history is what came before the slate."""
    log = a_log()
    slates = slates_of(log, ("ann", "cb", HOUR - 9 * MINUTE), ("ann", "bc", HOUR - MINUTE))
    found = examples_of(log, slates, [1, 2])
    assert len(found) == 1
    assert found.examples.labels[0].tolist() == [[True, True], [False, False]]
    assert found.positions.tolist() == [[0, 1]]
    met = found.examples.history["items"][0]
    assert met[met >= 0].tolist() == [log.rows[0]]
    assert found.examples.history["ages_s"][0, -1] == 59 * 60


def test_slates_that_taught_others_or_nobody_are_left_out() -> None:
    """What the towers learned from, what is kept aside, and slates without an engagement."""
    log = a_log()
    slates = slates_of(
        log, ("ann", "bc", HOUR - MINUTE), ("ann", "ab", 9 * HOUR), ("bob", "ba", -MINUTE)
    )
    assert len(examples_of(log, slates, [1, 4])) == 2
    assert len(examples_of(log, slates, [4])) == 1
    assert len(examples_of(log, slates, [3])) == 0
    assert len(examples_of(log, no_slates(), [1])) == 0


def test_a_slate_outside_the_window_is_credited_with_nothing() -> None:
    """Half an hour here."""
    log = a_log()
    assert len(examples_of(log, slates_of(log, ("ann", "ca", HOUR + 29 * MINUTE)), [2, 3])) == 0
    assert len(examples_of(log, slates_of(log, ("ann", "ca", HOUR + 31 * MINUTE)), [2, 3])) == 1


def test_what_was_only_seen_labels_nothing() -> None:
    """Else a slate would teach that all that was looked at is worth the same."""
    seen = interactions_from_columns(
        ["ann"] * 3,
        ["b", "c", "a"],
        ["view", "click", "click"],
        [NOON + HOUR, NOON + HOUR + MINUTE, NOON],
    )
    slates = slates_of(seen, ("ann", "bc", HOUR - MINUTE))
    found = examples_of(seen, slates, [2])
    click = seen.kinds.index("click")
    assert np.argwhere(found.examples.labels[0]).tolist() == [[1, click]]
    # The first meeting with an item is what is held back, be it a sight alone.
    both = interactions_from_columns(
        ["ann"] * 2, ["b", "b"], ["view", "click"], [NOON + HOUR, NOON + HOUR + MINUTE]
    )
    assert len(examples_of(both, slates_of(both, ("ann", "b", HOUR - MINUTE)), [0])) == 1
    only_views = interactions_from_columns(["ann"], ["b"], ["view"], [NOON + HOUR])
    assert len(examples_of(only_views, slates_of(only_views, ("ann", "b", 0)), [0])) == 0
    shown = slates_of(only_views, ("ann", "b", HOUR - MINUTE))
    assert len(examples_of(only_views, shown, [0])) == 1


def test_slates_come_out_of_the_lake_as_they_were_shown(tmp_path: Path) -> None:
    """Once each though logged twice; unknown items have no row, other users and times are out."""
    log = a_log()
    shown = an_impression("ann", ["b", "gone", "c"], NOON + HOUR - MINUTE)
    settings = a_lake(
        tmp_path,
        impressions=[
            shown,
            shown | {"log_offset": 77},
            an_impression("ann", ["a"], NOON + 9 * HOUR),
            an_impression("eve", ["b"], NOON + HOUR),
        ],
    )
    found = load_shown_slates(log, np.array([1]), settings, HOUR)
    row_of = {item.item_id: row for row, item in enumerate(log.items)}
    assert found.rows.tolist() == [[row_of["b"], -1, row_of["c"]]]
    assert found.positions.tolist() == [[0, 1, 2]]
    assert found.sources.tolist() == [[Source.INDEX] * 3]
    assert found.ranks.tolist() == [[3, 3, 3]]
    assert log.user_ids[found.users[0]] == "ann"
    assert found.moments_ms.tolist() == [NOON + HOUR - MINUTE]
    assert len(load_shown_slates(log, np.array([1]), Settings(data_dir=tmp_path / "no"), HOUR)) == 0


def test_a_diverted_training_is_shown_no_slates_of_other_sides(tmp_path: Path) -> None:
    """What was done with them is left out, so they would read as disliked."""
    log = a_log()
    sides = (["x-1:control", "x-2:treatment"], ["x-1:treatment"], [], None)
    shown = [
        an_impression("ann", ["b"], NOON + HOUR - (n + 1) * MINUTE, experiments=side)
        for n, side in enumerate(sides)
    ]
    settings = a_lake(tmp_path, impressions=shown)
    train = settings.train.model_copy(update={"diverted_to": "x-1:treatment"})
    diverted = settings.model_copy(update={"train": train})
    assert len(load_shown_slates(log, np.array([1]), settings, HOUR)) == 4
    found = load_shown_slates(log, np.array([1]), diverted, HOUR)
    assert found.moments_ms.tolist() == [NOON + HOUR - n * MINUTE for n in (4, 3, 2)]


def test_the_head_is_relative_to_the_first_position_and_silent_without_one() -> None:
    """Examination of the first position is 1; what was shown nowhere gets no term."""
    head = PositionHead(3)
    with torch.no_grad():
        head.logits.copy_(torch.tensor([1.0, 0.5, -1.0]))
    terms = head(np.array([[0, 2, -1]], np.int32))
    assert terms.tolist() == [[0.0, -2.0, 0.0]]
    assert head.metrics() == {"scorer_examination@2": pytest.approx(np.exp(-0.5))}


def test_the_loss_is_least_where_examination_explains_the_clicks() -> None:
    """Two equal items, the upper clicked three times in four: examination 1/3, estimates equal."""
    log = a_log()
    slates = slates_of(log, *[("ann", "bc", HOUR - MINUTE)] * 4)
    row = examples_of(log, slates_of(log, ("ann", "bc", HOUR - MINUTE)), [1, 4]).pick(
        np.zeros(4, np.int64)
    )
    assert len(slates) == len(row) == 4
    engaged = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.bool_)
    head, flat = PositionHead(2), torch.zeros(4, 2)
    with torch.no_grad():
        head.logits[1] = -np.log(3.0)
    loss = slate_loss(Estimates(flat, flat, flat[..., None]), head, row, engaged)
    loss.backward()  # type: ignore[no-untyped-call]
    assert head.logits.grad is not None
    assert head.logits.grad.abs().max() < 1e-6
    assert loss.item() == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_reactions_to_slates_are_left_to_their_slates_where_enough_came_alone() -> None:
    """With too few others, they are learned from as before."""
    log = some_interactions(n_users=60)
    events = np.arange(len(log))
    assert len(log) > 2 * MIN_UNPROMPTED
    prompted = interactions_like(log, events % 2 == 0)
    assert without_prompts(prompted, events).tolist() == (events % 2 == 1).tolist()
    assert without_prompts(interactions_like(log, events >= 0), events).all()


def interactions_like(log: Interactions, is_prompted: np.ndarray) -> Interactions:
    """The same engagements, some of them prompted."""
    own = {name: getattr(log, name) for name in Interactions.__dataclass_fields__}
    return Interactions(**{**own, "is_prompted": is_prompted})


def trained(workdir: Path, log: Interactions, data_dir: Path, *, is_on: bool) -> dict[str, float]:
    """A training of a few steps with the position head on or off; what it measured."""
    towers = TowerSettings(
        embedding_dim=8, n_layers=1, n_heads=1, history_length=8, n_content_buckets=32,
        batch_size=8, max_minutes=0, max_steps=4,
    )  # fmt: skip
    scorer = ScorerSettings(
        hidden_dims=(8, 4), epochs=1, max_minutes=0, batch_size=16, position_head=is_on
    )
    train = TrainSettings(towers=towers, scorer=scorer, precision="float32", n_threads=1)
    settings = Settings(
        data_dir=data_dir, train=train, retrieval=RetrievalSettings(n_candidates=20)
    )
    train_models(log, settings, workdir, warm_start=None, report=lambda label, share: None)
    measured: dict[str, float] = json.loads((workdir / "training.json").read_text())
    del measured["tower_s"]  # depends on the machine
    return measured


def test_a_training_learns_from_the_lakes_slates_where_it_is_switched_on(tmp_path: Path) -> None:
    """The bundle's files are those of any other scorer, and without slates nothing changes."""
    log = some_interactions(n_users=80)
    users = log.user_of_event()
    impressions = [
        an_impression(
            log.user_ids[users[event]],
            [log.items[row].item_id for row in dict.fromkeys([int(log.rows[event]), 0, 1, 2])],
            int(log.timestamps_ms[event]) - 1,
            event_id=f"i-{event}",
        )
        for event in range(len(log))
    ]
    a_lake(tmp_path / "logged", impressions=impressions)
    on, off, bare = (tmp_path / name for name in ("on", "off", "bare"))
    measured = trained(on, log, tmp_path / "logged", is_on=True)
    assert measured["scorer_slates"] > 10
    assert 0 < measured["scorer_examination@2"] < 10
    without = trained(off, log, tmp_path / "logged", is_on=False)
    assert "scorer_slates" not in without
    assert trained(bare, log, tmp_path / "empty", is_on=True) == without
    names = [load_scorer(place).network.state_dict().keys() for place in (on, off)]
    assert names[0] == names[1]
    same = [(place / "scorer.safetensors").read_bytes() for place in (on, off, bare)]
    assert same[0] != same[1] == same[2]
    assert len(list(itertools.chain(on.glob("scorer.*"), off.glob("scorer.*")))) == 4
