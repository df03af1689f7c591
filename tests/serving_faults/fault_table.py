"""All faults, in the order of the table."""

from __future__ import annotations

from tests.serving_faults.ray_faults import RAY_FAULTS
from tests.serving_faults.replica_faults import REPLICA_FAULTS
from tests.serving_faults.store_faults import STORE_FAULTS
from tests.serving_faults.time_faults import TIME_FAULTS

FAULTS = (*REPLICA_FAULTS, *STORE_FAULTS, *RAY_FAULTS, *TIME_FAULTS)
