"""Files that are read again when they change: keys, certificates, who may do what."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 64

_LOOK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Reloaded(Generic[T]):
    """What some files say now. Safe to share between threads.

    A new state that cannot be used (half written, unreadable, inconsistent) is logged, and what was
    read before stays in force: a slip while rotating locks nobody out. What files that are gone
    mean is for `read` to say.
    """

    def __init__(
        self,
        what: str,
        paths: Callable[[], list[Path]],
        read: Callable[[], T],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`paths` lists the files to look at, `read` makes a value of them. Both may raise OSError
        or ValueError, which the constructor passes on. `what` names them in logs, `clock` tells
        seconds."""
        self._what = what
        self._paths = paths
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._signature = self._look()
        self._value = read()
        self._next_look = clock() + _LOOK_SECONDS

    def current(self) -> T:
        """The value. The same object as long as the files do not change.

        The files are looked at once a second at most, by one of the callers; none of the others
        waits for it. Never fails.
        """
        if self._clock() >= self._next_look and self._lock.acquire(blocking=False):
            try:
                self._reload()
            finally:
                self._next_look = self._clock() + _LOOK_SECONDS
                self._lock.release()
        return self._value

    def _reload(self) -> None:
        try:
            signature = self._look()
        except (OSError, ValueError) as error:
            signature = (str(error),)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._value = self._read()
        except (OSError, ValueError) as error:
            _log.error("changed_files_not_used", what=self._what, reason=str(error))
        else:
            _log.info("changed_files_read", what=self._what)

    def _look(self) -> tuple[object, ...]:
        """What differs as soon as any of the files does."""
        stats = [(path, path.stat()) for path in self._paths()]
        return tuple((path, s.st_mtime_ns, s.st_size, s.st_ino) for path, s in stats)


def read_bounded(path: Path) -> bytes:
    """A file's bytes. Raises ValueError for one that is larger than any that belongs here."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return data


def json_files(path: Path) -> list[Path]:
    """The file itself, or a folder's *.json files by name; hidden ones are passed over.

    Raises:
        OSError: there is no such file or folder.
        ValueError: the folder has too many files.
    """
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.glob("*.json") if not p.name.startswith("."))
    if len(found) > MAX_FILES:
        raise ValueError(f"{path} has more than {MAX_FILES} files")
    return found
