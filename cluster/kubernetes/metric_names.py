"""The Prometheus series that the code declares, read from its source: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from recsys.errors import FleetError

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

_DECLARATIONS: dict[tuple[str, str], dict[str, Kind]] = {
    ("serve_app", "telemetry.py"): {
        "COUNTERS": "counter",
        "GAUGES": "gauge",
        "HISTOGRAMS": "histogram",
    },
    ("train_app", "workers.py"): {"_GAUGES": "gauge", "_COUNTERS": "counter"},
}
"""Source file -> its tables of series, by kind: name to a text, or to a tuple that holds one."""


@dataclass(frozen=True, slots=True)
class Series:
    """One declared series; `exported` is its name as Ray exports it."""

    name: str
    kind: Kind
    text: str
    tags: tuple[str, ...]

    @property
    def exported(self) -> str:
        """With Ray's prefix, and `_total` behind a counter."""
        is_bare = self.kind == "counter" and not self.name.endswith("_total")
        return f"ray_{self.name}{'_total' if is_bare else ''}"


def declared_series() -> tuple[Series, ...]:
    """Every series of gateways and followers, by name.

    Raises:
        FleetError: a source file or one of its tables is missing.
    """
    found: list[Series] = []
    for (package, file), tables in _DECLARATIONS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise FleetError(f"package {package} is not installed, expected it; run 'make setup'")
        path = Path(spec.origin).parent / file
        assigned = _tables(ast.parse(path.read_text()))
        for table, kind in tables.items():
            if table not in assigned:
                raise FleetError(f"{path} has no table {table}, expected its series there")
            found += [_series(name, kind, row) for name, row in assigned[table].items()]
    gap = "lake_gap_records_total"
    found.append(Series(gap, "counter", "Records that the lake will never have.", ("worker",)))
    return tuple(sorted(found, key=lambda series: series.name))


def _tables(module: ast.Module) -> dict[str, dict[str, list[Any]]]:
    """Dictionaries with constant keys at a module's top: name -> key -> constants of the value."""
    tables: dict[str, dict[str, list[Any]]] = {}
    for statement in module.body:
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign):
            target = statement.target
        else:
            continue
        if isinstance(target, ast.Name) and isinstance(statement.value, ast.Dict):
            tables[target.id] = {
                key.value: [
                    node.value for node in ast.walk(value) if isinstance(node, ast.Constant)
                ]
                for key, value in zip(statement.value.keys, statement.value.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    return tables


def _series(name: str, kind: Kind, row: list[Any]) -> Series:
    texts = [value for value in row if isinstance(value, str)]
    sentence = next((text for text in texts if " " in text), "")
    tags = tuple(text for text in texts if text.isidentifier() and text != sentence)
    is_worker = name.startswith("flywheel_worker")
    return Series(name, kind, sentence, ("worker",) if is_worker else tags)
