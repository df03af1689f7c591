"""The one process that owns a local cluster: starts Ray and Serve, records what it owns, stops it.

Run as `python -m cluster.local.supervisor --settings FILE`, as the leader of its own session. It is
the only writer of the files in `data_dir/run`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.local.environment import (
    absolute_settings,
    find_haproxy,
    haproxy_wrapper,
    prepare_temp_dir,
    ray_environment,
    serve_config,
    temp_dir_of,
)
from cluster.local.owned_processes import (
    RUN_ID_VARIABLE,
    ProcessIdentity,
    RunRecord,
    describe,
    end_run,
    family_of,
    is_alive,
    machine_mark,
    owned_now,
    read_process,
    read_process_table,
    read_record,
    sign_lock,
    write_record,
)
from cluster.local.ports import check_bindable, find_listeners, needed_ports, port_conflicts
from cluster.local.run_files import (
    Phase,
    RunFiles,
    RunState,
    hold_lock,
    write_document,
    write_state,
)
from recsys.errors import FleetError, RecsysError
from recsys.settings import Settings

RECORD_INTERVAL_S = 1.0
STATUS_INTERVAL_S = 2.0
ORDERLY_STOP_S = 30.0
"""Serve and Ray get so long to stop by themselves."""
GRACE_S = 3.0
"""Between SIGTERM and SIGKILL for what is left."""
VITAL_NAMES = ("gcs_server", "raylet")
"""Children without which Ray is dead; only watched under these names, never ended by them."""

log = logging.getLogger("cluster.local.supervisor")


class StopRequested(Exception):
    """Somebody asked for the end while the start was still going on."""


class Supervision:
    """One run, from preflight to the last process."""

    def __init__(
        self, settings: Settings, config: dict[str, Any], files: RunFiles, run_id: str
    ) -> None:
        self.settings = settings
        self.config = config
        self.files = files
        self.temp_dir = temp_dir_of(settings)
        row = read_process(os.getpid())
        if row is None:
            raise FleetError("/proc does not show this process, expected a mounted /proc")
        self.record = RunRecord(run_id, machine_mark(), row.identity, ())
        self.state = RunState(run_id, os.getpid(), "starting", "looking for orphans")
        self.stop = threading.Event()
        self.vital: tuple[ProcessIdentity, ...] = ()
        self.died = ""
        self.is_fleet_started = False

    def run(self) -> int:
        """Start, watch until told to stop or until Ray dies, stop; the exit code."""
        exit_code = 0
        try:
            self._install_signals()
            self._say("starting", "looking for orphans")
            self._clear_the_way()
            self._start()
            self._watch()
        except (StopRequested, SystemExit):
            log.info("asked to stop while starting")
        except RecsysError as error:
            exit_code = self._fail(str(error), error.exit_code)
        except Exception as error:
            log.exception("unexpected")
            exit_code = self._fail(f"unexpected {type(error).__name__}: {error}", 1)
        return max(exit_code, self._end())

    def _install_signals(self) -> None:
        def on_signal(number: int, frame: FrameType | None) -> None:
            log.info("signal %s", signal.Signals(number).name)
            self.stop.set()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)

    def _say(self, phase: Phase, step: str) -> None:
        self.state = replace(self.state, phase=phase, step=step)
        write_state(self.files.state, self.state)
        log.info("%s: %s", phase, step)
        if self.stop.is_set() and phase == "starting":
            raise StopRequested

    def _fail(self, error: str, exit_code: int) -> int:
        log.error("error: %s", error)
        self.state = replace(self.state, phase="failed", error=error, exit_code=exit_code)
        write_state(self.files.state, self.state)
        return exit_code

    def _clear_the_way(self) -> None:
        end_orphans(self.settings)
        conflicts = port_conflicts(needed_ports(self.settings), find_listeners())
        if conflicts:
            raise FleetError("; ".join(conflicts))
        check_bindable(self.settings.serve.host, self.settings.serve.port)

    def _start(self) -> None:
        self._say("starting", "starting ray")
        write_record(self.files.record, self.record)
        threading.Thread(target=self._keep_record, daemon=True).start()
        prepare_temp_dir(self.temp_dir)
        if self.settings.serve.ingress == "haproxy":
            wrapper = self.temp_dir / "haproxy"
            wrapper.write_text(haproxy_wrapper(self.settings, find_haproxy()))
            wrapper.chmod(0o700)
        os.environ.update(ray_environment(self.settings, self.temp_dir))

        from cluster.local import fleet

        self.is_fleet_started = True
        fleet.start_ray(self.settings, self.temp_dir)
        if self.settings.cluster.nodes > 1:
            self._say("starting", "joining further ray nodes")
            fleet.join_nodes(self.settings)
        self._install_signals()  # Ray replaced them
        self.vital = tuple(
            row.identity
            for row in read_process_table().values()
            if row.parent_pid == os.getpid() and row.name in VITAL_NAMES
        )
        self._say("starting", "starting ray serve")
        fleet.start_serve(self.config)
        self._say("starting", "deploying applications")
        fleet.deploy(self.config)
        threading.Thread(target=self._keep_status, daemon=True).start()

    def _watch(self) -> None:
        self.stop.wait()
        if self.died:
            raise FleetError(
                f"{self.died} died under the cluster, expected it to run; run 'cluster up' again "
                f"and see {self.files.log}"
            )

    def _keep_record(self) -> None:
        while not self.stop.wait(RECORD_INTERVAL_S):
            try:
                family = family_of(self.record.supervisor, read_process_table())
                if family != self.record.processes:
                    self.record = replace(self.record, processes=family)
                    write_record(self.files.record, self.record)
            except OSError:
                log.exception("the process record could not be written")
            dead = [process for process in self.vital if not is_alive(process)]
            if dead:
                self.died = describe(dead)
                self.stop.set()

    def _keep_status(self) -> None:
        from cluster.local import fleet

        while not self.stop.wait(STATUS_INTERVAL_S if self.state.phase == "serving" else 0.5):
            try:
                document = fleet.application_status()
                document["updated_ms"] = time.time_ns() // 1_000_000
                write_document(self.files.serve_status, document)
                states = {a["status"] for a in document["applications"].values()}
                if states == {"RUNNING"} and self.state.phase == "starting":
                    self._say("serving", "applications run")
            except Exception:
                # The controller may be restarting; the file's age tells a reader.
                log.warning("ray serve did not answer with its status", exc_info=True)

    def _end(self) -> int:
        """Stop all of it; 0 if nothing of ours is left."""
        self.stop.set()
        if self.state.phase != "failed":
            self._say("stopping", "stopping ray serve and ray")
        if self.is_fleet_started and not self.died:
            thread = threading.Thread(target=_stop_fleet, daemon=True)
            thread.start()
            thread.join(ORDERLY_STOP_S)
        survivors = end_run(self.record, GRACE_S)
        if survivors:
            self._fail(f"could not end {describe(survivors)}", FleetError.exit_code)
            return FleetError.exit_code
        self.files.record.unlink(missing_ok=True)
        self.files.serve_status.unlink(missing_ok=True)
        if self.state.phase != "failed":
            shutil.rmtree(self.temp_dir, ignore_errors=True)
            self._say("stopped", "nothing is left")
        return 0


def _stop_fleet() -> None:
    from cluster.local import fleet

    try:
        fleet.stop()
    except Exception:
        log.exception("ray did not stop in order")


def end_orphans(settings: Settings) -> tuple[ProcessIdentity, ...]:
    """End what an earlier run left and remove its traces; the caller holds the lock.

    Returns:
        The processes that were ended.

    Raises:
        FleetError: some could not be ended.
    """
    files = RunFiles(settings.run_dir.resolve())
    record = read_record(files.record)
    orphans: tuple[ProcessIdentity, ...] = ()
    if record is not None:
        orphans = owned_now(record)
        survivors = end_run(record, GRACE_S)
        if survivors:
            raise FleetError(
                f"orphans of an earlier run could not be ended: {describe(survivors)}, expected "
                "them gone; end them by hand"
            )
    shutil.rmtree(temp_dir_of(settings), ignore_errors=True)
    files.record.unlink(missing_ok=True)
    files.serve_status.unlink(missing_ok=True)
    return orphans


def main(arguments: Sequence[str] | None = None) -> int:
    """Own one run; the exit code of interfaces.md."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local.supervisor")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--serve-config", type=Path, help="deploy this configuration instead")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    settings = absolute_settings(Settings.model_validate_json(options.settings.read_text()))
    files = RunFiles(settings.run_dir)
    lock = hold_lock(files.lock)
    if lock is None:
        log.error("another supervisor owns %s", settings.run_dir)
        return FleetError.exit_code
    sign_lock(files.lock)
    config = serve_config(settings)
    if options.serve_config is not None:
        config |= json.loads(options.serve_config.read_text())
    run_id = os.environ.setdefault(RUN_ID_VARIABLE, f"run-{os.getpid()}-{time.time_ns()}")
    return Supervision(settings, config, files, run_id).run()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Ray's exit hooks would wait for a cluster that is already gone.
    os._exit(code)
