"""What is said of a broker that lets nobody in, whatever answers at its address."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from recsys.data_settings import KafkaSettings
from recsys.stores.log.kafka_refusal import why_refused

SETTINGS = KafkaSettings(
    bootstrap_servers=("broker:9092",),
    security_protocol="SASL_PLAINTEXT",
    sasl_mechanism="SCRAM-SHA-512",
    sasl_username="flywheel",
)


class Answering:
    """Somebody at the other end, who has sent all there is to say."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.said = b""

    def connect(self, address: tuple[str, int], timeout_s: float) -> socket.socket:
        here, there = socket.socketpair()
        self.ends += [here, there]
        here.settimeout(timeout_s)
        there.sendall(self.said)
        there.shutdown(socket.SHUT_WR)
        return here


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """Who takes every connection."""
    other = Answering()
    monkeypatch.setattr(socket, "create_connection", other.connect)
    yield other
    for end in other.ends:
        end.close()


def framed(body: bytes) -> bytes:
    """With its length before it, as Kafka does."""
    return struct.pack(">i", len(body)) + body


def an_answer(code: int, *names: str) -> bytes:
    """To a handshake: its number, the error and the mechanisms."""
    listed = b"".join(struct.pack(">h", len(name)) + name.encode() for name in names)
    return framed(struct.pack(">ihi", 1, code, len(names)) + listed)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(framed(b"\0\0\0\1"), id="4 bytes"),
        pytest.param(framed(b"\0" * 9), id="9 bytes"),
        pytest.param(struct.pack(">i", -1) + b"\0" * 40, id="a negative size"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="a web server"),
        pytest.param(struct.pack(">i", 65_537) + b"\0" * 65_537, id="more than an answer"),
        pytest.param(framed(struct.pack(">ihi", 1, 33, 5)), id="names that are missing"),
        pytest.param(framed(struct.pack(">ihih", 1, 33, 9, -2)), id="a negative name"),
        pytest.param(framed(struct.pack(">ihih", 1, 33, 1, 1) + b"\xff"), id="no text"),
    ],
)
def test_what_is_no_answer_of_a_broker_says_nothing(answering: Answering, said: bytes) -> None:
    """And raises nothing, for it is asked while another error is told."""
    answering.said = said
    assert why_refused(SETTINGS, "PASSWORD") is None


def test_the_password_is_one_of_two_reasons_where_the_broker_greets(answering: Answering) -> None:
    """Its advertised listeners may be out of reach as well."""
    answering.said = an_answer(0, "SCRAM-SHA-512")
    said = why_refused(SETTINGS, "PASSWORD")
    assert said is not None
    assert said.startswith("either it does not let user 'flywheel' in with SCRAM-SHA-512, or")
    assert "advertised listeners cannot be reached" in said
    assert "the password in PASSWORD" in said


def test_a_mechanism_that_is_not_offered_is_told_with_those_that_are(answering: Answering) -> None:
    """That the broker has said itself."""
    answering.said = an_answer(33, "PLAIN", "OAUTHBEARER")
    said = why_refused(SETTINGS, "PASSWORD")
    assert said is not None
    assert "takes PLAIN, OAUTHBEARER" in said
