"""Conversion between wire and core: values are read as they were written, and never guessed."""

import string
import tracemalloc
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from google.protobuf import timestamp_pb2
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from credit_service.domain.errors import InvalidFieldsError
from credit_service.rpc.convert import decisions, fields, pages
from credit_service.rpc.convert.events import MAX_EVENT_TYPES, read_event_kinds
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.convert.ingestion import (
    read_ingestion_id,
    read_stream_header,
    read_stream_message,
    read_upload_header,
)
from credit_service.rpc.convert.pages import PageTokens
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb


def read_money(money: Money) -> tuple[int | None, Violations]:
    violations = Violations()
    request = pb.CheckEligibilityRequest(loan_amount=money)
    return fields.read_money(request, "loan_amount", violations), violations


def read_rate(text: str) -> tuple[int | None, Violations]:
    violations = Violations()
    request = pb.CheckEligibilityRequest(interest_rate=Decimal(value=text))
    return fields.read_rate_bps(request, "interest_rate", violations), violations


@given(st.integers(-(2**62), 2**62))
def test_money_is_read_as_it_was_written(paise: int) -> None:
    money = fields.write_money(paise)
    assert money.currency_code == "INR"
    assert money.units == 0 or money.nanos == 0 or (money.units < 0) == (money.nanos < 0)
    assert read_money(money)[0] == paise


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from(["", "INR", "USD", "inr", "₹", "\x00"]),
)
def test_any_money_is_read_exactly_or_rejected(units: int, nanos: int, currency: str) -> None:
    money = Money(units=units, nanos=nanos, currency_code=currency)
    paise, violations = read_money(money)
    assert (paise is None) == bool(violations.found)
    if paise is not None:
        assert paise * 10_000_000 == units * 10**9 + nanos
        assert currency in ("", "INR")


@given(st.integers(0, 10_000))
def test_a_rate_is_read_as_it_was_written(bps: int) -> None:
    assert read_rate(fields.write_hundredths(bps).value)[0] == bps


@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("12", 1200),
        ("12.5", 1250),
        ("12.50", 1250),
        ("12.5000", 1250),
        ("1.25e1", 1250),
        ("125E-1", 1250),
        ("+7", 700),
        (".5", 50),
        ("5.", 500),
        ("007", 700),
        ("-0", 0),
        ("0e999", 0),
        ("0.00000000000000000000", 0),
    ],
)
def test_plain_and_exponent_forms_of_a_rate_are_read(text: str, bps: int) -> None:
    found, violations = read_rate(text)
    assert found == bps
    assert not violations.found


@given(st.text(alphabet=string.digits + "+-.eE nNaAiIfF_,", max_size=60) | st.text(max_size=60))
def test_any_text_is_a_rate_or_rejected(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # not valid in a message
    bps, violations = read_rate(text)
    assert (bps is None) == bool(violations.found)
    for violation in violations.found:
        assert violation.message.isprintable()
        assert len(violation.message) < 200


def test_a_date_must_exist_in_the_calendar() -> None:
    violations = Violations()
    request = pb.RecordPaymentRequest(paid_on=Date(year=2024, month=2, day=29))
    assert fields.read_date(request, "paid_on", violations) == date(2024, 2, 29)
    assert fields.read_date(pb.RecordPaymentRequest(), "paid_on", violations) is None
    assert not violations.found
    for year, month, day in [(2023, 2, 29), (2024, 0, 1), (2024, 1, 0), (0, 1, 1), (10_000, 1, 1)]:
        request = pb.RecordPaymentRequest(paid_on=Date(year=year, month=month, day=day))
        assert fields.read_date(request, "paid_on", violations) is None
    assert len(violations.found) == 5


@given(
    st.datetimes(
        min_value=datetime(1, 1, 1),  # noqa: DTZ001 - hypothesis requires a naive one
        max_value=datetime(9999, 12, 31),  # noqa: DTZ001 - as above
        timezones=st.just(UTC),
    )
)
def test_instants_are_exact(instant: datetime) -> None:
    expected = timestamp_pb2.Timestamp()
    expected.FromDatetime(instant)
    assert fields.write_time(instant) == expected
    kolkata = instant + timedelta(0)
    assert fields.write_time(kolkata) == expected


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "0d6f1c1e8a0b4f0e9d513c9a6a1f7b20",
        "{0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20}",
        "urn:uuid:0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20",
        "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b2g",
        "0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20\n",
    ],
)
def test_only_the_canonical_form_of_a_uuid_is_accepted(text: str) -> None:
    violations = Violations()
    assert fields.read_uuid(text, "request_id", violations) is None
    assert [each.field for each in violations.found] == ["request_id"]


@pytest.mark.parametrize("text", [str(UUID(int=0)), str(UUID(int=2**128 - 1))])
def test_the_nil_and_max_uuid_are_rejected_as_any_id(text: str) -> None:
    streamed, uploaded = ingestion_pb.IngestRowsRequest(), ingestion_pb.UploadSpreadsheetRequest()
    headers: list[Any] = [streamed.header, uploaded.header]
    for header in headers:
        header.ingestion_id = text.upper()
        header.kind = 1
    uploaded.header.filename = "loans.csv"
    readers: list[tuple[Callable[[Any], Any], Any, str]] = [
        (read_stream_header, streamed, "header.ingestion_id"),
        (read_upload_header, uploaded, "header.ingestion_id"),
        (read_ingestion_id, text, "ingestion_id"),
    ]
    for read, request, field in readers:
        with pytest.raises(InvalidFieldsError) as caught:
            read(request)
        (found,) = caught.value.violations
        assert found.field == field
        assert "generate a random one" in found.message


