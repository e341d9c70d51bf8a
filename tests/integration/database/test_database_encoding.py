"""Every command rejects a database with an encoding other than UTF-8, with a one-line error."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.preloaded import run_module
from tests.system.up import credit_service, environment


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def encoding(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def other_url(servers: tuple[str, str], encoding: str) -> Iterator[str]:
    """An empty database with an encoding."""
    url = make_url(servers[0])
    name = f"credit_service_{encoding.lower()}"
    with psycopg.connect(servers[0], autocommit=True) as connection:
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        connection.execute(drop)
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} ENCODING {} TEMPLATE template0"
                " LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
            ).format(sql.Identifier(name), sql.Literal(encoding))
        )
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(drop)


COMMANDS = {
    "migrate": ("credit_service.cli", "migrate"),
    "serve": ("credit_service.cli", "serve", "--listen", "127.0.0.1:0"),
    "worker": ("credit_service.cli", "worker"),
    "server process": ("credit_service.rpc",),
    "worker process": ("workers",),
    "up": ("credit_service.cli", "up", "--listen", "127.0.0.1:0", "--no-console"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_refused(
    command: str, encoding: str, other_url: str, servers: tuple[str, str]
) -> None:
    done = run_module(
        *COMMANDS[command], env=environment(DATABASE_URL=other_url, REDIS_URL=servers[1])
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert encoding in line
    assert "DATABASE_URL" in line
    assert "--encoding=UTF8" in line


@pytest.mark.slow
def test_the_doctor_says_so(encoding: str, other_url: str) -> None:
    done = credit_service("doctor", env=environment(DATABASE_URL=other_url))
    assert done.returncode == 1
    assert f"has the encoding {encoding}" in done.stdout
    assert "Traceback" not in done.stderr
