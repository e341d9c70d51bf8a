"""Addresses to listen on, and those that need credentials. Does not import gRPC: the supervisor
uses this module and must not load it."""

import ipaddress
import socket
from dataclasses import dataclass

from credit_service.settings import Settings


class MisconfiguredError(ValueError):
    """The settings do not allow serving. The message names them and valid ones."""


class AddressRefusedError(MisconfiguredError):
    """The address cannot be served: malformed, taken, or unsafe."""


@dataclass(frozen=True, slots=True)
class Address:
    """A numeric host and a port; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listening_address(settings: Settings) -> Address:
    """The address to listen on, from the settings.

    Raises:
        AddressRefusedError: it is malformed, or other machines could reach it while the settings
            have neither TLS with credentials nor `insecure`.
    """
    authenticates = settings.token_keys is not None or settings.client_scopes is not None
    is_protected = settings.tls_certificate is not None and authenticates
    return parse_address(settings.listen, insecure=is_protected or settings.insecure)


def parse_address(listen: str, *, insecure: bool) -> Address:
    """The address to listen on, from 'host:port' or '[host]:port'.

    Raises:
        AddressRefusedError: it is malformed, or other machines could reach it and `insecure` is
            False.
    """
    host, separator, port_text = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (separator and host and port_text.isascii() and port_text.isdigit()):
        raise AddressRefusedError(f"{listen!r} is not an address such as 127.0.0.1:50051")
    port = int(port_text)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise AddressRefusedError(f"{listen!r} is not an address of this machine") from error
    hosts = [str(each[4][0]).partition("%")[0] for each in found]
    if port > 65_535:
        raise AddressRefusedError(f"{listen!r} has no port from 0 to 65535")
    if not insecure and not all(ipaddress.ip_address(each).is_loopback for each in hosts):
        raise AddressRefusedError(
            f"{listen!r} can be reached from other machines, and the server would not ask for "
            "credentials over TLS. Listen on 127.0.0.1, configure TLS and credentials "
            "(docs/security.md says how), or set CREDIT_INSECURE=true to allow it."
        )
    # IPv4 first if a name has both: most clients try it first.
    return Address(min(hosts, key=lambda each: ":" in each), port)
