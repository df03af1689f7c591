"""Gives the directories of new brokers their properties file and the cluster's id."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from brokers.broker_properties import BrokerPlace, broker_properties
from brokers.broker_security import BrokerSecurity
from brokers.jars import BrokerError

_FORMAT_TIMEOUT_S = 120


def format_brokers(
    java: Sequence[str],
    directory: Path,
    places: Sequence[BrokerPlace],
    settings: Mapping[str, str],
    security: BrokerSecurity | None,
) -> None:
    """Write every broker's properties and format the directories that are new, all at once.

    Args:
        java: how a program of the jars is started.
        directory: of the cluster.
        settings: properties of every broker that differ from `broker_properties`.

    Raises:
        BrokerError: one cannot be formatted.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cluster_id = _cluster_id(directory / "cluster_id")
    running: list[subprocess.Popen[str]] = []
    for place in places:
        place.directory.mkdir(parents=True, exist_ok=True)
        properties_file(place).write_text(broker_properties(place, places, settings, security))
        if (place.directory / "data" / "meta.properties").exists():
            continue
        command = [*java, "kafka.tools.StorageTool", "format", "-t", cluster_id]
        command += ["-c", str(properties_file(place))]
        command += security.format_arguments() if security is not None else []
        running.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    _await(running)


def properties_file(place: BrokerPlace) -> Path:
    """Where a broker's properties are."""
    return place.directory / "server.properties"


def _cluster_id(path: Path) -> str:
    if not path.exists():
        # A first letter of its own: the tool takes an id that begins with "-" for an option.
        random_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        path.write_text("k" + random_id[1:])
    return path.read_text()


def _await(running: Sequence[subprocess.Popen[str]]) -> None:
    for process in running:
        try:
            output, _ = process.communicate(timeout=_FORMAT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise BrokerError(f"formatting a broker took {_FORMAT_TIMEOUT_S} s") from error
        if process.returncode:
            raise BrokerError(f"a broker's directory cannot be formatted:\n{output}")
