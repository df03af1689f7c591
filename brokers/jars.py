"""The jars of a Kafka broker: fetched once with Maven, checked, and kept in a cache directory.

The only writer of that directory; processes that need it at once take turns by a lock file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

KAFKA_VERSION = "4.3.1"
JARS_VARIABLE = "FLYWHEEL_KAFKA_JARS"
KEY_JAR = f"kafka_2.13-{KAFKA_VERSION}.jar"
KEY_JAR_SHA256 = "b098abef5ff878e76f60cd6c559b9baa5663ccb1b55f2837558b22c329d32423"
SLF4J_JAR = "slf4j-simple-1.7.36.jar"

_POM = Path(__file__).with_name("pom.xml")
_LISTING = "jars.json"
"""Name and size of every jar, written last: where it is missing, the fetch was cut short."""
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_FETCH_TIMEOUT_S = 300


class BrokerError(Exception):
    """The broker cannot be fetched, started or reached."""


def jars_directory() -> Path:
    """Where the jars are kept; `FLYWHEEL_KAFKA_JARS` names another place."""
    chosen = os.environ.get(JARS_VARIABLE)
    return (
        Path(chosen) if chosen else Path.home() / ".cache" / "flywheel" / f"kafka-{KAFKA_VERSION}"
    )


def missing_programs() -> str | None:
    """What a broker needs and this machine has not, as a sentence; None where all is there."""
    if shutil.which("java") is None:
        return (
            "java is missing, expected version 17 or newer; install it, as in "
            "'apt-get install openjdk-17-jre-headless'"
        )
    if shutil.which("mvn") is None and find_problem(jars_directory()) is not None:
        return (
            f"mvn is missing and {jars_directory()} has no jars of Kafka {KAFKA_VERSION}; install "
            f"it, as in 'apt-get install maven', or name a directory of them in {JARS_VARIABLE}"
        )
    return None


def skip_reason() -> str | None:
    """Why tests against a real broker cannot run here; None where they can."""
    problem = missing_programs()
    if problem is None:
        try:
            broker_jars()
        except BrokerError as error:
            problem = str(error)
    return None if problem is None else f"no real server of Kafka: {problem}"


def broker_jars(say: Callable[[str], None] = lambda _: None) -> Path:
    """The directory of checked jars, fetched first where they are missing or half-written.

    Args:
        say: told what takes time.

    Raises:
        BrokerError: they cannot be fetched.
    """
    directory = jars_directory()
    if find_problem(directory) is None:
        return directory
    problem = missing_programs()
    if problem is not None:
        raise BrokerError(problem)
    with _lock(directory):
        # Another process may have fetched them while this one waited.
        if find_problem(directory) is not None:
            say(f"fetching Kafka {KAFKA_VERSION} into {directory} (44 MB, once)")
            _fetch(directory)
    return directory


def find_problem(directory: Path) -> str | None:
    """What is wrong with the directory's jars; None where they are complete."""
    try:
        sizes: dict[str, int] = json.loads((directory / _LISTING).read_text())
        wrong = [n for n, size in sizes.items() if (directory / n).stat().st_size != size]
        digest = hashlib.sha256((directory / KEY_JAR).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        return f"{directory} is incomplete ({error})"
    if wrong:
        return f"{directory / wrong[0]} has another size than when it was fetched"
    if digest != KEY_JAR_SHA256:
        return f"{directory / KEY_JAR} has sha256 {digest}, expected {KEY_JAR_SHA256}"
    return None


def _fetch(directory: Path) -> None:
    """Fetch beside the place and rename, so that nobody ever sees half of it."""
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch:
        fresh = Path(scratch) / "jars"
        command = ["mvn", "-q", "-B", "--strict-checksums", "-f", str(_POM), _COPY]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={fresh}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BrokerError(
                f"mvn did not fetch Kafka {KAFKA_VERSION} within {_FETCH_TIMEOUT_S} s; "
                "check that Maven's repository can be reached and run it again"
            ) from error
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise BrokerError(
                f"mvn could not fetch Kafka {KAFKA_VERSION} (exit {done.returncode}: "
                f"{lines[0] if lines else 'no output'}), expected its jars; check that Maven's "
                "repository can be reached and run it again"
            )
        sizes = {jar.name: jar.stat().st_size for jar in sorted(fresh.glob("*.jar"))}
        (fresh / _LISTING).write_text(json.dumps(sizes, indent=1))
        problem = find_problem(fresh)
        if problem is not None or SLF4J_JAR not in sizes:
            raise BrokerError(f"mvn fetched something else: {problem or f'no {SLF4J_JAR}'}")
        if directory.exists():
            directory.rename(Path(scratch) / "replaced")
        fresh.rename(directory)


@contextmanager
def _lock(directory: Path) -> Generator[None]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / f".{directory.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
