"""Idempotency: a request id about a customer has one effect; every retry gets its response."""

import hashlib
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from credit_service.domain.errors import RequestIdReusedError
from credit_service.storage import replication
from credit_service.storage.requests import RequestRecord


def fingerprint(command: Any) -> bytes:
    """Return the SHA-256 of the content of a command (a dataclass with a request_id), without the
    id.

    Computed after conversion, so that "12.50" and "12.5" are equal. Fields with their default value
    are left out: a later release that adds an optional field, with a default, computes the same
    fingerprint for a request without it, and recognizes a retry across the update. The fields of
    release 0.1.0 have no defaults, and must not get any.
    """
    content = [type(command).__name__]
    content += [f"{name}={value}" for name, value in _content(command) if name != "request_id"]
    return hashlib.sha256("\n".join(content).encode()).digest()


def _content(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields without their default value, by name, in the format of `repr`."""
    for field in fields(value):
        given = getattr(value, field.name)
        if field.default is MISSING or given != field.default:
            yield field.name, _written(given)


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, value))})"
    if not is_dataclass(value):
        return repr(value)
    inner = ", ".join(f"{name}={text}" for name, text in _content(value))
    return f"{type(value).__qualname__}({inner})"


def used_before(
    connection: Connection,
    record: RequestRecord | None,
    request_id: UUID,
    method: str,
    content: bytes,
) -> RequestRecord | None:
    """Return the record of the same request if it already had its effect; None if the id is free.

    Only effects are stored. A rejection changed nothing, and its causes may change: the same
    request is then evaluated again.

    Raises:
        RequestIdReusedError: the id was used for other content.
    """
    if record is None:
        return None
    if record.method != method or record.fingerprint != content:
        raise request_id_reused(request_id)
    replication.confirm(connection)
    return record


def request_id_reused(request_id: UUID) -> RequestIdReusedError:
    """REQUEST_ID_REUSED."""
    return RequestIdReusedError(
        "REQUEST_ID_REUSED",
        f"The request id {request_id} was used before with other content; send a new id.",
        subject=f"requests/{request_id}",
        metadata={"request_id": str(request_id)},
    )
