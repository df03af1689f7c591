"""Off-policy evaluation of a whole log: lake, registry, real stages, and the verb's verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundles.bundle import read_manifest
from recsys.bundles.item_table import ItemTable, read_item_codes
from recsys.bundles.registry import Registry
from recsys.errors import BundleNotFound, DataRefused
from recsys.features import FeatureSchema, history_arrays
from recsys.settings import OrderingSettings, RetrievalSettings, Settings
from recsys.slate import ItemFacts, order_slates
from recsys.stages import SCORER, VECTORS_FILE, load_stage
from recsys.types import HistoryEvent, Source
from tests.bundles_for_tests import publish_small
from tests.example_lake import HOUR, MINUTE, NOON, a_lake, an_engagement, an_impression
from train_app.off_policy.off_policy_command import run_off_policy

pytestmark = pytest.mark.integration
N_ITEMS, N_SLATES, N_POSITIONS = 60, 1_200, 3
ORDERING = OrderingSettings(pool=20, diversity=0.1, exploration=0.3, temperature=0.5)


def settings_of(data_dir: Path) -> Settings:
    """More candidates than items, so that every source finds everything."""
    retrieval = RetrievalSettings(n_candidates=100, n_popular=5, n_fresh=5, n_shards=2)
    return Settings(data_dir=data_dir, ordering=ORDERING, retrieval=retrieval)


class Page:
    """A page with all unseen items, made of a bundle's files without what is under test."""

    def __init__(self, settings: Settings, bundle_dir: Path) -> None:
        from safetensors.numpy import load_file

        self._scorer = load_stage(SCORER, bundle_dir, read_manifest(bundle_dir), settings)
        self._vectors = load_file(bundle_dir / VECTORS_FILE)["vectors"]
        self._codes = read_item_codes(bundle_dir)
        self.items = ItemTable.read(bundle_dir)
        schema = read_manifest(bundle_dir).feature_schema
        self._schema = FeatureSchema.from_json(dict(schema))

    def serve(self, histories: list[list[HistoryEvent]], at_ms: list[int]) -> list[dict[str, Any]]:
        """The fields of each impression: slate and unshown."""
        features = history_arrays(histories, self.items.row_of, self._schema, at_ms)
        features["user_emb"] = self._scorer("encode", features)["user_emb"]
        nearest = np.argsort(-(features["user_emb"] @ self._vectors.T), axis=1, kind="stable")
        seen = np.stack([self.items.rows_of([e.item_id for e in one]) for one in histories])
        is_new = ~(nearest[:, :, None] == seen[:, None, :]).any(axis=2)
        shape = (len(histories), N_ITEMS - seen.shape[1])
        rows = nearest[is_new].reshape(shape).astype(np.int32)
        # A rank counts what was found before it, seen items too.
        ranks = np.tile(np.arange(N_ITEMS, dtype=np.int32), (shape[0], 1))[is_new].reshape(shape)
        sources = np.full(shape, Source.INDEX, np.int8)
        batch = {**features, "rows": rows, "sources": sources, "ranks": ranks}
        utility = self._scorer("score", batch)["utility"]
        slates = order_slates(
            utility,
            rows,
            ItemFacts(self._vectors, self._codes.categories, self._codes.creators),
            np.full(shape[0], N_POSITIONS, np.int32),
            np.arange(shape[0], dtype=np.uint64),
            ORDERING,
        )
        return [
            self._fields(rows[i], utility[i], slates.picked[i], slates.propensity[i])
            for i in range(shape[0])
        ]

    def _fields(
        self, rows: np.ndarray, utility: np.ndarray, picked: np.ndarray, propensity: np.ndarray
    ) -> dict[str, Any]:
        rest = utility.copy()
        rest[picked] = -np.inf
        names = self.items.item_ids
        found = {"source": "index", "retrieval_score": 0.5, "retrieval_rank": 0}
        slate = [
            {**found, "item_id": names[rows[column]], "score": float(utility[column]),
             "position": place, "propensity": float(propensity[place])}
            for place, column in enumerate(picked)
        ]  # fmt: skip
        best = {"item_id": names[rows[rest.argmax()]], "score": float(rest.max()), "score_rank": 0}
        return {"slate": slate, "unshown": [{**found, **best}]}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str, str]:
    """A log of one bundle's slates, and another bundle."""
    data_dir = tmp_path_factory.mktemp("off-policy")
    settings = settings_of(data_dir)
    own, other = (
        publish_small(settings, data_dir / f"staging{seed}", n_items=N_ITEMS, seed=seed).bundle_id
        for seed in (0, 1)
    )
    page = Page(settings, Registry(settings.registry_location).fetch(own, data_dir / "cache"))
    rng = np.random.default_rng(0)
    histories = [
        [
            HistoryEvent(f"i{item}", "click", NOON + n * MINUTE)
            for n, item in enumerate(rng.permutation(N_ITEMS)[:4])
        ]
        for _ in range(N_SLATES)
    ]
    times_ms = [NOON + HOUR + number for number in range(N_SLATES)]
    impressions, acts = [], []
    for number, fields in enumerate(page.serve(histories, times_ms)):
        user, at_ms, history = f"u{number}", times_ms[number], histories[number]
        acts += [an_engagement(user, event.item_id, event.timestamp_ms) for event in history]
        shown = [one["item_id"] for one in fields["slate"]]
        fields["history_items"] = [event.item_id for event in history]
        impressions.append(an_impression(user, shown, at_ms, bundle_id=own) | fields)
        acts += [
            an_engagement(user, item_id, at_ms + MINUTE, kind="like")
            for place, item_id in enumerate(shown)
            if rng.random() < 0.4 / (1 + place)
        ]
    acts.append(an_engagement("last", "i0", NOON + 9 * HOUR))
    a_lake(data_dir, impressions=impressions, engagements=acts)
    return settings, own, other


