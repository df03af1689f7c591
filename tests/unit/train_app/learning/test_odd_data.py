"""Odd data through the whole training: it trains, or stops with a sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from recsys.errors import DataError
from recsys.learning_settings import ScorerSettings, TowerSettings, TrainSettings, WarmStartSettings
from recsys.settings import RetrievalSettings, Settings
from recsys.types import Item
from tests.untrained_models import some_interactions
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.checkpoints import CheckpointFolder
from train_app.learning.divergence import TrainingDiverged
from train_app.learning.train_joint import train_models

TOWERS = TowerSettings(
    embedding_dim=8,
    n_layers=1,
    n_heads=1,
    history_length=8,
    n_content_buckets=32,
    batch_size=8,
    epochs=10,
    max_minutes=0,
    max_steps=6,
)
TRAIN = TrainSettings(
    towers=TOWERS,
    scorer=ScorerSettings(hidden_dims=(8, 4), epochs=1, max_minutes=0, batch_size=16),
    precision="float32",
    n_threads=1,
    warm=WarmStartSettings(max_minutes=0),
)


def settings_with(**towers: object) -> Settings:
    """Settings of a training of a few steps, without a clock."""
    train = TRAIN.model_copy(update={"towers": TOWERS.model_copy(update=towers)})
    return Settings(train=train, retrieval=RetrievalSettings(n_candidates=20))


def train_into(
    workdir: Path,
    interactions: Interactions,
    settings: Settings | None = None,
    report: Callable[[str, float], None] = lambda label, share: None,
) -> dict[str, float]:
    """Train and answer what was measured; every number written is finite."""
    settings = settings or settings_with()
    train_models(interactions, settings, workdir, warm_start=None, report=report)
    for path in workdir.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            if tensor.dtype.kind == "f":
                assert np.isfinite(tensor).all(), f"{path.name} {name}"
    measured: dict[str, float] = json.loads((workdir / "training.json").read_text())
    return measured


def columns(n_users: int, n_each: int, **more: object) -> Interactions:
    """Users in turn, each with `n_each` engagements, over ten items."""
    n = n_users * n_each
    rng = np.random.default_rng(1)
    given: dict[str, object] = {
        "user_ids": [f"u{event % n_users}" for event in range(n)],
        "item_ids": [f"i{item}" for item in rng.integers(0, 10, n)],
        "kinds": ["view"] * n,
        "timestamps_ms": [1_000 * event for event in range(n)],
        **more,
    }
    return interactions_from_columns(**given)  # type: ignore[arg-type]


ODD: dict[str, Interactions] = {
    "one action kind": columns(12, 5),
    "equal timestamps": columns(12, 5, timestamps_ms=[5] * 60),
    "users with one event": columns(60, 1),
    "a single item": columns(12, 5, item_ids=["i"] * 60),
    "a single user": columns(1, 60),
    "values that are NaN or infinite": columns(12, 5, values=[np.nan, np.inf, -np.inf] * 20),
    "items without content": columns(12, 5, items=[Item(f"i{row}") for row in range(10)]),
    "items nobody met": columns(12, 5, items=[Item(f"j{row}", "title") for row in range(10)]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_data_trains_to_finite_models(tmp_path: Path, name: str) -> None:
    """Whatever the checks before a training let through, the models can be made of it."""
    measured = train_into(tmp_path, ODD[name])
    assert (tmp_path / "towers.json").exists()
    assert (tmp_path / "scorer.json").exists()
    assert measured["scorer_blend"] >= 0


def test_no_engagement_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    """Nothing to learn from is an error of the data, before anything is made of it."""
    data = columns(12, 5)
    nothing = data.select(np.zeros(len(data), bool))
    with pytest.raises(DataError, match="0 engagements to learn from, expected"):
        train_into(tmp_path, nothing)


def test_two_runs_with_one_seed_are_equal_to_the_bit(tmp_path: Path) -> None:
    """Towers, scorer and what was measured, where no clock ends the schedule; another seed not."""
    data = some_interactions(n_users=60)
    first, second = tmp_path / "first", tmp_path / "second"
    settings = settings_with(dropout=0.3, n_negatives=8)
    ours, theirs = train_into(first, data, settings), train_into(second, data, settings)
    assert without_clock(ours) == without_clock(theirs)
    for name in ("item_vectors", "user_tower", "item_tower", "scorer"):
        expected = load_file(second / f"{name}.safetensors")
        for tensor, values in load_file(first / f"{name}.safetensors").items():
            np.testing.assert_array_equal(values, expected[tensor])
    other = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 1})})
    assert train_into(tmp_path / "other", data, other)["tower_loss"] != ours["tower_loss"]


def without_clock(measured: dict[str, float]) -> dict[str, float]:
    """What was measured but for seconds."""
    return {name: value for name, value in measured.items() if not name.endswith("_s")}


def test_steps_may_end_the_schedule(tmp_path: Path) -> None:
    """A limit that no clock moves."""
    measured = train_into(tmp_path, some_interactions(), settings_with(epochs=100, max_steps=4))
    assert measured["tower_steps"] == 4


def test_a_loss_that_is_no_number_stops_and_the_next_run_goes_on_with_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says where and what to set; what is kept has proved good in a later step."""
    from train_app.learning.towers import train_towers

    loss = train_towers.TowerTrainer._loss
    train = TRAIN.model_copy(update={"checkpoint_every_s": 1e-9})
    base = Settings(train=train, retrieval=RetrievalSettings(n_candidates=20))
    monkeypatch.setattr(
        train_towers.TowerTrainer,
        "_loss",
        lambda self, *given: loss(self, *given) * (float("nan") if self.step == 3 else 1.0),
    )
    with pytest.raises(TrainingDiverged, match=r"step 3, epoch .*learning rate.*to 0\.0015") as e:
        train_into(tmp_path, some_interactions(), base)
    assert e.value.exit_code == 1
    assert not (tmp_path / "towers.json").exists()
    kept = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
    assert [path.name.split("-")[0] for path in kept][-1] == "000000000002"
    monkeypatch.undo()
    lower = TOWERS.model_copy(update={"learning_rate": TOWERS.learning_rate / 2})
    mended = base.model_copy(update={"train": train.model_copy(update={"towers": lower})})
    measured = train_into(tmp_path, some_interactions(), mended)
    assert measured["tower_resumed_at_step"] == 2
    assert CheckpointFolder(tmp_path / "checkpoints", "any").newest() is None


