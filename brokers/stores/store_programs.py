"""The programs of Redis, Postgres and an S3 gateway: where they are, and how each is called."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from brokers.jars import BrokerError

S3_GATEWAY = "versitygw"
DATABASES = ("flywheel_control", "flywheel_evidence")
BUCKET = "flywheel"
_USER = "flywheel"


def missing_stores() -> str | None:
    """Which program is missing and how it is had; None where all are there."""
    lacking = [
        name
        for name, found in (
            ("redis-server", shutil.which("redis-server")),
            ("postgres", postgres_programs()),
            (S3_GATEWAY, s3_gateway()),
        )
        if found is None
    ]
    if not lacking:
        return None
    return f"{' and '.join(lacking)} cannot be found, expected installed; run 'make servers'"


def s3_gateway() -> Path | None:
    """The S3 gateway: on the path, or in the cache."""
    cached = Path.home() / ".cache" / "flywheel" / S3_GATEWAY
    found = shutil.which(S3_GATEWAY) or (cached if cached.is_file() else None)
    return None if found is None else Path(found)


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`, of the newest version."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def redis_command(folder: Path, port: int, password_file: Path) -> list[str]:
    """Redis that keeps what it is given, every second on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        "redis-server", str(password_file), "--bind", "127.0.0.1", "--port", str(port),
        "--dir", str(folder.resolve()), "--appendonly", "yes", "--save", "",
        "--maxmemory-policy", "noeviction",
    ]  # fmt: skip


def s3_command(folder: Path, port: int) -> list[str]:
    """The gateway over a folder; its keys are in the environment it is started with."""
    program = s3_gateway()
    assert program is not None
    (folder / "data" / BUCKET).mkdir(parents=True, exist_ok=True)
    (folder / "facts").mkdir(exist_ok=True)
    return [
        str(program), "--port", f"127.0.0.1:{port}", "--quiet",
        "posix", "--sidecar", str(folder / "facts"), str(folder / "data"),
    ]  # fmt: skip


def postgres_command(folder: Path, port: int) -> list[str]:
    """Postgres over a folder that `make_cluster` made."""
    programs = postgres_programs()
    assert programs is not None
    return [
        *_as_postgres(), str(programs / "postgres"), "-D", str(folder / "data"),
        "-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-k", str(folder),
        "-c", "shared_buffers=64MB", "-c", "max_connections=200",
    ]  # fmt: skip


def make_cluster(folder: Path, password: str) -> None:
    """Make the files of a Postgres that nobody enters without a password; those there stay.

    Raises:
        BrokerError: they cannot be made.
    """
    if (folder / "data" / "PG_VERSION").exists():
        return
    programs = postgres_programs()
    assert programs is not None
    folder.mkdir(parents=True, exist_ok=True)
    # Postgres' own user has to pass through the folders above.
    secret = folder / "initial-password"
    secret.touch(mode=0o600)
    secret.write_text(password + "\n")
    owner = _owner()
    if owner is not None:
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    made = subprocess.run(
        [
            *_as_postgres(), str(programs / "initdb"), "-D", str(folder / "data"), "-U", _USER,
            "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8", "--locale", "C.UTF-8",
        ],
        capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    secret.unlink()
    if made.returncode:
        raise BrokerError(
            f"Postgres could not make {folder}/data: {made.stderr.strip()[-500:]}; choose a folder "
            "that its user can reach"
        )


def make_databases(port: int, password: str) -> None:
    """Make the databases of the control store and the evidence, where they are missing."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(
        host="127.0.0.1", port=port, user=_USER, password=password, dbname="postgres",
        autocommit=True, connect_timeout=3,
    ) as connection:  # fmt: skip
        there = {str(row[0]) for row in connection.execute("SELECT datname FROM pg_database")}
        for name in DATABASES:
            if name not in there:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _owner() -> pwd.struct_passwd | None:
    """Whom Postgres runs as where we are root, which it refuses to be."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        raise BrokerError(
            "Postgres does not run as root and there is no user postgres; run as another user"
        ) from None


def _as_postgres() -> list[str]:
    owner = _owner()
    if owner is None:
        return []
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
