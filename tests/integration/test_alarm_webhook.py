"""Alarms posted to a server of this machine: tried twice, and nobody waits for it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.rollouts.driving import alarms
from cluster.rollouts.driving.alarms import MAX_UNDER_WAY, Alarm, AlarmKind, raise_alarm
from recsys.settings import ClusterSettings, Settings

pytestmark = pytest.mark.integration
ALARM = Alarm(AlarmKind.ABORTED, "r1", "b2", "b1", 1, "evidence", "ctr fell", 5)
DROPPED, SILENT = 0, -1
"""Instead of a status: the connection is closed, or nothing is answered until the end."""


@dataclass
class Hook:
    """A webhook's server: what it answers in turn, and what it was sent."""

    answers: list[int]
    sent: list[dict[str, Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def settings(self) -> Settings:
        """Settings whose alarms go there, by an address with a key."""
        url = f"http://127.0.0.1:{self.port}/hook?key=hidden"
        return Settings(cluster=ClusterSettings(alarm_webhook_url=url))


@contextmanager
def a_hook(*answers: int) -> Generator[Hook]:
    """A server on a free port of this machine."""
    hook = Hook(list(answers))

    class Answering(BaseHTTPRequestHandler):
        """Answers as the hook says; the last answer is for all further posts."""

        def do_POST(self) -> None:
            hook.sent.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            status = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
            if status == SILENT:
                hook.ended.wait(30)
            if status > 0:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            """Tests write no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    hook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.ended.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(alarms, "WEBHOOK_TIMEOUT_S", 0.5)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of posts that were lost."""
    return [record.message for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("answers", "n_posts", "lost"),
    [
        ([204], 1, None),
        ([500, 200], 2, None),
        ([DROPPED, 200], 2, None),
        ([500], 2, "status 500"),
        ([404], 2, "status 404"),
        ([DROPPED], 2, "RemoteProtocolError"),
        ([SILENT], 2, "ReadTimeout"),
    ],
)
def test_a_webhook_is_tried_twice_and_what_was_lost_is_said(
    caplog: pytest.LogCaptureFixture, answers: list[int], n_posts: int, lost: str | None
) -> None:
    """Without the address, which may hold a key."""
    with a_hook(*answers) as hook:
        thread = raise_alarm(hook.settings, ALARM)
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()
    assert len(hook.sent) == n_posts
    assert hook.sent[0]["text"] == "rollout r1 of b2 over b1 is aborted: ctr fell"
    assert (hook.sent[0]["kind"], hook.sent[0]["at_ms"]) == ("aborted", 5)
    said = errors(caplog)
    assert len(said) == (lost is not None)
    assert all(lost is not None and lost in line and "hidden" not in line for line in said)


def test_a_webhook_that_is_not_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A port that nobody listens at."""
    with a_hook(204) as hook:
        settings = hook.settings
    thread = raise_alarm(settings, ALARM)
    assert thread is not None
    thread.join(10)
    assert "ConnectError" in errors(caplog)[0]


def test_a_webhook_that_answers_nothing_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """So many posts wait at most, further ones are only logged, and each returns at once."""
    with a_hook(SILENT) as hook:
        settings = hook.settings
        began_s = time.monotonic()
        threads = [raise_alarm(settings, ALARM) for _ in range(MAX_UNDER_WAY + 2)]
        took_s = time.monotonic() - began_s
        assert threads[MAX_UNDER_WAY:] == [None, None]
        for thread in threads[:MAX_UNDER_WAY]:
            assert thread is not None
            thread.join(10)
    assert took_s < 0.5
    assert sum("posts are under way" in line for line in errors(caplog)) == 2
