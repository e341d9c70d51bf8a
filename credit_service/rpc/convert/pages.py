"""Read page sizes, and read and write page tokens."""

import base64
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    InvalidFieldsError,
)
from credit_service.rpc.convert.fields import Violations

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_MAX_TOKEN_LENGTH = 256
_TOKEN_KEY = b"credit_service page token 1"


def read_page_size(size: int, violations: Violations) -> int:
    """The page size; 0 means the default."""
    if not 0 <= size <= MAX_PAGE_SIZE:
        violations.add("page_size", OUT_OF_RANGE, f"must be 0 to 1,000, found {size}.")
        return DEFAULT_PAGE_SIZE
    return size or DEFAULT_PAGE_SIZE


class PageTokens:
    """Tokens of one list: the start of the next page, bound to the request's filters.

    A token is opaque, not secret: it holds nothing that the previous page did not, and grants no
    access. The digest detects damaged tokens and those of another list or other filters. The
    digest's key is no secret, so a token's content is checked as carefully as a field.
    """

    def __init__(self, method: str, *parts: Callable[[Any], Any]) -> None:
        """`parts` read the values of a key, such as `key_id`. Each raises ValueError or TypeError
        for an invalid value."""
        self._method = method
        self._parts = parts

    def write(self, key: list[int | str], *filters: object) -> str:
        """The token of the page that starts after `key`."""
        text = json.dumps(key, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._digest(text, filters) + text).decode().rstrip("=")

    def read(self, token: str, *filters: object) -> list[Any] | None:
        """The key in a token; None for an empty token, which means the first page.

        Raises:
            InvalidFieldsError: PAGE_TOKEN_INVALID.
        """
        if not token:
            return None
        data = _decode_token(token)
        if data[:8] == self._digest(data[8:], filters):
            with suppress(ValueError, TypeError):
                values = zip(self._parts, json.loads(data[8:]), strict=True)
                return [part(value) for part, value in values]
        violations = Violations()
        violations.add(
            "page_token",
            INVALID_FORMAT,
            "must be the next_page_token of the previous page, with all other fields unchanged.",
        )
        raise InvalidFieldsError(violations.found, "PAGE_TOKEN_INVALID")

    def _digest(self, text: bytes, filters: tuple[object, ...]) -> bytes:
        bound = f"{self._method}\n{filters!r}\n".encode()
        return hashlib.blake2b(bound + text, digest_size=8, key=_TOKEN_KEY).digest()


def key_id(value: object) -> int:
    """An id in the key of a page token. Raises ValueError for another value."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("not an id")
    return value


def key_instant(value: str) -> datetime:
    """An instant in the key of a page token. Raises ValueError or TypeError for another value."""
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError("an instant without a time zone")
    return instant


def key_uuid(value: object) -> UUID:
    """A UUID in the key of a page token. Raises ValueError for another value."""
    return UUID(str(value))


def _decode_token(token: str) -> bytes:
    """The bytes of a token; empty for text that cannot be a token."""
    if len(token) > _MAX_TOKEN_LENGTH:
        return b""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        return b""
