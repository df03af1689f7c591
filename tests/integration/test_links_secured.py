"""Links over mutual TLS: who has a certificate of the authority links, and nobody else does."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from recsys.link_certificates import LinkCertificates
from recsys.security_settings import LinkTlsSettings
from serve_app.links import link_server, secured_listener
from serve_app.links.frames import Kind, pack_frame
from serve_app.links.handshake import LinkAddress
from serve_app.links.link import Link, LinkLost, open_link
from tests.linked_fleet import HOST, Fleet, Go, Replica, a_fleet, ask, runs_on, until, who
from tests.tls_files import Authority, Signed

pytestmark = pytest.mark.integration


@pytest.fixture(params=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Go:
    """Runs a scenario on the loop of either kind of replica, but not for ever."""
    return runs_on(request.param)


@dataclass(frozen=True)
class Node:
    """A node of the cluster: an authority and what it signed for the node."""

    authority: Authority
    signed: Signed

    @property
    def tls(self) -> LinkTlsSettings:
        """Its settings."""
        return LinkTlsSettings(
            cert_file=str(self.signed.cert_file),
            key_file=str(self.signed.key_file),
            ca_file=str(self.authority.ca_file),
        )

    def certificates(self) -> LinkCertificates:
        """As a replica on it reads them."""
        return LinkCertificates(self.tls)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One whose certificates are good."""
    authority = Authority(tmp_path)
    return Node(authority, authority.sign("node"))


async def link_to(address: LinkAddress, tls: ssl.SSLContext | None) -> Link:
    """A link of a gateway that secures it so."""
    return await open_link(address, lambda: None, lambda: None, tls)


async def goes_on(fleet: Fleet) -> None:
    """The links at hand are the ones that were, and answer."""
    before = dict(fleet.pool._links)
    assert who(await ask(fleet.pool)) == "r0"
    assert fleet.pool._links == before
    assert all(link.is_open for link in before.values())


def test_a_stage_answers_over_tls(go: Go, node: Node) -> None:
    """Small and large arrays, many calls at once, and signs of life."""

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            answers = await asyncio.gather(*(ask(fleet.pool, x) for x in range(200)))
            assert [a["doubled"].item() for a in answers if a is not None] == [
                2 * x for x in range(200)
            ]
            large = np.arange(300_000)
            answer = await fleet.pool.ask("double", "b1", {"x": large}, 20.0)
            assert answer is not None
            assert np.array_equal(answer["doubled"], 2 * large)
            (link,) = fleet.pool._links.values()
            link.beat(1)
            await until(lambda: link._n_silent == 0)
            assert fleet.replicas[0].refused == []
            assert link._transport is not None
            assert link._transport.get_extra_info("cipher")[1] == "TLSv1.3"

    go(scenario)


def test_what_travels_cannot_be_read_on_the_way(go: Go, node: Node) -> None:
    """Somebody between the two ends sees neither frames nor arrays."""
    secret = np.frombuffer(b"what nobody else is to read, 8x8" * 8, np.int64)

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            seen = bytearray()
            address = fleet.listed[0]
            between = await asyncio.start_server(
                lambda reader, writer: pass_on(reader, writer, address, seen), HOST, 0
            )
            port = int(between.sockets[0].getsockname()[1])
            link = await link_to(replace(address, port=port), node.certificates().contexts().client)
            attempt = link.send("double", "b1", {"x": secret}, 10.0)
            answer = await attempt.answered
            attempt.end()
            assert answer is not None
            assert answer["doubled"].tolist() == (2 * secret).tolist()
            assert len(seen) > 2 * secret.nbytes
            assert b"FWLK" not in seen
            assert secret.tobytes()[:32] not in seen
            link.close()
            between.close()

    go(scenario)


async def pass_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    address: LinkAddress,
    seen: bytearray,
) -> None:
    """Stand between a gateway and a replica, and remember what is said."""
    onward, back = await asyncio.open_connection(address.host, address.port)

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                seen.extend(data)
                sink.write(data)
        except ConnectionError:
            pass  # how a link that is closed ends
        finally:
            sink.close()

    await asyncio.gather(copy(reader, back), copy(onward, writer))


@pytest.mark.parametrize("peer", ["no certificate", "another authority", "expired", "plain"])
def test_a_gateway_without_a_good_certificate_is_refused_and_counted(
    go: Go, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str
) -> None:
    """Though it knows the token; the live links go on."""
    monkeypatch.setattr("serve_app.links.link.CONNECT_S", 0.5)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(node.authority.ca_file)
    if peer == "another authority":
        signed = Authority(tmp_path, "stranger").sign("theirs")
        context.load_cert_chain(signed.cert_file, signed.key_file)
    elif peer == "expired":
        signed = node.authority.sign("old", days=-1.0)
        context.load_cert_chain(signed.cert_file, signed.key_file)

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            with pytest.raises(LinkLost):
                await link_to(fleet.listed[0], None if peer == "plain" else context)
            await until(lambda: fleet.replicas[0].refused == ["tls"])
            await goes_on(fleet)

    go(scenario)


