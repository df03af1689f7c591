"""Settings that follow from the data, unless somebody has set them."""

from __future__ import annotations

import pytest

from recsys.learning_settings import TowerSettings
from recsys.settings import Settings
from tests.untrained_models import some_interactions
from train_app.learning.towers.adapted_settings import adapted, adapted_towers, dropout_for


@pytest.mark.parametrize(
    ("n_engagements", "n_items", "expected"),
    [(1_000_000, 3_400, 0.2), (100_000, 1_000, 0.2), (12_500, 1_000, 0.5), (10, 1_000, 0.5)],
)
def test_dropout_grows_as_items_are_met_less_often(
    n_engagements: int, n_items: int, expected: float
) -> None:
    """From 0.2 at a hundred engagements an item to 0.5 at a dozen and below."""
    assert dropout_for(n_engagements, n_items) == pytest.approx(expected)


def test_dropout_of_no_data_and_of_the_middle_is_within_its_bounds() -> None:
    """Nothing to learn from is no error here; halfway in the logarithm is halfway between."""
    assert dropout_for(0, 0) == 0.5
    assert dropout_for(round(1_000 * 1_250**0.5), 1_000) == pytest.approx(0.35, abs=1e-3)


def test_what_somebody_has_set_stays() -> None:
    """Even 0."""
    chosen = TowerSettings(dropout=0.0)
    assert adapted_towers(chosen, 10, 1_000) == chosen
    settings = Settings()
    assert settings.train.towers.dropout is None
    assert adapted(settings, some_interactions()).train.towers.dropout == 0.5
