"""All faults, in the order of the table: those of one service follow each other."""

from __future__ import annotations

from tests.serving_faults.ray_faults import RAY_FAULTS
from tests.serving_faults.replica_faults import LOST, REPLICA_FAULTS
from tests.serving_faults.store_faults import LOG_GONE, STORE_FAULTS
from tests.serving_faults.time_faults import MEMORY, RUSH, TIME_FAULTS

FAULTS = (
    *REPLICA_FAULTS, *STORE_FAULTS, *TIME_FAULTS, LOST, RUSH, MEMORY, LOG_GONE, *RAY_FAULTS,
)  # fmt: skip
