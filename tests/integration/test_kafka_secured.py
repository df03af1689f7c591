"""The log in a Kafka that wants a password or a certificate: let in, or refused with the reason."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from brokers.broker_security import BrokerSecurity
from brokers.kafka_cluster import KafkaCluster
from recsys.data_settings import EventSettings, KafkaSettings
from recsys.errors import StoreError
from recsys.events import Engagement, Event, decode_event
from recsys.settings import Settings
from recsys.stores.log.kafka_topic import PASSWORD_VARIABLE
from recsys.stores.log.open_log import open_log, open_writer_log
from recsys.stores.log.topic_retention import longest_kept_ms
from recsys.stores.spool.spooling_log import SpoolingLog
from tests.kafka_server import a_kafka_cluster
from tests.tls_files import Authority, Signed

pytestmark = [
    pytest.mark.integration,
    # See `secured`.
    pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PASSWORD = "open sesame"
TIMEOUT_S = 2.0


class Secured:
    """A broker with TLS, and who may use it."""

    def __init__(self, cluster: KafkaCluster, ca: Authority, client: Signed) -> None:
        self.sasl_servers, self.tls_servers = cluster.sasl_servers, cluster.tls_servers
        self.ca_file = str(ca.ca_file)
        self.client = client

    def with_password(self, topic: str, **changes: str) -> KafkaSettings:
        """A user with a password."""
        fields = {
            "topic": topic,
            "bootstrap_servers": self.sasl_servers,
            "security_protocol": "SASL_SSL",
            "sasl_username": "flywheel",
            "ssl_ca_file": self.ca_file,
            "delivery_timeout_s": TIMEOUT_S,
        }
        return KafkaSettings.model_validate(fields | changes)

    def with_certificate(self, topic: str, **changes: str) -> KafkaSettings:
        """A client with a certificate."""
        fields = {
            "topic": topic,
            "bootstrap_servers": self.tls_servers,
            "security_protocol": "SSL",
            "ssl_ca_file": self.ca_file,
            "ssl_cert_file": str(self.client.cert_file),
            "ssl_key_file": str(self.client.key_file),
            "delivery_timeout_s": TIMEOUT_S,
        }
        return KafkaSettings.model_validate(fields | changes)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Generator[Secured]:
    """One broker for this module."""
    ca = Authority(tmp_path_factory.mktemp("certificates"))
    security = BrokerSecurity(ca.ca_file, ca.sign("server").both_file, {"flywheel": PASSWORD})
    with a_kafka_cluster(security=security) as cluster:
        yield Secured(cluster, ca, ca.sign("client"))
    with warnings.catch_warnings():
        # The client leaves the sockets of refused connections to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)


def settings_of(folder: Path, kafka: KafkaSettings) -> Settings:
    """A place whose log is this one."""
    events = EventSettings(backend="kafka", n_partitions=2, kafka=kafka)
    return Settings(data_dir=folder, events=events)


def clicks(n: int) -> list[Event]:
    """So many engagements of some users."""
    return [
        Engagement(
            event_id=f"e{k}",
            kind="click",
            user_id=f"u{k % 5}",
            item_id="i1",
            timestamp_ms=1_790_000_000_000 + k,
            received_at_ms=1_790_000_000_000 + k,
            origin="api",
        )
        for k in range(n)
    ]


def append_and_read(settings: Settings) -> list[str]:
    """Topic, writer, reader and the topic's settings, through the same door; the ids read."""
    with closing(open_writer_log(settings, "writer")) as writer:
        assert isinstance(writer, SpoolingLog)
        writer.append(clicks(20))
        assert not writer.is_broker_away
        assert writer.n_spooled == 0
    with closing(open_log(settings)) as log:
        ends = log.end_offsets()
        found = [decode_event(r.value) for p in ends for r in log.read(p, 0, 100)]
    kept_ms = longest_kept_ms(settings.events)
    assert kept_ms is None or kept_ms > 0
    return sorted(event.event_id for event in found)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_a_user_with_a_password_appends_and_reads(
    secured: Secured, tmp_path: Path, mechanism: str
) -> None:
    """SASL_SSL: the password is the environment's alone."""
    kafka = secured.with_password(f"sasl-{mechanism}", sasl_mechanism=mechanism)
    found = append_and_read(settings_of(tmp_path, kafka))
    assert found == sorted(event.event_id for event in clicks(20))


def test_a_client_with_a_certificate_appends_and_reads(secured: Secured, tmp_path: Path) -> None:
    """Mutual TLS, without a password."""
    found = append_and_read(settings_of(tmp_path, secured.with_certificate("mutual")))
    assert found == sorted(event.event_id for event in clicks(20))


def refusal(settings: Settings) -> str:
    """What is said where the broker lets nobody in."""
    with pytest.raises(StoreError) as caught:
        open_log(settings)
    return str(caught.value)


def test_with_a_wrong_password_events_wait_and_the_mend_is_said(
    secured: Secured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They reach the topic once the password is right."""
    kafka = secured.with_password("wrong-password")
    settings = settings_of(tmp_path, kafka)
    monkeypatch.setenv(PASSWORD_VARIABLE, "close sesame")
    with closing(open_writer_log(settings, "writer")) as writer:
        assert isinstance(writer, SpoolingLog)
        writer.append(clicks(20))
        assert writer.is_broker_away
        assert writer.spooled_events == 20
    assert f"the password in {PASSWORD_VARIABLE}" in caplog.text
    assert "close sesame" not in caplog.text
    assert "user 'flywheel'" in refusal(settings)
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with closing(open_writer_log(settings, "next")) as writer, closing(open_log(settings)) as log:
        assert isinstance(writer, SpoolingLog)
        for _ in range(1_000):
            if not writer.spooled_events:
                break
            writer.append([])
            log.end_offsets()
        assert sum(log.end_offsets().values()) == 20


def test_a_broker_of_another_authority_is_not_trusted(secured: Secured, tmp_path: Path) -> None:
    """And what was expected of it is said."""
    stranger = Authority(tmp_path, "stranger")
    kafka = secured.with_password("untrusted", ssl_ca_file=str(stranger.ca_file))
    said = refusal(settings_of(tmp_path, kafka))
    assert "certificate is not trusted" in said
    assert "set events.kafka.ssl_ca_file" in said


@pytest.mark.parametrize("kind", ["none", "of another authority"])
def test_a_client_without_a_fitting_certificate_is_told(
    secured: Secured, tmp_path: Path, kind: str
) -> None:
    """The broker says so only behind the handshake."""
    changes = {"ssl_cert_file": "", "ssl_key_file": ""}
    if kind != "none":
        signed = Authority(tmp_path, "stranger").sign("client")
        changes = {"ssl_cert_file": str(signed.cert_file), "ssl_key_file": str(signed.key_file)}
    kafka = secured.with_certificate("uncertified", **changes)
    said = refusal(settings_of(tmp_path, kafka))
    assert "refuses this client's certificate" in said
    assert "set events.kafka.ssl_cert_file" in said


def test_a_missing_file_and_the_wrong_listener_are_told_apart(
    secured: Secured, tmp_path: Path
) -> None:
    """Each with the setting that is at fault."""
    missing = secured.with_certificate("x", ssl_ca_file=str(tmp_path / "nothing.pem"))
    assert "a certificate cannot be read" in refusal(settings_of(tmp_path, missing))
    plain = KafkaSettings(bootstrap_servers=secured.sasl_servers, delivery_timeout_s=TIMEOUT_S)
    assert "it speaks TLS" in refusal(settings_of(tmp_path, plain))
