"""Logs are structured, have the current ids, and no phone numbers or names."""

import io
import json
import logging
from typing import Any, Literal

import pytest
import structlog
from opentelemetry.trace import SpanKind
from structlog.contextvars import bound_contextvars

from credit_service.observability import tracing
from credit_service.observability.logs import configure_logging, masked_phone_number, masked_text
from credit_service.settings import Settings


class Log:
    """The logged lines."""

    def __init__(self, log_format: Literal["json", "console"] = "json") -> None:
        self.stream = io.StringIO()
        configure_logging(
            Settings(log_format=log_format, log_level="info"), component="test", stream=self.stream
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_a_line_has_event_component_and_ids() -> None:
    log = Log()
    with bound_contextvars(request_id="r-1", customer_id=7):
        structlog.get_logger("a.module").info("loan_booked", loan_id=9)
    structlog.get_logger("a.module").debug("too_fine")
    (line,) = log.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "loan_booked",
        "level": "info",
        "logger": "a.module",
        "component": "test",
        "request_id": "r-1",
        "customer_id": 7,
        "loan_id": 9,
    }


def test_log_lines_of_libraries_pass_the_same_processors() -> None:
    log = Log()
    with bound_contextvars(request_id="r-1"):
        logging.getLogger("library").warning("no answer from %s", "+919876598765")
    (line,) = log.lines()
    assert line["event"] == "no answer from +91********65"
    assert (line["request_id"], line["logger"]) == ("r-1", "library")


def test_nested_fields_are_masked() -> None:
    log = Log()
    structlog.get_logger("a").info(
        "registered",
        phone_number="+919876598765",
        customer={"first_name": "Asha", "last_name": "Rao", "age": 30, "notes": ["9876598765"]},
        amount_paise=9876598765,
    )
    (line,) = log.lines()
    assert line["phone_number"] == "+91********65"
    assert line["customer"] == {
        "first_name": "***",
        "last_name": "***",
        "age": 30,
        "notes": ["987*****65"],
    }
    assert line["amount_paise"] == 9876598765


def test_traces_are_masked() -> None:
    log = Log()
    error = ValueError(
        "Key (phone_number)=(+919876598765) exists: Customer(first_name='Asha')\n"
        "DETAIL:  Failing row contains (1, Rao)"
    )
    structlog.get_logger("a").error("failed", exc_info=error)
    assert log.lines()[0]["exception"] == (
        "ValueError: Key (phone_number)=(+91********65) exists: Customer(first_name='***')\n"
        "DETAIL: (hidden)"
    )


def test_the_console_is_masked_too() -> None:
    log = Log("console")
    structlog.get_logger("a").info("called", phone="098765 98765")
    assert "98765" not in log.stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "+919876598765",
        "+91 98765 98765",
        "9876598765",
        "098765 98765",
        "91-98765-98765",
        "+15551234567",
    ],
)
def test_phone_numbers_in_texts_are_masked(text: str) -> None:
    assert masked_text(f"call {text}, now") == f"call {masked_phone_number(text)}, now"


@pytest.mark.parametrize(
    "text",
    [
        "3f2504e0-4f89-11d3-9a0c-9876598765ab",
        "2026-06-10T06:30:00.987654321+05:30",
        "loan 1003 of customer 240 over 12345678 paise",
        "score 98.76",
        "sha256 9876598765aa",
    ],
)
def test_other_numbers_are_not_masked(text: str) -> None:
    assert masked_text(text) == text


def test_undecodable_metadata_is_not_logged() -> None:
    """As gRPC logs it: 'authorization' with a byte that is not UTF-8."""
    log = Log()
    grpc_logger = logging.getLogger("grpc._cython.cygrpc")
    grpc_logger.error("Invalid encoding on %s", b"Bearer secret\xff")
    grpc_logger.error("Something else")
    assert [line["event"] for line in log.lines()] == ["Something else"]


def test_long_texts_are_truncated() -> None:
    assert len(masked_text("x" * 1_000_000)) < 25_000


def test_short_numbers_are_hidden_completely() -> None:
    assert masked_phone_number("12345") == "*****"


def test_a_caller_cannot_fill_the_log_with_a_malformed_traceparent() -> None:
    log = Log()
    assert tracing.start_span("call", SpanKind.SERVER, "x" * 5000, {}) is None
    assert log.lines() == []
