"""Log records become columns; what is no event goes to quarantine and stops nothing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import Forgotten, Outcome, encode_event
from recsys.stores.log.event_log import LogRecord
from tests.lake_events import NOW_MS, an_engagement, some_events
from train_app.lake.archiving.archive_batch import Pending
from train_app.lake.event_columns import as_table, decode_records, quarantine_misfits


def records_of(*values: bytes, partition: int = 1, first: int = 0) -> list[LogRecord]:
    """Records with these values at consecutive offsets."""
    return [LogRecord(partition, first + n, f"id{n}", value) for n, value in enumerate(values)]


def test_records_that_are_no_event_go_to_quarantine_with_the_reason() -> None:
    """Broken JSON, a wrong field, and times out of range."""
    good = encode_event(an_engagement("e0"))
    late = good.replace(str(NOW_MS).encode(), str(NOW_MS * 1000).encode(), 1)
    far = good.replace(str(NOW_MS).encode(), str(2**62).encode())
    records = records_of(good, b"{not json", b'{"type":"engagement"}', late, b"\xff[", far)
    decoded = decode_records(records, NOW_MS)
    assert decoded.rows["engagements"].event_ids() == ["e0"]
    bad = decoded.rows["quarantine"]
    assert (bad.event_ids(), bad.offsets) == (
        ["id1", "id2", "id3", "id4", "id5"], [1, 2, 3, 4, 5],
    )  # fmt: skip
    reasons = [entry.reason for entry in bad.entries]
    assert "event_id" in reasons[1]
    assert "1990" in reasons[2]
    assert "2200" in reasons[4]
    assert [entry.raw for entry in bad.entries][::3] == ["{not json", "\\xff["]


def test_a_clock_that_is_behind_refuses_nothing() -> None:
    """What has no time of arrival is judged by its own time, whatever this machine's clock says."""
    records = records_of(*map(encode_event, some_events(1)))
    for now_ms in (0, NOW_MS, NOW_MS * 2):
        decoded = decode_records(records, now_ms)
        assert [len(decoded.rows[n]) for n in ("impressions", "catalogue", "quarantine")] == [
            1, 1, 0,
        ]  # fmt: skip
    beyond = encode_event(some_events(1)[1]).replace(str(NOW_MS).encode(), b"7258118400001")
    (bad,) = decode_records(records_of(beyond), NOW_MS).rows["quarantine"].entries
    assert "2200" in bad.reason
    assert bad.user_id == "u0"


def test_a_void_record_is_no_bad_one() -> None:
    """The log emptied it: its offset is accounted for, and nothing else."""
    decoded = decode_records(records_of(b'{"type":"void"}', b'{"type":"void","more":1}'), NOW_MS)
    skipped = decoded.rows["skipped"]
    assert [(entry.reason, entry.end_offset) for entry in skipped.entries] == [
        ("void", 1), ("void", 2),
    ]  # fmt: skip
    assert len(decoded.rows["quarantine"]) == 0


def test_a_value_no_column_can_hold_is_quarantined_alone() -> None:
    """A status beyond 32 bits is valid JSON and an integer, but no row."""
    outcome = Outcome(
        event_id="o", request_id="r", user_id="u", timestamp_ms=NOW_MS, bundle_id="b",
        variant="stable", status=2**40, reason="", latency_ms=1.0,
    )  # fmt: skip
    fine = Outcome(
        event_id="p", request_id="r", user_id="u", timestamp_ms=NOW_MS, bundle_id="b",
        variant="stable", status=503, reason="", latency_ms=1.0,
    )  # fmt: skip
    records = records_of(encode_event(outcome), encode_event(fine))
    decoded = decode_records(records, NOW_MS)
    quarantine_misfits(decoded, records, NOW_MS)
    assert decoded.rows["outcomes"].event_ids() == ["p"]
    assert decoded.rows["quarantine"].event_ids() == ["id0"]
    assert as_table("outcomes", decoded.rows["outcomes"])["status"].to_pylist() == [503]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2), max_size=8), st.integers(0, 3))
def test_columns_say_what_the_events_said(kinds: list[int], n_shown: int) -> None:
    """Every field of every event, nested ones too, in the order of the log."""
    events = [some_events(1, first=n)[kind] for n, kind in enumerate(kinds)]
    decoded = decode_records(records_of(*map(encode_event, events)), NOW_MS)
    n_rows = 0
    for name in ("engagements", "impressions", "catalogue"):
        rows = as_table(name, decoded.rows[name]).to_pylist()
        n_rows += len(rows)
        for row in rows:
            event = events[row["log_offset"]]
            for field in event.__struct_fields__:
                if field == "slate":
                    shown = [{n: getattr(s, n) for n in s.__struct_fields__} for s in event.slate]
                    assert row["slate"] == shown
                elif field in row:
                    value = getattr(event, field)
                    said = list(value.items()) if isinstance(value, dict) else value
                    assert row[field] == (list(said) if isinstance(said, tuple) else said)
    assert n_rows == len(events)


def test_what_is_to_be_forgotten_never_becomes_a_row() -> None:
    """Only of that user, only before the request, and only in its partition."""
    ask = encode_event(Forgotten(event_id="f", user_id="a", timestamp_ms=NOW_MS))
    pending = Pending({0: 0, 1: 7})
    a, b = (encode_event(an_engagement(f"by-{user}", user)) for user in "ab")
    broken = b'{"type":"engagement","user_id":"a"}'
    pending.add(0, records_of(a, b, partition=0), 0.0)
    pending.add(1, records_of(a, b, broken, ask, a, first=7), 0.0)
    decoded = pending.decode(NOW_MS)
    rows = decoded.rows["engagements"]
    assert list(zip(rows.partitions, rows.offsets, strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 8),
        (1, 11),
    ]
    skipped = decoded.rows["skipped"]
    assert {o: s.reason for o, s in zip(skipped.offsets, skipped.entries, strict=True)} == {
        7: "forgotten", 9: "forgotten", 10: "forgetting",
    }  # fmt: skip
    assert len(decoded.rows["quarantine"]) == 0


def test_offsets_that_were_gone_are_noted_as_gaps() -> None:
    """At the beginning, between two records, and at the end."""
    pending = Pending({1: 2})
    value = encode_event(an_engagement("e"))
    pending.add(1, records_of(value, first=5), 0.0)
    pending.add(1, records_of(value, first=9), 0.0)
    pending.skip_to(1, 12, 0.0)
    skipped = pending.decode(NOW_MS).rows["skipped"]
    gaps = zip(skipped.offsets, skipped.entries, strict=True)
    assert [(start, gap.end_offset, gap.reason) for start, gap in gaps] == [
        (2, 5, "gap"), (6, 9, "gap"), (10, 12, "gap"),
    ]  # fmt: skip
    assert (pending.begins(), pending.ends(), pending.n_records) == ({1: 2}, {1: 12}, 2)
