"""What the report of a forgetting says to a person."""

from __future__ import annotations

from train_app.forgetting import ForgetReport


def test_a_report_names_what_was_removed_and_from_where() -> None:
    """Rows by table, files, and what is still to come."""
    report = ForgetReport("user-1a", 2, 7, n_log_records=3, had_features=True)
    report.lake_rows = {"engagements": 5, "outcomes": 0, "impressions": 1}
    report.removed = ["example sets under var/examples were removed; make them again"]
    report.remaining = ["a file"]
    lines = report.text().splitlines()
    assert lines[0] == "forgotten: user-1a, in the log at 2/7"
    assert "lake: 6 rows removed (engagements 5, impressions 1)" in lines
    assert "evidence: 0 rows removed" in lines
    assert lines[-2].startswith("removed: example sets under var/examples")
    assert lines[-1] == "still to come: a file"
    assert report.as_dict()["was_known"] is True


def test_a_mistyped_id_is_not_said_to_be_forgotten() -> None:
    """Where nothing was known, the id may be wrong."""
    report = ForgetReport("user-1a", 2, 7)
    assert report.text().startswith("nothing was known of this user; check the id")
    assert "forgotten: " not in report.text()
    assert report.as_dict()["was_known"] is False
