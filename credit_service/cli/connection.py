"""How commands reach a running service: its address, and the token they call with."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from credit_service.cli import Target, UsageError
from credit_service.client.channel import open_channel, require_ready

CONNECT_TIMEOUT_SECONDS = 5.0
CALL_TIMEOUT_SECONDS = 15.0

TOKEN_FILE_VARIABLE = "CREDIT_TOKEN_FILE"  # noqa: S105 - the name of a variable
_MAX_TOKEN_BYTES = 64 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")


@contextmanager
def connected(
    target: Target, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
) -> Iterator[grpc.Channel]:
    """A channel to a service that answers.

    Raises UsageError for a token that cannot be sent, ServiceError (UNAVAILABLE) when nobody
    answers within `timeout_seconds`.
    """
    with open_channel(target.address, bearer_token(target)) as channel:
        require_ready(channel, target.address, timeout_seconds)
        yield channel


def bearer_token(target: Target) -> str | None:
    """The token to call with: of --token or CREDIT_TOKEN, else of the file CREDIT_TOKEN_FILE names.

    Raises UsageError for one that no header can carry, OSError where the file cannot be read.
    """
    token, source = target.token, "the token"
    path = os.environ.get(TOKEN_FILE_VARIABLE)
    if not token and path:
        with Path(path).open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii", errors="replace")
        source = f"what {path} holds"
    if not token:
        return None
    token = token.strip().removeprefix("Bearer ")
    if not _TOKEN.fullmatch(token):
        # Never shown: who reads a terminal over a shoulder need not know it.
        raise UsageError(f"{source} is no bearer token: it must be one line of printable ASCII")
    return token
