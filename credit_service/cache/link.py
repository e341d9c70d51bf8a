"""Commands to Redis over one connection per thread.

redis-py's client checks out a connection for every command, which takes about as long as the
command itself. redis-py still connects, authenticates, packs and parses, finds the master through
the Sentinels, and reads which node of a cluster has which keys.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import redis
from redis.connection import ConnectionPool

from credit_service.cache.clients import make_cluster, make_node, make_pool
from credit_service.redis_url import RedisUrl

Command = tuple[str | bytes | int, ...]

_MAX_CONNECTIONS = 1_024
"""More than a process has threads: each keeps one, and may check out one for a scan."""

_MIN_READ_PAUSE_SECONDS = 0.1
"""Between two attempts to read the nodes of a cluster: threads do not repeat a failed one."""

_MAX_AGE_SECONDS = 10.0
"""After this, a connection through Sentinel or to a cluster's node is replaced: its server may no
longer be the master, without a sign of it on the connection."""


class _Channel:
    """A thread's connection to a master."""

    def __init__(self, connection: Any, max_age_seconds: float) -> None:
        self.connection = connection
        self.master = ""
        self._max_age_seconds = max_age_seconds
        self._ends_at = 0.0

    def prepare(self) -> None:
        """Connect, unless connected to a server that was the master recently."""
        connection = self.connection
        if connection.is_connected:
            if time.monotonic() < self._ends_at:
                return
            if self.master:
                connection.disconnect()
        # Not left to redis-py: a connection that sends reconnects to the address it had, without
        # asking the Sentinels.
        connection.connect()
        self.master = self._read_master()
        self._ends_at = time.monotonic() + self._max_age_seconds

    def _read_master(self) -> str:
        try:
            self.connection.send_command("INFO", "replication", check_health=False)
            answer = self.connection.read_response(disconnect_on_error=True)
        except redis.RedisError:
            self.connection.disconnect()
            raise
        for line in bytes(answer).splitlines():
            name, _, value = line.partition(b":")
            if name == b"master_replid":
                return value.decode("ascii")
        return ""


class RedisLink:
    """Sends commands to one master. Safe to share between threads. Commands may be sent twice."""

    def __init__(self, pool: ConnectionPool, *, max_age_seconds: float = float("inf")) -> None:
        self._pool = pool
        self._max_age_seconds = max_age_seconds
        self._local = threading.local()
        self.epoch: tuple[str, float] | None = None
        """A master, and at most its clock in milliseconds at time.monotonic() 0."""

    def close(self) -> None:
        """Close every connection."""
        self._pool.disconnect()

    @property
    def master(self) -> str:
        """The id of the data that this thread's last command read or wrote; empty before the first.

        Redis draws a new one when a replica is promoted, and when a server starts.
        """
        channel: _Channel | None = getattr(self._local, "channel", None)
        return "" if channel is None else channel.master

    def connect(self) -> str:
        """Connect this thread if it is not connected, and return `master`.

        Raises:
            redis.RedisError: Redis does not answer in time.
        """
        return self._prepared().master

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

    def values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values of the keys. Raises what `execute` raises."""
        found: list[bytes | None] = self.execute([("MGET", *keys)])[0]
        return found

    def remove(self, keys: Sequence[str]) -> None:
        """Remove the keys. Raises what `execute` raises."""
        self.execute([("UNLINK", *keys)])

    def _prepared(self) -> _Channel:
        channel: _Channel | None = getattr(self._local, "channel", None)
        if channel is None:
            connection = self._pool.get_connection()
            channel = self._local.channel = _Channel(connection, self._max_age_seconds)
        channel.prepare()
        return channel

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._prepared().connection
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        rejection: redis.ResponseError | None = None
        for _ in commands:
            try:
                # Connections through Sentinel would otherwise stay open after a timeout, and the
                # next pipeline would get this one's answers.
                answers.append(connection.read_response(disconnect_on_error=True))
            except redis.ResponseError as error:
                # Read the other answers too: otherwise the next pipeline would get them.
                rejection = error
        if rejection is not None:
            raise rejection
        return answers


class Masters(ABC):
    """The masters that hold the keys: one, or those of a cluster."""

    @abstractmethod
    def of(self, key: str) -> RedisLink:
        """Return the link to the master of a key. Raises redis.RedisError if none is known."""

    @abstractmethod
    def scan(self, pattern: str, count: int) -> Iterator[str]:
        """Yield all keys that match the pattern. Raises redis.RedisError."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""

    @abstractmethod
    def has_moved(self, error: Exception) -> bool:
        """Whether the error means that another master has the keys, which `of` returns now."""


def make_masters(url: str, timeout_seconds: float) -> Masters:
    """Return the masters of a Redis, which are connected when they are first used.

    Raises:
        ValueError: the URL has another form.
    """
    parsed = RedisUrl.parse(url)
    return (_Cluster if parsed.mode == "cluster" else _Master)(parsed, timeout_seconds)


