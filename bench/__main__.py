"""`make bench`: the request path, then the event path; writes `bench/results.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from bench import event_path, request_path
from recsys.errors import RecsysError

RESULTS = Path("bench/results.json")


def main() -> int:
    """Measure everything, print the tables, keep every figure."""
    console = Console(stderr=True)
    found = request_path.measure(request_path.parse_arguments(), console)
    found["events"] = event_path.measure(console)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"[dim]every figure is in {RESULTS}[/dim]")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
