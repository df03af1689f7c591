"""One suite for every placement: the same requests get the same answers wherever stages run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.experiments.experiment_record import Declaration, ExperimentRecord, experiment_id
from cluster.experiments.experiment_sides import ordering_sides
from cluster.experiments.experiment_writer import ExperimentWriter
from recsys.experiment_plan import Layer
from recsys.feature_definitions import MS_PER_DAY
from recsys.security_settings import LinkTlsSettings, SecuritySettings
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from recsys.stores.features.feature_update import FeatureUpdate, PairTotals, Ranked
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from serve_app.gateway import Graph
from tests.asgi_client import call
from tests.bundles_for_tests import (
    NOW_MS,
    all_to,
    publish_small,
    put_in_force,
    small_history,
    small_settings,
)
from tests.feature_backends import pairs_of, store
from tests.graph_server import serving
from tests.tls_files import Authority
from train_app.following.features.load_history import load_histories

pytestmark = pytest.mark.integration

N_ITEMS = 120
USERS = [f"u{n}" for n in range(12)]


@dataclass
class Placements:
    """The same data served by stages in their own deployments and by one process."""

    settings: Settings
    remote: httpx.Client


@pytest.fixture(scope="module", params=["link", "link over TLS", "handle"])
def placements(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Placements]:
    """Stages called over links or Serve handles, without any of the ingress flags."""
    folder = tmp_path_factory.mktemp("placements")
    settings = small_settings(
        folder,
        placement=request.param.partition(" ")[0],
        # What is answered is asked here, not how fast on a busy machine.
        stage_timeout_ms=10_000,
        deadline_ms=20_000,
    )
    if "TLS" in request.param:
        settings = settings.model_copy(update={"security": secured_links(folder)})
    manifest = publish_small(settings, settings.data_dir / "staging", n_items=N_ITEMS)
    histories = [(name, small_history(n, N_ITEMS, 3 * n)) for n, name in enumerate(USERS)]
    writer = SqliteFeatureWriter(settings.feature_path)
    load_histories(writer, histories, settings)
    write_live_lists(writer)
    writer.close()
    put_in_force(settings, all_to(manifest.bundle_id))
    draw_at_random_for_some(settings)
    with serving(settings, haproxy=False) as client:
        yield Placements(settings, client)


def secured_links(folder: Path) -> SecuritySettings:
    """Links with certificates of an authority of their own."""
    authority = Authority(folder)
    node = authority.sign("node")
    tls = LinkTlsSettings(
        cert_file=str(node.cert_file),
        key_file=str(node.key_file),
        ca_file=str(authority.ca_file),
    )
    return SecuritySettings(link_tls=tls)


def write_live_lists(writer: SqliteFeatureWriter) -> None:
    """Items that go together with every item of the catalogue, and some that are trending."""
    writer.write_trending([(f"i{n}", 9.0 - n) for n in range(5)])
    pairs = [(f"i{n}", f"i{(n + step) % N_ITEMS}") for n in range(N_ITEMS) for step in (7, 31)]
    store(writer, FeatureUpdate(0, 1, 9 * MS_PER_DAY, pair_counts=pairs_of(*pairs)))

    def rank(totals: PairTotals) -> dict[str, Ranked]:
        return {
            item_id: sorted((other_id, n / 4) for other_id, n in found.items())
            for item_id, found in totals.pairs.items()
        }

    assert writer.refresh_neighbours(N_ITEMS, 0, rank) == N_ITEMS


def draw_at_random_for_some(settings: Settings) -> None:
    """An experiment of the ordering: its treatment draws from a pool of 30, each as likely."""
    arms = ordering_sides({"exploration": 1.0, "temperature": 1e9, "pool": 30, "diversity": 0.0})
    name = experiment_id("draws", NOW_MS)
    record = ExperimentRecord(
        name, "draws", Layer.ORDERING, arms, 0.8, "ann", NOW_MS, Declaration()
    )
    writer = ExperimentWriter(settings.control_url)
    stored = writer.start(record, NOW_MS)
    writer.set_running(name, stored.revision, "ann", NOW_MS)
    writer.close()


def requests() -> list[dict[str, Any]]:
    """Known and unknown users, short and long slates, exclusions and explanations."""
    plain = [{"user_id": name, "k": 3 + n} for n, name in enumerate(USERS)]
    return [
        *plain,
        {"user_id": "nobody"},
        {"user_id": USERS[5], "k": 200},
        {"user_id": USERS[6], "exclude_item_ids": [f"i{n}" for n in range(40)]},
        {"user_id": USERS[7], "k": 5, "explain": True},
        {"user_id": USERS[8], "k": 40, "explain": True},
        {"user_id": "nobody", "explain": True},
    ]


def over_ray(placements: Placements) -> list[dict[str, Any]]:
    """The answers of the graph on Ray."""
    answers = []
    for n, request in enumerate(requests()):
        reply = placements.remote.post(
            "/v1/recommend", json=request, headers={"x-request-id": f"r{n}"}
        )
        assert reply.status_code == 200, reply.text
        assert reply.headers.get_list("x-request-id") == [f"r{n}"]
        answers.append(reply.json())
    return answers


def fused(placements: Placements) -> list[dict[str, Any]]:
    """The answers of a gateway with every stage inside, asked all at once."""
    import msgspec

    graph = Graph(placements.settings, None, "fused-1", adds_request_id=True)

    async def scenario() -> list[dict[str, Any]]:
        await graph.start()
        replies = await asyncio.gather(
            *(
                call(
                    graph.http,
                    "POST",
                    "/v1/recommend",
                    msgspec.json.encode(request),
                    headers={"x-request-id": f"r{n}"},
                )
                for n, request in enumerate(requests())
            )
        )
        graph.stop()
        return [reply.json() for reply in replies]

    return asyncio.run(scenario())


def numbers(node: Any) -> list[float]:
    """Every number of a document, in order."""
    if isinstance(node, dict):
        return [number for entry in node.values() for number in numbers(entry)]
    if isinstance(node, list):
        return [number for entry in node for number in numbers(entry)]
    return [float(node)] if isinstance(node, int | float) else []


def causes(answer: dict[str, Any]) -> list[tuple[str | None, list[tuple[str, str]]]]:
    """Per explained item the seed that brought it, and the events it is owed to, in order."""
    explained = (item["explanation"] for item in answer["items"] if "explanation" in item)
    return [
        (
            one["seed"] and one["seed"]["item_id"],
            [(cause["item_id"], cause["kind"]) for cause in one["history"]],
        )
        for one in explained
    ]


def test_every_placement_answers_alike(placements: Placements) -> None:
    """Same items in the same order, same scores, propensities and explanations, one by one or in
    a batch.
    """
    sources: set[str] = set()
    explained: list[Any] = []
    for there, here in zip(over_ray(placements), fused(placements), strict=True):
        sources |= {item["source"] for item in there["items"]}
        for name in ("request_id", "bundle_id", "variant", "coverage", "degraded"):
            assert there[name] == here[name]
        assert [item["item_id"] for item in there["items"]] == [
            item["item_id"] for item in here["items"]
        ]
        assert [item["source"] for item in there["items"]] == [
            item["source"] for item in here["items"]
        ]
        assert causes(there) == causes(here)
        explained += causes(there)
        assert numbers(there["items"]) == pytest.approx(numbers(here["items"]), abs=1e-4)
    assert sources >= {"index", "neighbours", "trending"}
    assert any(seed is not None for seed, _ in explained)
    assert sum(len(named) == 3 for _, named in explained) >= 45
    assert sum(not named for _, named in explained) == 20


def test_an_experiments_ordering_reaches_the_stage_in_every_placement(
    placements: Placements,
) -> None:
    """Its policy gives each place its propensity; users of control and of nothing keep theirs."""
    experiments = ControlReader(placements.settings.control_url).view().experiments
    drawn = 0
    for request in (one for one in requests() if one.get("k", 10) <= 20):
        parts = experiments.of_user(request["user_id"])
        reply = placements.remote.post("/v1/recommend", json=request).json()
        propensities = [item["propensity"] for item in reply["items"]]
        uniform = [1 / (30 - place) for place in range(len(propensities))]
        is_drawn = bool(parts) and parts[0][1].name == "treatment"
        assert (propensities == pytest.approx(uniform, rel=1e-4)) == is_drawn
        drawn += is_drawn
    assert 2 <= drawn <= 10


def test_both_say_they_are_ready_with_the_same_plan(placements: Placements) -> None:
    """A gateway is ready when it reached every stage of every planned bundle."""
    graph = Graph(placements.settings, None, "fused-2", adds_request_id=True)

    async def scenario() -> Any:
        await graph.start()
        reply = await call(graph.http, "GET", "/readyz")
        graph.stop()
        return reply.json()

    assert asyncio.run(scenario()) == placements.remote.get("/readyz").json()
