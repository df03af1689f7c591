"""Tests of the check that tells complete jars from half-written ones."""

import json
from pathlib import Path

import pytest

from brokers import jars
from brokers.broker_properties import BrokerPlace, broker_properties
from brokers.broker_security import BrokerSecurity


def a_jar_directory(directory: Path) -> Path:
    """A directory as a finished fetch leaves it, with small files for jars."""
    (directory / jars.KEY_JAR).write_bytes(b"key")
    (directory / "other.jar").write_bytes(b"other")
    sizes = {jars.KEY_JAR: 3, "other.jar": 5}
    (directory / "jars.json").write_text(json.dumps(sizes))
    return directory


def test_a_fetch_that_was_cut_short_is_seen(tmp_path: Path) -> None:
    """The listing is written last, so without it nothing is trusted."""
    directory = a_jar_directory(tmp_path)
    (directory / "jars.json").unlink()
    assert "incomplete" in str(jars.find_problem(directory))


def test_a_missing_or_short_jar_is_seen(tmp_path: Path) -> None:
    """Every jar of the listing has to be there in its size."""
    directory = a_jar_directory(tmp_path)
    (directory / "other.jar").write_bytes(b"oth")
    assert "another size" in str(jars.find_problem(directory))
    (directory / "other.jar").unlink()
    assert "incomplete" in str(jars.find_problem(directory))


def test_another_kafka_under_the_right_name_is_seen(tmp_path: Path) -> None:
    """The jar that holds the broker is known by its digest."""
    assert "sha256" in str(jars.find_problem(a_jar_directory(tmp_path)))


def test_a_machine_without_java_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests skip with the words that say a real server is what is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "real server" in str(jars.skip_reason())
    assert "java is missing" in str(jars.skip_reason())


def test_three_brokers_keep_three_replicas_of_which_two_acknowledge(tmp_path: Path) -> None:
    """What one broker alone acknowledged would be lost with it."""
    places = [
        BrokerPlace(n, *range(20_000 + n, 20_040 + n, 10), tmp_path / str(n)) for n in (1, 2, 3)
    ]
    lines = broker_properties(places[0], places, {"log.retention.hours": "1"}).splitlines()
    assert "min.insync.replicas=2" in lines
    assert "default.replication.factor=3" in lines
    assert "controller.quorum.voters=1@127.0.0.1:20011,2@127.0.0.1:20012,3@127.0.0.1:20013" in lines
    assert "log.retention.hours=1" in lines


def test_a_secured_broker_listens_beside_the_plain_one(tmp_path: Path) -> None:
    """With a user for both kinds of password, and certificates asked for where there is none."""
    security = BrokerSecurity(tmp_path / "ca.pem", tmp_path / "server.pem", {"ann": "sesame"})
    place = BrokerPlace(1, 20_001, 20_011, 20_021, 20_031, tmp_path)
    lines = broker_properties(place, [place], {}, security).splitlines()
    clients = "PLAINTEXT://127.0.0.1:20001,SASL_SSL://127.0.0.1:20021,SSL://127.0.0.1:20031"
    assert f"advertised.listeners={clients}" in lines
    assert "listener.name.ssl.ssl.client.auth=required" in lines
    assert any('user_ann="sesame"' in line for line in lines)
    assert "SCRAM-SHA-512=[name=ann,password=sesame]" in security.format_arguments()
