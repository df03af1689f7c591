"""Offline quality as Markdown: every data set and protocol with its seeds, settings and machine.

Pure but for the facts of the machine.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

COLUMNS = ("HR@10", "NDCG@10", "recall@200", "MRR", "NDCG@10 IPS", "coverage@10", "Gini@10")
SECTIONS = ("users", "cuts", "segments", "stages", "losses", "calibration", "budgets", "cost")
_TITLES = {
    "users": "One page per user at the cutoff",
    "cuts": "By cut (NDCG@10)",
    "segments": "By segment (NDCG@10)",
    "stages": "By stage",
    "losses": "Where NDCG@10 is lost",
    "calibration": "Calibration of the scorer",
    "budgets": "By candidate budget",
    "cost": "Quality and its cost",
}


def machine() -> dict[str, Any]:
    """What the figures were measured on, when, and by which revision."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "revision": _revision(),
    }


_WHEN = ("measured_at", "revision")
"""Facts that differ from table to table."""


def markdown(document: Mapping[str, Any]) -> str:
    """The whole report."""
    about = {name: document["machine"][name] for name in document["machine"] if name not in _WHEN}
    facts = ", ".join(f"{name} {value}" for name, value in about.items())
    lines = [
        "# Offline quality",
        "",
        "Made by `python -m bench.quality`; how to read it: [docs/evaluation.md]"
        "(../docs/evaluation.md). Estimates with 95 % intervals over users.",
        "",
        f"Machine: {facts}.",
    ]
    for (data, protocol), runs in _grouped(document["runs"]).items():
        lines += ["", f"## {data}, {protocol}", "", *_facts(runs), ""]
        lines += _methods(runs[0]["result"])
        lines += _differences(runs[0]["result"])
        if len(runs) > 1:
            lines += _seeds(runs)
        for key in SECTIONS:
            rows = runs[0]["result"]["sections"].get(key)
            if rows:
                lines += ["", f"**{_TITLES[key]}**", "", *table(rows)]
        lines += ["", *(f"- {note}" for note in runs[0]["result"]["notes"])]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of equal keys as a Markdown table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(row[name]) for name in names) + " |" for row in rows]
    return lines


def cell(value: Any) -> str:
    """A number, an interval or a word."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        bounds = [value["mean"], value["low"], value["high"]]
        mean, low, high = (cell(bound) for bound in bounds)
        return f"{mean} ({low} to {high})"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.4f}" if size < 1 else f"{value:,.2f}" if size < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _grouped(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["data"], run["protocol"]), []).append(run)
    return groups


def _facts(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    result = runs[0]["result"]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    settings = json.dumps(runs[0]["settings"], sort_keys=True)
    training = result.get("training", {})
    measured = runs[0].get("measured", {})
    when = f" Measured at {measured['revision']}, {measured['measured_at']}." if measured else ""
    return [
        f"{result['n_queries']:,} held-out engagements of {result['n_users']:,} users, "
        f"{result['n_items']:,} items. Seeds {seeds}. Training {cell(training.get('wall_s'))} s "
        f"({cell(training.get('cpu_s'))} CPU s, peak {cell(training.get('peak_mb'))} MB); "
        f"the whole evaluation {cell(runs[0]['wall_s'])} s.{when}",
        "",
        f"Settings beside the defaults: `{settings}`",
    ]


def _methods(result: Mapping[str, Any]) -> list[str]:
    rows = [
        {"method": name, **{column: metrics.get(column) for column in COLUMNS}}
        for name, metrics in result["methods"].items()
    ]
    return table(rows)


def _differences(result: Mapping[str, Any]) -> list[str]:
    rows = [
        {
            "difference": f"{one['method']} - {one['other']}",
            **{column: one["metrics"].get(column) for column in COLUMNS[:5]},
        }
        for one in result["differences"]
    ]
    return ["", *table(rows)] if rows else []


def _seeds(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """NDCG@10 of every seed: how much of a figure is chance of training."""
    rows = []
    for name in runs[0]["result"]["methods"]:
        found = [run["result"]["methods"].get(name, {}).get("NDCG@10") for run in runs]
        rows.append(
            {"method": name, **{f"seed {r['seed']}": v for r, v in zip(runs, found, strict=True)}}
        )
    return ["", "**NDCG@10 by seed**", "", *table(rows)]


def _revision() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
