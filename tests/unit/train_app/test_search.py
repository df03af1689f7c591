"""The search: what it proposes, and what it judges on."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import optuna
from click.testing import CliRunner

from cluster.learning_commands import search_arguments
from recsys.settings import Settings
from tests.untrained_models import small_settings, some_interactions
from train_app.examples.lake_examples import split_by_time
from train_app.searching.search_command import found_text
from train_app.searching.search_run import Found, Tried, validation_slice
from train_app.searching.search_space import (
    SPACE,
    as_toml,
    present_values,
    proposed,
    shortened,
    with_values,
)


def test_the_present_settings_are_within_the_space_and_proposed_first() -> None:
    """So that what is found is never worse than what was there."""
    settings = Settings()
    values = present_values(settings)
    trial = optuna.trial.FixedTrial(dict(values))
    assert proposed(trial, settings) == with_values(settings, values)
    assert set(values) == set(SPACE)
    odd = with_values(settings, {"train.towers.embedding_dim": 48, "train.towers.dropout": 0.9})
    assert present_values(odd)["train.towers.embedding_dim"] == 48
    assert present_values(odd)["train.towers.dropout"] == 0.5


def test_the_best_values_are_a_file_of_settings() -> None:
    """Read back they are the same, up to six digits."""
    values = present_values(Settings())
    tree = tomllib.loads(as_toml(values))
    assert tree["train"]["towers"]["embedding_dim"] == values["train.towers.embedding_dim"]
    assert Settings.model_validate(tree).train.scorer == Settings().train.scorer


def test_all_that_is_printed_is_a_file_of_settings() -> None:
    """Title, table and gain are comments, so standard output can be kept as it is."""
    present = present_values(Settings())
    better = present | {"train.towers.embedding_dim": 128}
    trials = (
        Tried(0, better, 0.3),
        Tried(3, present, 0.2, is_present=True),
        Tried(4, better, None),
    )
    text = found_text(Found(trials, 1_000))
    assert tomllib.loads(text)["train"]["towers"]["embedding_dim"] == 128
    assert "+0.1000 over the present settings (trial 3)" in text
    assert tomllib.loads(found_text(Found((), 1_000))) == {}


def test_only_widths_that_the_heads_divide_are_proposed() -> None:
    """The present width, which is in use, stays a choice."""
    settings = with_values(
        Settings(), {"train.towers.n_heads": 48, "train.towers.embedding_dim": 96}
    )
    offered: dict[str, list[int]] = {}

    class Noting(optuna.trial.FixedTrial):
        def suggest_categorical(self, name, choices):  # type: ignore[no-untyped-def]
            offered[name] = list(choices)
            return super().suggest_categorical(name, choices)

    proposed(Noting(present_values(settings)), settings)
    assert offered["train.towers.embedding_dim"] == [96]
    assert offered["train.towers.n_layers"] == [1, 2, 3]


def test_a_rung_is_a_share_of_the_schedule_within_its_minutes() -> None:
    """No limit becomes the bound of the trial."""
    settings = with_values(Settings(), {"train.scorer.max_minutes": 0})
    short = shortened(settings, 0.25, 4.0).train
    assert (short.towers.epochs, short.towers.max_minutes) == (5, 1.0)
    assert (short.scorer.epochs, short.scorer.max_minutes) == (1, 1.0)


def test_the_validation_slice_is_the_newest_of_what_may_be_learned_from(tmp_path: Path) -> None:
    """Neither trained on nor held out for the gate."""
    data, settings = some_interactions(60), small_settings(tmp_path)
    test_ms = split_by_time(data, 0.2)
    older = data.select(data.timestamps_ms < test_ms)
    queries = validation_slice(older, settings, split_by_time(older, 0.2))
    times_ms = queries.interactions.timestamps_ms[queries.positions]
    assert times_ms.max() < test_ms
    assert queries.train.timestamps_ms.max() < times_ms.min()
    assert len(queries) == len(np.unique(queries.positions))


def test_options_of_a_search_go_together(tmp_path: Path) -> None:
    """Bounds without a search, and a search that is to publish, are refused with exit code 2."""
    from cluster.learning_commands import train

    asked = {"search": True, "trials": 3, "minutes": None}
    assert search_arguments(asked, makes_bundle=False) == ["--search", "--trials", "3"]
    for words in (["--trials", "3"], ["--search", "--publish"]):
        assert CliRunner().invoke(train, words).exit_code == 2
