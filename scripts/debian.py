"""Runs tests against PostgreSQL and Redis of the system's packages instead of the embedded ones.

    python scripts/debian.py [ARGUMENT OF PYTEST …]

On Debian and Ubuntu: apt-get install postgresql redis-server. Both start in a temporary
folder, on free ports of 127.0.0.1, and stop at the end; servers that the packages run are not
touched. As root they run as the user `postgres`. Exit status: that of pytest; 2 if a server is
missing or does not start.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_START_SECONDS = 60.0
_MISSING = 2


def _postgresql_folder() -> Path | None:
    """The folder of programs of the system's newest PostgreSQL; None without one."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _user() -> str | None:
    """The user for the servers, because PostgreSQL rejects root; None without root."""
    return "postgres" if os.geteuid() == 0 else None


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, folder: Path) -> Iterator[None]:
    """A server process that runs until the end of the context, with its port open."""
    log = folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            user=_user(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until:
                print(f"{command[0]} did not start:\n{log.read_text()}", file=sys.stderr)
                raise SystemExit(_MISSING)
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def main() -> int:
    """Start both servers, run pytest, stop both."""
    binaries, redis_server = _postgresql_folder(), shutil.which("redis-server")
    if binaries is None or redis_server is None:
        print(
            "PostgreSQL or Redis is missing: apt-get install postgresql redis-server",
            file=sys.stderr,
        )
        return _MISSING
    for program in (binaries / "postgres", redis_server):
        subprocess.run([program, "--version"], check=True)
    folder = Path(tempfile.mkdtemp(prefix="credit-service-debian-"))
    user = _user()
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    try:
        subprocess.run(
            [
                binaries / "initdb",
                *("--pgdata=data", "--username=postgres", "--auth=trust"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            cwd=folder,
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        port, redis_port = _free_port(), _free_port()
        postgresql = [str(binaries / "postgres"), "-D", "data", "-p", str(port), "-F"]
        postgresql += ["-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
        redis = [redis_server, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""]
        with (
            _running(postgresql, port, folder),
            _running(redis, redis_port, folder),
        ):
            environment = os.environ | {
                "TEST_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{port}/postgres",
                "TEST_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            }
            command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
            return subprocess.run(command, env=environment, check=False).returncode
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
