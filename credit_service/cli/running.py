"""The commands `up`, `serve`, `worker` and `migrate`, which run the service's processes."""

import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.text import Text

from credit_service.cli.common import ExitCode, UsageError
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
from credit_service.processes.embedded import EmbeddedStack, StackUrls
from credit_service.processes.stack_errors import StackError
from credit_service.processes.supervisor import (
    MAX_QUICK_DEATHS,
    QUICK_SECONDS,
    Backoff,
    Child,
    ChildMisconfiguredError,
    environment_of,
)
from credit_service.rpc import server_group
from credit_service.rpc.server_group import ServerGroup
from credit_service.settings import Settings
from credit_service.settings_messages import warn_of_unknown_variables, without_secrets
from credit_service.storage import migrate as migrations
from credit_service.storage import readiness
from credit_service.v1 import credit_service_pb2

_POLL_SECONDS = 0.2
_STOP_TIMEOUT_SECONDS = 30.0
_CONSOLE_START_TIMEOUT_SECONDS = 20.0
_WORKER_MODULE = "workers"
_CONSOLE_MODULE = "credit_service.console"
# The console is a client of the service: it reaches no database.
_NOT_FOR_THE_CONSOLE = ("DATABASE_URL", "REDIS_URL")


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, overridden by those of the command line.

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
    """The settings of a command that uses a database and starts none.

    The database is that of DATABASE_URL, or the one that `credit-service up` runs in the data
    folder. Raises as `settings_with`, UsageError if both are named, NotRunningError.
    """
    settings = settings_with(data_dir=data_dir)
    ensure_one_database(settings, data_dir)
    return embedded.joined(settings)


def ensure_one_database(settings: Settings, data_dir: Path | None) -> None:
    """Raise UsageError if --data-dir names one database and DATABASE_URL another."""
    if data_dir is not None and settings.database_url is not None:
        raise UsageError(
            "--data-dir names one database and DATABASE_URL another: leave out one of them"
        )


