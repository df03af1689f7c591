"""A shop's own log, as it lies around: imported by naming its columns, trained on, served from."""

from __future__ import annotations

import asyncio
import csv
import json
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.settings import Settings
from recsys.stores.control.membership import FEATURES
from recsys.stores.log.open_log import open_log
from serve_app.gateway import Graph
from tests.asgi_client import call
from tests.bundles_for_tests import all_to, put_in_force
from tests.loop_driver import Loop, item_ids
from train_app.following.worker_replica import open_follower

pytestmark = pytest.mark.e2e

N_USERS, N_ITEMS, N_STEPS = 90, 180, 30
START_S = 1_750_000_000
HOUR_S = 3_600
MAPPING = "user_id=Käufer-Nr.,item_id=№ Ware,timestamp=wann?,kind=Was geschah"
HEADER = ["Käufer-Nr.", "lfd. Nr", "№ Ware", "Was geschah", "wann?"]


@dataclass(frozen=True)
class Act:
    """One line of the shop's log."""

    user_id: str
    item_id: str
    kind: str
    time_s: int


def shop_user(n: int) -> str:
    """String ids with gaps in their numbers, in several scripts."""
    return (f"kunde-ß{7 * n}", f"用户 {3 * n}", f'o\'brien, "{n}"', f"🛒{n}")[n % 4]


def shop_item(n: int) -> str:
    """Items are told apart by letters and case too."""
    return (f"Größe/{n}", f"größe/{n}", f"арт. {n}")[n % 3]


def walk_of(rng: np.random.Generator, user: int) -> list[Act]:
    """A user walks along the shelves; days without a visit lie between some of the steps."""
    acts, item, time_s = [], int(rng.integers(N_ITEMS)), START_S + 60 * user
    for _ in range(N_STEPS):
        item = (item + int(rng.integers(1, 5))) % N_ITEMS
        time_s += HOUR_S * int(rng.choice([1, 2, 60], p=[0.6, 0.3, 0.1])) + int(rng.integers(600))
        kind = rng.choice(["view", "cart", "buy"], p=[0.75, 0.15, 0.1])
        acts.append(Act(shop_user(user), shop_item(item), str(kind), time_s))
    return acts


def written_time(time_s: int, style: int) -> str:
    """The same instant in one of the styles that the shop's systems have used."""
    instant = datetime.fromtimestamp(time_s, UTC)
    styles = (
        instant.isoformat(),
        str(time_s),
        str(1000 * time_s),
        instant.strftime("%Y-%m-%d %H:%M:%S+00"),
    )
    return styles[style]


