"""`cluster events`: what the newest records look like, and what runs as a child process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.events_commands import record_line, what_happened
from cluster.log_tail import TailedRecord, Wanted, follow_records, newest_records
from recsys.events import (
    CatalogueChange,
    Engagement,
    Event,
    Forgotten,
    Impression,
    Outcome,
    ShownItem,
)
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from recsys.stores.log.log_upkeep import VOID
from tests.fakes_event_log import MemoryEventLog

NOW_MS = 1_790_000_000_000


def an_engagement(n: int, user_id: str = "u1", kind: str = "click") -> Engagement:
    """The n-th act, a second after the one before."""
    return Engagement(
        event_id=f"e{n}",
        kind=kind,
        user_id=user_id,
        item_id=f"i{n}",
        timestamp_ms=NOW_MS + n * 1000,
        received_at_ms=NOW_MS + n * 1000,
        origin="api",
    )


def an_impression(user_id: str = "u1") -> Impression:
    """A slate of one item."""
    shown = ShownItem(
        item_id="i1",
        position=0,
        score=0.5,
        propensity=1.0,
        source="towers",
        retrieval_score=0.5,
        retrieval_rank=0,
    )
    return Impression(
        event_id="m1",
        request_id="r1",
        user_id=user_id,
        timestamp_ms=NOW_MS,
        bundle_id="b1",
        variant="stable",
        slate=(shown,),
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteEventLog]:
    """The log of an own data directory."""
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    yield log
    log.close()


def shown_ids(records: list[TailedRecord]) -> list[str]:
    """The event ids, in the order shown."""
    return [record.event_id for record in records]


def test_the_newest_records_of_all_partitions_come_in_order_of_time() -> None:
    """Oldest first, and no more than asked for."""
    log = MemoryEventLog(4)
    log.append([an_engagement(n, f"u{n % 7}") for n in range(1500)])
    assert shown_ids(newest_records(log, 3, Wanted())) == ["e1497", "e1498", "e1499"]
    assert len(newest_records(log, 5000, Wanted())) == 1500


def test_records_are_chosen_by_kind_and_by_user() -> None:
    """A kind of engagement, or of event; a record that is no event is `bad`."""
    log = MemoryEventLog(2)
    log.append([an_engagement(1), an_engagement(2, "u2", "like"), an_impression("u2")])
    log.append_raw(0, "broken", b'{"type":"nonsense"}')
    log.append_raw(0, "gone", VOID)
    assert shown_ids(newest_records(log, 9, Wanted(kind="like"))) == ["e2"]
    assert shown_ids(newest_records(log, 9, Wanted(kind="engagement"))) == ["e1", "e2"]
    assert shown_ids(newest_records(log, 9, Wanted(user_id="u2"))) == ["m1", "e2"]
    assert shown_ids(newest_records(log, 9, Wanted("impression", "u1"))) == []
    (bad,) = newest_records(log, 9, Wanted(kind="bad"))
    assert bad.event is None
    assert "nonsense" in record_line(bad)
    assert "gone" not in shown_ids(newest_records(log, 9, Wanted()))


def test_following_shows_what_comes_and_nothing_twice() -> None:
    """From the log's present end on."""
    log = MemoryEventLog(2)
    log.append([an_engagement(0)])
    steps = iter(range(3))
    found: list[str] = []

    def pause() -> bool:
        step = next(steps, None)
        if step is not None:
            log.append([an_engagement(step + 1, f"u{step}"), an_impression()])
        return step is not None

    follow_records(log, Wanted(), lambda record: found.append(record.event_id), pause)
    assert sorted(found) == ["e1", "e2", "e3", "m1"]


def test_each_type_of_event_is_told_in_few_words() -> None:
    """What the columns of user and item do not say."""
    outcome = Outcome(
        event_id="o",
        request_id="r",
        user_id="u",
        timestamp_ms=NOW_MS,
        bundle_id="b1",
        variant="stable",
        status=503,
        reason="overloaded",
        latency_ms=2.4,
    )
    put = CatalogueChange(event_id="c", item_id="i", timestamp_ms=NOW_MS, title="A film")
    gone = CatalogueChange(event_id="c", item_id="i", timestamp_ms=NOW_MS, deleted=True)
    word = Forgotten(event_id="f", user_id="u", timestamp_ms=NOW_MS)
    events: list[Event] = [an_engagement(1), an_impression(), outcome, put, gone, word]
    assert [what_happened(event) for event in events] == [
        "api",
        "1 items of b1 (stable)",
        "503 overloaded, 2 ms",
        "A film",
        "deleted",
        "",
    ]


def test_tail_prints_a_table_and_one_document(
    place: SqliteEventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same records in both forms."""
    assert run(["events", "tail"]) == 0
    assert "the log is empty" in capsys.readouterr().out
    assert run(["events", "tail", "--user", "u1"]) == 0
    assert "no such record" in capsys.readouterr().out
    place.append([an_engagement(1), an_engagement(2, "u2")])
    assert run(["events", "tail", "-n", "1"]) == 0
    shown = capsys.readouterr().out
    assert "u2" in shown
    assert "u1" not in shown
    assert run(["--json", "events", "tail"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [record["event"]["item_id"] for record in document["records"]] == ["i1", "i2"]
    assert document["records"][0]["time_ms"] == NOW_MS + 1000


def test_forgetting_asks_first_and_replay_wants_to_know_what(
    place: SqliteEventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal nobody can be asked: nothing is done, exit code 2."""
    place.append([an_engagement(1)])
    assert run(["events", "forget", "u1"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert run(["events", "forget", "", "--yes"]) == 2
    assert "1 to 256 bytes" in capsys.readouterr().err
    assert sum(place.end_offsets().values()) == 1
    assert run(["events", "replay"]) == 2
    assert "--features" in capsys.readouterr().err