def up(
    settings: Settings,
    *,
    ready_file: Path | None,
    console: bool,
    on_ready: Callable[[str], None] | None = None,
) -> int:
    """Run everything until SIGINT or SIGTERM, then stop it in order: console, server, worker,
    databases. `on_ready` gets the server's address once everything runs.

    A part that dies after the start is restarted; the others keep running.

    Raises StackError, AddressRefusedError, ChildFailedError.
    """
    logs.configure_logging(settings)
    warn_of_unknown_variables()
    with _stop_signals() as signals, ExitStack() as running:
        try:
            stack = LocalStack(settings, running, console=console)
        finally:
            # From here on a signal does not interrupt: the stop must be complete.
            signals.interrupts = False
        _print_addresses(stack)
        if ready_file is not None:
            _write_ready_file(ready_file, stack)
            running.callback(ready_file.unlink, missing_ok=True)
        if on_ready is not None:
            on_ready(stack.callable_address)
        while not signals.requested:
            stack.poll()
            time.sleep(_POLL_SECONDS)
        note("Stopping …")
    note("Stopped.")
    return ExitCode.GOOD


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM. Uses the embedded servers of the data folder as `up` does."""
    logs.configure_logging(settings)
    warn_of_unknown_variables()
    with _stop_signals(), embedded.provided(settings, join=True) as provided:
        readiness.require_suitable(provided.require_database_url(), provided.database_pooler)
        server_group.run(provided, lambda address: out.print(f"Serving on {address}"))
    return ExitCode.GOOD


def worker(settings: Settings) -> int:
    """Run a worker until SIGINT or SIGTERM and return its exit code, 0 after a signal."""
    warn_of_unknown_variables()
    with (
        _stop_signals() as signals,
        embedded.provided(settings, join=True) as provided,
        ExitStack() as running,
    ):
        child = Child(_WORKER_MODULE, environment_of(provided))
        running.callback(child.stop, _STOP_TIMEOUT_SECONDS)
        child.start()
        signals.interrupts = False
        while (status := child.exit_status()) is None and not signals.requested:
            time.sleep(_POLL_SECONDS)
    return ExitCode.GOOD if signals.requested else status or ExitCode.GOOD


def console(settings: Settings) -> int:
    """Serve the console until SIGTERM or SIGINT. Raises ConsoleAddressError."""
    from credit_service.console import app  # noqa: PLC0415 - only this command runs it here

    logs.configure_logging(settings, component="console")
    warn_of_unknown_variables()
    try:
        app.run(settings, announce=lambda url: out.print(f"Console on {url}", soft_wrap=True))
    except app.ConsoleAddressError as error:
        raise UsageError(str(error)) from None
    return ExitCode.GOOD


def migrate(settings: Settings, *, distributed: bool, as_json: bool) -> int:
    """Migrate the database to the newest schema; with `distributed`, place its tables on the nodes
    of its cluster."""
    with embedded.provided(settings, join=True) as provided:
        url = provided.require_database_url()
        revision = migrations.upgrade(url)
        placed = migrations.distribute(url) if distributed else None
    if as_json:
        document: dict[str, object] = {"revision": revision}
        if placed is not None:
            document["distributed"] = placed
        print_json(document)
        return ExitCode.GOOD
    out.print(f"The database has schema revision {revision}.")
    if placed:
        out.print(f"These tables are now distributed: {', '.join(placed)}.")
    elif placed is not None:
        out.print("All tables were already distributed.")
    return ExitCode.GOOD


class LocalStack:
    """The processes of `up`: databases, worker, server and console, in the order of their starts.

    Embedded databases run only if the settings name no others.
    """

    def __init__(self, settings: Settings, running: ExitStack, *, console: bool) -> None:
        """Start all of them; `running` stops them."""
        self.databases: EmbeddedStack | None = None
        self._databases_backoff = Backoff()
        if settings.database_url is None or settings.redis_url is None:
            note("Starting the embedded servers …")
            self.databases = running.enter_context(
                EmbeddedStack(
                    settings.data_dir,
                    postgresql=settings.database_url is None,
                    valkey=settings.redis_url is None,
                )
            )
            settings = self.databases.urls.applied(settings)
        self.settings = settings
        migrations.upgrade(settings.require_database_url())
        self.worker = Child(_WORKER_MODULE, environment_of(settings))
        running.callback(self.worker.stop, _STOP_TIMEOUT_SECONDS)
        self.worker.start()
        self._servers = ServerGroup(settings)
        running.callback(self._servers.stop)
        self._servers.start()
        self.console_url = ""
        self._console: Child | None = None
        if console:
            self._start_console(running)

    def _start_console(self, running: ExitStack) -> None:
        """Start the console. The service runs without it too."""
        if self.settings.tls_certificate is not None and self.settings.server_ca is None:
            note("The console does not start: set CREDIT_SERVER_CA to the authority to trust.")
            return
        settings = self.settings.model_copy(update={"server_address": self.callable_address})
        environment = environment_of(settings)
        for name in _NOT_FOR_THE_CONSOLE:
            environment.pop(name, None)
        self._console = Child(_CONSOLE_MODULE, environment)
        running.callback(self._console.stop, _STOP_TIMEOUT_SECONDS)
        self._console.start()
        self.console_url = self._console.wait_ready(_CONSOLE_START_TIMEOUT_SECONDS)
        if self.console_url:
            # A restart keeps the address.
            environment["CREDIT_CONSOLE_LISTEN"] = urlsplit(self.console_url).netloc
        else:
            self._give_up_console()

    @property
    def callable_address(self) -> str:
        """The server's address for a client on this machine."""
        address = self._servers.address
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not listened on
        return str(Address(anywhere.get(address.host, address.host), address.port))

    def _give_up_console(self) -> None:
        if self._console is not None:
            self._console.stop(_STOP_TIMEOUT_SECONDS)
            self._console = None
        note(
            "The console does not run; everything else does. Set CREDIT_CONSOLE_LISTEN to another "
            "address, or pass --no-console."
        )

    @property
    def address(self) -> str:
        return str(self._servers.address)

    def poll(self) -> None:
        """Restart the parts that died, and print their deaths. The others keep running.

        Raises:
            ChildMisconfiguredError: the worker refused its settings at its first start.
        """
        _poll("The worker", self.worker)
        if self._console is not None:
            try:
                _poll("The console", self._console)
            except ChildMisconfiguredError as failure:
                note(f"{failure}.")
                self._give_up_console()
        if self.databases is not None and self._databases_backoff.is_due():
            self._revive(self.databases)

    def _revive(self, databases: EmbeddedStack) -> None:
        started_at = time.monotonic()
        try:
            for name in databases.revive():
                note(f"{name} died and was restarted.")
            self._databases_backoff = Backoff()
        except StackError as failure:
            pause_seconds = self._databases_backoff.note_death(time.monotonic() - started_at)
            note(f"{failure}\nRetrying in {pause_seconds:g} s; everything else keeps running.")


