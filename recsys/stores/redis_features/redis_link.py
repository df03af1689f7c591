"""A Redis server as the feature store talks to it: bounded waits, many commands per round trip,
optimistic transactions, errors that say what to do. Knows nothing of what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from recsys.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from redis import Redis

Command: TypeAlias = tuple[str | bytes | int, ...]

MIN_CONNECT_S = 0.1
"""A new connection may take this long even where an answer is to take less: it may need TLS."""
MAX_ATTEMPTS = 20
"""Times a transaction is tried while others keep changing what it reads."""
_READ_BYTES = 262_144
_KEYS_PER_WATCH = 100
"""Redis compares each watched key with all before it: a longer command would hold up readers."""


class RedisLink:
    """One server; safe for threads, each call takes a connection of its own from a pool.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        password: empty where the server wants none, or where the URL has it.
        timeout_s: the longest wait for the next bytes of an answer.

    Raises:
        ConfigError: the URL is none, or the client library is not installed.
    """

    def __init__(self, url: str, password: str, timeout_s: float) -> None:
        self.url = without_password(url)
        self._timeout_s = timeout_s
        self._client = _client(url, password, timeout_s)

    @property
    def database(self) -> int:
        """The number of the database on the server."""
        return int(self._client.connection_pool.connection_kwargs.get("db") or 0)

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to some commands, in one round trip; others' commands may come between.

        Raises:
            StoreError: some of them may have been carried out.
        """
        with self._connection() as connection:
            return _exchange(connection, commands)

    def transact(
        self,
        watched: Sequence[str],
        reads: Sequence[Command],
        decide: Callable[[list[Any]], Sequence[Command] | None],
    ) -> list[Any] | None:
        """Read, decide, write: all of it while none of the watched keys changes, or again.

        Args:
            decide: the commands to carry out for the answers to `reads`, or None to change
                nothing; may be called again.

        Returns:
            The answers to the decided commands; None where nothing was to be changed.

        Raises:
            StoreError: nothing was changed, or the answer was lost and everything was.
        """
        watch: list[Command] = [
            ("WATCH", *watched[start : start + _KEYS_PER_WATCH])
            for start in range(0, len(watched), _KEYS_PER_WATCH)
        ]
        for _ in range(MAX_ATTEMPTS):
            with self._connection() as connection:
                found = _exchange(connection, [*watch, *reads])[len(watch) :]
                commands = decide(found)
                if commands is None:
                    _exchange(connection, [("UNWATCH",)])
                    return None
                answers = _exchange(connection, [("MULTI",), *commands, ("EXEC",)])[-1]
            if answers is not None:
                _raise_first_error(answers)
                return list(answers)
        raise StoreError(
            f"feature store {self.url}: {len(watched)} keys changed during each of {MAX_ATTEMPTS}"
            " attempts; run fewer writers at once"
        )

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._client.close()
        self._client.connection_pool.disconnect()

    @contextmanager
    def _connection(self) -> Generator[Any]:
        """A connection that is given back, and closed first where an answer may be outstanding."""
        pool = self._client.connection_pool
        with self._errors():
            connection = pool.get_connection()
            try:
                yield connection
            except BaseException:
                connection.disconnect()  # type: ignore[no-untyped-call]
                raise
            finally:
                pool.release(connection)

    @contextmanager
    def _errors(self) -> Generator[None]:
        from redis import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise StoreError(_sentence(self.url, self._timeout_s, error)) from error


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    from redis import ResponseError

    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except ResponseError as error:
            # The answers behind it have to be taken off the connection all the same.
            answers.append(error)
    _raise_first_error(answers)
    return answers


def _raise_first_error(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def _client(url: str, password: str, timeout_s: float) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError as error:
        raise ConfigError(
            "features.backend is 'redis' and the package redis is not installed;"
            " install flywheel-recsys[redis]"
        ) from error
    secret = {"password": password} if password else {}
    try:
        return Redis.from_url(
            url,
            protocol=2,
            driver_info=None,
            socket_timeout=timeout_s,
            socket_connect_timeout=max(timeout_s, MIN_CONNECT_S),
            socket_read_size=_READ_BYTES,
            # Whoever waits decides about trying again: the stream resumes, a request degrades.
            retry=Retry(NoBackoff(), 0),
            **secret,
        )
    except ValueError as error:
        raise ConfigError(
            f"features.redis_url is {without_password(url)!r} ({error}); expected"
            " redis://host:port/database, or rediss:// for TLS"
        ) from error


def _sentence(url: str, timeout_s: float, error: Exception) -> str:
    from redis import exceptions

    where = f"feature store {url}"
    match error:
        case exceptions.AuthenticationError() | exceptions.NoPermissionError():
            return f"{where} refuses this client ({error}); set FLYWHEEL_REDIS_PASSWORD"
        case exceptions.TimeoutError():
            return f"{where} did not answer within {timeout_s * 1000:.0f} ms; check the server"
        case exceptions.BusyLoadingError():
            return f"{where} is still reading its data from disk; wait for it"
        case exceptions.ReadOnlyError():
            return f"{where} is a replica and takes no writes; name the primary in redis_url"
        case exceptions.OutOfMemoryError():
            return f"{where} has reached its memory limit; raise maxmemory"
        case exceptions.ConnectionError() | OSError():
            return f"{where} cannot be reached ({error}); start the server or mend redis_url"
        case _:
            return f"{where} failed ({type(error).__name__}: {error}); see the server's log"
