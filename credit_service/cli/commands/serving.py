"""Commands that run the service."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from credit_service.cli.common import DataDir, Json, flag


def up(
    *,
    listen: Annotated[
        str | None, Parameter(help="Address to listen on. Port 0 selects a free port.")
    ] = None,
    processes: Annotated[
        int | None,
        Parameter(help="Number of server processes on that port. Default: one for each core."),
    ] = None,
    data_dir: DataDir = None,
    ready_file: Annotated[
        Path | None,
        Parameter(help="JSON file to write the addresses to once the service is ready."),
    ] = None,
    console: Annotated[
        bool,
        Parameter(
            help="Also run the QA console on CREDIT_CONSOLE_LISTEN.",
            name="--console",
            negative="--no-console",
        ),
    ] = True,
    sandbox: Annotated[
        bool,
        flag("Live through a made-up year of lending first, on databases of its own."),
    ] = False,
) -> int:
    """Run everything: databases (embedded if none are configured), migrations, server, worker and
    QA console.

    Ctrl-C or SIGTERM stops everything in order. A process that dies is reported and restarted.
    """
    from credit_service.cli import running

    settings = running.settings_with(listen=listen, processes=processes, data_dir=data_dir)
    if not sandbox:
        return running.up(settings, ready_file=ready_file, console=console)
    from credit_service.cli.sandboxes import Sandbox

    made = Sandbox(settings)
    return running.up(made.settings, ready_file=ready_file, console=console, on_ready=made.fill)


def serve(
    *,
    listen: Annotated[
        str | None, Parameter(help="Address to listen on. Port 0 selects a free port.")
    ] = None,
    processes: Annotated[
        int | None,
        Parameter(help="Number of server processes on that port. Default: one for each core."),
    ] = None,
    data_dir: DataDir = None,
) -> int:
    """Run the gRPC server. Migrate the database first."""
    from credit_service.cli import running

    return running.serve(
        running.settings_with(listen=listen, processes=processes, data_dir=data_dir)
    )


def worker(*, data_dir: DataDir = None) -> int:
    """Run a worker: it ingests uploaded files and does all background work."""
    from credit_service.cli import running

    return running.worker(running.settings_with(data_dir=data_dir))


def console(
    *,
    listen: Annotated[
        str | None,
        Parameter(help="HTTP address to listen on. Default: CREDIT_CONSOLE_LISTEN."),
    ] = None,
    address: Annotated[
        str | None,
        Parameter(help="Address of the service. Default: CREDIT_SERVER_ADDRESS."),
    ] = None,
) -> int:
    """Run the QA console, a web page that calls the service. `up` runs it too."""
    from credit_service.cli import running

    return running.console(running.settings_with(console_listen=listen, server_address=address))


def migrate(
    *,
    distributed: Annotated[
        bool, flag("Distribute the tables over the nodes of a Citus cluster.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> int:
    """Migrate the database to the latest schema. Safe to repeat and to run concurrently."""
    from credit_service.cli import running

    settings = running.settings_with(data_dir=data_dir)
    return running.migrate(settings, distributed=distributed, as_json=json)
