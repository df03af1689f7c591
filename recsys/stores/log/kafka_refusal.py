"""Why a broker that can be reached lets nobody in: its certificate, this client's, or the password.

Asked only after the client gave up; the client itself says no more than that it timed out.
"""

from __future__ import annotations

import socket
import ssl
import struct

from recsys.data_settings import KafkaSettings

_STEP_S = 0.7
"""For each step of a greeting; a broker that hangs is not refusing anybody."""
_ALERT_S = 0.2
"""A refused certificate is told of behind the handshake, by a broker that otherwise waits."""
_PLAIN_TO_TLS = "it speaks TLS and events.kafka.security_protocol is PLAINTEXT; set SASL_SSL or SSL"
_SASL_HANDSHAKE, _UNSUPPORTED = 17, 33
_ANSWER_BYTES = range(10, 65_537)
"""Of an answer to a handshake: from its fixed part to more than any list of mechanisms."""


def why_refused(settings: KafkaSettings, password_variable: str) -> str | None:
    """What the first broker that takes a connection has against this client, and what to do.

    None where no broker can be reached, or none refuses.
    """
    for server in settings.bootstrap_servers:
        host, _, port = server.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _STEP_S) as connection:
                return _greet(connection, host, settings, password_variable)
        except (OSError, ValueError, struct.error):
            continue
    return None


def _greet(
    connection: socket.socket, host: str, settings: KafkaSettings, password_variable: str
) -> str | None:
    protocol = settings.security_protocol
    if protocol == "SASL_PLAINTEXT":
        return _sasl_reason(connection, settings, password_variable)
    if protocol == "PLAINTEXT":
        return _PLAIN_TO_TLS if _speaks_tls(connection) else None
    try:
        context = _context(settings)
    except OSError as error:
        return (
            f"a certificate cannot be read ({error}); mend events.kafka.ssl_ca_file,"
            " ssl_cert_file and ssl_key_file"
        )
    try:
        with context.wrap_socket(connection, server_hostname=host.strip("[]")) as secured:
            alert = _alert(secured)
            if alert is not None:
                return (
                    f"it refuses this client's certificate ({alert}); set"
                    " events.kafka.ssl_cert_file and ssl_key_file to one that it accepts"
                )
            if "SASL" in protocol:
                return _sasl_reason(secured, settings, password_variable)
    except ssl.SSLCertVerificationError as error:
        named = settings.ssl_ca_file or "the system's authorities"
        return (
            f"its certificate is not trusted ({error.verify_message}) by {named}; set"
            " events.kafka.ssl_ca_file to the authority that signed it"
        )
    except ssl.SSLError as error:
        return (
            f"it does not speak TLS ({error.reason}) and events.kafka.security_protocol is"
            f" {protocol}; name its TLS listener in events.kafka.bootstrap_servers"
        )
    except TimeoutError:
        pass
    return None


def _context(settings: KafkaSettings) -> ssl.SSLContext:
    """As the client makes it."""
    context = ssl.create_default_context(cafile=settings.ssl_ca_file or None)
    if settings.ssl_cert_file:
        context.load_cert_chain(settings.ssl_cert_file, settings.ssl_key_file or None)
    return context


def _speaks_tls(connection: socket.socket) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with context.wrap_socket(connection):
            return True
    except OSError:
        return False


def _alert(secured: ssl.SSLSocket) -> str | None:
    """What the other side says against the certificate it was shown; None where nothing."""
    secured.settimeout(_ALERT_S)
    try:
        secured.recv(1)
    except TimeoutError:
        # A broker that has nothing against it waits for a request.
        return None
    except ssl.SSLError as error:
        return str(error.reason)
    finally:
        secured.settimeout(_STEP_S)
    return None


def _sasl_reason(
    connection: socket.socket, settings: KafkaSettings, password_variable: str
) -> str | None:
    """The mechanism, or else what a greeting cannot tell apart: user and password, or the rest."""
    mechanism = settings.sasl_mechanism
    answer = _ask_mechanism(connection, mechanism)
    if answer is None:
        return None
    error_code, offered = answer
    if error_code == _UNSUPPORTED:
        return (
            f"it does not take sasl_mechanism {mechanism}, it takes {', '.join(offered)}; set"
            " events.kafka.sasl_mechanism to one of them"
        )
    return (
        f"either it does not let user '{settings.sasl_username}' in with {mechanism}, or its"
        " advertised listeners cannot be reached from here; check events.kafka.sasl_username and"
        f" the password in {password_variable}, then advertised.listeners of the brokers"
    )


def _ask_mechanism(connection: socket.socket, mechanism: str) -> tuple[int, list[str]] | None:
    """Error code and mechanisms of Kafka's SaslHandshake, version 1; None without an answer."""
    name = mechanism.encode()
    request = struct.pack(f">hhihh{len(name)}s", _SASL_HANDSHAKE, 1, 1, -1, len(name), name)
    connection.sendall(struct.pack(">i", len(request)) + request)
    try:
        (size,) = struct.unpack(">i", _received(connection, 4))
        if size not in _ANSWER_BYTES:
            return None
        return _read_answer(_received(connection, size))
    except (OSError, ValueError, struct.error):
        # No broker, or none of this protocol: it has told nothing.
        return None


def _read_answer(answer: bytes) -> tuple[int, list[str]]:
    _, error_code, n_names = struct.unpack_from(">ihi", answer)
    offered, at = [], _ANSWER_BYTES.start
    for _ in range(n_names):
        (length,) = struct.unpack_from(">h", answer, at)
        if length < 0:
            raise ValueError(f"a name of {length} bytes")
        offered.append(answer[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return error_code, offered


def _received(connection: socket.socket, n_bytes: int) -> bytes:
    data = b""
    while len(data) < n_bytes:
        more = connection.recv(n_bytes - len(data))
        if not more:
            raise ConnectionError("the broker closed the connection")
        data += more
    return data
