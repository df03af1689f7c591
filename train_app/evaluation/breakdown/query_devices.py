"""The device of each held-out engagement: the context of the impression it reacted to.

Reads the lake; an engagement without an impression, or whose context names no device, has none.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from recsys.errors import StoreError
from recsys.settings import Settings
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.importing.staging import open_database, scratch_folder
from train_app.lake.lake_tables import Lake

DEVICE_KEY = "device"


def query_devices(held_out: HeldOut, settings: Settings) -> list[str]:
    """The device of every query, "" where it is not known.

    Raises:
        StoreError: the lake cannot be read.
    """
    data = held_out.interactions
    devices = [""] * len(held_out)
    if not data.is_prompted[held_out.positions].any():
        return devices
    lake = Lake(settings.lake_location)
    engagements, impressions = lake.find("engagements"), lake.find("impressions")
    if engagements is None or impressions is None:
        return devices
    try:
        with (
            scratch_folder(settings.data_dir / "tmp") as folder,
            open_database(folder) as connection,
        ):
            engagements.attach(connection, "engagements")
            impressions.attach(connection, "impressions")
            connection.register("queries", _keys(held_out))
            found = connection.execute(
                "SELECT place, any_value(i.context[$key]) FROM queries"
                " JOIN engagements e USING (user_id, item_id, timestamp_ms)"
                " JOIN impressions i ON i.request_id = e.request_id"
                " WHERE i.context[$key] IS NOT NULL GROUP BY place",
                {"key": DEVICE_KEY},
            ).fetchall()
    except (OSError, duckdb.Error) as error:
        raise StoreError(
            f"could not read the devices of {settings.lake_location}: {error}; check that its "
            "files are whole"
        ) from error
    for place, device in found:
        devices[place] = device
    return devices


def _keys(held_out: HeldOut) -> pa.Table:
    """What finds the row of each held-out engagement."""
    data = held_out.interactions
    return pa.table(
        {
            "place": np.arange(len(held_out)),
            "user_id": [data.user_ids[user] for user in held_out.users],
            "item_id": [data.items[row].item_id for row in held_out.targets],
            "timestamp_ms": data.timestamps_ms[held_out.positions],
        }
    )
