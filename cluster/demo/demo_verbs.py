"""Runs other verbs of `cluster` as a user would, in child processes that end with this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.settings_files import CONFIG_VARIABLE, VARIABLE_PREFIX, settings_variables

ERROR_PREFIX = "error: "
TERMINATE_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class VerbResult:
    """How a verb ended; `document` is what it printed with `--json`."""

    exit_code: int
    document: dict[str, Any]
    reason: str
    """Its error line, without the prefix; empty if it wrote none."""


@dataclass(frozen=True, slots=True)
class Verbs:
    """The verbs under one set of settings."""

    environment: Mapping[str, str]
    note: Callable[[str], None]
    """Takes each line that a verb writes to stderr."""

    def run(self, *arguments: str, accepted: Sequence[int] = (0,)) -> VerbResult:
        """Run `cluster --json ARGUMENTS` to its end.

        Raises:
            RecsysError: it ended with an exit code that is not accepted.
        """
        result = self._run(arguments)
        if result.exit_code not in accepted:
            expected = " or ".join(str(code) for code in accepted)
            raise RecsysError(
                f"'cluster {' '.join(arguments)}' ended with exit code {result.exit_code} "
                f"({result.reason or 'it gave no reason'}), expected {expected}"
            )
        return result

    def _run(self, arguments: Sequence[str]) -> VerbResult:
        # A process group of its own: Ctrl-C reaches this process only, which then ends the group.
        with subprocess.Popen(
            [sys.executable, "-m", "cluster", "--json", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            text=True,
            errors="replace",
            process_group=0,
        ) as child:
            errors: list[str] = []
            reader = threading.Thread(target=self._pass_on, args=(child, errors), daemon=True)
            reader.start()
            try:
                output = "" if child.stdout is None else child.stdout.read()
                exit_code = child.wait()
            finally:
                _end_group(child)
                reader.join(TERMINATE_PATIENCE_S)
        reasons = [line for line in errors if line.startswith(ERROR_PREFIX)]
        reason = reasons[-1].removeprefix(ERROR_PREFIX) if reasons else ""
        return VerbResult(exit_code, _last_document(output), reason)

    def _pass_on(self, child: subprocess.Popen[str], errors: list[str]) -> None:
        for line in child.stderr or ():
            if line.strip():
                errors.append(line.rstrip())
                self.note(f"  {line.rstrip()}")


def verb_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which every verb reads exactly these settings."""
    others = {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(VARIABLE_PREFIX) and name != CONFIG_VARIABLE
    }
    return others | settings_variables(settings)


def _end_group(child: subprocess.Popen[str]) -> None:
    """End whatever is left of an interrupted verb: politely, then not."""
    if child.poll() is not None:
        return
    for number, patience_s in ((signal.SIGTERM, TERMINATE_PATIENCE_S), (signal.SIGKILL, None)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience_s)
            break
        except ProcessLookupError:
            child.wait()
            break
        except subprocess.TimeoutExpired:
            continue


def _last_document(output: str) -> dict[str, Any]:
    """The last JSON object among the lines of a verb's stdout, or of the whole of it."""
    for text in (output, *reversed(output.splitlines())):
        try:
            document = json.loads(text)
        except ValueError:
            continue
        if isinstance(document, dict):
            return document
    return {}