def write_log(folder: Path) -> tuple[list[Act], list[Act], int]:
    """Three files, unsorted, with lines that come again; the acts, the repeated ones, bad lines."""
    rng = np.random.default_rng(11)
    acts = [act for user in range(N_USERS) for act in walk_of(rng, user)]
    repeated = [acts[int(n)] for n in rng.choice(len(acts), 150, replace=False)]
    lines = [acts[int(n)] for n in rng.permutation(len(acts))] + repeated
    bad = [
        ["", 1, shop_item(1), "view", "1750000000"],
        [shop_user(1), 2, "", "view", "1750000000"],
        [shop_user(1), 3, shop_item(1), "view", "yesterday"],
        [shop_user(1), 4, shop_item(1), "buy", "-62135596800"],
        [shop_user(1), 5, shop_item(1), "buy", "4102444800"],
    ]
    for number, styles in enumerate(((0, 3), (1,), (2, 1, 0))):
        with (folder / f"log{number}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=";")
            writer.writerow(HEADER)
            for n, act in enumerate(lines[number::3]):
                when = written_time(act.time_s, styles[n % len(styles)])
                writer.writerow([act.user_id, n, act.item_id, act.kind, when])
            writer.writerows(bad if number == 1 else [])
    return acts, repeated, len(bad)


@dataclass
class ForeignShop:
    """The service that was made from the shop's log, and what was in that log."""

    settings: Settings
    acts: list[Act]
    repeated: list[Act]
    n_bad: int
    report: dict[str, Any]
    graph: Graph
    runner: asyncio.Runner

    def ask(self, path: str, document: dict[str, Any]) -> Any:
        """The answer of the service's own HTTP application, without a server before it."""
        body = json.dumps(document).encode()
        reply = self.runner.run(call(self.graph.http, "POST", path, body))
        assert reply.status < 300, reply.body
        return reply.json()

    def recommend(self, user_id: str, k: int = 20) -> dict[str, Any]:
        """One answer."""
        answer: dict[str, Any] = self.ask("/v1/recommend", {"user_id": user_id, "k": k})
        return answer

    def follow_the_log(self) -> None:
        """What the worker `features` does until nothing is new."""
        log = open_log(self.settings)
        with closing(log), closing(open_follower(FEATURES, log, self.settings)) as follower:
            while follower.run_once(log.end_offsets()):
                pass


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generator[ForeignShop]:
    """Imported with `--map` alone, trained, published and served, every stage in this process."""
    directory = tmp_path_factory.mktemp("shop")
    folder = directory / "their export"
    folder.mkdir()
    acts, repeated, n_bad = write_log(folder)
    loop = Loop(
        directory / "var",
        GATE__MIN_RATIO_POPULARITY="0",
        TRAIN__TOWERS__EPOCHS="1",
        TRAIN__TOWERS__MAX_MINUTES="0.15",
    )
    report = loop.run_json("import", str(folder), "--map", MAPPING)
    bundle_id = loop.run_json("train", "--publish")["bundle_id"]
    settings = Settings.model_validate(
        {
            "data_dir": loop.data_dir,
            "retrieval": {"n_candidates": 60},
            "serve": {"placement": "fused", "deadline_ms": 20_000, "stage_timeout_ms": 10_000},
        }
    )
    put_in_force(settings, all_to(bundle_id))
    graph = Graph(settings, None, "gateway-1", adds_request_id=True)
    with asyncio.Runner() as runner:
        runner.run(graph.start())
        yield ForeignShop(settings, acts, repeated, n_bad, report, graph, runner)
        graph.stop()


def test_every_act_is_imported_once_and_every_bad_line_is_named(shop: ForeignShop) -> None:
    """Repeats count once whatever their notation; what cannot be read is refused with a reason."""
    report = shop.report
    assert report["n_new"] == len(set(shop.acts)) == len(shop.acts)
    assert report["n_duplicates"] == len(shop.repeated)
    assert sum(report["quarantined"].values()) == shop.n_bad
    assert report["kinds"] == Counter(act.kind for act in shop.acts + shop.repeated)
    assert report["n_users"] == N_USERS
    assert report["n_items"] == len({act.item_id for act in shop.acts})
    assert set(report["time_units"]) == {"s", "ms", "ISO 8601"}
    assert report["first_ms"] == 1000 * min(act.time_s for act in shop.acts)


def test_users_of_the_log_get_answers_of_their_own(shop: ForeignShop) -> None:
    """Ids go through JSON and back unchanged, and nobody is shown what they have had."""
    slates = []
    for user in range(4):
        answer = shop.recommend(shop_user(user), k=10)
        assert answer["degraded"] == []
        shown = item_ids(answer)
        assert len(set(shown)) == 10
        assert set(shown) <= {act.item_id for act in shop.acts}
        assert not set(shown) & {a.item_id for a in shop.acts if a.user_id == shop_user(user)}
        slates.append(shown)
    assert len({tuple(slate) for slate in slates}) == 4


def test_a_purchase_in_the_shops_own_words_changes_the_next_answer(shop: ForeignShop) -> None:
    """The kinds of the log are the kinds of the service."""
    user = shop_user(1)
    taken = item_ids(shop.recommend(user))[0]
    event = {"kind": "buy", "user_id": user, "item_id": taken}
    assert len(shop.ask("/v1/events", {"events": [event]})["event_ids"]) == 1
    shop.follow_the_log()
    assert taken not in item_ids(shop.recommend(user))
