"""An experiment's report as text, from its JSON document. Knows neither lake nor statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 110
_SAVED = 0.01
"""A past that narrows an interval by less is not spoken of."""
_NO_VERDICT = "NO VERDICT"


def report_text(document: Mapping[str, Any]) -> str:
    """The whole report."""
    buffer = StringIO()
    console = Console(file=buffer, width=_WIDTH)
    for table in _tables(document):
        console.print(table)
    lines = [*_head(document), "", buffer.getvalue().rstrip("\n"), *document["notes"]]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines())


def _head(document: Mapping[str, Any]) -> list[str]:
    design, verdict = document["design"], document["verdict"]
    name = (verdict["verdict"] or _NO_VERDICT).upper()
    p = verdict["sample_ratio_p"]
    lines = [
        f"experiment {design['plan']['experiment_id']}: {name}",
        verdict["message"],
        f"declared: {design['metric']}, margin {design['margin']:.1%}, alpha {design['alpha']:g}"
        f" over all treatments; intervals hold at every look",
    ]
    if verdict["needed"] and verdict["verdict"] is not None:
        lines.insert(2, f"what would change it: {verdict['needed']}")
    if p is not None:
        lines.append(f"sample ratio: p {p:.2g} ({'sound' if p >= 0.001 else 'MISMATCH'})")
    return lines


def _tables(document: Mapping[str, Any]) -> Iterable[Table]:
    yield _sides(document)
    for side in document["verdict"]["sides"]:
        yield _metrics(side)
    if document["factors"]:
        table = _plain("2 x 2, relative to control", ("of", "effect", "interval"))
        for one in document["factors"]:
            table.add_row(one["name"], _percent(one["effect"]), _interval(one))
        yield table
    for name, rows in document["segments"].items():
        yield _parts(f"by {name}", rows)
    if document["days"]:
        yield _parts("by day (a novelty effect fades)", document["days"])


def _sides(document: Mapping[str, Any]) -> Table:
    columns = ("side", "bundle or ordering", "share", "users", "with a past", "slates")
    table = _plain("sides", columns)
    for arm in document["design"]["plan"]["arms"]:
        name = arm["name"]
        changed = ", ".join(f"{key}={value}" for key, value in arm["ordering"].items())
        table.add_row(
            name,
            arm["bundle_id"] or changed or "as it is",
            f"{arm['share']:.0%}",
            f"{document['users'][name]:,}",
            f"{document['with_a_past'][name]:,}",
            f"{document['slates'][name]:,}",
        )
    return table


def _metrics(side: Mapping[str, Any]) -> Table:
    columns = ("metric", "control", side["arm"], "effect", "interval", "verdict")
    table = _plain(f"{side['arm']} against control (the first metric decides)", columns)
    for one in (side["primary"], *side["others"]):
        table.add_row(
            one["metric"],
            _figure(one["baseline"]),
            _figure(one["canary"]),
            _percent(one["effect"]),
            _interval(one),
            one["verdict"] if one is side["primary"] else _sign(one),
        )
    width, primary = side["width_without_past"], side["primary"]
    if width and primary["low"] is not None and primary["high"] is not None:
        saved = 1 - (primary["high"] - primary["low"]) / width
        if saved >= _SAVED:
            table.caption = f"the users' past makes its interval {saved:.0%} narrower"
            table.caption_justify = "left"
    return table


def _parts(title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    table = _plain(title, ("value", "side", "control users", "its users", "effect", "interval"))
    for one in rows:
        table.add_row(
            one["value"],
            one["arm"],
            f"{one['n_control']:,}",
            f"{one['n_treated']:,}",
            "too few" if one["effect"] is None else _percent(one["effect"]),
            "" if one["effect"] is None else _interval(one),
        )
    return table


def _plain(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place != 1)
    return table


def _sign(one: Mapping[str, Any]) -> str:
    """A metric that decides nothing is told by its direction alone."""
    low, high = one["low"], one["high"]
    if low is not None and low > 0:
        return "up"
    return "down" if high is not None and high < 0 else ""


def _interval(one: Mapping[str, Any]) -> str:
    if one["low"] is None and one["high"] is None:
        return "anything"
    return f"{_percent(one['low'], '-inf')} to {_percent(one['high'], '+inf')}"


def _percent(value: float | None, absent: str = "") -> str:
    return absent if value is None else f"{100 * value:+.2f} %"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
