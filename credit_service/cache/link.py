"""Commands to Redis over connections that threads keep.

redis-py's client borrows a connection from its pool for every command, which takes about as long
as the command itself. Connecting, authenticating, packing and parsing stay redis-py's.
"""

import threading
from collections.abc import Sequence
from typing import Any

import redis

Command = tuple[str | bytes | int, ...]

_MOST_CONNECTIONS = 1_024
"""More than a process has threads; each keeps one, and borrows one for what is not done here."""


class RedisLink:
    """Safe to share between threads. For commands that may be sent twice."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            max_connections=_MOST_CONNECTIONS,
            retry=None,
            decode_responses=False,
        )
        self._kept = threading.local()
        self.client = redis.Redis(connection_pool=self._pool)
        """For all that is not on the path of every call."""

    def close(self) -> None:
        """Close every connection."""
        self._pool.disconnect()

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to these commands, sent at once.

        A connection that Redis closed meanwhile is opened again, once.

        Raises:
            redis.RedisError: Redis does not answer in time, or refuses a command.
        """
        try:
            return self._ask(commands)
        except redis.ConnectionError:
            return self._ask(commands)

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        connection = getattr(self._kept, "connection", None)
        if connection is None:
            connection = self._kept.connection = self._pool.get_connection()
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        refusal: redis.ResponseError | None = None
        for _ in commands:
            try:
                answers.append(connection.read_response())
            except redis.ResponseError as error:
                # The other answers are read all the same, or the next one would get them.
                refusal = error
        if refusal is not None:
            raise refusal
        return answers
