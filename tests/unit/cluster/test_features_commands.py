"""`cluster features get`: what serving knows of a user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.__main__ import run
from cluster.console import as_text
from cluster.features_commands import SHOWN_EVENTS, features_of, page
from recsys.types import HistoryEvent, UserState

NOW_MS = 1_790_000_000_000


def a_state(n_events: int) -> UserState:
    """A user with an act each minute up to now; every tenth is a dismissal."""
    history = tuple(
        HistoryEvent(f"i{n}", "click" if n % 10 else "dismiss", NOW_MS - (n_events - n) * 60_000)
        for n in range(n_events)
    )
    return UserState("u1", history, n_events)


def test_a_user_is_shown_with_windows_and_the_newest_events_first() -> None:
    """The windows are those that serving and training use."""
    document = features_of(a_state(30), {1: 7, 0: 9}, NOW_MS, {"dismiss"})
    assert document["version"] == document["n_events"] == 30
    assert [row["window_s"] for row in document["windows"]] == [300, 3600, 86_400]
    day = document["windows"][2]
    assert (day["positives"], day["negatives"]) == (27, 3)
    assert document["history"][0]["item_id"] == "i29"
    assert len(document["history"]) == 30
    assert list(document["offsets"]) == [0, 1]
    text = as_text(*page(document))
    assert "user u1 | version 30 | 30 events" in text
    assert text.count("click") + text.count("dismiss") == SHOWN_EVENTS
    assert "and 10 older ones" in text
    assert "0: 9, 1: 7" in text


def test_an_unknown_user_is_said_to_be_a_cold_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No error: serving answers unknown users too."""
    monkeypatch.chdir(tmp_path)
    assert run(["features", "get", "nobody"]) == 0
    assert "user nobody is unknown" in capsys.readouterr().out
    assert run(["features", "get", "nobody", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["history"]) == (0, [])
