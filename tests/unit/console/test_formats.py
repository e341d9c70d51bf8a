"""Values as text for pages, and form fields as values for the service."""

from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from credit_service.client import display
from credit_service.client.csv_cells import neutralised
from credit_service.console import formats
from credit_service.console.formats import Typed
from credit_service.v1 import decision_pb2, loan_pb2


def test_short_money_omits_only_zero_decimals() -> None:
    assert display.inr_short(formats.money_of(230_000_000)) == "₹23,00,000"
    assert display.inr_short(formats.money_of(888_480)) == "₹8,884.80"


@given(st.integers(-(10**16), 10**16))
def test_money_survives_the_wire(paise: int) -> None:
    assert display.paise(formats.money_of(paise)) == paise


@given(st.integers(1, 10**16))
def test_a_prefilled_amount_is_read_as_the_same_amount(paise: int) -> None:
    typed = Typed({"amount": formats.plain_amount(formats.money_of(paise))})
    assert display.paise(typed.money("amount")) == paise
    assert not typed.problems


@pytest.mark.parametrize("text", ["₹5,00,000", "500000", " 5 00 000.00 ", "5,00,000.0"])
def test_amounts_are_read_in_the_forms_people_type(text: str) -> None:
    assert Typed({"amount": text}).money("amount") == Money(currency_code="INR", units=500_000)


@pytest.mark.parametrize("text", ["", "five", "1.234", "1e5", "--5", "٣٤", "1.", "0x10", "9" * 16])
def test_an_unreadable_amount_is_a_problem_of_its_field(text: str) -> None:
    typed = Typed({"amount": text})
    assert typed.money("amount") is None
    assert set(typed.problems) == {"amount"}


def test_the_service_validates_a_negative_amount() -> None:
    assert display.paise(Typed({"amount": "-5.50"}).money("amount")) == -550


@pytest.mark.parametrize("text", ["", "x", "1.5", "1e3", "9" * 19, "٣"])
def test_an_unreadable_whole_number_is_a_problem(text: str) -> None:
    typed = Typed({"age": text})
    assert typed.whole("age", formats.MAX_INT32) == 0
    assert set(typed.problems) == {"age"}


def test_whole_numbers_must_fit_the_type_of_their_field() -> None:
    assert Typed({"n": str(2**31 - 1)}).whole("n", formats.MAX_INT32) == 2**31 - 1
    typed = Typed({"n": str(2**31)})
    typed.whole("n", formats.MAX_INT32)
    assert typed.problems == {"n": "This number is too large."}
    assert Typed({"n": "-7"}).whole("n") == -7


def test_dates_are_read_or_a_problem() -> None:
    assert Typed({"d": "2024-02-29"}).day("d") == Date(year=2024, month=2, day=29)
    assert Typed({}).day("d") is None
    typed = Typed({"d": "2023-02-29"})
    assert typed.day("d") is None
    assert "d" in typed.problems


def test_a_rate_is_sent_as_typed() -> None:
    assert Typed({"r": " 12.345 % "}).rate("r").value == "12.345"
    typed = Typed({"r": ""})
    typed.rate("r")
    assert "r" in typed.problems


@pytest.mark.parametrize(
    ("text", "hundredths"),
    [("29.17", 2917), ("35", 3500), ("0.5", 50), ("-1.25", -125), ("x", None), ("", None)],
)
def test_decimals_are_converted_to_hundredths(text: str, hundredths: int | None) -> None:
    assert formats.to_hundredths(text) == hundredths


def test_figures_of_reasons_are_grouped() -> None:
    assert formats.figure("32884.88") == "₹32,884.88"
    assert formats.figure("unknown") == "unknown"


@pytest.mark.parametrize(
    ("paise", "text"),
    [
        (0, "₹0"),
        (85_000, "₹850"),
        (812_561, "₹8.12k"),
        (12_500_000, "₹1.25 lakh"),
        (30_000_000, "₹3 lakh"),
        (3_000_000_000, "₹3 crore"),
    ],
)
def test_axis_figures_are_short(paise: int, text: str) -> None:
    assert formats.short_rupees(paise) == text


def test_dates_and_names() -> None:
    assert formats.civil(Date(year=2024, month=2, day=9)) == "9 Feb 2024"
    assert formats.civil(Date()) == "—"
    assert formats.iso(Date(year=2024, month=2, day=9)) == "2024-02-09"
    code = decision_pb2.DECLINE_REASON_CODE_EMI_BURDEN_TOO_HIGH
    name = display.enum_name(code, decision_pb2.DeclineReasonCode)
    assert (name, display.words(name)) == ("EMI_BURDEN_TOO_HIGH", "EMI burden too high")
    assert display.enum_name(2, loan_pb2.LoanState) == "CLOSED"
    assert display.enum_name(99, loan_pb2.LoanState) == "UNKNOWN_99"


def test_instants_are_shown_in_the_business_time_zone() -> None:
    zone = ZoneInfo("Asia/Kolkata")
    time = Timestamp(seconds=1_709_231_709)  # 2024-02-29 18:35:09 UTC
    assert formats.instant(time, zone) == "1 Mar 2024, 00:05:09"
    assert formats.clock_time(time, zone) == "00:05:09"
    assert formats.minute(time, zone) == "1 Mar, 00:05"
    assert formats.instant(Timestamp(), zone) == "—"


@pytest.mark.parametrize(
    "start", ["=", "+", "-", "@", "\t", "\r", " =", "\ufeff=", "\uff1d", "\n@"]
)
def test_cells_that_a_spreadsheet_would_treat_as_formulas_are_neutralised(start: str) -> None:
    assert neutralised(start + "SUM(A1)") == "'" + start + "SUM(A1)"


def test_other_cells_are_unchanged() -> None:
    assert neutralised("8884.88") == "8884.88"
    text = formats.csv_text(("a", "=b"), [("x,y", '=HYPERLINK("http://x")'), (1, "two")])
    assert text == 'a,\'=b\r\n"x,y","\'=HYPERLINK(""http://x"")"\r\n1,two\r\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.044, "44 ms"), (1.44, "1.4 s"), (12.2, "12 s"), (200, "3 min 20 s"), (59.7, "1 min 0 s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text
