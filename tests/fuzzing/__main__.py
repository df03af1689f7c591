"""`python -m tests.fuzzing`, which is `make test-api-fuzz`: the interface against 10,000 requests.

Without keys, then with keys on: showing none, showing one that opens little, showing all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from recsys.keys import SCOPES
from tests.fuzzing.fuzz_run import FuzzReport, fuzz
from tests.fuzzing.fuzzed_door import serving

SHARE_WITH_ALL = 0.4
SHARE_REFUSED = 0.1


def main() -> int:
    """Send them; 0 where every answer was as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    everything = set(SCOPES)
    reports: dict[str, FuzzReport] = {}
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        n_open, n_refused = (round(options.cases * x) for x in (SHARE_WITH_ALL, SHARE_REFUSED))
        with serving(Path(folder) / "open", keys=False) as door:
            reports["no keys asked"] = fuzz(door.url, n_open, options.seed, None, everything)
        with serving(Path(folder) / "locked", keys=True) as door:
            reports["all scopes"] = fuzz(
                door.url, n_open, options.seed + 1, door.keys["all"], everything
            )
            reports["no key shown"] = fuzz(door.url, n_refused, options.seed + 2, None, set())
            reports["scope read"] = fuzz(
                door.url, n_refused, options.seed + 3, door.keys["read"], {"read"}
            )
    for name, report in reports.items():
        print(f"{name}: {report.n_cases} cases, {len(report.failures)} broken promises")
        for line, n in sorted(report.statuses.items()):
            print(f"  {line}: {n}")
        for problem in (*report.failures, *report.let_in):
            print(f"  BROKEN {problem}")
    n_cases = sum(report.n_cases for report in reports.values())
    holds = all(report.holds for report in reports.values())
    print(f"{n_cases} cases in {time.monotonic() - begun_s:.0f} s: {'held' if holds else 'BROKEN'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
