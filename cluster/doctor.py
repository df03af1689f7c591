"""`cluster doctor`: finds what stands in the way of a start, and says the mend. Mends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cluster.console import Console, as_text
from cluster.data_findings import DATA_CHECKS
from cluster.findings import CHECKS, Finding, run_check
from cluster.security_findings import SECURITY_CHECKS
from cluster.stores.bucket_findings import BUCKET_CHECKS
from cluster.stores.server_findings import SERVER_CHECKS

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(
    epilog="""\b
    Examples:
      cluster doctor
      cluster --config configs/prod.toml doctor
      cluster --json doctor | jq '.findings[] | select(.level != "ok")'
    """
)
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Find what stands in the way: ports, orphans, versions, stores, keys, disk; with the mend.

    Exit code 1 if anything fails; a warning does not.
    """
    console: Console = ctx.obj
    settings = console.settings
    checks = (*CHECKS, *DATA_CHECKS, *SECURITY_CHECKS, *SERVER_CHECKS, *BUCKET_CHECKS)
    findings = [finding for check in checks for finding in run_check(check, settings)]
    is_sound = not any(finding.level == "fail" for finding in findings)
    document = {"sound": is_sound, "findings": [asdict(finding) for finding in findings]}
    console.emit(document, "" if console.as_json else as_text(findings_table(findings)))
    if not is_sound:
        ctx.exit(1)


def findings_table(findings: Sequence[Finding]) -> Table:
    """One line per finding, the mend under what is not well."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        level = Text(finding.level, style=_STYLES[finding.level])
        mend = "" if finding.level == "ok" or not finding.mend else f"; {finding.mend}"
        table.add_row(level, Text(finding.subject), Text(finding.detail + mend))
    return table
