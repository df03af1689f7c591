"""The control stores that the conformance suites hold to one contract, each empty at first."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import inspect

from recsys.stores.control import control_tables as tables
from recsys.stores.control.control_tables import open_engine, sqlite_file
from recsys.traffic import TrafficPlan
from tests.postgres_server import PostgresServer, a_postgres_server

CONTROL_BACKENDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A server for all tests of a process; each takes a schema of its own."""
    with a_postgres_server() as server:
        yield server


@pytest.fixture(params=CONTROL_BACKENDS)
def control_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of each kind of control store that nobody has written yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'control.sqlite'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_schema()


def tables_in(url: str) -> set[str]:
    """The tables somebody has made in a store; looking makes no file."""
    engine = open_engine(url, writes=False)
    file = sqlite_file(engine)
    try:
        return set() if file and not file.exists() else set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def write_plan(
    url: str, plan: TrafficPlan, required: tuple[str, ...] = (), stable: str = "b1"
) -> None:
    """Put a state into the store, as its writer would."""
    engine = tables.open_engine(url, writes=True)
    tables.create_tables(engine)
    with engine.begin() as connection:
        for table in (tables.plans, tables.required, tables.aliases):
            connection.execute(table.delete())
        document = json.dumps(plan.to_json())
        connection.execute(tables.plans.insert().values(id=1, epoch=plan.epoch, document=document))
        for position, bundle_id in enumerate(required):
            connection.execute(
                tables.required.insert().values(position=position, bundle_id=bundle_id)
            )
        connection.execute(tables.aliases.insert().values(name="stable", bundle_id=stable))
        tables.bump_revision(connection)
    engine.dispose()
