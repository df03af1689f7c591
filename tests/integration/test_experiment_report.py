"""`experiment-report` on small lakes: equal to a plain computation, and loud where it must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from recsys.evidence.experiment_design import FACTORIAL_ARMS
from recsys.settings import Settings
from tests.example_lake import DAY, HOUR, an_impression
from tests.experiment_lake import (
    EXPERIMENT,
    FROM_MS,
    a_design,
    an_experiment_lake,
    arm_fields,
    visits,
)
from train_app.__main__ import main
from train_app.checking.lake_views import open_lake_views
from train_app.command_outcome import Outcome
from train_app.experiments.credited_slates import credit_rules
from train_app.experiments.experiment_report import report_experiment
from train_app.experiments.experiment_users import read_users
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES
from train_app.lake.lake_tables import Lake

pytestmark = pytest.mark.integration
NEWER = ("experiment", "experiments", "dropped", "n_dropped", "diversity", "novelty")
"""Columns of impressions that earlier releases did not write."""
WINDOW = 6 * HOUR
NEWEST = FROM_MS + 5 * DAY
COMPARED = ("slates", "shown", "engaged_items", "dismissed_items", "value")
Rows = list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]


def some_rows(n_users: int, rates: dict[str, float], seed: int = 1) -> Rows:
    """Users of every side in turn, and one whose slate says how far the log goes."""
    rng = np.random.default_rng(seed)
    arms = list(rates)
    rows = [
        visits(
            f"u{n}", arms[n % len(arms)], rates[arms[n % len(arms)]] * rng.lognormal(0, 0.4), rng
        )
        for n in range(n_users)
    ]
    return [*rows, ([an_impression("last", ["i1"], NEWEST)], [])]


def report(settings: Settings, **design: Any) -> Outcome:
    """The verb's outcome on a lake without a log."""
    text = json.dumps(a_design(**design).to_json())
    return report_experiment(settings, design=text, now_ms=lambda: NEWEST)


def plain_sums(rows: Rows, arm: str) -> dict[str, dict[str, float]]:
    """A side's users computed row by row, without a database: what the report must equal."""
    users: dict[str, dict[str, float]] = {}
    for impressions, engagements in rows:
        for shown in impressions:
            at_ms = shown["timestamp_ms"]
            if shown.get("experiment") != EXPERIMENT or shown["variant"] != arm:
                continue
            if at_ms + WINDOW > NEWEST:
                continue
            sums = users.setdefault(
                shown["user_id"],
                dict.fromkeys(
                    ("slates", "shown", "engaged_items", "dismissed_items", "value"), 0.0
                ),
            )
            items = [one["item_id"] for one in shown["slate"]]
            mine = [act for act in engagements if credited(act, impressions) is shown]
            sums["slates"] += 1
            sums["shown"] += len(items)
            sums["engaged_items"] += len(
                {act["item_id"] for act in mine if act["kind"] in ("click", "purchase")}
            )
            sums["dismissed_items"] += len(
                {act["item_id"] for act in mine if act["kind"] == "dismiss"}
            )
            sums["value"] += sum(act["value"] for act in mine if act["kind"] == "purchase")
    return users


