"""The table of faults: one row each, whatever became of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import cast

import pytest

from tests.serving_faults.__main__ import carry_out, write_table
from tests.serving_faults.fault import Fault, Row, Run, row_of, row_of_none, table_of
from tests.serving_faults.fault_load import Load, Seen
from tests.serving_faults.fault_place import Place
from tests.serving_faults.fault_services import SINGLES, Service
from tests.serving_faults.fault_table import FAULTS


def seen(status: int) -> Seen:
    """One request."""
    return Seen(0.0, status, "" if status == 200 else "busy", 7.0, 1.0)


def a_fault(service: Service = SINGLES) -> Fault:
    """One that does nothing by itself."""
    return Fault("nothing", "nothing is done", lambda run: None, service)


def a_row(*statuses: int, n_done: int = 1) -> Row:
    """What became of a fault during which these were the answers."""
    run = Run(cast(Place, None), Load([seen(status) for status in statuses]), None, n_done)
    return row_of(a_fault(), run)


def test_one_failed_request_is_a_miss_and_so_is_a_fault_that_was_never_done() -> None:
    """What every fault has to hold."""
    assert a_row(200, 200).holds
    assert not a_row(200, 503).holds
    assert not a_row(200, 200, n_done=0).holds


def test_the_table_names_what_did_not_hold() -> None:
    """A row each; the misses below."""
    text = table_of([a_row(200), a_row(200, 503)])
    assert text.count("| `nothing` |") == 2
    assert text.splitlines()[-1] == "- `nothing`: failed requests: 1 of 2"
    assert "- `" not in table_of([a_row(200)])


def test_a_fault_whose_service_does_not_come_up_has_a_row_that_misses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason; the table is as long as the list of faults."""
    # What the processes said is kept after a miss.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def never(directory: Path) -> None:
        message = "no server here"
        raise OSError(message)

    broken = Service({}, never)  # type: ignore[arg-type]
    told: list[int] = []
    rows = carry_out([a_fault(broken)], lambda found: told.append(len(found)))
    assert [row.holds for row in rows] == [False]
    assert "no server here" in table_of(rows)
    assert told == []


def test_both_forms_of_the_table_are_written(tmp_path: Path) -> None:
    """For people and for programs, and nothing half written is left."""
    write_table(tmp_path / "out", [a_row(200), row_of_none(a_fault(), "the run ended")])
    document = json.loads((tmp_path / "out" / "faults.json").read_text())
    assert [row["holds"] for row in document] == [True, False]
    assert (tmp_path / "out" / "faults.md").read_text().count("`nothing`") == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"faults.json", "faults.md"}


def test_every_fault_has_a_name_of_its_own_and_a_row_in_the_docs() -> None:
    """The docs say what users see of it."""
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    text = (Path(__file__).parents[3] / "docs" / "faults.md").read_text()
    assert [name for name in names if f"`{name}`" not in text] == []
