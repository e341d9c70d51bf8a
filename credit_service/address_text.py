"""The texts of addresses that settings and options accept."""

import re

_MAX_PORT = 65_535
_TARGET_SCHEME = re.compile(r"(?:dns|unix|unix-abstract|vsock|ipv4|ipv6|xds|passthrough):.+")


def check_address(address: str, *, least_port: int) -> None:
    """Raise ValueError, which states the accepted format, unless the address is host:port."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise ValueError("not an address: write host:port, such as 127.0.0.1:50051")
    if not least_port <= int(port) <= _MAX_PORT:
        raise ValueError(f"the port must be a number from {least_port} to {_MAX_PORT}")


def check_target(address: str) -> None:
    """Raise ValueError, which states the accepted format, for an invalid server address.

    Accepts host:port and gRPC's other names, such as dns:///credit.example:50051.
    """
    if not _TARGET_SCHEME.fullmatch(address):
        check_address(address, least_port=1)
