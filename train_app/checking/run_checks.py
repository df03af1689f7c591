"""All data checks by name: which there are, and one run of some or all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import cache
from types import MappingProxyType

from recsys.errors import ConfigError, DataError
from recsys.settings import Settings
from train_app.checking.check_report import (
    CheckReport,
    CheckResult,
    Purpose,
    error,
    training_times,
)
from train_app.checking.drift_check import check_drift
from train_app.checking.interaction_checks import (
    check_balance,
    check_catalogue,
    check_kinds,
    check_order,
    check_sizes,
)
from train_app.checking.label_checks import check_labels
from train_app.checking.lake_views import LakeViews, open_lake_views
from train_app.checking.skew_check import check_skew
from train_app.checking.table_checks import (
    check_duplicates,
    check_nulls,
    check_ranges,
    check_schema,
    check_times,
)
from train_app.checking.volume_checks import check_recency, check_volume, newest_logged_ms
from train_app.examples.interactions import Interactions

LakeCheck = Callable[[LakeViews], CheckResult]
InteractionCheck = Callable[[Interactions, Settings], CheckResult]

LAKE_CHECKS: Mapping[str, LakeCheck] = MappingProxyType(
    {
        "schema": check_schema,
        "nulls": check_nulls,
        "ranges": check_ranges,
        "times": check_times,
        "duplicates": check_duplicates,
        "labels": check_labels,
        "recency": check_recency,
        "volume": check_volume,
        "drift": lambda views: check_drift(views, training_times(views.settings.data_dir)),
        "skew": check_skew,
    }
)
"""Read the lake's tables; what does not fit in memory goes to disk."""
INTERACTION_CHECKS: Mapping[str, InteractionCheck] = MappingProxyType(
    {
        "sizes": check_sizes,
        "order": check_order,
        "balance": check_balance,
        "kinds": check_kinds,
        "catalogue": check_catalogue,
    }
)
"""Read the engagements that are to be learned from."""
CHECK_NAMES = (*LAKE_CHECKS, *INTERACTION_CHECKS)


def run_checks(
    settings: Settings,
    load: Callable[[], Interactions],
    now_ms: int,
    *,
    only: Collection[str] = (),
    until_ms: int | None = None,
    purpose: Purpose = "check",
    report: Callable[[str, float], None] = lambda label, share: None,
) -> CheckReport:
    """Run the checks named, all where none is.

    Args:
        load: reads the engagements, once and only if a check needs them.
        until_ms: what happened from this moment on is left out.
        report: told how far it has come.

    Raises:
        ConfigError: there is no check of a name.
        StoreError: the lake cannot be read.
    """
    unknown = sorted(set(only) - set(CHECK_NAMES))
    if unknown:
        raise ConfigError(
            f"there is no data check '{unknown[0]}', expected one of {', '.join(CHECK_NAMES)}"
        )
    started_s = time.monotonic()
    names = [name for name in CHECK_NAMES if not only or name in only]
    interactions = cache(load)
    told_by = ""
    results = []
    with open_lake_views(settings, now_ms, until_ms) as views:
        for done, name in enumerate(names):
            report("checking the data", done / len(names))
            if name in LAKE_CHECKS:
                results.append(LAKE_CHECKS[name](views))
            elif told_by:
                results.append(CheckResult(name, note=f"nothing to look at; see {told_by}"))
            else:
                try:
                    found = INTERACTION_CHECKS[name](interactions(), settings)
                except DataError as problem:
                    told_by, found = name, CheckResult(name, (error(str(problem)),))
                results.append(found)
        newest_ms = newest_logged_ms(views)
    report("checking the data", 1.0)
    seconds = time.monotonic() - started_s
    return CheckReport(now_ms, tuple(results), purpose, newest_ms, seconds)