def credited(act: dict[str, Any], impressions: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The slate of the request an engagement names, else the newest before it with its item."""
    at_ms = act["timestamp_ms"]
    with_item = [
        one
        for one in impressions
        if any(item["item_id"] == act["item_id"] for item in one["slate"])
        and one["timestamp_ms"] <= at_ms <= one["timestamp_ms"] + WINDOW
    ]
    named = [one for one in with_item if one["request_id"] == act.get("request_id")]
    return max(named or with_item, key=lambda one: one["timestamp_ms"], default=None)


def test_sums_of_users_equal_a_computation_without_a_database(tmp_path: Path) -> None:
    """Slates, engaged and dismissed items and values of every user, of each side."""
    rows = some_rows(80, {"control": 0.3, "treatment": 0.4})
    settings = an_experiment_lake(tmp_path, rows)
    design = a_design()
    with open_lake_views(settings, NEWEST) as views:
        users = read_users(views, design, credit_rules(design, settings, NEWEST))
    for arm in ("control", "treatment"):
        expected = plain_sums(rows, arm)
        found = users.arms[arm]
        assert found.n_users == len(expected) == 40
        for name in COMPARED:
            wanted = sorted(sums[name] for sums in expected.values())
            np.testing.assert_allclose(np.sort(found.users[name]), wanted)
    assert users.arms["control"].before is not None


def test_a_planted_effect_is_found_and_the_past_narrows_its_interval(tmp_path: Path) -> None:
    """Clicks that the treatment doubles are a pass; segments and days stand beside it."""
    rng = np.random.default_rng(3)
    rows: Rows = []
    for n in range(600):
        arm = ("control", "treatment")[n % 2]
        rate = 0.2 * rng.lognormal(0, 0.6)
        before = visits(f"u{n}", arm, min(rate, 1), rng, n_before=5, n_during=0)
        during = visits(f"u{n}", arm, min(rate * (1 + n % 2), 1), rng, n_before=0)
        rows.append((before[0] + during[0], before[1] + during[1]))
    rows.append(([an_impression("last", ["i1"], NEWEST)], []))
    outcome = report(an_experiment_lake(tmp_path, rows))
    verdict = outcome.document["verdict"]
    assert (verdict["verdict"], verdict["winner"]) == ("pass", "treatment")
    side = verdict["sides"][0]
    assert side["is_better"] and side["primary"]["low"] > 0.2
    assert side["primary"]["high"] - side["primary"]["low"] < side["width_without_past"]
    assert {one["value"] for one in outcome.document["segments"]["device"]} == {"tv", "phone"}
    assert len(outcome.document["days"]) == 3
    assert outcome.error is None
    assert "PASS" in outcome.text and "by device" in outcome.text


def test_values_are_numbered_as_their_first_users_come(tmp_path: Path) -> None:
    """A later look only adds to them, whoever is frequent by then; rare ones are counted."""
    rows: Rows = []
    for n in range(120):
        arm = ("control", "treatment")[n % 2]
        device = f"d{11 - n // 2 % 6}" if n < 40 else f"d{n // 2 % 12}"
        shown = visits(f"u{n}", arm, 0.0, np.random.default_rng(n), n_before=0, n_during=1)[0]
        at_ms = FROM_MS + n * 1_000
        shown[0] |= {"timestamp_ms": at_ms, "context": [("device", device)]}
        rows.append((shown, []))
    rows.append(([an_impression("last", ["i1"], NEWEST)], []))
    design = a_design()
    settings = an_experiment_lake(tmp_path, rows)
    early_ms = FROM_MS + 40 * 1_000 + WINDOW
    found = {}
    with open_lake_views(settings, NEWEST) as views:
        for newest_ms in (early_ms, NEWEST):
            users = read_users(views, design, credit_rules(design, settings, newest_ms))
            found[newest_ms] = users.arrived["device"]
    assert found[early_ms][:6] == ["d11", "d10", "d9", "d8", "d7", "d6"]
    assert len(found[NEWEST]) == 12
    assert found[NEWEST][: len(found[early_ms])] == found[early_ms]
    assert "by device: 4 rarer values" in report(settings).text


def test_slates_that_can_still_be_engaged_with_and_moved_users_are_counted(tmp_path: Path) -> None:
    """What is left out is said, never silently dropped."""
    rows = some_rows(120, {"control": 0.3, "treatment": 0.3})
    moved = an_impression("u0", ["i1"], FROM_MS + 2 * HOUR, **arm_fields("treatment"))
    late = an_impression("u1", ["i1"], NEWEST - HOUR, **arm_fields("treatment"))
    rows.append(([moved, late], []))
    document = report(an_experiment_lake(tmp_path, rows)).document
    left_out = document["left_out"]
    assert left_out["users_of_several_arms"] == 1
    assert left_out["slates_with_open_window"] == 1
    assert document["users"] == {"control": 59, "treatment": 60}
    assert any("several sides" in note for note in document["notes"])


def test_sides_that_cannot_be_compared_bear_no_verdict(tmp_path: Path) -> None:
    """A sample-ratio mismatch and an empty side are said loudly, and end with exit code 6."""
    rows = some_rows(300, {"control": 0.3, "treatment": 0.3})
    lost = [one for n, one in enumerate(rows) if n % 2 == 0 or n % 10 == 1]
    outcome = report(an_experiment_lake(tmp_path / "lost", lost))
    assert outcome.document["verdict"]["verdict"] is None
    assert "SAMPLE RATIO MISMATCH" in outcome.text and "NO VERDICT" in outcome.text
    assert outcome.error is not None and outcome.error.exit_code == 6
    few = some_rows(6, {"control": 0.3})
    outcome = report(an_experiment_lake(tmp_path / "few", few))
    assert "NO USERS of treatment" in outcome.text and outcome.error is not None


def test_a_factorial_report_names_its_factors(tmp_path: Path) -> None:
    """Four sides, both main effects and their interaction, in document and text."""
    rates = dict(zip(FACTORIAL_ARMS, (0.2, 0.2, 0.4, 0.4), strict=True))
    outcome = report(an_experiment_lake(tmp_path, some_rows(1_000, rates)), arms=FACTORIAL_ARMS)
    found = {one["name"]: one for one in outcome.document["factors"]}
    assert found["scorer"]["low"] > 0.2
    assert found["retriever"]["low"] < 0 < found["retriever"]["high"]
    assert found["interaction"]["low"] < 0 < found["interaction"]["high"]
    assert outcome.document["verdict"]["winner"] in ("scorer", "both")
    assert "2 x 2" in outcome.text


def test_the_verb_prints_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the command of the operator reads it from its child process."""
    settings = an_experiment_lake(tmp_path, some_rows(40, {"control": 0.3, "treatment": 0.3}))
    file = tmp_path / "settings.json"
    # The verb gives way to serving, which this process should not do for the tests after it.
    train = settings.train.model_copy(update={"nice": 0})
    file.write_text(settings.model_copy(update={"train": train}).model_dump_json())
    design = json.dumps(a_design().to_json())
    words = ["experiment-report", "--settings", str(file), "--json", "--design", design]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"]["verdict"] == "inconclusive"
    assert document["users"] == {"control": 20, "treatment": 20}


def test_an_experiment_without_users_is_no_error(tmp_path: Path) -> None:
    """Just after its start nobody has a closed label window."""
    settings = an_experiment_lake(tmp_path, some_rows(4, {"else": 0.3}))
    for folder in (settings, Settings(data_dir=tmp_path / "nothing")):
        outcome = report(folder)
        assert outcome.document["verdict"]["verdict"] is None
        assert outcome.error is None and "no answers of this experiment yet" in outcome.text


def test_a_lake_of_an_older_release_has_no_answers_of_the_experiment(tmp_path: Path) -> None:
    """Its impressions lack columns that name sides and were written before there were any."""
    settings = an_experiment_lake(tmp_path / "now", some_rows(4, {"else": 0.3}))
    schema = pa.schema([field for field in TABLES["impressions"] if field.name not in NEWER])
    lake = Lake(settings.lake_location)
    table = lake.find("impressions")
    assert table is not None
    rows = table.delta.to_pyarrow_table().select(schema.names).cast(schema)
    old = Settings(data_dir=tmp_path / "old")
    for name, found in {
        "impressions": rows,
        "engagements": DeltaTable(f"{settings.lake_location}/engagements").to_pyarrow_table(),
    }.items():
        write_deltalake(f"{old.lake_location}/{name}", found, partition_by=PARTITION_COLUMN)
    columns = DeltaTable(f"{old.lake_location}/impressions").schema().to_arrow().names
    assert not set(NEWER) & set(columns)
    outcome = report(old)
    assert outcome.error is None and "no answers of this experiment yet" in outcome.text
    assert outcome.document["users"] == {"control": 0, "treatment": 0}


def test_answers_whose_window_is_open_are_waited_for(tmp_path: Path) -> None:
    """It says how long they can still be engaged with."""
    late = an_impression("u1", ["i1"], NEWEST - HOUR, **arm_fields("treatment"))
    outcome = report(an_experiment_lake(tmp_path, [([late], [])]))
    assert outcome.error is None
    assert "no user has a slate whose label window (6 h) is closed yet" in outcome.text
