"""`backup` and `restore`, by the programs of PostgreSQL that match the server."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from credit_service.cache.clients import make_client
from credit_service.cli.common import ExitCode, UsageError
from credit_service.cli.operator_database import operator_database
from credit_service.cli.output import note, out, print_failure
from credit_service.processes import embedded, postgresql_tools
from credit_service.redis_url import RedisUrl
from credit_service.settings import Settings
from credit_service.storage import backups, cluster, migrate
from credit_service.storage.backups import Content
from credit_service.storage.database import Database

_DUMP = "credit.dump"
_MANIFEST = "manifest.json"
_TABLE_DATA = re.compile(r"TABLE DATA public (\w+) ")
_REDIS_TIMEOUT_SECONDS = 5.0


def backup(settings: Settings, folder: Path) -> int:
    """Write a backup into a new folder: the dump, and what is in it, counted in the same state."""
    if folder.exists():
        raise UsageError(f"{folder} exists: name a new folder")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(mode=0o700)
    try:
        with _database(settings) as database:
            content, dumped_by = _dump(database, unfinished / _DUMP)
        manifest = {
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "release": version("credit-service"),
            "pg_dump": dumped_by,
            "sha256": _sha256(unfinished / _DUMP),
            **asdict(content),
        }
        _check_listing(unfinished / _DUMP, dumped_by, content)
        (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    size = (folder / _DUMP).stat().st_size / 1e6
    out.print(
        f"Wrote {folder}: {sum(content.rows.values())} rows of {len(content.rows)} tables, schema"
        f" {content.revision}, {size:.1f} MB. It contains personal data.",
        soft_wrap=True,
    )
    return ExitCode.GOOD


def _dump(database: Database, file: Path) -> tuple[Content, int]:
    """Dump the database; return what the dump contains and the version of pg_dump."""
    with backups.snapshot(database) as (connection, snapshot):
        if cluster.find(connection) is not None:
            raise UsageError(
                "the database is a Citus cluster, which pg_dump of the coordinator does not cover:"
                " back up every node with physical backups"
            )
        content = backups.content(connection)
        if not content.revision:
            raise UsageError("the database has no schema of this service")
        server = backups.server_of(connection)
        tool = postgresql_tools.find("pg_dump", server.major)
        note(f"Dumping {server.name} with {tool.path} …")
        file.touch(mode=0o600)
        arguments = ["--format=custom", f"--file={file}", f"--snapshot={snapshot}"]
        tool.run(arguments, server.parameters, server.password)
    return content, tool.major


def restore(
    settings: Settings, folder: Path, *, replace: bool, flush_redis: bool, jobs: int
) -> int:
    """Restore a backup, compare it with what it contained, and say what must be done next."""
    manifest = _manifest(folder)
    content = Content(**{name: manifest[name] for name in Content.__dataclass_fields__})
    dump = folder / _DUMP
    if _sha256(dump) != manifest["sha256"]:
        print_failure([f"{dump} is not the file of its manifest: the backup is damaged"])
        return ExitCode.REFUSED
    _check_listing(dump, manifest["pg_dump"], content)
    with _database(settings) as database:
        with database.autocommit() as connection:
            server = backups.server_of(connection)
            problem = _problem(
                backups.tables(connection), backups.sessions(connection), content, replace=replace
            )
        if problem:
            print_failure([f"nothing was restored into {server.name}: {problem}"])
            return ExitCode.REFUSED
        tool = postgresql_tools.find("pg_restore", max(server.major, manifest["pg_dump"]))
        note(f"Restoring into {server.name} with {tool.path} …")
        arguments = ["--exit-on-error", "--no-owner"]
        arguments += ["--clean", "--if-exists"] if replace else []
        # Jobs have connections of their own, so not one transaction.
        arguments += ["--single-transaction"] if replace or jobs == 1 else [f"--jobs={jobs}"]
        tool.run([*arguments, str(dump)], server.parameters, server.password)
        backups.analyze(database)
        with backups.snapshot(database) as (connection, _):
            found = backups.content(connection)
    if found != content:
        print_failure(
            ["the restored database differs from the backup:", *_differences(found, content)]
        )
        return ExitCode.REFUSED
    out.print(
        f"Restored {sum(found.rows.values())} rows of {len(found.rows)} tables, as counted at the"
        f" backup of {manifest['created_at']}.",
        soft_wrap=True,
    )
    _print_next_steps(settings, found, manifest["created_at"], flush_redis=flush_redis)
    return ExitCode.GOOD


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    if settings.database_pooler != "none":
        raise UsageError(
            "backups need sessions of PostgreSQL itself: set DATABASE_URL to the server behind the"
            " pooler, and CREDIT_DATABASE_POOLER=none"
        )
    if settings.database_url is not None:
        with operator_database(settings) as database:
            yield database
        return
    with (
        embedded.provided(settings, join=True) as provided,
        operator_database(provided) as database,
    ):
        yield database


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UsageError(f"{folder} is not a backup: it has no {_MANIFEST}") from None
    missing = {"created_at", "pg_dump", "sha256", *Content.__dataclass_fields__} - set(manifest)
    if missing:
        raise UsageError(f"{folder / _MANIFEST} lacks {', '.join(sorted(missing))}")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_listing(dump: Path, dumped_by: int, content: Content) -> None:
    """Raise ToolError unless the dump can be read and has the data of every table."""
    listing = postgresql_tools.find("pg_restore", dumped_by).run(["--list", str(dump)])
    missing = set(content.rows) - set(_TABLE_DATA.findall(listing))
    if missing:
        raise postgresql_tools.ToolError(f"{dump} lacks the data of {', '.join(sorted(missing))}")


def _problem(tables: list[str], sessions: list[str], content: Content, *, replace: bool) -> str:
    """Return why the database must not be restored into; '' if it can be."""
    if sessions:
        return f"stop the processes that use it: {', '.join(sessions)}"
    if not tables:
        return ""
    if not replace:
        return (
            f"it has {len(tables)} tables and views; restore into an empty database, or replace the"
            " tables of the backup with --replace"
        )
    others = set(tables) - {*content.rows, "alembic_version"}
    if others:
        return (
            f"the backup does not replace {', '.join(sorted(others))}; restore into an empty"
            " database"
        )
    return ""


def _differences(found: Content, expected: Content) -> Iterator[str]:
    if found.revision != expected.revision:
        yield f"  schema {found.revision} instead of {expected.revision}"
    for table, rows in expected.rows.items():
        if found.rows.get(table) != rows:
            yield f"  {table}: {found.rows.get(table, 0)} rows instead of {rows}"


def _print_next_steps(
    settings: Settings, found: Content, created_at: str, *, flush_redis: bool
) -> None:
    steps = [_redis_step(settings, flush=flush_redis)]
    if found.revision != migrate.head_revision():
        steps.append(f"run `credit-service migrate`: the backup has schema {found.revision}")
    steps += [
        "start servers and workers, and check them with `credit-service doctor`",
        f"restart watchers from event {found.newest_event_id}: later ids are assigned again",
        f"repeat the erasures of personal data since {created_at}",
        "callers whose writes since then are lost must repeat them, with their request ids",
    ]
    out.print("Next:")
    for number, step in enumerate(filter(None, steps), 1):
        out.print(f"  {number}. {step}", soft_wrap=True)


def _redis_step(settings: Settings, *, flush: bool) -> str:
    """Return what is left to do for Redis: its cache entries and task ids are of the time before.

    The embedded Valkey starts empty.
    """
    if settings.redis_url is None:
        return ""
    flush_it = "flush Redis before the start (`redis-cli FLUSHDB`, or `restore --flush-redis`)"
    options = {
        "timeout_seconds": _REDIS_TIMEOUT_SECONDS,
        "connect_timeout_seconds": _REDIS_TIMEOUT_SECONDS,
    }
    try:
        client: Any = make_client(RedisUrl.parse(settings.require_redis_url()), **options)
        with closing(client):
            if flush:
                client.flushdb()
            keys = client.dbsize()
    except (redis.RedisError, ValueError) as error:
        return f"{flush_it}: it cannot be reached now ({error})"
    if keys:
        return f"{flush_it}: it has {keys} keys, and entries written after the backup would win"
    out.print("Redis is empty.")
    return ""
