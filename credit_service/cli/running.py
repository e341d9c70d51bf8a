"""`up`, `serve`, `worker` and `migrate`: running the service's processes."""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.text import Text

from credit_service.cli.common import DEFAULT_ADDRESS, ExitCode, UsageError
from credit_service.cli.output import (
    SERVICE,
    Credentials,
    buf_curl,
    grpcurl,
    note,
    out,
    paste,
    print_json,
)
from credit_service.observability import logs
from credit_service.processes import embedded
from credit_service.processes.address import Address
from credit_service.processes.embedded import EmbeddedStack, StackError, StackUrls
from credit_service.rpc import supervisor
from credit_service.rpc.supervisor import (
    MAX_QUICK_DEATHS,
    QUICK_SECONDS,
    Backoff,
    ServersMisconfiguredError,
    Supervisor,
    environment_of,
)
from credit_service.settings import Settings, warn_of_unknown_variables, without_secrets
from credit_service.storage import condition
from credit_service.storage import migrate as migrations
from credit_service.v1 import credit_service_pb2

_LOOK_SECONDS = 0.2
_WORKER_STOP_SECONDS = 30.0
_CONSOLE_START_SECONDS = 20.0
_MISCONFIGURED = 2
_WORKER_MODULE = "workers"
_CONSOLE_MODULE = "credit_service.console"
# What the console has no business with: it is a client of the service and nothing more.
_NOT_FOR_THE_CONSOLE = ("DATABASE_URL", "REDIS_URL")


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, with those of the command line in place of theirs.

    Raises pydantic's ValidationError, ClockFileError.
    """
    # Through the environment, so that the same validation applies to both.
    for name, value in given.items():
        if value is not None:
            os.environ[f"CREDIT_{name.upper()}"] = str(value)
    settings = Settings()
    settings.clock.moment()
    return settings


def operator_settings(data_dir: Path | None) -> Settings:
    """The settings of a command that uses the database of a service and starts none.

    The database is that of DATABASE_URL, or the one that `credit-service up` runs in the data
    folder. Raises as `settings_with`, UsageError where both are named, NotRunningError.
    """
    settings = settings_with(data_dir=data_dir)
    ensure_one_database(settings, data_dir)
    return embedded.joined(settings)


def ensure_one_database(settings: Settings, data_dir: Path | None) -> None:
    """Raise UsageError where --data-dir names one database and DATABASE_URL another."""
    if data_dir is not None and settings.database_url is not None:
        raise UsageError(
            "--data-dir names one database and DATABASE_URL another: leave one of them out"
        )


def up(settings: Settings, *, ready_file: Path | None, console: bool) -> int:
    """Run everything until SIGINT or SIGTERM, then stop it in order: console, server, worker,
    databases.

    What dies after the start is started again; nothing else ends for it.

    Raises StackError, AddressRefusedError, ServersFailedError.
    """
    logs.configure_logging(settings)
    warn_of_unknown_variables()
    with _stop_signals() as signals, ExitStack() as running:
        try:
            everything = _Everything(settings, running, console=console)
        finally:
            # From here on a signal waits until what was started is stopped.
            signals.interrupting = False
        _say_what_runs(everything)
        if ready_file is not None:
            _write_ready_file(ready_file, everything)
            running.callback(ready_file.unlink, missing_ok=True)
        while not signals.told:
            everything.look()
            time.sleep(_LOOK_SECONDS)
        note("Stopping …")
    note("Stopped.")
    return ExitCode.GOOD


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM. Uses the embedded servers of the data folder as `up` does."""
    logs.configure_logging(settings)
    warn_of_unknown_variables()
    with _stop_signals(), embedded.provided(settings, join=True) as provided:
        condition.refuse_unsuitable(provided.require_database_url(), provided.database_pooler)
        supervisor.run(provided, lambda address: out.print(f"Serving on {address}"))
    return ExitCode.GOOD


