"""A Grafana dashboard and Prometheus alert rules, made of the series that the code declares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from cluster.kubernetes.metric_names import Series
from cluster.kubernetes.service_document import GENERATED

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 12, 8, 24
_RUNBOOKS = "docs/runbooks"


def expressions(series: Series) -> list[tuple[str, str]]:
    """PromQL and legend of a series' panel."""
    name = series.exported
    by = ", ".join(series.tags)
    legend = " ".join(f"{{{{{tag}}}}}" for tag in series.tags) or series.name
    if series.kind == "counter":
        grouped = f" by ({by})" if by else ""
        return [(f"sum{grouped} (rate({name}[5m]))", legend)]
    if series.kind == "gauge":
        return [(f"max by ({by}) ({name})" if by else f"sum ({name})", legend)]
    buckets = ", ".join(("le", *series.tags))
    rate = f"sum by ({buckets}) (rate({name}_bucket[5m]))"
    return [
        (f"histogram_quantile({quantile}, {rate})", f"p{round(100 * quantile)} {legend}".strip())
        for quantile in (0.5, 0.99)
    ]


def dashboard(series: Sequence[Series]) -> str:
    """The dashboard as JSON: one panel for each series."""
    panels = [_panel(number, each) for number, each in enumerate(series)]
    document = {
        "uid": "flywheel",
        "title": "Flywheel",
        "tags": ["flywheel"],
        "timezone": "utc",
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


def _panel(number: int, series: Series) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS // PANEL_WIDTH)
    targets = [
        {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
        for index, (expression, legend) in enumerate(expressions(series))
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": series.name,
        "description": series.text,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {
            "x": column * PANEL_WIDTH,
            "y": row * PANEL_HEIGHT,
            "w": PANEL_WIDTH,
            "h": PANEL_HEIGHT,
        },
        "targets": targets,
    }


_ALERTS: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("RecordsLost", "lake_gap_records_total", "increase({}[5m]) > 0", "0m", "critical", "lag.md"),
    ("EventsWait", "flywheel_spooled_bytes", "sum ({}) > 0", "5m", "warning", "lost-broker.md"),
    (
        "EventsRefused",
        "flywheel_failed_log_writes",
        "increase({}[5m]) > 0",
        "0m",
        "critical",
        "disk-full.md",
    ),
    (
        "EventsDropped",
        "flywheel_dropped_events",
        "increase({}[5m]) > 0",
        "0m",
        "critical",
        "capacity.md",
    ),
    (
        "FeaturesLate",
        "flywheel_worker_freshness_s",
        'max ({}{{worker="features"}}) > 10',
        "1m",
        "warning",
        "lag.md",
    ),
    (
        "LakeLate",
        "flywheel_worker_freshness_s",
        'max ({}{{worker="archiver"}}) > 120',
        "5m",
        "warning",
        "lag.md",
    ),
    (
        "BundleMissed",
        "flywheel_bundle_miss",
        "increase({}[5m]) > 0",
        "0m",
        "warning",
        "broken-canary.md",
    ),
    (
        "AnswersFail",
        "flywheel_requests",
        'sum (rate({0}{{status=~"5.."}}[5m])) > 0.01 * sum (rate({0}[5m]))',
        "2m",
        "critical",
        "capacity.md",
    ),
)
"""Name, series, condition, for how long, severity, runbook."""


def alert_rules(series: Sequence[Series]) -> str:
    """A PrometheusRule as YAML; a series it needs that nobody declares is a KeyError."""
    declared = {each.name: each for each in series}
    rules = [
        {
            "alert": f"Flywheel{name}",
            "expr": condition.format(declared[of].exported),
            "for": lasting,
            "labels": {"severity": severity},
            "annotations": {
                "summary": declared[of].text,
                "runbook_url": f"{_RUNBOOKS}/{runbook}",
            },
        }
        for name, of, condition, lasting, severity, runbook in _ALERTS
    ]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "flywheel"},
        "spec": {"groups": [{"name": "flywheel", "rules": rules}]},
    }
    return GENERATED + str(yaml.safe_dump(document, sort_keys=False, width=100))
