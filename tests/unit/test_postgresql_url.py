"""PostgreSQL URLs with one host and with several, in libpq's formats and in SQLAlchemy's."""

import pytest
from pydantic import SecretStr
from sqlalchemy import create_engine, make_url

from credit_service import postgresql_url
from credit_service.postgresql_url import Host
from credit_service.settings import Settings
from credit_service.settings_messages import without_secrets

TWO = [Host("db1", 5432), Host("db2", 5433)]


def arguments(url: str) -> dict[str, object]:
    """The arguments with which SQLAlchemy connects to the URL of these settings."""
    made = Settings(database_url=SecretStr(url)).require_database_url()
    dialect = create_engine(made).dialect
    _, found = dialect.create_connect_args(make_url(made))
    return {name: value for name, value in found.items() if name != "context"}


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://db1", [Host("db1", 5432)]),
        ("postgres://user:word@db1:6000/name", [Host("db1", 6000)]),
        ("postgresql+psycopg://user@[::1]:6000/name", [Host("::1", 6000)]),
        ("postgresql:///name", [Host("", 5432)]),
        ("postgresql:///name?host=%2Ftmp%2Fsockets", [Host("/tmp/sockets", 5432)]),  # noqa: S108
        ("postgresql://user:w%40rd@db1,db2:5433/name", TWO),
        ("postgresql://user@/name?host=db1:5432&host=db2:5433", TWO),
        ("postgresql://user@/name?host=db1,db2&port=5432,5433", TWO),
        ("postgresql://db1,db2/name?port=6000", [Host("db1", 6000), Host("db2", 6000)]),
        ("postgresql://[::1]:6000,[::2]/name", [Host("::1", 6000), Host("::2", 5432)]),
        ("postgresql://a/name?host=/first,/second", [Host("/first", 5432), Host("/second", 5432)]),
    ],
)
def test_hosts_are_read_from_every_format(url: str, hosts: list[Host]) -> None:
    assert postgresql_url.hosts(url) == hosts
    assert postgresql_url.hosts(postgresql_url.for_sqlalchemy(url)) == hosts


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:word@db1:5432,db2:5433/name?sslmode=require",
        "postgres://user:word@/name?host=db1:5432&host=db2:5433&sslmode=require",
        "postgresql+psycopg://user:word@/name?host=db1,db2&port=5432,5433&sslmode=require",
    ],
)
def test_with_several_hosts_connections_need_one_that_accepts_writes(url: str) -> None:
    expected = {
        "host": "db1,db2",
        "port": "5432,5433",
        "user": "user",
        "password": "word",
        "dbname": "name",
        "sslmode": "require",
        "target_session_attrs": "read-write",
    }
    assert arguments(url) == expected
    chosen = arguments(f"{url}&target_session_attrs=any")
    assert chosen == expected | {"target_session_attrs": "any"}


def test_sockets_and_ipv6_addresses_reach_the_driver() -> None:
    assert arguments("postgresql://u@/n?host=%2Ffirst&host=%2Fsecond")["host"] == "/first,/second"
    found = arguments("postgresql://u@[::1]:6000,[fe80::2]:6001/n")
    assert (found["host"], found["port"]) == ("::1,fe80::2", "6000,6001")


def test_one_host_has_no_requirement() -> None:
    assert "target_session_attrs" not in arguments("postgresql://user@db1:5432/name")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hush@db1:5432,db2:x/name",
        "postgresql://user:hush@db1:5432,db2:70000/name",
        "postgresql://user:hush@db1,db2,db3/name?port=1,2",
        "postgresql://user:hu/sh@db1,db2/name",
        "postgresql://user:hush@db1:5432:5433,db2/name",
    ],
)
def test_a_wrong_host_or_port_is_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as refused:
        Settings(database_url=SecretStr(url))
    assert "hush" not in str(refused.value)


def test_hosts_are_shown_without_credentials() -> None:
    url = "postgresql://user:hush@db1:5432,[::1]:5433/name?password=hush"
    assert postgresql_url.shown_hosts(url) == "db1:5432, [::1]:5433"
    shown = without_secrets(postgresql_url.for_sqlalchemy(url))
    assert "hush" not in shown
    assert "db1" in shown
