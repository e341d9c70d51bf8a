"""Commands that operate the service."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, TEXT, app
from credit_service.cli.common import DataDir, ExitCode, Format, Json, Target, flag


def replay(
    decision_id: Annotated[int, Parameter(help="Id of a stored decision.")],
    /,
    *,
    data_dir: DataDir = None,
    json: Json = False,
) -> int:
    """Recompute a stored decision from its stored inputs. Exits with 1 if any byte differs."""
    from credit_service.cli import replay, running

    return replay.replay(running.operator_settings(data_dir), decision_id, as_json=json)


def doctor(*, data_dir: DataDir = None, target: Target = HERE, form: Format = TEXT) -> int:
    """Check the machine, the service and its dependencies, and show how to fix each failure.

    Exits with 1 if a check fails.
    """
    from credit_service.cli import doctor

    return doctor.run(target, data_dir, form)


def backup(
    folder: Annotated[Path, Parameter(help="New folder for the backup.")],
    /,
    *,
    data_dir: DataDir = None,
) -> int:
    """Back up the database into a new folder, with pg_dump of the server's version.

    Blocks no calls. The folder has the dump and a manifest with the numbers of rows, which only the
    owner can read.
    """
    from credit_service.cli import backups, running

    settings = running.settings_with(data_dir=data_dir)
    running.ensure_one_database(settings, data_dir)
    return backups.backup(settings, folder)


def restore(
    folder: Annotated[Path, Parameter(help="Folder of the backup.")],
    /,
    *,
    replace: Annotated[
        bool, flag("Replace the tables that the database has. Default: it must be empty.")
    ] = False,
    flush_redis: Annotated[
        bool, flag("Empty the database of REDIS_URL, whose entries may be newer than the backup.")
    ] = False,
    jobs: Annotated[
        int, Parameter(help="Connections that restore concurrently, 1 to 64; 1: one transaction.")
    ] = 1,
    data_dir: DataDir = None,
) -> int:
    """Restore a backup into an empty database, and compare the numbers of rows.

    Stop servers and workers before. Prints what must be done next.
    """
    from credit_service.cli import backups, running

    settings = running.settings_with(data_dir=data_dir)
    running.ensure_one_database(settings, data_dir)
    jobs = min(max(jobs, 1), 64)
    return backups.restore(settings, folder, replace=replace, flush_redis=flush_redis, jobs=jobs)


def probe(
    service: Annotated[
        str,
        Parameter(
            help="Service of the contract, such as credit_service.v1.CreditService. Default: the "
            "whole server."
        ),
    ] = "",
    /,
    *,
    live: Annotated[
        bool, flag("Only check that the process answers. Default: also that it is ready.")
    ] = False,
    timeout_seconds: Annotated[
        float, Parameter(name="--timeout", help="Seconds to wait for the answer.")
    ] = 3.0,
    target: Target = HERE,
) -> int:
    """Check that the server is ready for calls, for health checks of containers. Needs no token.

    Exits with 0 or 1 within the timeout, and prints the reason of a failure.
    """
    from credit_service.cli import probe

    return probe.probe(target, service, timeout_seconds, live=live)


def certificates(
    folder: Annotated[Path, Parameter(help="Folder to write to.")] = Path("dev-certificates"),
    /,
    *,
    host: Annotated[
        tuple[str, ...],
        Parameter(help="Host name or IP address of the server. Can be given several times."),
    ] = ("localhost", "127.0.0.1", "::1"),
    days: Annotated[int, Parameter(help="Days until they expire, 1 to 365.")] = 30,
) -> int:
    """Create TLS certificates for development: an authority, a server and a client.

    Only the owner can read the files. Never overwrites a file.
    """
    from credit_service.cli import certificates

    return certificates.create(folder, host, days)


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish", "powershell"],
        Parameter(help="Shell to generate the script for."),
    ],
    /,
) -> int:
    """Print a shell script that completes commands and options.

    bash: credit-service completion bash > ~/.local/share/bash-completion/completions/credit-service

    zsh: credit-service completion zsh > "${fpath[1]}/_cyclopts_credit-service"

    fish: credit-service completion fish > ~/.config/fish/completions/credit-service.fish

    PowerShell: credit-service completion powershell >> $PROFILE
    """
    sys.stdout.write(app.generate_completion(prog_name="credit-service", shell=shell))
    return ExitCode.GOOD
