"""On which held-out engagements a new bundle is compared with the stable one."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from recsys.bundles.bundle import Manifest
from recsys.learning_settings import GateSettings
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.gate import Measured, decide
from train_app.evaluation.gate_evaluation import MIN_UNPROMPTED, comparable_queries, gate_text
from train_app.evaluation.metrics import Values
from train_app.examples.interactions import interactions_from_columns


def held_out_of(n: int, prompted_share: float) -> HeldOut:
    """`n` users who each did one thing at time 0 and another at their own number."""
    rng = np.random.default_rng(0)
    users = [f"u{user}" for user in range(n)]
    interactions = interactions_from_columns(
        user_ids=[*users, *users],
        item_ids=["first"] * n + [f"i{item % 7}" for item in range(n)],
        kinds=["view"] * (2 * n),
        timestamps_ms=[0] * n + list(range(1, n + 1)),
        is_prompted=np.concatenate([np.zeros(n, bool), rng.random(n) < prompted_share]),
    )
    return hold_out("time", interactions, cutoff_ms=1, negative_kinds=(), seed=0)


def a_manifest(train_until_ms: int | None) -> Manifest:
    """A bundle that says until when it learned."""
    return Manifest(
        bundle_id="b1",
        created_at=datetime.now(UTC).isoformat(),
        files={},
        space_fingerprint="0" * 64,
        feature_schema={},
        feature_schema_hash="",
        actions=("view",),
        n_items=1,
        n_shards=1,
        embedding_dim=8,
        lineage={} if train_until_ms is None else {"train_until_ms": train_until_ms},
        metrics={},
    )


def test_reactions_to_a_slate_are_left_out_where_enough_else_is_there() -> None:
    """What stable showed flatters stable."""
    held_out = held_out_of(4 * MIN_UNPROMPTED, prompted_share=0.5)
    comparable = comparable_queries(held_out, a_manifest(None))
    prompted = held_out.interactions.is_prompted[held_out.positions]
    assert comparable.sum() >= MIN_UNPROMPTED
    assert np.array_equal(comparable, ~prompted)


@pytest.mark.parametrize("until_ms", [None, 50])
def test_with_too_few_others_every_engagement_new_to_stable_counts(until_ms: int | None) -> None:
    """A handful of engagements decides nothing, so the biased ones are taken too."""
    held_out = held_out_of(2 * MIN_UNPROMPTED, prompted_share=0.95)
    times_ms = held_out.interactions.timestamps_ms[held_out.positions]
    comparable = comparable_queries(held_out, a_manifest(until_ms))
    assert np.array_equal(comparable, times_ms >= (until_ms or 0))
    assert comparable.any()


def test_the_text_says_how_large_a_drop_could_have_been_shown() -> None:
    """A comparison that sees nothing says so, and a refusal is followed by its remedy."""
    n = 400
    rng = np.random.default_rng(0)
    stable = (rng.random(n) < 0.2).astype(float)
    users = np.arange(n)

    def text_of(page: Values, gate: GateSettings | None = None) -> str:
        measured = Measured(page, np.zeros(n), users, stable)
        return gate_text(decide(measured, gate or GateSettings(), seed=0))

    assert "can show a drop of 5% or more" in text_of(stable)
    assert "can show no drop" in text_of(rng.random(n) * 100 * (rng.random(n) < 0.1))
    refused = text_of(np.zeros(n))
    assert "refused" in refused
    assert "gate: to change that: train with --warm-start" in refused
