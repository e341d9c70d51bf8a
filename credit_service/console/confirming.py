"""The guard of a production environment: a write needs a confirmation of exactly its request.

The guard stands before every call of the console, so no page can forget it. The confirmation is a
code for the request and the session, which only the page that shows the request has.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from zoneinfo import ZoneInfo

from google.protobuf.message import Message

from credit_service.console import leaves
from credit_service.console.methods import METHODS, Method

FIELD = "production_confirmed"
"""The field of forms with the codes of what the user confirmed, separated by spaces."""
BACK_FIELD = "production_back"
"""The button of the page that asks, which shows the form again."""
UPLOAD_FIELD = "production_upload"
"""The box of forms with a file, which a page that asks again could not contain."""
MAX_LINES = 60
_METHODS = {each.descriptor.input_type.full_name: each for each in METHODS.values()}
_FILE_REQUEST = "credit_service.v1.UploadSpreadsheetRequest"


class ConfirmationRequiredError(Exception):
    """The user has not confirmed this write. Nothing was sent."""

    def __init__(self, requests: Sequence[Message], code: str) -> None:
        """`code` confirms the requests if a form sends it."""
        super().__init__(code)
        self.requests = requests
        self.code = code


@dataclass(frozen=True, slots=True)
class Guard:
    """Checks the calls of one page view of a production environment."""

    form: Mapping[str, str]
    key: bytes
    """Secret of the session."""

    def __call__(self, requests: Sequence[Message]) -> None:
        """Raise ConfirmationRequiredError if the call writes and is not confirmed."""
        if not writes(requests[0]):
            return
        if requests[0].DESCRIPTOR.full_name == _FILE_REQUEST and self.form.get(UPLOAD_FIELD):
            return
        parts = [each.SerializeToString(deterministic=True) for each in requests]
        text = b"".join(b"%d:%s" % (len(part), part) for part in parts)
        name = requests[0].DESCRIPTOR.full_name.encode()
        code = hmac.new(self.key, name + b"\0" + text, sha256).hexdigest()
        confirmed = self.form.get(FIELD, "").split()
        if not any(hmac.compare_digest(code, each) for each in confirmed if each.isascii()):
            raise ConfirmationRequiredError(requests, code)


def typed(form: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a form without what is about sending it."""
    own = ("csrf_token", FIELD, BACK_FIELD)
    return {name: value for name, value in form.items() if name not in own}


def writes(request: Any) -> bool:
    """Return whether a request, the first one of a stream, can change data. A dry run cannot."""
    method = method_of(request)
    header = getattr(request, "header", request)
    return method.is_write and not getattr(header, "validate_only", False)


def method_of(request: Message) -> Method:
    """Return the method of a request."""
    return _METHODS[request.DESCRIPTOR.full_name]


def lines(requests: Sequence[Message], zone: ZoneInfo) -> list[tuple[str, str]]:
    """Return the set fields of the requests by path as text, the first MAX_LINES of them."""
    found = [line for each in requests for line in _lines(each, "", zone)]
    rest = len(found) - MAX_LINES
    return [*found[:MAX_LINES], *([("…", f"{rest} more fields")] if rest > 0 else [])]


def _lines(message: Any, prefix: str, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        values = list(value) if field.is_repeated else [value]
        if leaves.is_leaf(field):
            yield prefix + field.name, ", ".join(leaves.shown(field, each, zone) for each in values)
            continue
        for number, each in enumerate(values):
            entry = (
                f"{prefix}{field.name}[{number}]."
                if field.is_repeated
                else f"{prefix}{field.name}."
            )
            yield from _lines(each, entry, zone)
