"""Files that are read again when they change: keys, certificates, who may do what."""

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

_LOOK_SECONDS = 1.0
_GONE_SECONDS = 2.5
"""How long a file must have been out of sight to count as gone: some looks in a row of a busy
server, and not the moment between the two steps of a copy or a replacement."""

_log = structlog.get_logger(__name__)


class Reloaded(Generic[T]):
    """What some files say now. Safe to share between threads.

    A new state that cannot be used (half written, unreadable, inconsistent) is logged once, and
    what was read before stays in force: a slip while rotating locks nobody out. Where the system
    could not read, it is tried again at each look. What files that are gone mean, removed or
    emptied for some seconds, is for `read` to say.
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
        self._signatures = self._look()
        self._value = read()
        self._failure: object = None
        self._seen_at = clock()
        self._next_look = self._seen_at + _LOOK_SECONDS

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
        found: _Signatures | None = None
        try:
            found = self._look()
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
                self._signatures = found  # as long as they are these, they say nothing else
            failure = (found, str(error))
            if failure != self._failure:
                _log.error("changed_files_not_used", what=self._what, reason=str(error))
            self._failure = failure
        else:
            self._signatures, self._failure = found, None
            _log.info("changed_files_read", what=self._what)

    def _look(self) -> _Signatures:
        """For each file that is there with content, what differs as soon as the file does."""
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
    """A file's bytes. Raises ValueError for one that is larger than any that belongs here."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
    return data


def json_files(path: Path) -> list[Path]:
    """The file itself, or a folder's *.json files by name; hidden ones are passed over.

    Raises:
        OSError: the folder cannot be read.
        ValueError: the folder has too many files.
    """
    if not path.is_dir():
        return [path]
    # Not by glob, which finds nothing where it may not look.
    found = sorted(p for p in path.iterdir() if p.suffix == ".json" and p.name[0] != ".")
    if len(found) > MAX_FILES:
        raise ValueError(f"{path} has more than {MAX_FILES} files")
    return found
