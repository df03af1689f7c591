"""The checks of `cluster doctor`: each looks at one thing and changes nothing.

Those of log, features and followers are `data_findings`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recsys.errors import RecsysError

if TYPE_CHECKING:
    from recsys.settings import Settings

GIB = 1024**3
MIN_FREE_BYTES = 2 * GIB
"""Ray stops working below 5 % free; a training run writes some hundred MB."""
MIN_OPEN_FILES = 4096
"""HAProxy's 4,096 connections and Ray's sockets need descriptors; Ray raises the soft limit."""
DISTRIBUTION = "flywheel-recsys"
_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?(?P<operator>==|>=)(?P<version>[0-9.]+)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    detail: str
    mend: str = ""


Check = Callable[["Settings"], Iterable[Finding]]


def run_check(check: Check, settings: Settings) -> list[Finding]:
    """The findings of a check; one that cannot be made is itself a finding."""
    try:
        return list(check(settings))
    except (RecsysError, OSError, ValueError) as error:
        subject = check.__name__.removeprefix("check_").replace("_", " ")
        return [Finding("fail", subject, str(error))]


def check_versions(settings: Settings) -> Iterable[Finding]:
    """Python and the pinned packages."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", version)
    yield from version_findings(metadata.requires(DISTRIBUTION) or [], _installed_version)


def version_findings(
    requirements: Iterable[str], installed: Callable[[str], str | None]
) -> Iterable[Finding]:
    """One finding per requirement that is not met, or a single one that all are."""
    n_met = 0
    for requirement in dict.fromkeys(_without_marker(r) for r in requirements if not _is_dev(r)):
        pin = _PIN.match(requirement)
        if pin is None:
            continue
        found = installed(pin["name"])
        wanted = f"{pin['operator']}{pin['version']}"
        if found is None:
            detail = f"is not installed, expected {wanted}"
            yield Finding("fail", pin["name"], detail, "run 'make setup'")
        elif not _meets(found, pin["operator"], pin["version"]):
            yield Finding("fail", pin["name"], f"{found}, expected {wanted}", "run 'make setup'")
        else:
            n_met += 1
    yield Finding("ok", "packages", f"{n_met} requirements are met")


def _without_marker(requirement: str) -> str:
    return requirement.partition(";")[0].strip()


def _is_dev(requirement: str) -> bool:
    marker = requirement.partition(";")[2].replace('"', "'")
    return "extra == 'dev'" in marker


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _meets(found: str, operator: str, wanted: str) -> bool:
    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))

    if operator == "==":
        return numbers(found) == numbers(wanted)
    return numbers(found) >= numbers(wanted)


def check_data_dir(settings: Settings) -> Iterable[Finding]:
    """The data directory can be written and has room."""
    directory = settings.data_dir.resolve()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        mend = "change its owner or set data_dir (FLYWHEEL__DATA_DIR)"
        yield Finding("fail", "data directory", f"{existing} cannot be written", mend)
        return
    for subject, path in (("disk", existing), ("disk of /tmp", Path("/tmp"))):
        free = shutil.disk_usage(path).free
        detail = f"{free / GIB:.1f} GiB free at {path}"
        if free < MIN_FREE_BYTES:
            detail += f", expected at least {MIN_FREE_BYTES / GIB:.0f} GiB"
            yield Finding("fail", subject, detail, "make room, or move data_dir")
        else:
            yield Finding("ok", subject, detail)


