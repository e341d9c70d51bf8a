"""Reload files when they change: keys, certificates, scopes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

_Signatures = dict[Path, tuple[int, int, int]]

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 64

_CHECK_SECONDS = 1.0
_GONE_SECONDS = 2.5
"""How long a file must be missing to count as gone: several checks in a row of a busy server, and
longer than the moment between the two steps of a copy or a replacement."""

_log = structlog.get_logger(__name__)


class Reloaded(Generic[T]):
    """A value read from files, and read again when they change. Thread-safe.

    If the new content cannot be used (half written, unreadable, inconsistent), the error is logged
    once and the old value stays in force, so a slip while rotating keys locks out no caller. A file
    that the system cannot read is tried again at each check. `read` decides what files mean that
    were removed or emptied some seconds ago.
    """

    def __init__(
        self,
        what: str,
        paths: Callable[[], list[Path]],
        read: Callable[[], T],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`paths` lists the files, `read` returns their value. Both may raise OSError or
        ValueError, which the constructor passes on. `what` names the files in logs; `clock`
        returns seconds."""
        self._what = what
        self._paths = paths
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._signatures = self._scan()
        self._value = read()
        self._failure: object = None
        self._seen_at = clock()
        self._next_check = self._seen_at + _CHECK_SECONDS

    def current(self) -> T:
        """The value; the same object as long as the files do not change. Never fails.

        At most once a second one caller checks the files; the others do not wait for it.
        """
        if self._clock() >= self._next_check and self._lock.acquire(blocking=False):
            try:
                self._reload()
            finally:
                self._next_check = self._clock() + _CHECK_SECONDS
                self._lock.release()
        return self._value

    def _reload(self) -> None:
        found: _Signatures | None = None
        try:
            found = self._scan()
            if self._signatures.keys() <= found.keys():
                self._seen_at = self._clock()
            elif self._clock() - self._seen_at < _GONE_SECONDS:
                return
            if found == self._signatures:
                self._failure = None
                return
            self._value = self._read()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and found is not None:
                self._signatures = found  # unchanged files would only fail again
            failure = (found, str(error))
            if failure != self._failure:
                _log.error("changed_files_not_used", what=self._what, reason=str(error))
            self._failure = failure
        else:
            self._signatures, self._failure = found, None
            _log.info("changed_files_read", what=self._what)

    def _scan(self) -> _Signatures:
        """The signature of each file that exists and is not empty; it changes with the file."""
        found: _Signatures = {}
        for path in self._paths():
            try:
                s = path.stat()
            except FileNotFoundError:
                continue
            if s.st_size:
                found[path] = (s.st_mtime_ns, s.st_size, s.st_ino)
        return found


def read_bounded(path: Path) -> bytes:
    """A file's bytes. Raises ValueError for more than 1 MiB."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return data


def json_files(path: Path) -> list[Path]:
    """The file itself, or a folder's *.json files by name; hidden files are ignored.

    Raises:
        OSError: the folder cannot be read.
        ValueError: the folder has too many files.
    """
    if not path.is_dir():
        return [path]
    # Not by glob, which returns nothing for a folder that it may not read.
    found = sorted(p for p in path.iterdir() if p.suffix == ".json" and p.name[0] != ".")
    if len(found) > MAX_FILES:
        raise ValueError(f"{path} has more than {MAX_FILES} files")
    return found