class _Master(Masters):
    """One server, or the master that the Sentinels name."""

    def __init__(self, url: RedisUrl, timeout_seconds: float) -> None:
        self._pool = make_pool(
            url,
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=timeout_seconds,
            max_connections=_MAX_CONNECTIONS,
        )
        age = {} if url.mode == "single" else {"max_age_seconds": _MAX_AGE_SECONDS}
        self._link = RedisLink(self._pool, **age)

    def of(self, key: str) -> RedisLink:  # noqa: ARG002 - it has all keys
        return self._link

    def has_moved(self, error: Exception) -> bool:  # noqa: ARG002 - the next connection asks
        return False

    def scan(self, pattern: str, count: int) -> Iterator[str]:
        for key in redis.Redis(connection_pool=self._pool).scan_iter(match=pattern, count=count):
            yield key.decode()

    def close(self) -> None:
        self._pool.disconnect()


class _Node(RedisLink):
    """A master of a cluster, where a command may not name keys of several slots."""

    def __init__(self, pool: ConnectionPool, cluster: "_Cluster") -> None:
        super().__init__(pool, max_age_seconds=_MAX_AGE_SECONDS)
        self.pool = pool
        self._cluster = cluster

    def values(self, keys: Sequence[str]) -> list[bytes | None]:
        return self.execute([("GET", key) for key in keys])

    def remove(self, keys: Sequence[str]) -> None:
        self.execute([("UNLINK", key) for key in keys])

    def _execute(self, commands: Sequence[Command]) -> list[Any]:
        try:
            return super()._execute(commands)
        except redis.exceptions.MovedError:
            raise
        except redis.exceptions.AskError:
            # The cluster is moving a slot, and some keys are already at the other node.
            return [self._execute_where_it_is(command) for command in commands]

    def _execute_where_it_is(self, command: Command) -> Any:
        try:
            return super()._execute([command])[0]
        except redis.exceptions.MovedError:
            raise
        except redis.exceptions.AskError as error:
            other = self._cluster.at(error.host, error.port)
            return other.execute([("ASKING",), command])[1]


class _Cluster(Masters):
    """The masters of a Redis Cluster. redis-py reads which of them has which slots."""

    def __init__(self, url: RedisUrl, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._cluster: Any = None
        self._links: dict[str, _Node] = {}
        self._tried_at = float("-inf")

    def of(self, key: str) -> RedisLink:
        cluster = self._connected()
        try:
            node = cluster.get_node_from_key(key)
        except redis.exceptions.RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        if node is None:
            raise redis.ConnectionError(f"no node of the cluster has {key}")
        return self._link(cluster, node)

    def at(self, host: str, port: int) -> RedisLink:
        """Return the link to the node at this address."""
        cluster = self._connected()
        node = cluster.get_node(host, port)
        if node is None:
            # One that has no slot yet.
            node = make_node(host, port)
            if node.name in self._links:
                return self._links[node.name]
        return self._link(cluster, node)

    def scan(self, pattern: str, count: int) -> Iterator[str]:
        for key in self._connected().scan_iter(match=pattern, count=count):
            yield key.decode()

    def has_moved(self, error: Exception) -> bool:
        if isinstance(error, redis.exceptions.MovedError):
            if not self._read_nodes():
                self._connected().nodes_manager.move_slot(error)
            return True
        if isinstance(
            error, redis.ConnectionError | redis.TimeoutError | redis.exceptions.ClusterDownError
        ):
            # For the next attempt: a replica takes the place of a master after some seconds.
            self._read_nodes()
        return False

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def _read_nodes(self) -> bool:
        """Read the nodes and their slots, unless a thread has just tried to."""
        with self._lock:
            if self._cluster is None or not self._may_try():
                return False
            try:
                self._cluster.nodes_manager.initialize()
            except redis.exceptions.RedisClusterException:
                return False
            return True

    def _connected(self) -> Any:
        if self._cluster is None:
            with self._lock:
                if self._cluster is None:
                    if not self._may_try():
                        raise redis.ConnectionError("no node of the cluster answered just now")
                    self._cluster = make_cluster(
                        self._url,
                        timeout_seconds=self._timeout_seconds,
                        connect_timeout_seconds=self._timeout_seconds,
                        max_connections=_MAX_CONNECTIONS,
                    )
        return self._cluster

    def _may_try(self) -> bool:
        """Whether the last attempt to read the nodes is long enough ago. Notes this one."""
        now = time.monotonic()
        if now < self._tried_at + _MIN_READ_PAUSE_SECONDS:
            return False
        self._tried_at = now
        return True

    def _link(self, cluster: Any, node: Any) -> _Node:
        pool = cluster.get_redis_connection(node).connection_pool
        link = self._links.get(node.name)
        if link is None or link.pool is not pool:
            with self._lock:
                link = self._links.get(node.name)
                if link is None or link.pool is not pool:
                    link = self._links[node.name] = _Node(pool, self)
        return link
