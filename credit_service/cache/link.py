"""Commands to Redis over one connection per thread.

redis-py's client checks out a connection for every command, which takes about as long as the
command itself. redis-py still connects, authenticates, packs and parses.
"""

import threading
from collections.abc import Sequence
from typing import Any

import redis

Command = tuple[str | bytes | int, ...]

_MAX_CONNECTIONS = 1_024
"""More than a process has threads: each keeps one, and may check out one through `client`."""


class RedisLink:
    """Sends commands to Redis. Safe to share between threads. Commands may be sent twice."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            max_connections=_MAX_CONNECTIONS,
            retry=None,
            decode_responses=False,
        )
        self._local = threading.local()
        self.client = redis.Redis(connection_pool=self._pool)
        """For commands outside the hot path of calls."""

    def close(self) -> None:
        """Close every connection."""
        self._pool.disconnect()

    def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Send the commands in one pipeline and return the answers.

        Reconnects once if Redis has closed the connection.

        Raises:
            redis.RedisError: Redis does not answer in time, or rejects a command.
        """
        try:
            return self._execute(commands)
        except redis.ConnectionError:
            return self._execute(commands)

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._pool.get_connection()
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        rejection: redis.ResponseError | None = None
        for _ in commands:
            try:
                answers.append(connection.read_response())
            except redis.ResponseError as error:
                # Read the other answers too: otherwise the next pipeline would get them.
                rejection = error
        if rejection is not None:
            raise rejection
        return answers
