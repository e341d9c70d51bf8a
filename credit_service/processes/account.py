"""The user that runs the embedded servers, and the folders it can use."""

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from credit_service.processes.stack_errors import DataFolderError, StackError

SYSTEM_USER = "credit-service"
"""The user that runs the servers when the service itself runs as root."""

_ACCOUNTS_DIR = Path("/etc")  # holds the user database; locked while a user is created
_SOCKET_PATH_BYTES = 100  # sockaddr_un holds 108 on Linux and 104 on macOS, with the closing zero


# Switches to another user, then executes the command. Popen could switch too, but in a fork of this
# process, and gRPC's threads do not always survive a fork.
_SWITCH = """
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as. `must_switch`: this process is root."""

    uid: int
    gid: int
    must_switch: bool

    def own(self, path: Path) -> None:
        """Make the account the owner of a new path, readable by no other user."""
        if self.must_switch:
            os.chown(path, self.uid, self.gid)
        path.chmod(0o700 if path.is_dir() else 0o600)

    def spawn(
        self, command: Sequence[str], cwd: Path, log: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """Run a program as the account, in its own session, with output to `log`."""
        if self.must_switch:
            command = [sys.executable, "-ISc", _SWITCH, str(self.uid), str(self.gid), *command]
        output = subprocess.DEVNULL if log is None else os.open(log, os.O_WRONLY | os.O_APPEND)
        try:
            return subprocess.Popen(
                command,
                cwd=cwd,
                # A clean environment: no secrets, no settings of libpq, messages in English.
                env={"PATH": os.defpath, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            if log is not None:
                os.close(output)


def account_for(data_dir: Path) -> Account:
    """The account that runs the servers of this folder.

    Raises:
        DataFolderError: as root, if the account cannot enter the folder.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), must_switch=False)
    account = _system_account(data_dir / "postgresql")
    for folder in filter(Path.is_dir, (data_dir, *data_dir.parents)):
        mode = folder.stat()
        owned = mode.st_uid == account.uid and mode.st_mode & stat.S_IXUSR
        if not owned and not mode.st_mode & stat.S_IXOTH:
            raise DataFolderError(
                f"as root the servers run as another user (uid {account.uid}), which cannot enter"
                f" {folder}; set CREDIT_DATA_DIR to a folder outside it"
            )
    return account


def _system_account(cluster: Path) -> Account:
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid, must_switch=True)
    _create_system_user()
    for name in (SYSTEM_USER, "nobody"):
        with contextlib.suppress(KeyError):
            return _entry(name)
    raise StackError(
        f"PostgreSQL does not run as root, and the user {SYSTEM_USER} cannot be created; create it,"
        " or run as an ordinary user, or set DATABASE_URL and REDIS_URL"
    )


def _create_system_user() -> None:
    """Create SYSTEM_USER if it is missing and this machine has `useradd`.

    Two concurrent `useradd` can both succeed, and the second replaces the first one's uid: servers
    started in between would run as a uid that no longer exists. So processes take a lock.
    """
    useradd = shutil.which("useradd")
    if useradd is None or _exists(SYSTEM_USER):
        return
    lock = os.open(_ACCOUNTS_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _exists(SYSTEM_USER):
            command = [useradd, "--system", "--no-create-home", "--shell", "/bin/false"]
            # After a failure the user still does not exist, which the caller checks.
            subprocess.run([*command, SYSTEM_USER], check=False, capture_output=True)
    finally:
        os.close(lock)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _entry(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(entry.pw_uid, entry.pw_gid, must_switch=True)


def socket_dir(data_dir: Path, account: Account) -> Path:
    """A folder for the sockets: only the account can enter it, and its path is short enough.

    It is always the same for a data folder.
    """
    folder = data_dir / "sockets"
    longest = folder / ".s.PGSQL.5432.lock"
    too_long = len(os.fsencode(longest)) > _SOCKET_PATH_BYTES
    # PostgreSQL's list of folders cannot contain a quote, its client's list no comma.
    if too_long or '"' in str(folder) or "," in str(folder):
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"credit-service-{account.uid}-{digest}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        account.own(folder)
    found = folder.lstat()
    # In a shared folder, another user could have created it first.
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid != account.uid:
        raise StackError(f"{folder} exists and is not a private folder of uid {account.uid}")
    return folder
