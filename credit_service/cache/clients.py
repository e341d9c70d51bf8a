"""Clients of Redis as one server, through Sentinel, or as Cluster, from its URL.

redis-py finds the master through the Sentinels, and the nodes of a cluster. None of these clients
connects before its first command, so Redis may be down when a process starts.
"""

import copy
import threading
from typing import Any

import redis
from redis import cluster, connection, sentinel
from redis.backoff import NoBackoff
from redis.commands import RedisClusterCommands
from redis.retry import Retry

from credit_service.redis_url import RedisUrl

# redis-py annotates few of its functions.
_ClusterNode: Any = cluster.ClusterNode
_SentinelConnectionPool: Any = sentinel.SentinelConnectionPool
_parse_url: Any = connection.parse_url


class _Sentinels(sentinel.Sentinel):
    """A client of Sentinels that threads may share: redis-py's reorders its list without a lock."""

    def discover_master(self, service_name: str) -> Any:
        own = copy.copy(self)
        own.sentinels = list(self.sentinels)
        found = sentinel.Sentinel.discover_master(own, service_name)  # type: ignore[no-untyped-call]
        # The one that answered comes first from now on.
        self.sentinels = own.sentinels
        return found


def make_pool(
    url: RedisUrl,
    *,
    timeout_seconds: float,
    connect_timeout_seconds: float,
    retries: int = 0,
    **options: Any,
) -> connection.ConnectionPool:
    """A pool of connections to the server, or to the master that the Sentinels name.

    Raises:
        ValueError: the URL is that of a cluster, or has an option with an invalid value.
    """
    timeouts = _timeouts(timeout_seconds, connect_timeout_seconds)
    retry = Retry(NoBackoff(), retries)
    if url.mode == "single":
        return connection.ConnectionPool.from_url(url.base, **timeouts, retry=retry, **options)
    if url.mode == "cluster":
        raise ValueError("a cluster has no single pool of connections")
    given, tls = _options(url)
    sentinels = _Sentinels(  # type: ignore[no-untyped-call]
        url.addresses,
        sentinel_kwargs={
            **{name: value for name, value in given.items() if name.startswith("ssl_")},
            **timeouts,
            "ssl": tls,
            "username": url.sentinel_username,
            "password": url.sentinel_password,
            # The other Sentinels are the retries.
            "retry": Retry(NoBackoff(), 0),
        },
    )
    pool: connection.ConnectionPool = _SentinelConnectionPool(
        url.service, sentinels, **{**given, **timeouts, **options}, retry=retry, ssl=tls
    )
    return pool


def make_node(host: str, port: int) -> Any:
    """Return a redis.cluster.ClusterNode."""
    return _ClusterNode(host, port)


def make_cluster(
    url: RedisUrl,
    *,
    timeout_seconds: float,
    connect_timeout_seconds: float,
    retries: int = 0,
    **options: Any,
) -> Any:
    """A redis.RedisCluster, connected.

    Raises:
        redis.ConnectionError: no node answers, or none is part of a complete cluster.
    """
    given, tls = _options(url)
    try:
        return redis.RedisCluster(
            startup_nodes=[make_node(host, port) for host, port in url.addresses],
            retry=Retry(NoBackoff(), retries),
            ssl=tls,
            **{**given, **_timeouts(timeout_seconds, connect_timeout_seconds), **options},
        )
    except redis.exceptions.RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


class LazyCluster(RedisClusterCommands):
    """A client of the cluster that connects at its first command. Its errors are RedisErrors."""

    _event_dispatcher: Any = None  # of redis-py's pub/sub, which is not used

    def __init__(self, url: RedisUrl, **options: Any) -> None:
        """The options are those of `make_cluster`."""
        self._url = url
        self._options = options
        self._lock = threading.Lock()
        self._cluster: Any = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the nodes that it concerns, and return the answer."""
        with self._lock:
            if self._cluster is None:
                self._cluster = make_cluster(self._url, **self._options)
        try:
            return self._cluster.execute_command(*args, **options)
        except redis.exceptions.RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error

    def close(self) -> None:
        """Close every connection."""
        if self._cluster is not None:
            self._cluster.close()


def make_client(url: RedisUrl, **options: Any) -> "redis.Redis | LazyCluster":
    """A client with redis-py's commands, which connects at the first one.

    The options are those of `make_pool` and `make_cluster`.
    """
    if url.mode == "cluster":
        return LazyCluster(url, **options)
    return redis.Redis.from_pool(make_pool(url, **options))


def _timeouts(timeout_seconds: float, connect_timeout_seconds: float) -> dict[str, float]:
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": connect_timeout_seconds,
    }


def _options(url: RedisUrl) -> tuple[dict[str, Any], bool]:
    """The options of connections to data nodes, and whether they use TLS."""
    given = dict(_parse_url(url.base))
    tls = given.pop("connection_class", None) is not None
    for name in ("host", "port") if url.mode == "sentinel" else ("host", "port", "db"):
        given.pop(name, None)
    return given, tls
