"""Features in a Redis with TLS and a password: read, written, and refused with the reason."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import pytest

from recsys.errors import StoreError
from recsys.stores.features.open_features import PASSWORD_VARIABLE
from recsys.stores.redis_features.redis_feature_writer import RedisFeatureWriter
from recsys.stores.redis_features.redis_features import RedisFeatureStore
from tests.feature_backends import counting
from tests.lane_ports import free_ports
from tests.redis_server import a_redis_server
from tests.tls_files import Authority

pytestmark = pytest.mark.integration

PASSWORD = "open sesame"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server with TLS that trusts the clients of its own authority only."""
    folder = tmp_path_factory.mktemp("redis")
    ca = Authority(folder)
    server, client = ca.sign("server"), ca.sign("client")
    (port,) = free_ports(1)
    arguments = ["--tls-port", str(port), "--tls-ca-cert-file", str(ca.ca_file)]
    arguments += ["--tls-cert-file", str(server.cert_file), "--tls-key-file", str(server.key_file)]
    with a_redis_server(folder / "data", PASSWORD, arguments):
        yield (
            f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca.ca_file}"
            f"&ssl_certfile={client.cert_file}&ssl_keyfile={client.key_file}"
        )


def test_a_store_with_tls_and_a_password_is_written_and_read(url: str) -> None:
    """The certificates are named in the URL, the password is not."""
    with (
        closing(RedisFeatureWriter(url, PASSWORD)) as writer,
        closing(RedisFeatureStore(url, PASSWORD, 1.0)) as store,
    ):
        assert writer.update(0, None, ["u1"], [], counting(["u1"], 3)) is not None
        assert store.read_users(["u1"])[0].version == 1
        assert store.offsets() == {0: 3}


def test_a_wrong_password_and_a_strange_authority_are_told_apart(url: str) -> None:
    """Each with what to mend; the password is in neither sentence."""
    with pytest.raises(StoreError, match=PASSWORD_VARIABLE) as refused:
        RedisFeatureWriter(url, "close sesame")
    assert "close sesame" not in str(refused.value)
    address = url.partition("?")[0]
    with pytest.raises(StoreError, match="certificate verify failed"):
        RedisFeatureWriter(address, PASSWORD)
