"""A backup of each kind of stores brought into the other: what is kept, what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from cluster.bundles.pins import Pin, Pins
from cluster.keys.key_writer import KeyWriter
from cluster.rollouts.storing.control_writer import ControlWriter, HistoryEntry
from cluster.stores.backup import BackupFacts, create_backup, restore_backup
from recsys.bundles.bucket_objects import open_objects
from recsys.bundles.bundle import verify_bundle
from recsys.bundles.registry import Registry
from recsys.errors import ConfigError, DataError
from recsys.keys import new_key
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.traffic import TrafficPlan
from tests.registry_places import a_staging
from train_app.lake.lake_rows import append_import, complete_rows
from train_app.lake.lake_tables import Lake

Stores = Callable[[str], Settings]
WAYS = [("embedded", "servers"), ("servers", "embedded")]


@pytest.fixture
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """Empty stores of a kind, anew at each call."""
    n_made = iter(range(99))

    def make(kind: str) -> Settings:
        folder = tmp_path / f"{kind}-{next(n_made)}"
        if kind == "embedded":
            return Settings(data_dir=folder)
        place = request.getfixturevalue("s3").new_url()
        return Settings(
            data_dir=folder,
            control_store_url=request.getfixturevalue("postgres").new_schema(),
            registry_url=f"{place}/bundles",
            lake_url=f"{place}/lake",
        )

    return make


def some_rows(*times_ms: int) -> pa.Table:
    """Outcome rows at these times."""
    rows = pa.table({
        "event_id": [f"e{time_ms}" for time_ms in times_ms],
        "timestamp_ms": list(times_ms),
        "sequence": list(range(len(times_ms))),
    })  # fmt: skip
    return complete_rows("outcomes", rows, "timestamp_ms", user_id="u", status=503)


def fill(settings: Settings, folder: Path) -> None:
    """A service that has run: a plan, a history, a pin, two bundles, rows in the lake."""
    writer = ControlWriter(settings.control_url)
    writer.set_required(("b1", "b2"), ())
    writer.set_plan(TrafficPlan.single("b1", 1, "s"), 0)
    writer.set_alias("stable", "b1", None)
    for number in range(3):
        writer.append_history(HistoryEntry(number, "ann", "test", f"line {number}", "ü"))
    pins = Pins(settings.control_url)
    pins.add(Pin("b2", 7, "bob", "audit"))
    pins.close()
    keys = KeyWriter(settings.control_url)
    keys.add(new_key(["read"], 7, random.Random(7).randbytes, client="shop").key, 7)
    keys.close()
    ReadinessReporter(settings.control_url).report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    for bundle_id in ("b1", "b2"):
        staging = a_staging(folder / bundle_id, bundle_id)
        Registry(settings.registry_location).publish(staging)
    lake = Lake(settings.lake_location)
    append_import(lake, "outcomes", [some_rows(0, 5)], None, {})
    append_import(lake, "outcomes", [some_rows(9)], 1, {})


def ids_in(settings: Settings) -> tuple[list[str], int | None]:
    """The event ids of the lake, and its mark."""
    table = Lake(settings.lake_location).find("outcomes")
    assert table is not None
    connection = duckdb.connect()
    table.attach(connection, "rows")
    rows = connection.sql("SELECT event_id FROM rows ORDER BY event_id").fetchall()
    return [row[0] for row in rows], table.mark("import")


def quiet(text: str) -> None:
    """Progress that nobody reads."""


@pytest.mark.parametrize(("of", "to"), WAYS)
def test_what_is_restored_is_what_was_there_and_goes_on(
    stores: Stores, tmp_path: Path, of: str, to: str
) -> None:
    """Plan, history, pins, bundles, rows and marks; not who lived. The next change comes after."""
    before, after = stores(of), stores(to)
    fill(before, tmp_path)
    place = str(tmp_path / "backup") if of == "servers" else before_url(stores)
    made = create_backup(before, place, 42, quiet)
    assert (made.n_bundles, made.n_lake_files, made.n_copied) == (2, 5, 5)
    restored = restore_backup(after, place, quiet)
    assert restored == BackupFacts(42, made.n_rows, 2, 5, 0)
    old, new = ControlReader(before.control_url), ControlReader(after.control_url)
    assert new.view() == old.view()
    assert new.readiness() == []
    writer = ControlWriter(after.control_url)
    assert writer.history() == ControlWriter(before.control_url).history()
    writer.append_history(HistoryEntry(9, "ann", "test", "later", ""))
    assert [entry.at_ms for entry in writer.history()] == [0, 1, 2, 9]
    assert [pin.why for pin in Pins(after.control_url).read()] == ["audit"]
    registry = Registry(after.registry_location)
    assert registry.list_bundles() == Registry(before.registry_location).list_bundles()
    verify_bundle(registry.fetch("b1", tmp_path / "cache"))
    assert ids_in(after) == ids_in(before) == (["e0", "e5", "e9"], 2)
    append_import(Lake(after.lake_location), "outcomes", [some_rows(11)], 2, {})
    assert ids_in(after) == (["e0", "e11", "e5", "e9"], 3)


def before_url(stores: Stores) -> str:
    """A place in a bucket for a backup."""
    return stores("servers").lake_url + "-backup"


@pytest.mark.parametrize("kind", ["embedded", "servers"])
def test_a_second_backup_copies_what_is_new_and_replaces_what_was_cut(
    stores: Stores, tmp_path: Path, kind: str
) -> None:
    """A file that a killed backup left short is copied again."""
    settings = stores(kind)
    fill(settings, tmp_path)
    place = str(tmp_path / "backup")
    create_backup(settings, place, 1, quiet)
    assert create_backup(settings, place, 2, quiet).n_copied == 0
    append_import(Lake(settings.lake_location), "outcomes", [some_rows(11)], 2, {})
    assert create_backup(settings, place, 3, quiet).n_copied == 2
    file = next((tmp_path / "backup" / "lake").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:10])
    assert create_backup(settings, place, 4, quiet).n_copied == 1
    fresh = stores(kind)
    restore_backup(fresh, place, quiet)
    assert ids_in(fresh) == (["e0", "e11", "e5", "e9"], 3)


@pytest.mark.parametrize("kind", ["embedded", "servers"])
def test_a_control_store_that_was_never_written_is_restored_as_one(
    stores: Stores, tmp_path: Path, kind: str
) -> None:
    """Also where nothing but pins was ever written; the first plan can be set afterwards."""
    place = str(tmp_path / "backup")
    for pins in ([], [Pin("b2", 7, "bob", "audit")]):
        before, after = stores(kind), stores(kind)
        for pin in pins:
            Pins(before.control_url).add(pin)
        assert create_backup(before, place, 1, quiet).n_rows == len(pins)
        restore_backup(after, place, quiet)
        assert ControlReader(after.control_url).view().plan is None
        assert Pins(after.control_url).read() == pins
        ControlWriter(after.control_url).set_plan(TrafficPlan.single("b1", 1, "s"), 0)


def test_no_backup_and_a_damaged_one_are_refused_and_nothing_is_written(
    stores: Stores, tmp_path: Path
) -> None:
    """One that was killed has no `backup.json`."""
    settings, place = stores("embedded"), str(tmp_path / "backup")
    fill(settings, tmp_path)
    create_backup(settings, place, 1, quiet)
    rows = tmp_path / "backup" / "control.jsonl"
    rows.write_text(rows.read_text().replace("audit", "other"))
    fresh = stores("embedded")
    with pytest.raises(DataError, match=r"control\.jsonl .* was changed"):
        restore_backup(fresh, place, quiet)
    summary = tmp_path / "backup" / "backup.json"
    document = json.loads(summary.read_text())
    summary.write_text(json.dumps(document | {"layout": 9}))
    with pytest.raises(DataError, match="layout 9"):
        restore_backup(fresh, place, quiet)
    summary.unlink()
    with pytest.raises(ConfigError, match="no whole backup"):
        restore_backup(fresh, place, quiet)
    assert not (fresh.data_dir).exists()


@pytest.mark.parametrize("kind", ["embedded", "servers"])
def test_stores_that_are_in_use_are_never_written_over(
    stores: Stores, tmp_path: Path, kind: str
) -> None:
    """Neither a lake with files nor a control store with a plan."""
    settings, place = stores(kind), str(tmp_path / "backup")
    fill(settings, tmp_path)
    create_backup(settings, place, 1, quiet)
    with pytest.raises(ConfigError, match=r"the lake .* has \d+ files"):
        restore_backup(settings, place, quiet)
    elsewhere = settings.model_copy(
        update={"lake_url": stores(kind).lake_location, "data_dir": settings.data_dir}
    )
    with pytest.raises(ConfigError, match="expected an empty one"):
        restore_backup(elsewhere, place, quiet)
    assert ids_in(settings) == (["e0", "e5", "e9"], 2)
    assert len(open_objects(f"file://{tmp_path}/backup").names("lake")) == 5
