"""A stage replica as a plain process, reached by links and without Ray; for tests that kill one.

Run as a program it serves one stage of a settings file until its standard input ends, and leaves
where it listens in a folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from recsys.settings import Settings
from recsys.types import Batch
from serve_app.links.handshake import LinkAddress
from serve_app.links.link_pool import Roster
from serve_app.links.link_server import LinkServer
from serve_app.residents.bundle_loading import BundleLoader, LoadedBundle
from serve_app.residents.residency import Residency

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"


@dataclass
class StageProcesses:
    """The replicas of one stage; whoever dies is started again by `mend`, as Serve would."""

    stage: str
    settings_path: Path
    folder: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, n_replicas: int) -> None:
        """Start so many."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(n_replicas):
            self._start_one()

    def mend(self) -> None:
        """Start one for each that has died."""
        for child in [child for child in self.children if child.poll() is not None]:
            _close(child)
            self.children.remove(child)
            self._start_one()

    def listening(self) -> dict[int, LinkAddress]:
        """Where those that live listen, by pid."""
        found: dict[int, LinkAddress] = {}
        for child in self.children:
            path = self.folder / f"{child.pid}.json"
            if child.poll() is None and path.exists():
                said = json.loads(path.read_text())
                token = bytes.fromhex(said["token"])
                found[child.pid] = LinkAddress(said["replica_id"], HOST, said["port"], token)
        return found

    async def find(self) -> Roster:
        """As a gateway's pool asks Serve."""
        addresses = await asyncio.to_thread(self.listening)
        return Roster(list(addresses.values()), len(self.children) - len(addresses))

    def stop(self) -> None:
        """End all."""
        for child in self.children:
            _close(child)
            if psutil.pid_exists(child.pid) and child.poll() is None:
                child.kill()
            child.wait(timeout=10)

    def _start_one(self) -> None:
        self.children.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.stage_process", self.stage,
                 str(self.settings_path), str(self.folder)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
            )
        )  # fmt: skip


def _close(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    child.stdin.close()


async def serve(stage: str, settings: Settings, folder: Path) -> None:
    """Hold the planned bundles and answer for one stage until standard input ends."""
    name = f"{stage}-{os.getpid()}"
    loader = BundleLoader(
        settings, (stage,), is_gateway=False, stable_id=lambda: residency.stable_id
    )
    residency: Residency[LoadedBundle] = Residency(settings, stage, name, loader.load)
    await asyncio.to_thread(residency.start)

    def run(method: str, bundle_id: str, batch: Batch) -> Batch | None:
        loaded = residency.get(bundle_id)
        return None if loaded is None else loaded.stages[stage](method, batch)

    server = LinkServer(run, name)
    address = await server.start(HOST)
    said = {"replica_id": name, "port": address.port, "token": address.token.hex()}
    draft = folder / f"{os.getpid()}.draft"
    draft.write_text(json.dumps(said))
    draft.rename(folder / f"{os.getpid()}.json")
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0.0)
    await asyncio.to_thread(residency.stop)


if __name__ == "__main__":
    _stage, _settings, _folder = sys.argv[1:]
    _read = Settings.model_validate_json(Path(_settings).read_text())
    asyncio.run(serve(_stage, _read, Path(_folder)))
