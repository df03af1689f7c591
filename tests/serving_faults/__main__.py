"""`python -m tests.serving_faults`, which is `make chaos`: every fault of the table, to its end.

Each is done to a service of its own under load. Prints the table and writes it, after every fault,
as `faults.md` and `faults.json`; exits with 1 where anything that had to hold did not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from tests.bundles_for_tests import all_to, put_in_force
from tests.serving_faults.fault import Fault, Row, Run, row_of, row_of_none, table_of
from tests.serving_faults.fault_load import under_load
from tests.serving_faults.fault_place import a_place
from tests.serving_faults.fault_table import FAULTS


def main() -> int:
    """Carry out some or all faults; 0 where everything held."""
    options = _options()
    # Whoever ends the run early leaves nothing running either, and sees what was counted so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    by_name = {fault.name: fault for fault in FAULTS}
    if options.list:
        print("\n".join(f"{fault.name:<16} {fault.what}" for fault in FAULTS))
        return 0
    chosen = [by_name[name] for name in options.only or by_name]
    rows = carry_out(chosen, lambda found: write_table(options.out, found))
    write_table(options.out, rows)
    print(as_json(rows) if options.json else table_of(rows))
    return int(not all(row.holds for row in rows))


def carry_out(faults: Sequence[Fault], told: Callable[[Sequence[Row]], None]) -> list[Row]:
    """A row for each fault, also for one that was never carried out; faults that need the same
    service and follow each other share one.

    Args:
        told: is given the rows so far after each fault.
    """
    rows: list[Row] = []
    reasons: dict[str, str] = {}
    for _, group in groupby(faults, key=lambda fault: fault.service):
        alike = list(group)
        directory = Path(tempfile.mkdtemp(prefix="flywheel-fault-"))
        is_whole = False
        try:
            for row in rows_of(alike, directory):
                rows.append(row)
                _tell(row)
                told(rows)
            is_whole = True
        except KeyboardInterrupt:
            break
        except Exception as error:
            # The others are to be seen all the same.
            reasons |= dict.fromkeys((fault.name for fault in alike), repr(error)[:200])
            _say(f"FAILED: {error!r}; what the processes say is in {directory}")
        if is_whole and all(row.holds for row in rows):
            shutil.rmtree(directory, ignore_errors=True)
    done = {row.name for row in rows}
    missing = [fault for fault in faults if fault.name not in done]
    return rows + [row_of_none(one, reasons.get(one.name, "the run ended")) for one in missing]


def write_table(directory: Path, rows: Sequence[Row]) -> None:
    """The rows as `faults.md` and `faults.json`; a reader never sees half of one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (("faults.md", table_of(rows)), ("faults.json", as_json(rows))):
        part = directory / f"{name}.part"
        part.write_text(f"{text}\n")
        part.replace(directory / name)


def as_json(rows: Sequence[Row]) -> str:
    """The rows as one document."""
    return json.dumps([row.document() for row in rows], indent=2)


def rows_of(faults: Sequence[Fault], directory: Path) -> Iterator[Row]:
    """One service, and one fault after the other.

    Raises:
        AssertionError: something was waited for in vain.
    """
    service = faults[0].service
    with service.beside(directory) as beside, a_place(directory, service, beside.changes) as place:
        for fault in faults:
            _say(f"{fault.name}: {fault.what}")
            put_in_force(place.settings, all_to(place.bundle_ids[0]))
            with under_load(place.base_url) as load:
                load.await_whole()
                load.seen.clear()
                run = Run(place, load, beside.server)
                ended_by = _ended_early(fault, run)
            yield row_of(fault, run)
            if isinstance(ended_by, KeyboardInterrupt):
                raise ended_by


def _ended_early(fault: Fault, run: Run) -> BaseException | None:
    """Carry a fault out; what ended it, where it did not come to its end."""
    try:
        fault.act(run)
    except (AssertionError, KeyboardInterrupt) as error:
        run.found("carried out to its end", repr(error)[:200], holds=False)
        return error
    return None


def _tell(row: Row) -> None:
    for finding in row.findings:
        _say(f"  {'ok  ' if finding.holds else 'FAIL'} {finding.what}: {finding.value}")
    _say(f"  failed: {dict(row.failed)}; degraded: {dict(row.degraded)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.serving_faults", description=__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", action="append", choices=names, help="one of them; repeatable")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument(
        "--out", type=Path, default=Path("var/chaos"), help="folder of faults.md and faults.json"
    )
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