def evaluate(settings: Settings, **options: Any) -> dict[str, Any]:
    """The document of one evaluation; a refusal is in it."""
    outcome = run_off_policy(settings, now_ms=lambda: NOON + 10 * HOUR, **options)
    assert outcome.document["reward"] in outcome.text
    assert (outcome.error is None) == outcome.document["targets"][0]["is_supported"]
    return outcome.document


def test_present_settings_on_their_own_log_earn_the_mean(
    logged: tuple[Settings, str, str],
) -> None:
    """The logging policy's value is the mean of the log, and other explorations are beside it."""
    settings, own, _ = logged
    found = evaluate(settings, kind="like")
    assert found["n_slates"] == N_SLATES
    mean = found["on_policy"]["value"]
    assert 0.6 < mean < 0.9
    assert found["by_bundle"][own]["value"] == pytest.approx(mean)
    asked, greedy = found["targets"][:2]
    assert asked["is_supported"]
    assert asked["estimates"][0]["value"] == pytest.approx(mean)
    assert greedy["name"] == "exploration 0"
    assert 0.4 < greedy["support"]["mean_weight"] < 1.6
    assert found["calibration"]["n_rollouts"] == 0


def test_the_serving_bundle_ranked_again_is_the_logging_policy(
    logged: tuple[Settings, str, str],
) -> None:
    """Its stages give the logged propensities again, so it earns the mean of the log."""
    settings, own, _ = logged
    found = evaluate(settings, bundle_id=own, kind="like")
    asked = found["targets"][0]
    assert asked["refusal"] is None
    assert asked["support"]["n_rounds"] >= 0.95 * N_SLATES
    assert asked["support"]["mean_weight"] == pytest.approx(1.0, abs=0.01)
    assert asked["estimates"][0]["value"] == pytest.approx(found["on_policy"]["value"], rel=0.02)


def test_a_bundle_that_would_show_other_items_is_refused(
    logged: tuple[Settings, str, str],
) -> None:
    """Another scorer's slates are hardly in the log: a refusal with the figures, exit code 6."""
    settings, _, other = logged
    outcome = run_off_policy(settings, bundle_id=other, now_ms=lambda: NOON + 10 * HOUR)
    assert outcome.error is not None
    assert outcome.error.exit_code == 6
    assert f"what {other} would earn: the effective sample size" in str(outcome.error)


def test_settings_that_the_log_cannot_tell_are_refused(logged: tuple[Settings, str, str]) -> None:
    """A temperature; what can be told is in the table all the same."""
    settings, _, _ = logged
    warmer = settings.model_copy(
        update={"ordering": ORDERING.model_copy(update={"temperature": 3.0})}
    )
    outcome = run_off_policy(warmer, now_ms=lambda: NOON + 10 * HOUR, positions=1)
    assert "ordering.temperature 3" in str(outcome.error)
    assert any(target["is_supported"] for target in outcome.document["targets"][1:])


def test_an_empty_log_and_an_unknown_bundle_are_said(
    logged: tuple[Settings, str, str], tmp_path: Path
) -> None:
    """Nothing was served; no such bundle."""
    with pytest.raises(DataRefused, match="has no slate to evaluate with"):
        run_off_policy(settings_of(tmp_path), now_ms=lambda: NOON)
    with pytest.raises(BundleNotFound):
        run_off_policy(logged[0], bundle_id="nobody", now_ms=lambda: NOON)
