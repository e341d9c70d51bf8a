"""Map errors of the domain to statuses with the standard details.

One table maps each kind of error to its status. Every status carries `google.rpc.ErrorInfo` and the
details that a program acts on: invalid fields, the resource, the delay before a retry. An exception
outside the table is a defect: its caller gets INTERNAL and the call id to find it in the log.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from credit_service.domain.errors import (
    AlreadyExistsError,
    CreditError,
    InvalidFieldsError,
    InvalidRequestError,
    NotFoundError,
    NotOwnerError,
    OutOfRangeError,
    OverloadedError,
    PreconditionFailedError,
    RetryLaterError,
    UnavailableError,
)
from credit_service.domain.referrals import SelfReviewError
from credit_service.storage.database import LostRaceError
from credit_service.v1 import error_reason_pb2

DOMAIN = "credit_service"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

# Bytes of UTF-8. A client accepts 8 KiB of metadata by default, and a status travels as metadata:
# the message percent-encoded, the details in base64. The largest status stays below that.
_MAX_MESSAGE = 512
_MAX_DESCRIPTION = 160
_MAX_VIOLATIONS = 10
_MAX_METADATA_VALUE = 300
_PREFIX = "ERROR_REASON_"

_log = structlog.get_logger(__name__)

REASONS = frozenset(name.removeprefix(_PREFIX) for name in error_reason_pb2.ErrorReason.keys()[1:])
"""Every reason of the contract, as it appears in ErrorInfo."""


class DeadlineExceededError(CreditError):
    """The call's deadline has passed, or a stream was idle for too long."""


class UnimplementedError(CreditError):
    """This server does not implement the method."""


class QuotaExceededError(OverloadedError):
    """A principal is at one of its limits; `subject` is the principal."""

    def __init__(
        self,
        reason: str,
        message: str,
        subject: str,
        retry_after_seconds: float,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, retry_after_seconds, metadata)
        self.subject = subject

    def _details(self) -> dict[str, Any]:
        return {**super()._details(), "subject": self.subject}


class UnauthenticatedError(CreditError):
    """Missing or invalid credentials."""


class PermissionDeniedError(CreditError):
    """Valid credentials without the scope that the method requires."""

    principal = ""
    """The authenticated caller; empty where unknown."""


STATUS_OF_KIND: dict[type[CreditError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionFailedError: grpc.StatusCode.FAILED_PRECONDITION,
    RetryLaterError: grpc.StatusCode.ABORTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    NotOwnerError: grpc.StatusCode.PERMISSION_DENIED,
    SelfReviewError: grpc.StatusCode.PERMISSION_DENIED,
}
"""The status of each kind of error; others have that of their nearest base class here."""


STATUS_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def status_code(error: CreditError) -> grpc.StatusCode | None:
    """The status of an error; None for a kind without one, which is a defect."""
    for kind in type(error).__mro__:
        code = STATUS_OF_KIND.get(kind)
        if code is not None:
            return code
    return None


def to_status(error: Exception, call_id: str, method: str) -> status_pb2.Status:
    """The google.rpc.Status of any exception that ends a call.

    A CreditError keeps its reason and message. Any other exception becomes INTERNAL: its message
    has only `call_id`, under which the exception is logged.
    """
    if isinstance(error, LostRaceError):
        error = RetryLaterError(
            "CONFLICT_RETRIES_EXHAUSTED",
            "Concurrent requests kept changing the same data; retry the same request.",
            retry_after_seconds=0.2,
        )
    if isinstance(error, CreditError):
        code = status_code(error)
        if code is not None:
            if error.reason not in REASONS:
                _log.error("reason_not_in_contract", reason=error.reason, method=method)
            return _status(code, error.message, [_info(error), *_details(error)])
    _log.error("call_failed", method=method, call_id=call_id, exc_info=error)
    info = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=DOMAIN, metadata={"call_id": call_id}
    )
    text = f"Internal error; the server log has the details under call id {call_id}."
    return _status(grpc.StatusCode.INTERNAL, text, [info])


def reason_of(status: status_pb2.Status) -> str:
    """The reason of a status, from its ErrorInfo, which is always the first detail."""
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return info.reason if info.reason in REASONS else "INTERNAL"


def _status(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=_cut(message, _MAX_MESSAGE))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _info(error: CreditError) -> Any:
    metadata = {key: _cut(value, _MAX_METADATA_VALUE) for key, value in error.metadata.items()}
    return error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)


def _details(error: CreditError) -> list[Message]:
    """The details of an error other than its ErrorInfo."""
    match error:
        case InvalidFieldsError():
            return [_bad_request(error)]
        case NotFoundError() | AlreadyExistsError():
            return [
                error_details_pb2.ResourceInfo(
                    resource_type=error.resource_type,
                    resource_name=error.resource_name,
                    description=_cut(error.message, _MAX_DESCRIPTION),
                )
            ]
        case PreconditionFailedError():
            failure = error_details_pb2.PreconditionFailure()
            failure.violations.add(
                type=error.reason,
                subject=error.subject,
                description=_cut(error.message, _MAX_DESCRIPTION),
            )
            return [failure]
        case OverloadedError():
            return [_retry_info(error.retry_after_seconds), *_quota(error)]
        case RetryLaterError() | UnavailableError():
            return [_retry_info(error.retry_after_seconds)]
    return []


def _bad_request(error: InvalidFieldsError) -> Any:
    bad_request = error_details_pb2.BadRequest()
    for violation in error.violations[:_MAX_VIOLATIONS]:
        bad_request.field_violations.add(
            field=violation.field,
            reason=violation.reason,
            description=_cut(violation.message, _MAX_DESCRIPTION),
        )
    return bad_request


def _retry_info(seconds: float) -> Any:
    milliseconds = round(seconds * 1000)
    delay = Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _quota(error: OverloadedError) -> list[Message]:
    """The exceeded quota; none for OVERLOADED, where the server as a whole is at capacity."""
    if error.reason == "OVERLOADED":
        return []
    failure = error_details_pb2.QuotaFailure()
    failure.violations.add(
        subject=error.subject if isinstance(error, QuotaExceededError) else "server",
        description=_cut(error.message, _MAX_DESCRIPTION),
    )
    return [failure]


def _cut(text: str, size: int) -> str:
    """The text, cut to at most `size` bytes of UTF-8."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= size:
        return encoded.decode()
    return encoded[: size - len("…".encode())].decode("utf-8", "ignore") + "…"