def worker(settings: Settings) -> int:
    """Run a worker until SIGINT or SIGTERM; its exit code."""
    warn_of_unknown_variables()
    with (
        _stop_signals() as signals,
        embedded.provided(settings, join=True) as provided,
        _running(_Process(_WORKER_MODULE, environment_of(provided))) as process,
    ):
        signals.interrupting = False
        while process.poll() is None and not signals.told:
            time.sleep(_LOOK_SECONDS)
    # Told to stop is a good end, whatever the signal made of its status.
    return ExitCode.GOOD if signals.told else process.poll() or ExitCode.GOOD


def migrate(settings: Settings, *, as_json: bool) -> int:
    """Bring the database to the newest schema."""
    with embedded.provided(settings, join=True) as provided:
        revision = migrations.upgrade(provided.require_database_url())
    if as_json:
        print_json({"revision": revision})
    else:
        out.print(f"The database has schema revision {revision}.")
    return ExitCode.GOOD


class _Everything:
    """What `up` runs: databases, worker, server and console, in the order of their starts."""

    def __init__(self, settings: Settings, running: ExitStack, *, console: bool) -> None:
        """Start it all; `running` stops it."""
        self.stack: EmbeddedStack | None = None
        self._backoff = Backoff()
        self._next_revival = 0.0
        if settings.database_url is None or settings.redis_url is None:
            note("Starting the embedded servers …")
            self.stack = running.enter_context(
                EmbeddedStack(
                    settings.data_dir,
                    postgresql=settings.database_url is None,
                    valkey=settings.redis_url is None,
                )
            )
            settings = self.stack.urls.applied(settings)
        self.settings = settings
        migrations.upgrade(settings.require_database_url())
        self.worker = _Child("The worker", _WORKER_MODULE, environment_of(settings))
        running.callback(self.worker.stop)
        self.worker.start()
        self._servers = Supervisor(settings)
        running.callback(self._servers.stop)
        self._servers.start()
        self.console_url = ""
        self._console: _Child | None = None
        if console:
            self._start_console(running)

    def _start_console(self, running: ExitStack) -> None:
        """The console, without which the service does all the same."""
        if self.settings.tls_certificate is not None and self.settings.server_ca is None:
            note("The console does not start: CREDIT_SERVER_CA must name the authority to trust.")
            return
        settings = self.settings.model_copy(update={"server_address": self.callable_address})
        environment = environment_of(settings)
        for name in _NOT_FOR_THE_CONSOLE:
            environment.pop(name, None)
        self._console = _Child("The console", _CONSOLE_MODULE, environment)
        running.callback(self._console.stop)
        self._console.start()
        self.console_url = self._console.await_word(_CONSOLE_START_SECONDS)
        if self.console_url:
            # Where it is started again, it is found at the same place.
            environment["CREDIT_CONSOLE_LISTEN"] = urlsplit(self.console_url).netloc
        else:
            self._give_up_console()

    @property
    def callable_address(self) -> str:
        """The server's address as a client on this machine calls it."""
        address = self._servers.address
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not listened on
        return str(Address(anywhere.get(address.host, address.host), address.port))

    def _give_up_console(self) -> None:
        if self._console is not None:
            self._console.stop()
            self._console = None
        note(
            "The console does not run; everything else does. CREDIT_CONSOLE_LISTEN sets another "
            "address for it, --no-console leaves it out."
        )

    @property
    def address(self) -> str:
        return str(self._servers.address)

    def look(self) -> None:
        """Start again what died; what lives goes on meanwhile, however often that fails.

        Raises:
            ServersMisconfiguredError: the worker refused its settings when it first started.
        """
        self.worker.look()
        if self._console is not None:
            try:
                self._console.look()
            except ServersMisconfiguredError as failure:
                note(f"{failure}.")
                self._give_up_console()
        if self.stack is not None and time.monotonic() >= self._next_revival:
            self._revive(self.stack)

    def _revive(self, stack: EmbeddedStack) -> None:
        started = time.monotonic()
        try:
            for name in stack.revive():
                note(f"{name} had died and was started again.")
            self._backoff = Backoff()
        except StackError as failure:
            pause_seconds = self._backoff.pause_seconds(time.monotonic() - started)
            self._next_revival = time.monotonic() + pause_seconds
            note(f"{failure}\nIt is tried again in {pause_seconds:g} s; all else runs on.")


