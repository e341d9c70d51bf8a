"""Errors of the embedded servers."""

from pathlib import Path


class StackError(RuntimeError):
    """The embedded servers cannot run here; the message gives the reason and what to do."""


class StackRunningError(StackError):
    """Another process runs the embedded servers of this data folder."""


class DataFolderError(StackError):
    """The data folder cannot be used: the message names it and gives the reason."""


class NotRunningError(StackError):
    """No embedded PostgreSQL runs in the data folder; the message says how to reach one."""


def unusable(data_dir: Path, error: OSError) -> DataFolderError:
    """The error of a data folder that the system call `error` could not use."""
    return DataFolderError(
        f"the data folder {data_dir} cannot be used: {error.strerror}; choose another with"
        " --data-dir or CREDIT_DATA_DIR"
    )
