"""Channels of the command line and the console, with TLS as the settings configure it."""

from pathlib import Path

import grpc

from credit_service.settings import ClientSettings
from credit_service_client import channel
from credit_service_client.channel import TokenSource
from credit_service_client.tls import ClientTls


def open_channel(
    address: str, token: TokenSource | None = None, ca: Path | None = None
) -> grpc.Channel:
    """Return a channel to `address`, as `credit_service_client.channel.open_channel` does.

    It uses TLS if `ca` or CREDIT_SERVER_CA names the trusted authorities. Raises TlsFileError.
    """
    return channel.open_channel(address, token=token, tls=_tls(ca))


def require_ready(
    opened: grpc.Channel, address: str, timeout_seconds: float, ca: Path | None = None
) -> None:
    """Wait until the server responds. Raises ServiceError (UNAVAILABLE) on timeout."""
    channel.require_ready(opened, address, timeout_seconds, _tls(ca))


def _tls(ca: Path | None) -> ClientTls | None:
    """Return the TLS files of the settings, with `ca` before CREDIT_SERVER_CA; None: no TLS."""
    settings = ClientSettings()
    trusted = ca or settings.server_ca
    if trusted is None:
        return None
    return ClientTls(trusted, settings.client_certificate, settings.client_private_key)