def test_plain_text_on_a_port_with_tls_is_refused_and_counted(go: Go, node: Node) -> None:
    """A greeting of a link, a request of HTTP, and garbage are answered with nothing of ours."""
    said = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"".join(pack_frame(Kind.HELLO, description=bytes(48))),
        bytes(range(256)) * 64,
    ]

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            replica = fleet.replicas[0]
            for words in said:
                reader, writer = await asyncio.open_connection(HOST, fleet.listed[0].port)
                writer.write(words)
                try:
                    heard = await reader.read()
                except ConnectionError:
                    heard = b""
                assert b"FWLK" not in heard
                writer.close()
            await until(lambda: replica.refused == ["tls"] * len(said))
            assert replica.n_calls == 0
            await goes_on(fleet)

    go(scenario)


def test_the_token_still_counts_where_certificates_are_good(go: Go, node: Node) -> None:
    """Another node's gateway with another token, and an impostor that was given a certificate."""

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            address, client = fleet.listed[0], node.certificates().contexts().client
            with pytest.raises(LinkLost):
                await link_to(replace(address, token=b"guess"), client)
            await until(lambda: fleet.replicas[0].refused == ["greeting"])
            impostor = Replica("r0", node.certificates())
            await impostor.start()
            with pytest.raises(LinkLost):
                await link_to(replace(impostor.address, token=address.token), client)
            await impostor.server.stop(0.0)
            await goes_on(fleet)

    go(scenario)


def test_a_gateway_refuses_a_replica_without_a_good_certificate(
    go: Go, node: Node, tmp_path: Path
) -> None:
    """One of another authority, and one that listens in plain text, though both know the token."""
    other = Authority(tmp_path, "stranger")
    theirs = Node(other, other.sign("theirs"))

    async def scenario() -> None:
        client = node.certificates().contexts().client
        for certificates in (theirs.certificates(), None):
            replica = Replica("r0", certificates)
            await replica.start()
            with pytest.raises(LinkLost, match="of the same authority at both ends"):
                await link_to(replica.address, client)
            assert replica.n_calls == 0
            await replica.server.stop(0.0)

    go(scenario)


def test_a_crowd_that_shows_no_certificate_does_not_keep_a_gateway_out(
    go: Go, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is silent is let go in time, and more than a few are not waited for."""
    monkeypatch.setattr(secured_listener, "MAX_HANDSHAKES", 4)
    monkeypatch.setattr(secured_listener, "HANDSHAKE_S", 0.3)

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            replica, port = fleet.replicas[0], fleet.listed[0].port
            silent = [socket.create_connection((HOST, port)) for _ in range(6)]
            await until(lambda: replica.refused == ["crowd"] * 2)
            await goes_on(fleet)
            await until(lambda: sorted(replica.refused) == ["crowd"] * 2 + ["tls"] * 4)
            link = await link_to(fleet.listed[0], node.certificates().contexts().client)
            assert link.is_open
            link.close()
            for connection in silent:
                connection.close()

    go(scenario)


def test_a_peer_that_shows_a_certificate_and_then_nothing_is_let_go(
    go: Go, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has proved too little to be waited for."""
    monkeypatch.setattr(link_server, "GREETING_S", 0.1)

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            client = node.certificates().contexts().client
            _, writer = await asyncio.open_connection(HOST, fleet.listed[0].port, ssl=client)
            await until(lambda: bool(fleet.replicas[0].refused))
            assert fleet.replicas[0].refused == ["greeting"]
            writer.close()
            await goes_on(fleet)

    go(scenario)


def test_a_renewed_authority_is_taken_without_a_restart(go: Go, node: Node, tmp_path: Path) -> None:
    """New links are made with the new certificates; those that were made go on."""
    other = Authority(tmp_path, "next")
    new = Node(other, other.sign("renewed"))

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            for to, source in zip(
                node.tls.model_dump().values(), new.tls.model_dump().values(), strict=True
            ):
                shutil.copy(source, to)
            link = await link_to(fleet.listed[0], new.certificates().contexts().client)
            assert link.is_open
            link.close()
            await goes_on(fleet)

    go(scenario)


def test_a_replica_that_stops_lets_strangers_go_and_takes_no_more(go: Go, node: Node) -> None:
    """The port is free again, and nobody is left half way."""

    async def scenario() -> None:
        async with a_fleet(1, node.certificates()) as fleet:
            reader, writer = await asyncio.open_connection(HOST, fleet.listed[0].port)
            await asyncio.sleep(0)
            await fleet.replicas[0].server.stop(0.0)
            assert await reader.read() == b""
            writer.close()
            with pytest.raises(ConnectionError):
                await asyncio.open_connection(HOST, fleet.listed[0].port)

    go(scenario)
