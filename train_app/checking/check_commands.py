"""The verb `check-data`, and the checks at the start of a training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace

from recsys.settings import Settings
from train_app.checking.check_report import Purpose, refusal, write_report
from train_app.checking.run_checks import run_checks
from train_app.command_outcome import Outcome
from train_app.examples.interactions import Interactions
from train_app.examples.lake_examples import load_interactions
from train_app.progress import Progress, open_progress


def check_data(
    settings: Settings,
    *,
    only: Collection[str] = (),
    until_ms: int | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Outcome:
    """`check-data`: the checks that a training begins with, all or those named.

    Raises:
        ConfigError: there is no check of a name.
        StoreError: the lake cannot be read.
    """
    with open_progress(sys.stderr) as progress:
        report = run_checks(
            settings,
            lambda: load_interactions(settings.lake_location, settings, until_ms=until_ms),
            now_ms(),
            only=only,
            until_ms=until_ms,
            report=progress,
        )
    path = write_report(report, settings.data_dir)
    document = {**report.as_dict(), "report": str(path)}
    return Outcome(document, f"{report.text()}\nkept in {path}", refusal(report))


def checked(
    interactions: Interactions,
    settings: Settings,
    progress: Progress,
    purpose: Purpose,
    *,
    until_ms: int | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Interactions:
    """The engagements with what the checks found in their lineage; warnings are told.

    Raises:
        DataRefused: the checks refused, naming all reasons; the report is kept all the same.
    """
    report = run_checks(
        settings,
        lambda: interactions,
        now_ms(),
        until_ms=until_ms,
        purpose=purpose,
        report=progress,
    )
    path = write_report(report, settings.data_dir)
    for detail in report.details("warning"):
        progress.say(f"warning: {detail}")
    refused = refusal(report)
    if refused is not None:
        raise refused
    found = {"checks": report.summary(), "report": path.name}
    return replace(interactions, lineage={**interactions.lineage, "data_checks": found})
