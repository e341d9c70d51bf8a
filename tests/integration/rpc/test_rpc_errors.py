"""Every error of the core and every defect has a status that fits into a client's limits."""

import inspect
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from google.rpc import status_pb2

from credit_service.domain import errors as domain_errors
from credit_service.domain.errors import (
    AlreadyExistsError,
    CreditError,
    FieldViolation,
    InvalidFieldsError,
    InvalidRequestError,
    NotFoundError,
    NotOwnerError,
    OutOfRangeError,
    OverloadedError,
    PreconditionFailedError,
    RequestIdReusedError,
    RetryLaterError,
    UnavailableError,
)
from credit_service.domain.referrals import SelfReviewError
from credit_service.rpc import errors
from credit_service.rpc.errors import DeadlineExceededError, UnimplementedError, to_status
from credit_service.storage.database import LostRaceError
from tests.integration.conftest import Refusal, taken_apart

CASES: list[tuple[Exception, grpc.StatusCode, str, set[str]]] = [
    (
        InvalidFieldsError([FieldViolation("age", "OUT_OF_RANGE", "age is 7.")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        {"BadRequest"},
    ),
    (
        InvalidRequestError("STREAM_ORDER_INVALID", "no header"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "STREAM_ORDER_INVALID",
        set(),
    ),
    (
        NotFoundError("CUSTOMER_NOT_FOUND", "customer", "7"),
        grpc.StatusCode.NOT_FOUND,
        "CUSTOMER_NOT_FOUND",
        {"ResourceInfo"},
    ),
    (
        AlreadyExistsError("PHONE_NUMBER_TAKEN", "customer", "+91"),
        grpc.StatusCode.ALREADY_EXISTS,
        "PHONE_NUMBER_TAKEN",
        {"ResourceInfo"},
    ),
    (
        PreconditionFailedError("LOAN_CLOSED", "closed", "loans/1"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "LOAN_CLOSED",
        {"PreconditionFailure"},
    ),
    (
        RequestIdReusedError("REQUEST_ID_REUSED", "reused"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
        {"PreconditionFailure"},
    ),
    (
        RetryLaterError("REQUEST_IN_PROGRESS", "wait", 0.5),
        grpc.StatusCode.ABORTED,
        "REQUEST_IN_PROGRESS",
        {"RetryInfo"},
    ),
    (
        LostRaceError("40001"),
        grpc.StatusCode.ABORTED,
        "CONFLICT_RETRIES_EXHAUSTED",
        {"RetryInfo"},
    ),
    (
        UnavailableError("DATABASE_UNAVAILABLE", "gone", 1.0),
        grpc.StatusCode.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
        {"RetryInfo"},
    ),
    (
        OverloadedError("OVERLOADED", "full", 0.25),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        {"RetryInfo"},
    ),
    (
        OverloadedError("TOO_MANY_STREAMS", "full", 1),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS",
        {"RetryInfo", "QuotaFailure"},
    ),
    (
        errors.QuotaExceededError("RATE_LIMITED", "often", "team-a", 0.5),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RATE_LIMITED",
        {"RetryInfo", "QuotaFailure"},
    ),
    (
        OutOfRangeError("OFFSET_MISMATCH", "gap", {"expected_offset": "5"}),
        grpc.StatusCode.OUT_OF_RANGE,
        "OFFSET_MISMATCH",
        set(),
    ),
    (
        DeadlineExceededError("STREAM_IDLE", "silent"),
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "STREAM_IDLE",
        set(),
    ),
    (
        UnimplementedError("METHOD_NOT_IMPLEMENTED", "not here"),
        grpc.StatusCode.UNIMPLEMENTED,
        "METHOD_NOT_IMPLEMENTED",
        set(),
    ),
    (
        errors.UnauthenticatedError("UNAUTHENTICATED", "who?"),
        grpc.StatusCode.UNAUTHENTICATED,
        "UNAUTHENTICATED",
        set(),
    ),
    (
        errors.PermissionDeniedError("PERMISSION_DENIED", "no"),
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
        set(),
    ),
    (
        NotOwnerError("INGESTION_NOT_OWNED", "another's"),
        grpc.StatusCode.PERMISSION_DENIED,
        "INGESTION_NOT_OWNED",
        set(),
    ),
    (
        SelfReviewError("REVIEWER_IS_REQUESTER", "your own request"),
        grpc.StatusCode.PERMISSION_DENIED,
        "REVIEWER_IS_REQUESTER",
        set(),
    ),
    (ZeroDivisionError("secret"), grpc.StatusCode.INTERNAL, "INTERNAL", set()),
    (CreditError("UNHEARD_OF", "secret"), grpc.StatusCode.INTERNAL, "INTERNAL", set()),
]


def of(error: Exception) -> Refusal:
    status = to_status(error, "call-1", "/service/Method")
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    return taken_apart(status, code)


@pytest.mark.parametrize(("error", "code", "reason", "details"), CASES)
def test_each_error_has_its_status_and_details(
    error: Exception, code: grpc.StatusCode, reason: str, details: set[str]
) -> None:
    found = of(error)
    assert (found.code, found.reason, set(found.details)) == (code, reason, details)
    if code is not grpc.StatusCode.INTERNAL and isinstance(error, CreditError):
        assert found.message == error.message
        assert found.metadata == error.metadata


def test_every_error_class_is_tested() -> None:
    kinds = {
        kind
        for module in (domain_errors, errors)
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, CreditError) and kind is not CreditError
    }
    shown = {type(error) for error, *_ in CASES}
    assert {kind for kind in kinds if not kind.__name__.startswith("_")} <= shown


def test_every_raised_reason_is_in_the_contract() -> None:
    """In the sources, a reason is the first argument of an error, in capitals."""
    sources = Path(errors.__file__).parents[1]
    raised = set()
    for path in sources.rglob("*.py"):
        if "v1" not in path.parts:
            kinds = "|".join(sorted({kind.__name__ for kind in _kinds()}))
            pattern = rf"\b(?:{kinds})\(\s*\"([A-Z][A-Z_]+)\""
            raised |= set(re.findall(pattern, path.read_text(encoding="utf-8")))
    assert {"CUSTOMER_NOT_FOUND", "REQUEST_ID_REUSED", "DATABASE_UNAVAILABLE"} <= raised
    assert raised <= errors.REASONS


def _kinds() -> set[type[CreditError]]:
    found: set[type[CreditError]] = set()
    open_kinds: list[type[CreditError]] = [CreditError]
    while open_kinds:
        kind = open_kinds.pop()
        found.add(kind)
        open_kinds += kind.__subclasses__()
    return found


def test_the_status_of_a_defect_contains_only_the_call_id() -> None:
    found = of(ValueError("SELECT secret FROM customers"))
    assert found.code is grpc.StatusCode.INTERNAL
    assert found.metadata == {"call_id": "call-1"}
    assert "call-1" in found.message
    assert "secret" not in found.message


def test_retry_info_contains_the_delay() -> None:
    delay: Any = of(RetryLaterError("REQUEST_IN_PROGRESS", "wait", 1.25)).details["RetryInfo"]
    assert (delay.retry_delay.seconds, delay.retry_delay.nanos) == (1, 250_000_000)


def size_on_the_wire(status: status_pb2.Status) -> int:
    """Bytes of the trailing metadata: the message percent-encoded, the details in base64."""
    details = len(status.SerializeToString())
    return len(quote(status.message, safe=" ")) + (details + 2) // 3 * 4


@pytest.mark.parametrize("char", ["x", "₹", "😀", "\x01"])
def test_the_largest_status_fits_into_a_clients_metadata_limit(char: str) -> None:
    violations = [
        FieldViolation(f"some_field_of_a_long_name_{number}", "INVALID_FORMAT", char * 5_000)
        for number in range(200)
    ]
    status = to_status(
        InvalidFieldsError(violations, metadata={"a": char * 9_000}), "x" * 64, "/service/Method"
    )
    assert size_on_the_wire(status) < 8_000
    status.SerializeToString()
