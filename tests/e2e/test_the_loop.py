"""The product's promise, from a CSV to a swapped bundle, through the doors a user has."""

from __future__ import annotations

import csv
import signal
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from cluster.local.environment import temp_dir_of
from recsys.settings_files import load_settings
from recsys.stores.features.feature_store import SqliteFeatureStore
from tests.loop_driver import Loop, item_ids, wait_for
from tests.open_ports import documented_ports, listeners

pytestmark = pytest.mark.e2e
N_USERS, N_ITEMS, N_EVENTS = 120, 300, 40


def write_history(directory: Path) -> tuple[Path, Path]:
    """Users who walk along topics: what they take next is near what they took last."""
    rng = np.random.default_rng(7)
    events, items = directory / "clicks.csv", directory / "catalogue.csv"
    with events.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["visitor", "sku", "at", "action"])
        for user in range(N_USERS):
            item = int(rng.integers(N_ITEMS))
            for step in range(N_EVENTS):
                item = (item + int(rng.integers(1, 6))) % N_ITEMS
                at = 1_750_000_000 + 3600 * step + user
                action = "buy" if rng.random() < 0.2 else "look"
                writer.writerow([f"u{user}", f"i{item}", at, action])
    with items.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "categories"])
        for item in range(N_ITEMS):
            writer.writerow([f"i{item}", f"Thing number {item}", f"shelf {item // 30}"])
    return events, items


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Generator[Loop]:
    """A service that was imported, trained and started from nothing."""
    directory = tmp_path_factory.mktemp("loop")
    loop = Loop(directory / "var", GATE__MIN_RATIO_POPULARITY="0")
    events, items = write_history(directory)
    mapping = "user_id=visitor,item_id=sku,timestamp=at,kind=action"
    report = loop.run_json("import", str(events), "--items", str(items), "--map", mapping)
    assert report["n_new"] == N_USERS * N_EVENTS
    loop.demand_keys()
    loop.demand_signatures(directory / "signing.pem")
    assert loop.run_json("train", "--publish")["bundle_id"]
    try:
        loop.run("up", "--wait")
        yield loop
    finally:
        loop.run("down")
        assert not loop.is_ready()


def test_answers_are_personal_and_leave_out_what_was_seen(loop: Loop) -> None:
    """Two users get different slates, and neither gets an item of their own history."""
    first, second = loop.recommend("u1"), loop.recommend("u2")
    assert item_ids(first) != item_ids(second)
    history = {event["item_id"] for event in loop_history(loop, "u1")}
    assert history
    assert not history & set(item_ids(first))
    assert first["coverage"] == 1.0
    assert first["degraded"] == []


def test_what_listens_is_what_the_security_page_says(loop: Loop) -> None:
    """Every socket has its row, every row its socket; nobody is named a secret, or let in."""
    processes = owned_processes(loop)
    settings = load_settings(environ=loop.environment)
    rows = documented_ports(settings)
    found = listeners({process.pid for process in processes})
    assert [one for one in found if not any(row.covers(one) for row in rows)] == []
    assert [row.what for row in rows if not any(row.covers(one) for one in found)] == []

    token = (temp_dir_of(settings) / "token").read_text()
    key = loop.environment["FLYWHEEL_API_KEY"]
    arguments = " ".join(" ".join(process.cmdline()) for process in processes)
    assert not [secret for secret in (token, key) if secret in arguments]
    files = [path for path in settings.run_dir.iterdir() if path.is_file()]
    assert not [path for path in files if key in path.read_text(errors="replace")]
    for path in (temp_dir_of(settings) / "token", settings.run_dir / "settings.json"):
        assert path.stat().st_mode & 0o077 == 0

    body = {"user_id": "u1"}
    assert httpx.post(f"{loop.url}/v1/recommend", json=body, timeout=10).status_code == 401
    item = httpx.delete(f"{loop.url}/v1/items/i1", headers=loop.headers, timeout=10)
    assert item.status_code == 403


