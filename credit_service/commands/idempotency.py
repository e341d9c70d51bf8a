"""What a request id promises: one effect, and the same answer whenever it comes again."""

import hashlib
from dataclasses import fields
from typing import Any
from uuid import UUID

from credit_service.domain.errors import RequestIdReused
from credit_service.storage.requests import RequestRecord


def fingerprint(command: Any) -> bytes:
    """SHA-256 of what a command (a dataclass with a request_id) asks, the id itself left out.

    Taken after conversion, so that "12.50" and "12.5" ask the same.
    """
    content = [type(command).__name__]
    content += [
        f"{field.name}={getattr(command, field.name)!r}"
        for field in fields(command)
        if field.name != "request_id"
    ]
    return hashlib.sha256("\n".join(content).encode()).digest()


def check_same_request(
    record: RequestRecord, request_id: UUID, method: str, content: bytes
) -> None:
    """Let a repeat of the same request pass.

    Raises:
        RequestIdReused: the id was used for something else.
        CreditError: the refusal that the request met the first time.
    """
    if record.method != method or record.fingerprint != content:
        raise RequestIdReused(
            "REQUEST_ID_REUSED",
            f"The request id {request_id} was used before with other content; send a new id.",
            subject=f"requests/{request_id}",
            metadata={"request_id": str(request_id)},
        )
    record.raise_refusal()
