"""Checks of registration."""

import grpc

from credit_service.client import display
from credit_service.console.checklist.bench import (
    LAKH_PAISE,
    Bench,
    Flow,
    Item,
    registration_request,
    require,
    rupees_money,
)
from credit_service.rupees import format_inr, group_digits
from credit_service.v1 import credit_service_pb2 as pb


def _limit_follows_income(bench: Bench) -> str:
    found = {
        income: display.paise(bench.customer(income).approved_limit)
        for income in (62_500, 12_500, 1_389, 1_388)
    }
    summary = ", ".join(
        f"{group_digits(income)} → {format_inr(limit).removesuffix('.00')}"
        for income, limit in found.items()
    )
    require(list(found.values()) == [23 * LAKH_PAISE, 5 * LAKH_PAISE, LAKH_PAISE, 0], summary)
    return summary


def _all_bad_fields_at_once(bench: Bench) -> str:
    request = pb.RegisterCustomerRequest(
        first_name=" ",
        last_name="x" * 51,
        age=17,
        monthly_income=rupees_money(0),
        phone_number="12",
    )
    error = bench.rejected(
        lambda: bench.service.register(request),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
    )
    fields = sorted({name for name, _ in error.violations})
    summary = f"INVALID_ARGUMENT for {', '.join(fields)}"
    wanted = ["age", "first_name", "last_name", "monthly_income", "phone_number", "request_id"]
    require(fields == wanted, summary)
    return summary


def _one_phone_one_customer(bench: Bench) -> str:
    first = bench.customer()
    again = registration_request(100_000)
    number = first.phone_number.removeprefix("+91")
    again.phone_number = f"0{number[:5]} {number[5:]}"
    error = bench.rejected(
        lambda: bench.service.register(again),
        grpc.StatusCode.ALREADY_EXISTS,
        "PHONE_NUMBER_TAKEN",
    )
    return f"{error.code.name} ({error.reason})"


def _register_once(bench: Bench) -> str:
    request = registration_request(100_000)
    first, second = bench.service.register(request), bench.service.register(request)
    summary = f"customers {first.customer_id} and {second.customer_id}"
    require(first.customer_id == second.customer_id, summary)
    return f"customer {first.customer_id} both times"


def _request_id_other_content(bench: Bench) -> str:
    request = registration_request(100_000)
    bench.service.register(request)
    request.age += 1
    error = bench.rejected(
        lambda: bench.service.register(request),
        grpc.StatusCode.FAILED_PRECONDITION,
        "REQUEST_ID_REUSED",
    )
    return f"{error.code.name} ({error.reason})"


FLOW = Flow(
    "registration",
    "Registration",
    (
        Item(
            "limit-follows-income",
            "The approved limit is computed from the income",
            "36 times the income to the nearest lakh, half up: 62,500 → ₹23,00,000, "
            "12,500 → ₹5,00,000, 1,389 → ₹1,00,000, 1,388 → ₹0",
            _limit_follows_income,
        ),
        Item(
            "all-bad-fields",
            "All invalid fields are reported at once",
            "INVALID_ARGUMENT for age, first_name, last_name, monthly_income, phone_number "
            "and request_id",
            _all_bad_fields_at_once,
        ),
        Item(
            "one-phone",
            "A phone number in another format is the same number",
            "ALREADY_EXISTS (PHONE_NUMBER_TAKEN)",
            _one_phone_one_customer,
        ),
        Item(
            "register-once",
            "A repeated request with one request id registers one customer",
            "the same customer both times",
            _register_once,
        ),
        Item(
            "request-id-reused",
            "A request id with other content is rejected",
            "FAILED_PRECONDITION (REQUEST_ID_REUSED)",
            _request_id_other_content,
        ),
    ),
)
