"""Errors are restored as they were stored."""

import json
import pickle

import pytest

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
    from_dict,
)

ERRORS = [
    CreditError("SOME_REASON", "Something."),
    InvalidRequestError("STREAM_ORDER_INVALID", "A header first.", {"expected": "header"}),
    InvalidFieldsError(
        [
            FieldViolation("age", "OUT_OF_RANGE", "age must be 18 to 120."),
            FieldViolation("phone_number", "REQUIRED", "phone_number is missing."),
        ]
    ),
    InvalidFieldsError(
        [FieldViolation("page_token", "INVALID_FORMAT", "bad")], "PAGE_TOKEN_INVALID"
    ),
    NotFoundError("CUSTOMER_NOT_FOUND", "customer", "42"),
    NotFoundError("LOAN_NOT_FOUND", "loan", "20/1003", "No such loan.", {"loan_id": "1003"}),
    AlreadyExistsError("PHONE_NUMBER_TAKEN", "customer", "", "Taken.", {"field": "phone_number"}),
    PreconditionFailedError(
        "LOAN_CLOSED", "Closed.", "customers/20/loans/1003", {"loan_id": "1003"}
    ),
    NotOwnerError("INGESTION_NOT_OWNED", "Another's.", {"ingestion_id": "1"}),
    RequestIdReusedError("REQUEST_ID_REUSED", "Used before.", "requests/1", {"request_id": "1"}),
    RetryLaterError("REQUEST_IN_PROGRESS", "Still running.", 1),
    UnavailableError("DATABASE_UNAVAILABLE", "Out of reach.", 2),
    OverloadedError("OVERLOADED", "Too much.", 1, {"max_concurrent_calls": "64"}),
    OutOfRangeError("OFFSET_MISMATCH", "Too far.", {"expected_offset": "5000"}),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_storage(error: CreditError) -> None:
    document = json.loads(json.dumps(error.to_dict()))
    again = from_dict(document)
    assert type(again) is type(error)
    assert again == error
    assert again.to_dict() == error.to_dict()
    assert vars(again) == vars(error)
    assert hash(again) == hash(error)
    assert pickle.loads(pickle.dumps(error)) == error  # noqa: S301 - created here


def test_every_kind_is_covered() -> None:
    def kinds(cls: type[CreditError]) -> set[type[CreditError]]:
        return {cls}.union(*(kinds(each) for each in cls.__subclasses__()))

    # The edge defines kinds of its own, which appear here if its tests run in the same session.
    public = {
        each
        for each in kinds(CreditError)
        if not each.__name__.startswith("_") and each.__module__ == CreditError.__module__
    }
    assert {type(error) for error in ERRORS} == public


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "KeyboardInterrupt"},
        {"kind": "NotFoundError"},
        {"kind": "InvalidFieldsError", "reason": "INVALID_FIELD"},
        {"kind": "NotFoundError", "surprise": 1},
    ],
)
def test_other_documents_are_rejected(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind|stored"):
        from_dict(document)


def test_the_metadata_lists_each_invalid_field_once() -> None:
    error = InvalidFieldsError(
        [FieldViolation(field, "REQUIRED", f"{field}.") for field in ("a", "b", "a")]
    )
    assert error.reason == "INVALID_FIELD"
    assert error.metadata == {"fields": "a,b"}
    assert error.message == "a. b. a."
    with pytest.raises(ValueError, match="at least one"):
        InvalidFieldsError([])


def test_errors_differ_by_kind_and_content() -> None:
    one = RetryLaterError("OVERLOADED", "Later.", 1)
    assert one != OverloadedError("OVERLOADED", "Later.", 1)
    assert one != RetryLaterError("OVERLOADED", "Later.", 2)
    assert one != ValueError("Later.")
    assert str(one) == "OVERLOADED: Later."
