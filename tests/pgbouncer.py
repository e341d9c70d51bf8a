"""The real PgBouncer in front of the PostgreSQL of the tests."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import make_url

from tests.tools import tool

_START_SECONDS = 20.0


@contextmanager
def running(server_url: str, **settings: str) -> Iterator[str]:
    """PgBouncer in transaction mode by default. Yields the base URL, `postgresql://user@host:port`,
    to which any database of the server can be appended.

    It shares four sessions of PostgreSQL between all clients.
    """
    url = make_url(server_url)
    host, port = url.query.get("host") or url.host or "127.0.0.1", url.port or 5432
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen_port = free.getsockname()[1]
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(listen_port),
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": "transaction",
        "default_pool_size": "4",
        "max_client_conn": "200",
        **settings,
    }
    password = f" password={url.password}" if url.password else ""
    with tempfile.TemporaryDirectory(prefix="credit-service-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        configuration = Path(folder) / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={host} port={port} user={url.username}{password}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in options.items())
        )
        configuration.chmod(0o644)
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(
                [tool("pgbouncer"), str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=_user(str(host)),
            )
        try:
            _await_port(listen_port, process, Path(folder) / "log")
            yield f"postgresql://{url.username}@127.0.0.1:{listen_port}"
        finally:
            process.terminate()
            process.wait(10)


def _user(host: str) -> int | None:
    """The user to run as, never root: the owner of the socket, or else `nobody`."""
    if os.geteuid() != 0:
        return None
    return Path(host).stat().st_uid if host.startswith("/") else 65534


def _await_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)
