"""Real data: MovieLens as it is published, where a copy lies beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.settings import Settings
from train_app.examples.lake_examples import load_interactions
from train_app.importing.import_history import ImportOptions, ImportReport, run_import

pytestmark = pytest.mark.integration
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def imported(name: str, settings: Settings) -> ImportReport:
    """The report of importing one of the data sets."""
    if not (DATA / name).exists():
        pytest.skip(f"data set {name} is not beside the checkout")
    return run_import(ImportOptions(DATA / name), settings, lambda *_: None)


@pytest.mark.parametrize(
    ("name", "n_rows", "n_users", "n_items"),
    [("ml-100k", 100_000, 943, 1_682), ("ml-1m", 1_000_209, 6_040, 3_706)],
)
def test_movielens_is_imported_whole_and_only_once(
    name: str, n_rows: int, n_users: int, n_items: int, tmp_path: Path
) -> None:
    """The published counts, titles, and nothing new the second time."""
    settings = Settings(data_dir=tmp_path)
    report = imported(name, settings)
    assert (report.n_new, report.n_quarantined) == (n_rows, 0)
    interactions = load_interactions(settings.lake_location, settings)
    assert (len(interactions), interactions.n_users) == (n_rows, n_users)
    assert len(set(interactions.rows.tolist())) == n_items
    assert all(item.title and item.categories for item in interactions.items)
    assert imported(name, settings).n_new == 0
