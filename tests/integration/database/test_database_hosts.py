"""Several hosts in DATABASE_URL: the service uses one that accepts writes, and names them all."""

import os
import socket

import grpc
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from credit_service.postgresql_url import for_sqlalchemy
from credit_service.rpc.server import CreditServer, open_database
from credit_service.settings import Settings
from credit_service.storage import migrate
from credit_service.storage.database import Database, driver_connection, server_of
from tests.faults.proxy import Proxy
from tests.integration.conftest import Edge
from tests.integration.database.test_database_read_only import (
    findings_of_database,
    health,
    registered,
)
from tests.integration.rpc.test_rpc_server import SERVING, eventually
from tests.system.up import credit_service, environment

NOWHERE = "/nowhere"
"""A host that does not answer."""


@pytest.fixture
def hosts(database_url: str) -> str:
    """The database's URL with another host before the right one, and a password."""
    url = make_url(database_url)
    host, port = url.query.get("host") or url.host, url.port or 5432
    password = url.password or "hush-hush"
    return (
        f"postgresql://{url.username}:{password}@/{url.database}"
        f"?host={NOWHERE},{host}&port=5432,{port}"
    )


def test_a_server_uses_the_host_that_answers(
    hosts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(database_url=SecretStr(hosts), redis_url=None, listen="127.0.0.1:0")
    database = open_database(settings)
    server = CreditServer(settings, database)
    server.start()
    try:
        with grpc.insecure_channel(str(server.address)) as channel:
            edge = Edge.of(server, channel)
            eventually(lambda: health(edge) == SERVING)
            assert registered(edge)
    finally:
        server.stop(grace_seconds=1)
        database.dispose()
    logged = capsys.readouterr().err
    assert NOWHERE in logged
    assert "hush-hush" not in logged


@pytest.mark.slow
def test_commands_use_it_and_the_doctor_names_all_hosts(hosts: str) -> None:
    assert credit_service("migrate", env=environment(DATABASE_URL=hosts)).returncode == 0
    assert migrate.drift(for_sqlalchemy(hosts)) == []
    good = findings_of_database(hosts)
    assert good["database"].ok
    assert good["writable"].ok
    assert f"one of {NOWHERE}, " in good["database"].found
    assert "hush-hush" not in str(good)
    bad = findings_of_database(f"postgresql://user:hush-hush@/name?host={NOWHERE},{NOWHERE}")
    assert not bad["database"].ok
    assert f"{NOWHERE}, {NOWHERE}: " in bad["database"].found
    assert "hush-hush" not in str(bad)


def test_a_connection_knows_its_server(hosts: str, database_url: str) -> None:
    for url in (for_sqlalchemy(hosts), database_url):
        database = Database(url, pool_size=1)
        with database.autocommit() as connection:
            assert NOWHERE not in server_of(connection)
        database.dispose()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this option")
@pytest.mark.parametrize(("own", "milliseconds"), [("", 10_000), ("&tcp_user_timeout=4000", 4_000)])
def test_a_server_that_no_longer_answers_is_noticed(
    database_url: str, own: str, milliseconds: int
) -> None:
    url = make_url(database_url)
    folder = url.query.get("host")
    target = [f"{folder}/.s.PGSQL.5432"] if folder else [url.host, url.port or 5432]
    proxy = Proxy(environment())
    proxy.order("server-database", targets=[target])
    port = proxy.ports["server-database"]
    database = Database(
        f"postgresql+psycopg://{url.username}:{url.password or ''}@127.0.0.1:{port}/{url.database}"
        f"?sslmode=disable{own}"
    )
    try:
        with database.autocommit() as connection:
            descriptor = os.dup(driver_connection(connection).fileno())
        with socket.socket(fileno=descriptor) as used:
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds
            assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    finally:
        database.dispose()
        proxy.stop()