def test_a_uuid_is_read_in_upper_and_lower_case() -> None:
    known = uuid4()
    violations = Violations()
    assert fields.read_uuid(str(known).upper(), "request_id", violations) == known
    assert fields.read_uuid("", "request_id", violations) is None
    assert not violations.found


_filters = st.integers(-(2**63), 2**63 - 1) | st.text(
    alphabet=string.ascii_letters + string.digits + ":.+-", max_size=40
)
_ids = st.integers(0, 2**63 - 1)


@given(_ids, st.datetimes(timezones=st.just(UTC)), st.uuids(), st.lists(_filters, max_size=3))
def test_a_page_token_is_valid_for_the_same_filters_only(
    number: int, instant: datetime, known: UUID, filters: list[int | str]
) -> None:
    parts = (pages.key_id, pages.key_instant, pages.key_uuid)
    tokens = PageTokens("ListThings", *parts)
    token = tokens.write([number, instant.isoformat(), str(known)], *filters)
    assert token.isascii()
    assert tokens.read(token, *filters) == [number, instant, known]
    for method, sent, sent_filters in (
        ("ListThings", token, [*filters, 0]),
        ("ListOthers", token, filters),
        ("ListThings", token + "A", filters),
        ("ListThings", "A" + token, filters),
    ):
        with pytest.raises(InvalidFieldsError) as caught:
            PageTokens(method, *parts).read(sent, *sent_filters)
        assert caught.value.reason == "PAGE_TOKEN_INVALID"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *((pages.key_id, value) for value in (-1, 2**63, "7", True, None, 1.0, [1])),
        *((pages.key_instant, value) for value in (7, "x", None, "2024-01-31", ["2024"])),
        *((pages.key_uuid, value) for value in (7, "x", None, [1])),
    ],
)
def test_the_values_in_a_forged_token_are_validated(part: Any, value: Any) -> None:
    """The digest's key is not secret: a caller with the key can put any value into a token."""
    tokens = PageTokens("ListThings", part)
    for key in ([value], [], [value, value]):
        with pytest.raises(InvalidFieldsError) as caught:
            tokens.read(tokens.write(key))
        assert caught.value.reason == "PAGE_TOKEN_INVALID"


@given(st.text(max_size=400))
def test_any_other_text_is_an_invalid_page_token(text: str) -> None:
    tokens = PageTokens("ListThings", pages.key_id)
    if text:
        with pytest.raises(InvalidFieldsError):
            tokens.read(text)
    else:
        assert tokens.read(text) is None


def test_a_page_size_is_1_to_1000_and_50_by_default() -> None:
    violations = Violations()
    assert [pages.read_page_size(size, violations) for size in (0, 1, 1000)] == [50, 1, 1000]
    assert not violations.found
    for size in (-1, 1001, 2**31 - 1):
        pages.read_page_size(size, violations)
    assert len(violations.found) == 3


def test_a_filter_of_millions_of_types_is_rejected_without_reading_each() -> None:
    violations = Violations()
    assert read_event_kinds([99] * 1_900_000, "event_types", violations) == frozenset()
    (found,) = violations.found
    assert found.message == "event_types must have at most 100 entries, found 1,900,000."
    violations = Violations()
    read_event_kinds([99] * MAX_EVENT_TYPES, "event_types", violations)
    assert len(violations.found) == MAX_EVENT_TYPES


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        # Two bytes each, as many as fit into a message of 4 MiB.
        (b"\x0a\x00" * 1_900_000, ["batch.rows"]),
        (b"\x0a\xe0\xab\xea\x01" + b"\x5a\x00" * 1_919_728, []),
    ],
    ids=["rows", "unreadable cells"],
)
def test_reading_a_batch_allocates_little_memory(rows: bytes, fields: list[str]) -> None:
    request = ingestion_pb.IngestRowsRequest()
    request.batch.loans.MergeFromString(rows)
    tracemalloc.start()
    try:
        read_stream_message(request)
        found = []
    except InvalidFieldsError as error:
        found = [each.field for each in error.violations]
    finally:
        _, most_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert found == fields
    assert most_bytes < 1024**2


def test_messages_quote_callers_text_short_and_printable() -> None:
    for text in ("\x1b[31mred", "x" * 10_000, "a\nb", "\u202eabc"):
        _, violations = read_rate(text)
        (found,) = violations.found
        assert found.message.isprintable()
        assert len(found.message) < 200


def test_an_unreadable_field_has_only_one_violation() -> None:
    request: Any = pb.CreateLoanRequest(
        request_id=str(uuid4()),
        customer_id=1,
        loan_amount=Money(currency_code="USD", units=5),
        interest_rate=Decimal(value="12"),
        tenure_months=0,
    )
    with pytest.raises(InvalidFieldsError) as caught:
        decisions.read_create_loan(request)
    assert [each.field for each in caught.value.violations] == ["loan_amount", "tenure_months"]