def _say_what_runs(everything: _Everything) -> None:
    settings, address = everything.settings, everything.address
    own = everything.stack.urls if everything.stack is not None else StackUrls(None, None)
    out.print("[bold]credit-service is up.[/bold]")
    for name, where, is_own in (
        ("gRPC", address, False),
        ("PostgreSQL", settings.require_database_url(), own.database_url is not None),
        ("Redis", settings.require_redis_url(), own.redis_url is not None),
    ):
        shown = without_secrets(where.replace("+psycopg", ""))
        out.print(Text(f"  {name:11}{shown}{'  (embedded)' if is_own else ''}"), soft_wrap=True)
    if everything.console_url:
        out.print(Text(f"  {'Console':11}{everything.console_url}"), soft_wrap=True)
    if everything.stack is not None:
        out.print(Text(f"  {'Data':11}{settings.data_dir}"), soft_wrap=True)
    for line in _hints(settings, everything.callable_address):
        out.print(line)


def _hints(settings: Settings, address: str) -> Iterator[str | Text]:
    """Commands to paste that work with this server's TLS and tokens."""
    credentials = credentials_to_paste(settings)
    if credentials.token:
        yield "\nCalls need a token in CREDIT_TOKEN. For keys of `credit-service token key`:"
        yield paste("  export CREDIT_TOKEN=$(credit-service token)")
    if credentials.ca == _CA_VARIABLE:
        yield "\nCREDIT_SERVER_CA must name the PEM file of the authority of the certificate."
    request = credit_service_pb2.ListCustomersRequest(page_size=3)
    method = f"{SERVICE}/ListCustomers"
    yield "\nA call to paste, for grpcurl or for buf:"
    yield paste(f"  {grpcurl(address, method, request, credentials)}")
    yield paste(f"  {buf_curl(address, method, request, credentials)}")
    prefix = ""
    if credentials.certificate:
        prefix = (
            f"CREDIT_CLIENT_CERTIFICATE={credentials.certificate} "
            f"CREDIT_CLIENT_PRIVATE_KEY={credentials.private_key} "
        )
    options = "" if address == DEFAULT_ADDRESS else f" --address {address}"
    options += f" --ca {credentials.ca}" if credentials.ca else ""
    yield "\nFiles to send it:"
    yield paste("  credit-service sample-data samples")
    yield paste(f"  {prefix}credit-service ingest samples/customer_data.xlsx{options}")
    yield paste(f"  {prefix}credit-service ingest samples/loan_data.xlsx{options}")
    yield "\nCtrl-C stops everything."


_CA_VARIABLE = '"$CREDIT_SERVER_CA"'


def credentials_to_paste(settings: Settings) -> Credentials:
    """What a caller of this server must present: files by name, else variables to set."""
    with_tls = settings.tls_certificate is not None
    wants_certificate = settings.tls_client_ca is not None
    return Credentials(
        ca=_file_or_variable(settings.server_ca, _CA_VARIABLE) if with_tls else "",
        certificate=_file_or_variable(settings.client_certificate, '"$CREDIT_CLIENT_CERTIFICATE"')
        if wants_certificate
        else "",
        private_key=_file_or_variable(settings.client_private_key, '"$CREDIT_CLIENT_PRIVATE_KEY"')
        if wants_certificate
        else "",
        token="$CREDIT_TOKEN" if settings.token_keys is not None else "",
    )