def test_a_scorer_that_diverges_keeps_the_towers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run trains the scorer alone."""
    from train_app.learning.ranking import train_scorer

    loss = train_scorer._loss
    monkeypatch.setattr(train_scorer, "_loss", lambda *given: loss(*given) * float("inf"))
    data = some_interactions(n_users=80)
    with pytest.raises(TrainingDiverged, match=r"the scorer stopped in epoch 0.*scorer\.learning"):
        train_into(tmp_path, data)
    monkeypatch.undo()
    labels: list[tuple[str, float]] = []
    slower = TRAIN.scorer.model_copy(update={"learning_rate": 5e-4})
    settings = settings_with()
    train = settings.train.model_copy(update={"scorer": slower})
    settings = settings.model_copy(update={"train": train})
    train_into(tmp_path, data, settings, report=lambda label, share: labels.append((label, share)))
    assert [share for label, share in labels if label == "training the towers"] == [0.0, 1.0]


def test_a_warm_start_that_diverges_goes_on_with_a_lower_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the share, and with a lower one it goes on from its checkpoint."""
    from train_app.learning.ranking import train_scorer
    from train_app.learning.towers import planned_towers, tower_job, train_towers

    loss, network_loss = train_towers.TowerTrainer._loss, train_scorer._loss
    # What a bundle would copy in is another test's; here it is the rate alone that counts.
    monkeypatch.setattr(planned_towers, "of_shape", lambda settings, bundle: (settings, []))
    monkeypatch.setattr(tower_job, "start_from", lambda model, item_ids, bundle: 0)
    monkeypatch.setattr(train_scorer, "start_scorer_from", lambda network, actions, bundle: False)
    train = TRAIN.model_copy(update={"checkpoint_every_s": 1e-9})
    data, stable = some_interactions(n_users=80), tmp_path / "stable"

    def train_warm(rate_share: float) -> None:
        warm = train.warm.model_copy(update={"rate_share": rate_share})
        branch = train.model_copy(update={"warm": warm})
        settings = Settings(train=branch, retrieval=RetrievalSettings(n_candidates=20))
        train_models(data, settings, tmp_path, warm_start=stable, report=lambda label, share: None)

    monkeypatch.setattr(
        train_towers.TowerTrainer,
        "_loss",
        lambda self, *given: loss(self, *given) * (float("nan") if self.step == 3 else 1.0),
    )
    with pytest.raises(TrainingDiverged, match=r"towers .*warm\.rate_share to 0\.15 \(now 0\.3\)"):
        train_warm(0.3)
    monkeypatch.setattr(train_towers.TowerTrainer, "_loss", loss)
    monkeypatch.setattr(train_scorer, "_loss", lambda *given: network_loss(*given) * float("inf"))
    with pytest.raises(TrainingDiverged, match=r"scorer .*warm\.rate_share to 0\.075 \(now 0\.15"):
        train_warm(0.15)
    monkeypatch.setattr(train_scorer, "_loss", network_loss)
    train_warm(0.075)
    measured = json.loads((tmp_path / "training.json").read_text())
    assert measured["tower_resumed_at_step"] >= 2
