"""The tables of the control store, for SQLite and Postgres.

Plan, aliases, required bundles, rollouts, their turns and history have one writer,
`cluster.rollouts.storing.control_writer`; the lease has
`cluster.rollouts.driving.controller_lease`, shadows `cluster.shadows.shadow_writer`, experiments
and their holdout `cluster.experiments.experiment_writer`; a replica's readiness rows have one
writer, the replica, through `control.ReadinessReporter`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

_Id = String(128)
metadata = MetaData()

head = Table(
    "control_head",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
"""One row; the revision grows with every change of plan, aliases or required bundles."""

plans = Table(
    "control_plan",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)

aliases = Table(
    "control_aliases",
    metadata,
    Column("name", _Id, primary_key=True),
    Column("bundle_id", _Id, nullable=False),
)

required = Table(
    "control_required",
    metadata,
    Column("position", Integer, primary_key=True),
    Column("bundle_id", _Id, nullable=False),
)

replicas = Table(
    "control_readiness",
    metadata,
    Column("replica_id", String(256), primary_key=True),
    Column("bundle_id", _Id, primary_key=True),
    Column("stage", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("plan_epoch", BigInteger, nullable=False),
    Column("heartbeat_ms", BigInteger, nullable=False),
)

rollouts = Table(
    "control_rollouts",
    metadata,
    Column("rollout_id", _Id, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("is_closed", Boolean, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("driver", String(256), nullable=False),
    Column("driven_ms", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
)
one_open = Index(
    "control_one_open_rollout",
    rollouts.c.is_closed,
    unique=True,
    sqlite_where=rollouts.c.is_closed.is_(False),
    postgresql_where=rollouts.c.is_closed.is_(False),
)

history = Table(
    "control_history",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", String(256), nullable=False),
    Column("verb", String(64), nullable=False),
    Column("what", Text, nullable=False),
    Column("why", Text, nullable=False),
)

rollout_turns = Table(
    "rollout_turns",
    metadata,
    Column("rollout_id", _Id, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", String(256), nullable=False),
    Column("turn", Text, nullable=False),
    Column("after", Text, nullable=False),
)
"""What every move of a rollout was decided on; `number` is the revision it led to."""


def _beside(name: str, key: str) -> Table:
    """A table of what runs beside the traffic plan.

    `plan` is what gateways follow while `is_running`, `bundles` (a JSON list) what every replica
    holds until `is_closed`, `document` what operators read.
    """
    return Table(
        name,
        metadata,
        Column(key, _Id, primary_key=True),
        Column("revision", BigInteger, nullable=False),
        Column("is_closed", Boolean, nullable=False),
        Column("is_running", Boolean, nullable=False),
        Column("started_ms", BigInteger, nullable=False),
        Column("bundles", Text, nullable=False),
        Column("plan", Text, nullable=False),
        Column("document", Text, nullable=False),
    )


shadows = _beside("control_shadows", "shadow_id")
experiments = _beside("control_experiments", "experiment_id")

holdout = Table(
    "control_holdout",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("share", Float, nullable=False),
)
"""One row: the share of users that no experiment gets."""

leases = Table(
    "control_leases",
    metadata,
    Column("name", _Id, primary_key=True),
    Column("owner", String(256), nullable=False),
    Column("renewed_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)
"""Who does what only one should do at a time; saves work, and is not what correctness rests on."""
