"""The hosts in a PostgreSQL URL, and the URL that SQLAlchemy needs.

Several hosts, of which one at a time accepts writes, can be given in libpq's formats
(`postgresql://db1:5432,db2:5433/name`, `?host=db1,db2&port=5432,5433`) and in SQLAlchemy's
(`?host=db1:5432&host=db2:5433`).
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote

_DEFAULT_PORT = 5432
_MAX_PORT = 65_535
_URL = re.compile(r"[\w+]+://(?P<authority>[^/?#]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)
_PLACE = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")


class Host(NamedTuple):
    """One server: its name, address or folder of sockets, and its port."""

    name: str
    port: int

    def __str__(self) -> str:
        # A socket's folder is enough: its port is nearly always the default.
        if self.name.startswith("/"):
            return self.name
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{name or 'localhost'}:{self.port}"


def hosts(url: str) -> list[Host]:
    """Return the hosts of a PostgreSQL URL, in the order in which they are tried; at least one.

    Raises:
        ValueError: a port is not a number from 1 to 65535, or hosts and ports differ in number.
    """
    return _parsed(url)[1]


def shown_hosts(url: str) -> str:
    """Return the hosts for a log line or a message: comma-separated, without credentials.

    Raises ValueError as `hosts`.
    """
    return ", ".join(map(str, hosts(url)))


def for_sqlalchemy(url: str) -> str:
    """Return the URL in SQLAlchemy's format for psycopg 3.

    With several hosts it requires the one that accepts writes (`target_session_attrs=read-write`),
    unless the URL says otherwise.

    Raises ValueError as `hosts`.
    """
    matched, found, parameters = _parsed(url)
    if len(found) == 1:
        _, _, rest = url.partition("://")
        return f"postgresql+psycopg://{rest}"
    kept = [(name, value) for name, value in parameters if name not in ("host", "port")]
    if all(name != "target_session_attrs" for name, _ in kept):
        kept.append(("target_session_attrs", "read-write"))
    several = [
        ("host", ",".join(host.name for host in found)),
        ("port", ",".join(str(host.port) for host in found)),
    ]
    query = "&".join(f"{name}={quote(value, safe=',')}" for name, value in [*several, *kept])
    credentials, at, _ = matched["authority"].rpartition("@")
    return f"postgresql+psycopg://{credentials}{at}{matched['path'] or '/'}?{query}"


def _parsed(url: str) -> tuple[re.Match[str], list[Host], list[tuple[str, str]]]:
    """Return the parts of the URL, its hosts, and the parameters of its query."""
    matched = _URL.fullmatch(url)
    if matched is None:
        raise ValueError("not a URL")
    parameters = parse_qsl(matched["query"] or "", keep_blank_values=True)
    _, _, places = matched["authority"].rpartition("@")
    named = [value for name, value in parameters if name == "host"]
    if named:
        # As in libpq, these take precedence.
        places = ",".join(named)
    ports = [value for name, value in parameters if name == "port"]
    return matched, list(_hosts(places, ",".join(ports))), parameters


def _hosts(places: str, ports: str) -> Iterator[Host]:
    """Yield the hosts of a comma-separated list. `ports` has one for all hosts, or one for each."""
    each_place = places.split(",")
    each_port = ports.split(",")
    if len(each_port) == 1:
        each_port *= len(each_place)
    if len(each_port) != len(each_place):
        raise ValueError(f"it has {len(each_place)} hosts and {len(each_port)} ports")
    for place, port in zip(each_place, each_port, strict=True):
        if place.startswith("/") or _is_ipv6(place):
            # The folder of a socket, or an address in a parameter.
            name, own_port = place, None
        elif (matched := _PLACE.fullmatch(place)) is not None:
            name, own_port = unquote(matched["host"]).strip("[]"), matched["port"]
        else:
            # Without the text, which may be a part of a password.
            raise ValueError("a host is followed by more than a port")
        yield Host(name, _port(own_port or port))


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def _port(text: str) -> int:
    """Return the port; the default for an empty text."""
    if not text:
        return _DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_PORT):
        raise ValueError(f"the port must be a number from 1 to {_MAX_PORT}")
    return int(text)