def _poll(name: str, child: Child) -> None:
    """Restart the child if it died, and print the death.

    Raises:
        ChildMisconfiguredError: it refused its settings at its first start.
    """
    death = child.poll()
    if death is None:
        return
    is_start = death.is_first and death.lived_seconds < QUICK_SECONDS
    if is_start and death.is_misconfiguration:
        raise ChildMisconfiguredError(f"{name} refused its settings")
    what = f"ended with status {death.status}"
    if death.start_error is not None:
        what = f"cannot be started: {death.start_error.strerror}"
    note(f"{name} {what}; restarting in {death.pause_seconds:g} s.")
    if death.quick_deaths >= MAX_QUICK_DEATHS:
        note(f"{name} keeps dying, {death.quick_deaths} times so far: see its log.")


def _print_addresses(stack: LocalStack) -> None:
    settings, address = stack.settings, stack.address
    own = stack.databases.urls if stack.databases is not None else StackUrls(None, None)
    out.print("[bold]credit-service is up.[/bold]")
    for name, where, is_own in (
        ("gRPC", address, False),
        ("PostgreSQL", settings.require_database_url(), own.database_url is not None),
        ("Redis", settings.require_redis_url(), own.redis_url is not None),
    ):
        shown = without_secrets(where.replace("+psycopg", ""))
        out.print(Text(f"  {name:11}{shown}{'  (embedded)' if is_own else ''}"), soft_wrap=True)
    if stack.console_url:
        out.print(Text(f"  {'Console':11}{stack.console_url}"), soft_wrap=True)
    if stack.databases is not None:
        out.print(Text(f"  {'Data':11}{settings.data_dir}"), soft_wrap=True)
    for line in _hints(settings, stack.callable_address):
        out.print(line)


def _hints(settings: Settings, address: str) -> Iterator[str | Text]:
    """Commands to paste, with the TLS and token options that this server needs."""
    credentials = credentials_to_paste(settings)
    if credentials.token:
        yield "\nCalls need a token in CREDIT_TOKEN. With keys from `credit-service token key`:"
        yield paste("  export CREDIT_TOKEN=$(credit-service token)")
    if credentials.ca == _CA_VARIABLE:
        yield "\nSet CREDIT_SERVER_CA to the PEM file of the authority that issued the certificate."
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
    options = f" --address {address}"
    options += f" --ca {credentials.ca}" if credentials.ca else ""
    yield "\nSample files to ingest:"
    yield paste("  credit-service sample-data samples")
    yield paste(f"  {prefix}credit-service ingest samples/customer_data.xlsx{options}")
    yield paste(f"  {prefix}credit-service ingest samples/loan_data.xlsx{options}")
    yield "\nCtrl-C stops everything."


_CA_VARIABLE = '"$CREDIT_SERVER_CA"'


def credentials_to_paste(settings: Settings) -> Credentials:
    """What a caller of this server must present: the names of files, or variables to set."""
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


def _write_ready_file(path: Path, stack: LocalStack) -> None:
    beside = path.with_name(f".{path.name}.new")
    content = {
        "address": stack.address,
        "pid": os.getpid(),
        "worker_pid": stack.worker.pid,
        "console_url": stack.console_url,
    }
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.replace(path)


class _StoppedError(BaseException):
    """A signal arrived during a start."""


class _Signals:
    """SIGINT and SIGTERM set `requested`, and abort a start while `interrupts` is set.

    A flag, as in `credit_service.processes.termination`, which gives the reason.
    """

    def __init__(self) -> None:
        self.requested = False
        self.interrupts = True

    def __call__(self, *_: object) -> None:
        self.requested = True
        if self.interrupts:
            self.interrupts = False
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
