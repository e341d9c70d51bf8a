"""Connections of commands to a running service: the address and the bearer token."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import grpc

from credit_service.address_text import check_target
from credit_service.cli.common import Endpoint, UsageError
from credit_service_client.channel import open_channel, require_ready
from credit_service_client.tls import ClientTls

CONNECT_TIMEOUT_SECONDS = 5.0
CALL_TIMEOUT_SECONDS = 15.0
_CLOSE_SECONDS = 2.0

_MAX_TOKEN_BYTES = 64 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")


@contextmanager
def connected(target: Endpoint, timeout_seconds: float | None = None) -> Iterator[grpc.Channel]:
    """A channel to a service that responds.

    Raises UsageError for an invalid address or token, TlsFileError, and ServiceError (UNAVAILABLE)
    if no service responds within `timeout_seconds`, by default CONNECT_TIMEOUT_SECONDS.
    """
    with opened(target) as channel:
        await_ready(channel, target, timeout_seconds or CONNECT_TIMEOUT_SECONDS)
        yield channel


@contextmanager
def opened(target: Endpoint) -> Iterator[grpc.Channel]:
    """A channel to the service, which may not respond yet. Raises UsageError, TlsFileError.

    A token file is read for every call. Ctrl-C can interrupt gRPC's code where it has just taken a
    lock, which is then never released and for which closing would wait. So closing has a limit.
    """
    channel = _open(target)
    try:
        yield channel
    finally:
        closing = Thread(target=channel.close, name="closing", daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


def _open(target: Endpoint) -> grpc.Channel:
    try:
        check_target(target.address)
    except ValueError as error:
        raise UsageError(f"--address {target.address} is not accepted: {error}") from None
    token = bearer_token(target)
    source = _Renewed(target, token) if token and reads_token_file(target) else token
    return open_channel(target.address, token=source, tls=_tls(target))


def _tls(target: Endpoint) -> ClientTls | None:
    """Return the TLS files of the target, and those of secrets for what it lacks; None: no TLS."""
    if Path(os.environ.get("CREDIT_SECRETS_DIR", "/run/secrets")).is_dir():
        # pydantic takes longer to import than a call takes.
        from credit_service.settings import ClientSettings  # noqa: PLC0415

        settings = ClientSettings()
        if target.ca is None:
            target = replace(target, ca=settings.server_ca)
        if target.certificate is None and target.private_key is None:
            target = replace(
                target,
                certificate=settings.client_certificate,
                private_key=settings.client_private_key,
            )
    if target.ca is None:
        return None
    return ClientTls(target.ca, target.certificate, target.private_key)


def await_ready(channel: grpc.Channel, target: Endpoint, timeout_seconds: float) -> None:
    """Wait until the service responds. Raises ServiceError (UNAVAILABLE) on timeout."""
    require_ready(channel, target.address, timeout_seconds, _tls(target))


def reads_token_file(target: Endpoint) -> bool:
    """Whether the token comes from a file, which can get a new token later."""
    return not target.token and target.token_file not in (None, Path())


class _Renewed:
    """Returns the token that the file has now; the last one while the file is unusable, as in the
    moment in which it is replaced."""

    def __init__(self, target: Endpoint, token: str) -> None:
        self._target = target
        self._token = token

    def __call__(self) -> str:
        with suppress(UsageError):
            self._token = bearer_token(self._target) or self._token
        return self._token


def bearer_token(target: Endpoint) -> str | None:
    """Return --token or CREDIT_TOKEN, else the content of the token file, else None.

    Raises UsageError for an unreadable file, or a token that a header cannot contain.
    """
    token, source = target.token, "the token (--token, CREDIT_TOKEN)"
    path = target.token_file
    if path is not None and reads_token_file(target):
        source = f"{path} (--token-file, CREDIT_TOKEN_FILE)"
        try:
            with path.open("rb") as file:
                token = file.read(_MAX_TOKEN_BYTES).decode("ascii", errors="replace")
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}") from None
    if not token:
        return None
    token = token.strip().removeprefix("Bearer ")
    if not _TOKEN.fullmatch(token):
        # The message omits the token, because it is a secret.
        raise UsageError(f"{source} is not a bearer token: it must be one line of printable ASCII")
    return token
