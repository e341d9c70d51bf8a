"""The network between the parts, with faults: `python -m tests.faults.proxy`.

A separate process, so that forwarding does not slow down the callers. It listens on 127.0.0.1, once
per link, and prints the ports as a line of JSON. It reads commands as lines of JSON from standard
input and stops at its end:

    {"link": "callers", "targets": [["127.0.0.1", 4711]]}    targets of new connections
    {"link": "server-redis", "delay_seconds": 2.0}           delay of all data
    {"link": "worker-redis", "jitter_seconds": 0.01}         random delay up to this time
    {"link": "server-database", "cut": "there"}              withhold data "there", "back" or ""
    {"link": "callers", "reset": true}                       reset every connection

Delayed and withheld data arrives in order later, even if its sender is gone by then: as on a real
network, a message can take effect after its sender has given up.
"""

import asyncio
import json
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

INNER = ("server-database", "server-redis", "worker-database", "worker-redis")
LINKS = ("callers", *INNER)
SECOND = ("server-database-2", "worker-database-2")
"""To the second PostgreSQL of a pair; these links have no faults."""

Target = Sequence[Any]
"""(host, port), or (path of a Unix socket,)."""

_CHUNK_BYTES = 256 * 1024
_RESET = struct.pack("ii", 1, 0)


class _Link:
    """One port and its connections."""

    def __init__(self) -> None:
        self._targets: list[Target] = []
        self._next = 0
        self._delay_seconds = 0.0
        self._jitter_seconds = 0.0
        self._cut = ""
        self._healed = asyncio.Event()
        self._healed.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def obey(self, order: dict[str, Any]) -> None:
        self._targets = order.get("targets", self._targets)
        self._delay_seconds = order.get("delay_seconds", self._delay_seconds)
        self._jitter_seconds = order.get("jitter_seconds", self._jitter_seconds)
        self._cut = order.get("cut", self._cut)
        if self._cut:
            self._healed.clear()
        else:
            self._healed.set()
        if order.get("reset"):
            for writer in list(self._writers):
                _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until it ends."""
        self._writers.add(writer)
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await self._connected()
            self._writers.add(far_writer)
            await asyncio.gather(
                self._pump(reader, far_writer, "there"), self._pump(far_reader, writer, "back")
            )
        except OSError:
            pass
        finally:
            for each in (writer, far_writer):
                if each is not None:
                    self._writers.discard(each)
                    each.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a target, in turn, skipping targets that do not answer."""
        # They may change while one is tried.
        targets = self._targets
        for _ in targets:
            target = targets[self._next % len(targets)]
            self._next += 1
            with suppress(OSError):
                if len(target) == 1:
                    return await asyncio.open_unix_connection(target[0], limit=_CHUNK_BYTES)
                return await asyncio.open_connection(target[0], target[1], limit=_CHUNK_BYTES)
        raise ConnectionRefusedError

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                if self._delay_seconds or self._jitter_seconds:
                    jitter = random.uniform(0, self._jitter_seconds)  # noqa: S311 - a pause
                    await asyncio.sleep(self._delay_seconds + jitter)
                while self._cut == direction:
                    await self._healed.wait()
                writer.write(chunk)
                await writer.drain()
        finally:
            with suppress(OSError, RuntimeError):
                writer.write_eof()
            if direction == "back":
                writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _main() -> None:
    links = {name: _Link() for name in (*LINKS, *SECOND)}
    ports = {}
    for name, link in links.items():
        server = await asyncio.start_server(link.serve, "127.0.0.1", 0, limit=_CHUNK_BYTES)
        ports[name] = server.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    orders = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        links[order.pop("link")].obey(order)
    # Remaining connections end with the process.
    os._exit(0)


class Proxy:
    """The running proxy. Commands may be sent from any thread."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.proxy"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._orders: IO[bytes] = self._pipe(self.process.stdin)
        self.ports: dict[str, int] = json.loads(self._pipe(self.process.stdout).readline())

    def order(self, link: str, **what: object) -> None:
        """Send one command; see the module's docstring."""
        self._orders.write((json.dumps({"link": link, **what}) + "\n").encode())

    def stop(self) -> None:
        """Close all connections."""
        self._orders.close()
        self.process.wait(10)
        self._pipe(self.process.stdout).close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise RuntimeError("the proxy has no pipe")
        return pipe


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