def loop_history(loop: Loop, user_id: str) -> list[dict[str, str]]:
    """What the feature store keeps of a user."""
    store = SqliteFeatureStore(loop.data_dir / "features.sqlite")
    (state,) = store.read_users([user_id])
    return [{"item_id": event.item_id, "kind": event.kind} for event in state.history]


def test_an_engagement_changes_the_next_answer_of_its_user(loop: Loop) -> None:
    """A new user's events lead to another slate within two seconds, without what was taken."""
    before = loop.recommend("newcomer")
    taken = item_ids(before)[0]
    loop.post_events(
        {"kind": "look", "user_id": "newcomer", "item_id": taken},
        {"kind": "buy", "user_id": "newcomer", "item_id": "i7"},
    )
    wait_for(
        lambda: not {taken, "i7"} & set(item_ids(loop.recommend("newcomer"))),
        "the new engagements to show in the answer",
        timeout_s=2,
    )
    assert item_ids(loop.recommend("newcomer")) != item_ids(before)


def test_a_retrained_bundle_is_swapped_in_without_a_failed_request(loop: Loop) -> None:
    """Requests go on while a canary is promoted and undone; every one is answered by one bundle."""
    stable = loop.recommend("u1")["bundle_id"]
    trained = loop.run_json("train", "--publish")["bundle_id"]
    assert trained != stable
    stop, failures, bundles = threading.Event(), list[str](), set[str]()

    def ask() -> None:
        with httpx.Client(base_url=loop.url, headers=loop.headers, timeout=10) as client:
            while not stop.is_set():
                response = client.get("/v1/recommend", params={"user_id": "u3", "k": 5})
                if response.status_code == 200:
                    bundles.add(response.json()["bundle_id"])
                else:
                    failures.append(f"{response.status_code} {response.text}")

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        loop.run("canary", "start", trained, "--plan", "instant")
        assert loop.recommend("u1")["bundle_id"] == trained
        loop.run("canary", "undo")
        assert loop.recommend("u1")["bundle_id"] == stable
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert bundles == {stable, trained}


def test_a_broken_bundle_is_refused_by_name_and_serving_goes_on(loop: Loop) -> None:
    """A bundle with a changed byte never gets traffic; the error names the file."""
    stable = loop.recommend("u1")["bundle_id"]
    others = [b["bundle_id"] for b in loop.run_json("bundle", "list")["bundles"]]
    broken = next(bundle_id for bundle_id in others if bundle_id != stable)
    weights = loop.data_dir / "bundles" / broken / "scorer.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0xFF
    weights.chmod(0o644)
    weights.write_bytes(data)
    assert "scorer.safetensors" in loop.run("--json", "bundle", "verify", broken, expect=1)
    loop.run("canary", "start", broken, "--plan", "instant", expect=1)
    assert loop.recommend("u1")["bundle_id"] == stable


def test_after_kill_9_of_everything_up_serves_again_and_no_event_is_lost(loop: Loop) -> None:
    """Every process of the cluster is killed; `up` mends it with the same bundle and all events."""
    stable = loop.recommend("u1")["bundle_id"]
    acknowledged = loop.post_events({"kind": "look", "user_id": "survivor", "item_id": "i42"})
    for process in owned_processes(loop):
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not loop.is_ready(), "the service to be gone", timeout_s=10)
    loop.run("up", "--wait")
    assert loop.recommend("u1")["bundle_id"] == stable
    wait_for(
        lambda: {"item_id": "i42", "kind": "look"} in loop_history(loop, "survivor"),
        f"acknowledged event {acknowledged} in the history",
        timeout_s=10,
    )


def owned_processes(loop: Loop) -> list[psutil.Process]:
    """The supervisor of this data directory and everything below it."""
    supervisors = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "cluster.local.supervisor" in (line := " ".join(process.info["cmdline"] or ()))
        and str(loop.data_dir) in line
    ]
    assert supervisors
    return [p for s in supervisors for p in [*s.children(recursive=True), s]]
