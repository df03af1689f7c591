"""Reports of data checks: levels, texts, files, and what a later training reads of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.errors import ConfigError, DataError
from recsys.settings import Settings
from train_app.checking.check_report import (
    MAX_OTHER_REPORTS,
    MAX_TRAINING_REPORTS,
    CheckReport,
    CheckResult,
    earlier_figures,
    error,
    graded,
    refusal,
    training_times,
    warning,
    write_report,
)
from train_app.checking.run_checks import CHECK_NAMES, run_checks
from train_app.examples.interactions import interactions_from_columns

FINE = CheckResult("fine", note="as it should be", figures={"rows": 3})
ODD = CheckResult("odd", (warning("a bit odd"),))
BROKEN = CheckResult("broken", (warning("smells"), error("is broken")))


def test_a_report_is_as_bad_as_its_worst_check() -> None:
    """And a check as its worst finding."""
    assert CheckReport(0, ()).level == "ok"
    assert CheckReport(0, (FINE,)).level == "ok"
    assert CheckReport(0, (FINE, ODD)).level == "warning"
    assert CheckReport(0, (ODD, BROKEN, FINE)).level == "error"
    assert BROKEN.level == "error"


def test_the_refusal_names_every_reason() -> None:
    """Warnings refuse nothing."""
    assert refusal(CheckReport(0, (FINE, ODD))) is None
    refused = refusal(CheckReport(0, (BROKEN, CheckResult("worse", (error("is worse"),)))))
    assert str(refused) == "the data checks refused to train: is broken; is worse"
    twice = refusal(CheckReport(0, (BROKEN, BROKEN)))
    assert str(twice) == "the data checks refused to train: is broken"


def test_the_text_shows_the_worst_first() -> None:
    """Each check with its finding, or with what there is to say."""
    lines = CheckReport(0, (FINE, ODD, BROKEN)).text().splitlines()
    order = [line.split()[1] for line in lines if line.startswith("│") and line.split()[1] != "│"]
    assert order == ["broken", "odd", "fine"]
    assert "as it should be" in lines[-2]


def test_a_written_report_can_be_read_by_a_program(tmp_path: Path) -> None:
    """Under its time, one JSON document with every figure."""
    path = write_report(CheckReport(1_700_000_000_123, (FINE, BROKEN)), tmp_path)
    assert path.name == "data-checks-20231114T221320123Z.json"
    document = json.loads(path.read_text())
    assert document["level"] == "error"
    assert document["checks"][0]["figures"] == {"rows": 3}
    assert document["checks"][1]["findings"][1] == {"level": "error", "detail": "is broken"}


def test_a_later_training_knows_the_earlier_ones(tmp_path: Path) -> None:
    """Other reports, and broken ones, count for nothing."""
    for at_ms, purpose in ((1000, "training"), (2000, "check"), (3000, "training")):
        report = CheckReport(at_ms, (FINE,), purpose, newest_ms=at_ms // 2)  # type: ignore[arg-type]
        write_report(report, tmp_path)
    (tmp_path / "reports" / "data-checks-9.json").write_text("{")
    (tmp_path / "reports" / "data-checks-8.json").write_text("[]")
    assert training_times(tmp_path) == [1500, 500]
    assert training_times(tmp_path / "nowhere") == []


def test_a_later_check_knows_the_figures_of_earlier_ones(tmp_path: Path) -> None:
    """Newest first; a check that had no such figure is passed over."""
    for at_ms, figures in ((1000, {"limit": 20}), (2000, {}), (3000, {"limit": 200})):
        results = (CheckResult("other", figures={"limit": 1}), CheckResult("one", figures=figures))
        write_report(CheckReport(at_ms, results), tmp_path)
    assert earlier_figures(tmp_path, "one", "limit") == [200, 20]
    assert earlier_figures(tmp_path, "none", "limit") == []


def test_old_reports_are_removed(tmp_path: Path) -> None:
    """So that a year of trainings fills no disk."""
    reports = tmp_path / "reports"
    for n in range(MAX_OTHER_REPORTS + 5):
        write_report(CheckReport(n, (FINE,)), tmp_path)
    left = sorted(reports.iterdir())
    assert len(left) == MAX_OTHER_REPORTS
    assert left[0].name.endswith("005Z.json")
    trained = json.loads(left[0].read_text()) | {"purpose": "training", "newest_ms": 1}
    for n in range(MAX_TRAINING_REPORTS + 5):
        (reports / f"data-checks-20200101T000000{n:03d}Z.json").write_text(json.dumps(trained))
    write_report(CheckReport(1_700_000_000_000, (FINE,)), tmp_path)
    assert len(training_times(tmp_path)) == MAX_TRAINING_REPORTS
    assert len(list(reports.iterdir())) == MAX_TRAINING_REPORTS + MAX_OTHER_REPORTS


def test_looks_at_drift_do_not_push_out_the_training_they_compare_with(tmp_path: Path) -> None:
    """A month of hourly looks after one training."""
    write_report(CheckReport(0, (FINE,), "training", newest_ms=7), tmp_path)
    for n in range(1, 3 * MAX_OTHER_REPORTS):
        write_report(CheckReport(n * 3_600_000, (FINE,)), tmp_path)
    assert training_times(tmp_path) == [7]


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """With its path."""
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(DataError, match="reports/data-checks"):
        write_report(CheckReport(0, (FINE,)), tmp_path)


@pytest.mark.parametrize(
    ("n", "level"), [(0, []), (1, ["warning"]), (5, ["warning"]), (6, ["error"])]
)
def test_a_share_of_rows_is_told_or_refuses(n: int, level: list[str]) -> None:
    """By the shares that a check names."""
    assert [finding.level for finding in graded(n, 100, 0.0, 0.05, "some")] == level
    assert graded(0, 0, 0.0, 0.05, "none") == []


def test_a_check_of_no_name_is_refused_with_the_names(tmp_path: Path) -> None:
    """Before anything is read."""
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(ConfigError, match="no data check 'nils', expected one of schema, nulls"):
        run_checks(settings, lambda: interactions_from_columns([], [], [], []), 0, only=["nils"])
    assert len(set(CHECK_NAMES)) == 15
