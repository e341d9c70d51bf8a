"""The URL of Redis in its three forms: one server, Sentinel, Cluster.

    redis://user:password@host:6379/0
    redis+sentinel://user:password@host:26379,host:26379/service?db=0
    redis+cluster://user:password@host:6379,host:6379

`rediss` instead of `redis` uses TLS, for Sentinels too. Options after `?` are those of redis-py,
such as ssl_ca_certs. Sentinels have their own credentials: sentinel_username, sentinel_password.
"""

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SCHEMES = (
    *("redis", "rediss", "unix"),
    *("redis+sentinel", "rediss+sentinel"),
    *("redis+cluster", "rediss+cluster"),
)

_SENTINEL_PORT = 26_379
_REDIS_PORT = 6_379
_MAX_PORT = 65_535

Mode = Literal["single", "sentinel", "cluster"]


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL."""

    mode: Mode
    # The URL of a single server in redis-py's form: credentials and options of all data nodes.
    base: str = field(repr=False)
    # Of the Sentinels or of some nodes of the cluster.
    addresses: tuple[tuple[str, int], ...] = ()
    # The name under which the Sentinels know the master.
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> "RedisUrl":
        """Parse the URL. Raises ValueError, which states the accepted form."""
        scheme, _, rest = url.partition("://")
        if scheme not in SCHEMES:
            raise ValueError(
                "write a URL that starts with redis://, redis+sentinel:// or redis+cluster://, such"
                " as redis://host:6379/0"
            )
        plain, _, kind = scheme.partition("+")
        if not kind:
            _check_port(url)
            return cls("single", url)
        # urlsplit rejects lists of IPv6 addresses.
        authority = re.split("[/?#]", rest, maxsplit=1)[0]
        parts = urlsplit(rest[len(authority) :])
        credentials, at, hosts = authority.rpartition("@")
        options = dict(parse_qsl(parts.query))
        username = options.pop("sentinel_username", None)
        password = options.pop("sentinel_password", None)
        query = f"?{urlencode(options)}" if options else ""
        default = _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT
        addresses = tuple(_address(each, default) for each in hosts.split(","))
        base = f"{plain}://{credentials}{at}redis{query}"
        path = unquote(parts.path.strip("/"))
        if kind == "sentinel":
            if not path or "/" in path:
                raise ValueError(
                    "write the name of the Sentinels' master after the hosts, such as"
                    f" {scheme}://host:26379,host:26379/mymaster?db=0"
                )
            return cls("sentinel", base, addresses, path, username, password)
        if path not in ("", "0") or options.get("db", "0") != "0":
            raise ValueError("a Redis Cluster has only database 0: leave it out")
        return cls("cluster", base, addresses)


def _address(text: str, default_port: int) -> tuple[str, int]:
    """The host and port of one entry in the list of hosts."""
    port = _check_port(f"//{text}")
    host = urlsplit(f"//{text}").hostname
    if not host:
        raise ValueError("write a comma-separated list of hosts, such as host1:6379,host2:6379")
    return host, port or default_port


def _check_port(url: str) -> int | None:
    """Return the URL's port. Raises ValueError, which states the accepted form."""
    try:
        port = urlsplit(url).port
    except ValueError:
        port = 0
    if port is not None and not 0 < port <= _MAX_PORT:
        raise ValueError(
            f"the port must be a number from 1 to {_MAX_PORT}, and characters such as / ? # @ in a"
            " password must be percent-encoded"
        )
    return port