def _file_or_variable(path: Path | None, variable: str) -> str:
    return variable if path is None else shlex.quote(str(path.absolute()))


def _write_ready_file(path: Path, everything: _Everything) -> None:
    beside = path.with_name(f".{path.name}.new")
    content = {
        "address": everything.address,
        "pid": os.getpid(),
        "worker_pid": everything.worker.pid,
        "console_url": everything.console_url,
    }
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.replace(path)


class _StoppedError(BaseException):
    """A signal came while things were starting."""


class _Signals:
    """`told` is set by SIGINT and SIGTERM, which also break off a start that is under way.

    A flag, as in `credit_service.processes.termination`, which says why.
    """

    def __init__(self) -> None:
        self.told = False
        self.interrupting = True

    def __call__(self, *_: object) -> None:
        self.told = True
        if self.interrupting:
            self.interrupting = False
            raise _StoppedError


@contextmanager
def _stop_signals() -> Iterator[_Signals]:
    signals = _Signals()
    previous = {each: signal.signal(each, signals) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    except _StoppedError:
        pass
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _running(process: "_Process") -> Iterator["_Process"]:
    """The process, stopped at the end."""
    try:
        yield process
    finally:
        process.stop()


class _Child:
    """A process of `python -m module`, started again when it dies."""

    def __init__(self, name: str, module: str, environment: dict[str, str]) -> None:
        self._name = name
        self._module = module
        self._environment = environment
        self._process: _Process | None = None
        self._backoff = Backoff()
        self._deaths = 0
        self._started = self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        self._started = time.monotonic()
        self._process = _Process(self._module, self._environment)

    def await_word(self, timeout_seconds: float) -> str:
        """The line by which it says that it is ready; empty when it ends or takes too long."""
        return "" if self._process is None else self._process.await_word(timeout_seconds)

    def look(self) -> None:
        """Start it again if it died, after a pause that grows while it keeps dying.

        Raises:
            ServersMisconfiguredError: it refused its settings when it first started.
        """
        if self._process is None:
            if time.monotonic() >= self._next_start:
                try:
                    self.start()
                except OSError as error:
                    # Such as no memory, or too many processes, at this moment.
                    self._note_death(error.strerror or "that it cannot be started")
            return
        status = self._process.poll()
        if status is None:
            return
        self._process.close()
        self._process = None
        is_new = self._deaths == 0 and time.monotonic() - self._started < QUICK_SECONDS
        if status == _MISCONFIGURED and is_new:
            raise ServersMisconfiguredError(f"{self._name} refused its settings")
        self._note_death(f"status {status}")

    def _note_death(self, how: str) -> None:
        self._deaths += 1
        pause_seconds = self._backoff.pause_seconds(time.monotonic() - self._started)
        self._next_start = time.monotonic() + pause_seconds
        note(f"{self._name} ended with {how}; it starts again in {pause_seconds:g} s.")
        deaths = self._backoff.quick_deaths
        if deaths >= MAX_QUICK_DEATHS:
            note(f"{self._name} keeps dying, {deaths} times so far; its log says why.")

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None


class _Process:
    """A running `python -m module`, which also ends when this process does, however it ends."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, f"--control-fd={theirs.fileno()}"],
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which stops the others in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its status once it has ended."""
        return self._process.poll()

    def await_word(self, timeout_seconds: float) -> str:
        """The line that it writes to its control; empty when it ends or takes too long."""
        heard = b""
        deadline = time.monotonic() + timeout_seconds
        while not heard.endswith(b"\n"):
            remaining = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._control], [], [], remaining)
            chunk = self._control.recv(1024) if ready else b""
            if not chunk:
                return ""
            heard += chunk
        return heard.decode().strip()

    def stop(self) -> None:
        """End it in order, and by force when that takes too long."""
        self._process.terminate()
        try:
            self._process.wait(_WORKER_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.close()

    def close(self) -> None:
        """Let go of its control: the sign to end for one that has not."""
        self._control.close()