def check_limits(settings: Settings) -> Iterable[Finding]:
    """Shared memory and open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_enough = hard == resource.RLIM_INFINITY or hard >= MIN_OPEN_FILES
    detail = f"limit {soft} (at most {hard})"
    mend = f"raise 'ulimit -n' to {MIN_OPEN_FILES} or more"
    yield Finding("ok" if is_enough else "warn", "open files", detail, mend)
    wanted = settings.cluster.object_store_mb * 1024**2
    free = shutil.disk_usage("/dev/shm").free
    detail = f"/dev/shm has {free / 1024**2:.0f} MiB free"
    if free < wanted:
        detail += f", expected {settings.cluster.object_store_mb} (cluster.object_store_mb)"
        mend = "enlarge it (docker: --shm-size), or lower FLYWHEEL__CLUSTER__OBJECT_STORE_MB"
        yield Finding("warn", "shared memory", detail, mend)
    else:
        yield Finding("ok", "shared memory", detail)


def check_run(settings: Settings) -> Iterable[Finding]:
    """What runs, what a killed run left behind, and who holds our ports."""
    from cluster.local.owned_processes import describe, owned_now, read_record
    from cluster.local.ports import find_listeners, needed_ports, port_conflicts
    from cluster.local.run_files import RunFiles, is_locked

    files = RunFiles(settings.run_dir.resolve())
    record = read_record(files.record)
    owned = owned_now(record) if record is not None else ()
    if is_locked(files.lock):
        yield Finding("ok", "cluster", f"runs, with {len(owned)} processes")
    elif owned:
        mend = "run 'cluster down' (or 'cluster up', which ends them first)"
        yield Finding("warn", "orphans", f"an earlier run left {describe(owned)}", mend)
    else:
        yield Finding("ok", "orphans", "none")
    conflicts = port_conflicts(
        needed_ports(settings), find_listeners(), {process.pid for process in owned}
    )
    for sentence in conflicts:
        what, _, mend = sentence.partition("; ")
        yield Finding("fail", "ports", what, mend)
    if not conflicts:
        ports = ", ".join(str(entry.port) for entry in needed_ports(settings))
        yield Finding("ok", "ports", f"{ports} are free or ours")


def check_temp_dirs(settings: Settings) -> Iterable[Finding]:
    """Directories in /tmp of runs that are gone."""
    from cluster.local.environment import TEMP_ROOT, is_temp_dir, temp_dir_of
    from cluster.local.run_files import RunFiles, is_locked

    own = temp_dir_of(settings)
    is_running = is_locked(RunFiles(settings.run_dir.resolve()).lock)
    if own.exists() and not is_running:
        mend = "the next 'cluster up' replaces it"
        yield Finding("warn", "temporary files", f"{own} is left of an earlier run", mend)
    others = sorted(str(p) for p in TEMP_ROOT.iterdir() if is_temp_dir(p) and p != own)
    if others:
        mend = "remove them if no cluster with another data_dir runs"
        yield Finding("warn", "temporary files", f"of other clusters: {', '.join(others)}", mend)
    elif not own.exists() or is_running:
        yield Finding("ok", "temporary files", "nothing is left over")


def check_bundles(settings: Settings) -> Iterable[Finding]:
    """Every published bundle is whole."""
    from recsys.bundles.bundle import verify_bundle
    from recsys.bundles.registry import Registry

    location = settings.registry_location
    manifests, broken = Registry(location).survey()
    for name, reason in broken:
        yield Finding("fail", f"bundle {name}", reason, f"remove {name} or publish it again")
    n_sound = 0
    for manifest in manifests:
        try:
            if "://" not in location:
                verify_bundle(Path(location) / manifest.bundle_id)
            n_sound += 1
        except RecsysError as error:
            mend = "publish it again; see 'cluster bundle verify'"
            yield Finding("fail", f"bundle {manifest.bundle_id}", str(error), mend)
    if manifests:
        how = "verified" if "://" not in location else "listed"
        yield Finding("ok", "bundles", f"{n_sound} {how}")
    elif not broken:
        yield Finding("warn", "bundles", "none is published", "run 'cluster train --publish'")


def check_lake(settings: Settings) -> Iterable[Finding]:
    """Every table of the lake has a readable last commit."""
    if "://" in settings.lake_location:
        return  # `server_findings` asks the store.
    logs = sorted(Path(settings.lake_location).glob("*/_delta_log"))
    if not logs:
        yield Finding("warn", "lake", "is empty", "run 'cluster import SOURCE'")
    for log in logs:
        commits = sorted(path for path in log.glob("*.json") if path.stem.isdigit())
        subject = f"lake table {log.parent.name}"
        mend = "restore the table, or remove it and import again"
        if not commits:
            yield Finding("fail", subject, f"{log} holds no commit", mend)
            continue
        try:
            for line in commits[-1].read_text().splitlines():
                json.loads(line)
        except ValueError as error:
            yield Finding("fail", subject, f"{commits[-1].name} is damaged: {error}", mend)
        else:
            yield Finding("ok", subject, f"version {int(commits[-1].stem)}")


CHECKS: tuple[Check, ...] = (
    check_versions,
    check_data_dir,
    check_limits,
    check_run,
    check_temp_dirs,
    check_bundles,
    check_lake,
)
"""In the order they are shown, before those of `data_findings`."""
