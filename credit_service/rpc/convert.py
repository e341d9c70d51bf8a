"""Wire ↔ core: the one place where messages of the contract become values and values messages.

Reading gathers every bad field of a request in a `Violations` and raises once. A reader returns a
harmless stand-in for what it could not read, so that the rest is still looked at, by the rules of
the domain too. Nothing here is a float: money is units and nanos, a rate is text.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from credit_service.clock import Moment
from credit_service.commands.create_loan import CreateLoan
from credit_service.commands.register_customer import RegisterCustomer
from credit_service.domain.customers import parse_phone_number, validate_new_customer
from credit_service.domain.decisions import decode_inputs
from credit_service.domain.eligibility import CounterOffer, Decision, Reason, ReasonCode
from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    FieldViolation,
    InvalidFields,
)
from credit_service.domain.loans import (
    MAX_PRINCIPAL_PAISE,
    Ask,
    Loan,
    LoanState,
    LoanTerms,
    ScheduledInstallment,
    book,
    last_installment_paise,
    repayment_plan,
    validate_ask,
)
from credit_service.domain.money import format_hundredths, format_inr, format_rate
from credit_service.domain.payments import (
    InstallmentProgress,
    InstallmentState,
    next_unsettled_due_date,
    paid_and_outstanding_paise,
)
from credit_service.domain.principals import ANONYMOUS
from credit_service.domain.scorecard import Component
from credit_service.domain.scoring import CreditScore, Override, ScoreComponent
from credit_service.queries.loans import RepaymentSchedule
from credit_service.storage.customers import CustomerView
from credit_service.storage.decisions import StoredDecision
from credit_service.v1 import (
    credit_service_pb2,
    customer_pb2,
    decision_pb2,
    loan_pb2,
    score_pb2,
)

CURRENCY = "INR"
DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_QUERY_LENGTH = 100

_NANOS_PER_PAISA = 10_000_000
_MAX_NANOS = 999_999_999
_MAX_DECIMAL_LENGTH = 40
_MAX_TOKEN_LENGTH = 256
_SHOWN = 40

_PLAIN_RATE = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_EXACT = Context(prec=2 * _MAX_DECIMAL_LENGTH)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_UUID = UUID(int=0)
_RESERVED_UUIDS = {UUID(int=0): "nil", UUID(int=2**128 - 1): "max"}
"""RFC 9562. Clients that set no id send them, all the same one."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOKEN_KEY = b"credit_service page token 1"


class Violations:
    """The bad fields of one request."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def add(self, field: str, reason: str, sentence: str) -> None:
        """Note one; the sentence goes on after the field's name: 'must be …'."""
        self.found.append(FieldViolation(field, reason, f"{field} {sentence}"))

    def merge(self, error: InvalidFields) -> None:
        """Note what the domain found, but for fields that could not even be read."""
        unreadable = {each.field for each in self.found}
        self.found += [each for each in error.violations if each.field not in unreadable]

    def raise_if_any(self, reason: str = "INVALID_FIELD") -> None:
        """Raise InvalidFields with all of them, when there are any."""
        if self.found:
            raise InvalidFields(self.found, reason)


def _shown(text: str) -> str:
    """What a caller sent, fit to be told back: short, and nothing that a terminal would obey."""
    start = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in text[: _SHOWN + 1]
    )
    return f"'{start}'" if len(start) <= _SHOWN else f"'{start[:_SHOWN]}…'"


# Reading. Each reads the field of that name from a message.


def read_money(message: Any, field: str, violations: Violations) -> int | None:
    """Paise of a google.type.Money; None, with a violation noted, when it cannot be read."""
    if not message.HasField(field):
        violations.add(field, REQUIRED, "is required.")
        return None
    money = getattr(message, field)
    currency = money.currency_code
    units: int = money.units
    nanos: int = money.nanos
    if currency and currency != CURRENCY:
        violations.add(field, INVALID_FORMAT, f"must be in INR, found {_shown(currency)}.")
        return None
    if nanos:
        if not -_MAX_NANOS <= nanos <= _MAX_NANOS or (units and (units > 0) != (nanos > 0)):
            violations.add(
                field,
                INVALID_FORMAT,
                f"must have nanos below 1,000,000,000 and of the sign of units, found units "
                f"{units} and nanos {nanos}.",
            )
            return None
        if nanos % _NANOS_PER_PAISA:
            violations.add(
                field,
                INVALID_FORMAT,
                f"must not be finer than a paisa (10,000,000 nanos), found nanos {nanos}.",
            )
            return None
        # The division is exact, and so right for either sign.
        return units * 100 + nanos // _NANOS_PER_PAISA
    return units * 100


def read_rate_bps(message: Any, field: str, violations: Violations) -> int | None:
    """Basis points of a google.type.Decimal in percent; None when it cannot be read."""
    if not message.HasField(field):
        violations.add(field, REQUIRED, "is required.")
        return None
    text: str = getattr(message, field).value
    plain = _PLAIN_RATE.fullmatch(text)
    if plain is not None:
        whole, fraction = plain.groups()
        return int(whole) * 100 + (int(fraction.ljust(2, "0")) if fraction else 0)
    if not text:
        violations.add(field, REQUIRED, "is required: its value is empty.")
        return None
    if len(text) > _MAX_DECIMAL_LENGTH or _DECIMAL.fullmatch(text) is None:
        violations.add(
            field, INVALID_FORMAT, f"must be a decimal number such as 12.5, found {_shown(text)}."
        )
        return None
    return _hundredths(Decimal(text), text, field, violations)


def _hundredths(value: Decimal, text: str, field: str, violations: Violations) -> int | None:
    """A decimal that may have an exponent, in hundredths; its size is looked at before it is
    written out, because an exponent of a few characters can stand for hundreds of digits."""
    if not value:
        return 0
    if value.adjusted() > 3:
        violations.add(
            field, OUT_OF_RANGE, f"must be 0 to 100 percent a year, found {_shown(text)}."
        )
        return None
    hundredths = value.scaleb(2, _EXACT)
    if value.adjusted() < -2 or hundredths != hundredths.to_integral_value():
        violations.add(
            field, INVALID_FORMAT, f"must have at most two decimals, found {_shown(text)}."
        )
        return None
    return int(hundredths)


def read_date(message: Any, field: str, violations: Violations) -> date | None:
    """A full google.type.Date; None when it is absent, or noted when it is no day."""
    if not message.HasField(field):
        return None
    day = getattr(message, field)
    try:
        return date(day.year, day.month, day.day)
    except ValueError:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a day of the calendar, found year {day.year}, month {day.month}, "
            f"day {day.day}.",
        )
        return None


def read_id(value: int, field: str, violations: Violations) -> int:
    """An id, 1 or more."""
    if value < 1:
        if value:
            violations.add(field, OUT_OF_RANGE, f"must be 1 or more, found {value}.")
        else:
            violations.add(field, REQUIRED, "is required: an id, 1 or more.")
    return value


def read_uuid(text: str, field: str, violations: Violations) -> UUID | None:
    """A UUID in its usual form, in either case; None when there is none, or noted when it is
    something else or the nil or max UUID."""
    if not text:
        return None
    if _UUID.fullmatch(text) is None:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a UUID such as 0d6f1c1e-8a0b-4f0e-9d51-3c9a6a1f7b20, found {_shown(text)}.",
        )
        return None
    found = UUID(text)
    name = _RESERVED_UUIDS.get(found)
    if name is not None:
        violations.add(
            field,
            INVALID_FORMAT,
            f"must be a UUID of this call's own, found the {name} UUID {found}; make a random one, "
            "with uuidgen or your language's UUID library.",
        )
        return None
    return found


def read_required_uuid(text: str, field: str, violations: Violations) -> UUID:
    """As `read_uuid`; that there is none is noted too."""
    if not text:
        violations.add(field, REQUIRED, "is required: a UUID.")
    return read_uuid(text, field, violations) or _NO_UUID


def read_request_id(message: Any, violations: Violations) -> UUID:
    """The request_id of a request that writes; noted when there is none or it is no UUID.

    Every writing method requires one: the published retry policy sends a call again whose answer
    was lost, and without an id the second attempt has a second effect.
    """
    if not message.request_id:
        violations.add(
            "request_id",
            REQUIRED,
            "is required: a random UUID for each intended write, the same one on every retry; make "
            "it with uuidgen or your language's UUID library.",
        )
    return read_uuid(message.request_id, "request_id", violations) or _NO_UUID


def read_phone_number(text: str, field: str, violations: Violations) -> str:
    """A phone number in E.164."""
    try:
        return parse_phone_number(text)
    except ValueError:
        reason = INVALID_FORMAT if text.strip() else REQUIRED
        violations.add(field, reason, "must be a valid phone number such as +91 98765 98765.")
        return ""


def read_query(text: str, field: str, violations: Violations) -> str:
    """A text to search for."""
    if len(text) > MAX_QUERY_LENGTH:
        violations.add(
            field,
            OUT_OF_RANGE,
            f"must have at most {MAX_QUERY_LENGTH} characters, found {len(text)}.",
        )
    elif _CONTROL.search(text):
        violations.add(
            field, INVALID_FORMAT, f"must not contain control characters, found {_shown(text)}."
        )
    return text.strip()


def read_page_size(size: int, violations: Violations) -> int:
    """How many a page holds; 0 is the default."""
    if not 0 <= size <= MAX_PAGE_SIZE:
        violations.add("page_size", OUT_OF_RANGE, f"must be 0 to 1,000, found {size}.")
        return DEFAULT_PAGE_SIZE
    return size or DEFAULT_PAGE_SIZE


def read_ask(request: Any, violations: Violations) -> Ask:
    """loan_amount, interest_rate and tenure_months of a CheckEligibility or CreateLoan request."""
    principal = read_money(request, "loan_amount", violations)
    rate = read_rate_bps(request, "interest_rate", violations)
    tenure_months: int = request.tenure_months
    try:
        return validate_ask(
            principal_paise=MAX_PRINCIPAL_PAISE if principal is None else principal,
            annual_rate_bps=0 if rate is None else rate,
            tenure_months=tenure_months,
        )
    except InvalidFields as error:
        violations.merge(error)
        return Ask(1, 0, 1)


def read_register_customer(request: credit_service_pb2.RegisterCustomerRequest) -> RegisterCustomer:
    """The command of a RegisterCustomer request. Raises InvalidFields."""
    violations = Violations()
    request_id = read_request_id(request, violations)
    income = read_money(request, "monthly_income", violations)
    try:
        customer = validate_new_customer(
            first_name=request.first_name,
            last_name=request.last_name,
            age=request.age,
            monthly_income_paise=1 if income is None else income,
            phone_number=request.phone_number,
        )
    except InvalidFields as error:
        violations.merge(error)
        violations.raise_if_any()
        raise
    violations.raise_if_any()
    return RegisterCustomer(request_id, customer)


def read_create_loan(request: credit_service_pb2.CreateLoanRequest) -> CreateLoan:
    """The command of a CreateLoan request. Raises InvalidFields."""
    violations = Violations()
    request_id = read_request_id(request, violations)
    customer_id = read_id(request.customer_id, "customer_id", violations)
    ask = read_ask(request, violations)
    violations.raise_if_any()
    return CreateLoan(request_id, customer_id, ask)


def read_check_eligibility(
    request: credit_service_pb2.CheckEligibilityRequest,
) -> tuple[int, Ask]:
    """The customer's id and the ask of a CheckEligibility request. Raises InvalidFields."""
    violations = Violations()
    customer_id = read_id(request.customer_id, "customer_id", violations)
    ask = read_ask(request, violations)
    violations.raise_if_any()
    return customer_id, ask


def read_only_id(value: int, field: str) -> int:
    """The id of a request that has nothing else. Raises InvalidFields."""
    violations = Violations()
    read_id(value, field, violations)
    violations.raise_if_any()
    return value


# Page tokens.


class PageTokens:
    """Tokens of one list: where the next page begins, bound to the request's filters.

    A token is opaque, not secret: it tells nothing that the page before did not, and gives access
    to nothing. The digest finds out tokens of another list, of other filters, and damaged ones; one
    that somebody made with the digest's key, which is no secret, is read as carefully as a field.
    """

    def __init__(self, method: str, *parts: Callable[[Any], Any]) -> None:
        """`parts` read the values of a key, such as `key_id`: each raises ValueError or TypeError
        for what is none."""
        self._method = method
        self._parts = parts

    def write(self, key: list[int | str], *filters: object) -> str:
        """The token of the page that begins after `key`."""
        text = json.dumps(key, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(self._digest(text, filters) + text).decode().rstrip("=")

    def read(self, token: str, *filters: object) -> list[Any] | None:
        """The key that a token was written with; None for the first page.

        Raises:
            InvalidFields: PAGE_TOKEN_INVALID.
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
            "must be the next_page_token of the page before, with all else unchanged.",
        )
        raise InvalidFields(violations.found, "PAGE_TOKEN_INVALID")

    def _digest(self, text: bytes, filters: tuple[object, ...]) -> bytes:
        bound = f"{self._method}\n{filters!r}\n".encode()
        return hashlib.blake2b(bound + text, digest_size=8, key=_TOKEN_KEY).digest()


def key_id(value: object) -> int:
    """An id in the key of a page token. Raises ValueError for what cannot be one."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("not an id")
    return value


def key_instant(value: str) -> datetime:
    """An instant in the key of a page token. Raises ValueError or TypeError for what is none."""
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError("an instant without a time zone")
    return instant


def key_uuid(value: object) -> UUID:
    """A UUID in the key of a page token. Raises ValueError for what is none."""
    return UUID(str(value))


def _decode_token(token: str) -> bytes:
    """The bytes of a token, empty when it is none that was ever given out."""
    if len(token) > _MAX_TOKEN_LENGTH:
        return b""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True)
    except ValueError:
        return b""


# Writing.


# What the busiest answers hold many of is put into its place, not made and copied there: measured,
# that halves the time of a list of loans.


def write_money(paise: int) -> Any:
    """A google.type.Money in INR."""
    message = Money()
    fill_money(message, paise)
    return message


def fill_money(message: Any, paise: int) -> None:
    """Put an amount in INR into an empty google.type.Money."""
    message.currency_code = CURRENCY
    if paise >= 0:
        units, rest = divmod(paise, 100)
    else:
        units, rest = divmod(-paise, 100)
        units, rest = -units, -rest
    message.units = units
    if rest:
        message.nanos = rest * _NANOS_PER_PAISA


def write_hundredths(hundredths: int) -> Any:
    """A google.type.Decimal of basis points as percent, or of hundredths of a point."""
    return DecimalMessage(value=_decimal_text(hundredths))


_decimal_text = lru_cache(maxsize=16_384)(format_hundredths)
_REMEMBERED_COMPONENTS = 4_096


def write_date(day: date) -> Any:
    """A google.type.Date."""
    return Date(year=day.year, month=day.month, day=day.day)


def fill_date(message: Any, day: date) -> None:
    """Put a day into a google.type.Date."""
    message.year = day.year
    message.month = day.month
    message.day = day.day


def write_time(instant: datetime) -> Timestamp:
    """A google.protobuf.Timestamp, exact to the microsecond."""
    message = Timestamp()
    fill_time(message, instant)
    return message


def fill_time(message: Timestamp, instant: datetime) -> None:
    """Put an instant into a google.protobuf.Timestamp, exact to the microsecond."""
    since = instant - _EPOCH
    message.seconds = since.days * 86_400 + since.seconds
    message.nanos = since.microseconds * 1000


_LOAN_STATES = {state: loan_pb2.LoanState.Value(f"LOAN_STATE_{state.name}") for state in LoanState}
_LOAN_STATE_FILTERS: dict[int, LoanState | None] = {
    loan_pb2.LOAN_STATE_UNSPECIFIED: None,
    **{number: state for state, number in _LOAN_STATES.items()},
}
_INSTALLMENT_STATES = {
    state: loan_pb2.InstallmentState.Value(f"INSTALLMENT_STATE_{state.name}")
    for state in InstallmentState
}
# By name. A stored decision of a later release may have others: UNSPECIFIED on the wire.
_COMPONENTS: dict[str, Any] = {
    each: score_pb2.ScoreComponent.Value(f"SCORE_COMPONENT_{each.name}") for each in Component
}
_OVERRIDES: dict[str | None, Any] = {
    None: score_pb2.SCORE_OVERRIDE_UNSPECIFIED,
    **{each: score_pb2.ScoreOverride.Value(f"SCORE_OVERRIDE_{each.name}") for each in Override},
}
_REASON_CODES: dict[str, Any] = {
    each: decision_pb2.DeclineReasonCode.Value(f"DECLINE_REASON_CODE_{each.name}")
    for each in ReasonCode
}


def read_loan_state(number: int, field: str, violations: Violations) -> LoanState | None:
    """A state to filter by; None for loans of every state."""
    if number not in _LOAN_STATE_FILTERS:
        violations.add(field, OUT_OF_RANGE, f"must be a LoanState, found {number}.")
        return None
    return _LOAN_STATE_FILTERS[number]


def write_customer(view: CustomerView) -> customer_pb2.Customer:
    """A customer with the position of the moment."""
    message = customer_pb2.Customer()
    fill_customer(message, view)
    return message


def fill_customer(message: customer_pb2.Customer, view: CustomerView) -> None:
    """Put a customer with the position of the moment into an empty message."""
    customer, position = view.customer, view.position
    available = customer.approved_limit_paise - position.current_debt_paise
    message.customer_id = customer.customer_id
    message.first_name = customer.first_name
    message.last_name = customer.last_name
    message.age = customer.age
    fill_money(message.monthly_income, customer.monthly_income_paise)
    message.phone_number = customer.phone_number
    fill_money(message.approved_limit, customer.approved_limit_paise)
    fill_money(message.current_debt, position.current_debt_paise)
    fill_money(message.current_installments, position.current_installments_paise)
    fill_money(message.available_credit, max(0, available))
    message.version = customer.version
    fill_time(message.created_time, customer.created_at)


@lru_cache(maxsize=_REMEMBERED_COMPONENTS)
def _component(component: ScoreComponent) -> score_pb2.CreditScoreComponent:
    """A component, which many customers have alike. The message is never to be changed."""
    return score_pb2.CreditScoreComponent(
        component=_COMPONENTS.get(component.component, score_pb2.SCORE_COMPONENT_UNSPECIFIED),
        points=write_hundredths(component.points_hundredths),
        max_points=write_hundredths(component.max_points_hundredths),
        explanation=component.explanation,
    )


def fill_score(message: score_pb2.CreditScore, score: CreditScore, computed_at: datetime) -> None:
    """Put a score with its components, computed at that instant, into an empty message."""
    message.score = score.score
    message.override = _OVERRIDES.get(score.override, score_pb2.SCORE_OVERRIDE_UNSPECIFIED)
    message.scorecard_version = score.scorecard_version
    message.customer_version = score.customer_version
    message.components.extend(map(_component, score.components))
    fill_time(message.computed_time, computed_at)
    fill_date(message.valid_until, score.valid_until)


def _reason(reason: Reason) -> Any:
    return decision_pb2.DeclineReason(
        code=reason_code(reason.code),
        message=reason.message,
        found=reason.found,
        threshold=reason.threshold,
        components=[_COMPONENTS[each] for each in reason.components if each in _COMPONENTS],
    )


def reason_code(name: str) -> Any:
    """The DeclineReasonCode of that name; UNSPECIFIED for one of a later release."""
    return _REASON_CODES.get(name, decision_pb2.DECLINE_REASON_CODE_UNSPECIFIED)


def _counter_offer(offer: CounterOffer | None, corrected_rate_bps: int) -> Any:
    if offer is None:
        return None
    message = decision_pb2.CounterOffer(
        corrected_interest_rate=write_hundredths(corrected_rate_bps)
    )
    if offer.max_principal_paise is not None:
        message.max_loan_amount.CopyFrom(write_money(offer.max_principal_paise))
    if offer.max_principal_installment_paise is not None:
        message.max_loan_amount_installment.CopyFrom(
            write_money(offer.max_principal_installment_paise)
        )
    if offer.min_tenure_months is not None:
        message.min_tenure_months = offer.min_tenure_months
    if offer.min_tenure_installment_paise is not None:
        message.min_tenure_installment.CopyFrom(write_money(offer.min_tenure_installment_paise))
    if offer.max_principal_last_installment_paise is not None:
        message.max_loan_amount_last_installment.CopyFrom(
            write_money(offer.max_principal_last_installment_paise)
        )
    if offer.min_tenure_last_installment_paise is not None:
        message.min_tenure_last_installment.CopyFrom(
            write_money(offer.min_tenure_last_installment_paise)
        )
    return message


def _last_installment(ask: Ask, decision: Decision) -> int:
    """The last installment, in paise; computed where the decision is from before it was stated."""
    if decision.last_installment_paise is not None:
        return decision.last_installment_paise
    terms = LoanTerms(ask.principal_paise, decision.corrected_rate_bps, ask.tenure_months)
    return last_installment_paise(terms, decision.installment_paise)


def write_eligibility(
    customer_id: int, ask: Ask, decision: Decision, moment: Moment
) -> credit_service_pb2.CheckEligibilityResponse:
    """The answer of CheckEligibility."""
    response = credit_service_pb2.CheckEligibilityResponse(
        customer_id=customer_id,
        approved=decision.approved,
        tenure_months=ask.tenure_months,
        reasons=[_reason(each) for each in decision.reasons],
        counter_offer=_counter_offer(decision.counter_offer, decision.corrected_rate_bps),
    )
    fill_money(response.monthly_installment, decision.installment_paise)
    fill_money(response.last_installment, _last_installment(ask, decision))
    response.interest_rate.value = _decimal_text(decision.requested_rate_bps)
    response.corrected_interest_rate.value = _decimal_text(decision.corrected_rate_bps)
    fill_score(response.credit_score, decision.score, moment.now)
    return response


def write_created_loan(stored: StoredDecision, ask: Ask) -> credit_service_pb2.CreateLoanResponse:
    """The answer of CreateLoan, from what is stored: the same on every repeat."""
    decision = stored.outcome
    response = credit_service_pb2.CreateLoanResponse(
        decision_id=stored.decision_id,
        approved=stored.approved,
        message=_outcome_sentence(decision, ask),
        interest_rate=write_hundredths(decision.requested_rate_bps),
        corrected_interest_rate=write_hundredths(decision.corrected_rate_bps),
        monthly_installment=write_money(decision.installment_paise),
        last_installment=write_money(_last_installment(ask, decision)),
        reasons=[_reason(each) for each in decision.reasons],
        counter_offer=_counter_offer(decision.counter_offer, decision.corrected_rate_bps),
    )
    if stored.loan_id is not None:
        # As it was born, not as later payments made it: a repeat gives the same answer.
        loan = book(
            LoanTerms(ask.principal_paise, decision.corrected_rate_bps, ask.tenure_months),
            decision.installment_paise,
            loan_id=stored.loan_id,
            customer_id=stored.customer_id,
            day=stored.decided_on,
            decision_id=stored.decision_id,
        )
        fill_loan(response.loan, loan)
    return response


def _outcome_sentence(decision: Decision, ask: Ask) -> str:
    if not decision.approved:
        return "Declined. " + " ".join(each.message for each in decision.reasons)
    corrected = (
        f", corrected from {format_rate(decision.requested_rate_bps)}"
        if decision.corrected_rate_bps != decision.requested_rate_bps
        else ""
    )
    months = "1 month" if ask.tenure_months == 1 else f"{ask.tenure_months} months"
    last_paise = _last_installment(ask, decision)
    last = ""
    if last_paise != decision.installment_paise:
        last = f", the last {format_inr(last_paise)}"
    return (
        f"Approved: {format_inr(ask.principal_paise)} over {months} at "
        f"{format_rate(decision.corrected_rate_bps)} a year{corrected}, "
        f"{format_inr(decision.installment_paise)} a month{last}."
    )


def write_loan(loan: Loan) -> loan_pb2.Loan:
    """A loan as it stands."""
    message = loan_pb2.Loan()
    fill_loan(message, loan)
    return message


def fill_loan(message: loan_pb2.Loan, loan: Loan) -> None:
    """Put a loan as it stands into an empty message."""
    paid, outstanding = paid_and_outstanding_paise(loan)
    message.customer_id = loan.customer_id
    message.loan_id = loan.loan_id
    fill_money(message.loan_amount, loan.principal_paise)
    message.interest_rate.value = _decimal_text(loan.annual_rate_bps)
    message.tenure_months = loan.tenure_months
    fill_money(message.monthly_installment, loan.installment_paise)
    message.emis_paid_on_time = loan.emis_paid_on_time
    message.installments_settled = loan.installments_settled
    message.repayments_left = loan.repayments_left
    message.state = _LOAN_STATES[loan.state]
    fill_date(message.start_date, loan.start_date)
    fill_date(message.end_date, loan.end_date)
    message.source = loan_pb2.LOAN_SOURCE_IMPORTED if loan.imported else loan_pb2.LOAN_SOURCE_BOOKED
    message.decision_id = loan.decision_id or 0
    fill_money(message.outstanding, outstanding)
    fill_money(message.paid_amount, paid)
    fill_money(message.last_installment, repayment_plan(loan).last_paise)
    if loan.closed_on is not None:
        fill_date(message.closed_on, loan.closed_on)
    due = next_unsettled_due_date(loan)
    if due is not None:
        fill_date(message.next_due_date, due)


def write_schedule(
    found: RepaymentSchedule,
) -> credit_service_pb2.GetRepaymentScheduleResponse:
    """The answer of GetRepaymentSchedule."""
    schedule = found.schedule
    outstanding = paid_and_outstanding_paise(found.loan)[1]
    return credit_service_pb2.GetRepaymentScheduleResponse(
        installments=[
            write_installment(line, progress, found.settled_on.get(line.number))
            for line, progress in zip(schedule.installments, found.progress, strict=True)
        ],
        totals=loan_pb2.ScheduleTotals(
            payments=write_money(schedule.total_payment_paise),
            principal=write_money(schedule.total_principal_paise),
            interest=write_money(schedule.total_interest_paise),
            outstanding=write_money(outstanding),
        ),
    )


def write_installment(
    line: ScheduledInstallment, progress: InstallmentProgress, settled_on: date | None
) -> loan_pb2.Installment:
    """An installment and how far it has come.

    `settled_on`: the day on which a payment settled it; looked at where it is settled.
    """
    if progress.state is not InstallmentState.SETTLED:
        settled_on = None
    return loan_pb2.Installment(
        number=line.number,
        due_date=write_date(line.due_date),
        payment=write_money(line.payment_paise),
        principal=write_money(line.principal_paise),
        interest=write_money(line.interest_paise),
        balance=write_money(line.balance_paise),
        state=_INSTALLMENT_STATES[progress.state],
        settled_on=None if settled_on is None else write_date(settled_on),
        paid_amount=write_money(progress.paid_paise),
    )


def write_decision(stored: StoredDecision) -> decision_pb2.Decision:
    """A stored decision with all that led to it."""
    inputs = decode_inputs(stored.inputs_json)
    position, ask, day = inputs.position, inputs.ask, inputs.day
    decision = stored.outcome
    message = decision_pb2.Decision(
        decision_id=stored.decision_id,
        customer_id=stored.customer_id,
        ask=decision_pb2.LoanAsk(
            loan_amount=write_money(ask.principal_paise),
            interest_rate=write_hundredths(ask.annual_rate_bps),
            tenure_months=ask.tenure_months,
        ),
        approved=stored.approved,
        corrected_interest_rate=write_hundredths(decision.corrected_rate_bps),
        monthly_installment=write_money(decision.installment_paise),
        last_installment=write_money(_last_installment(ask, decision)),
        reasons=[_reason(each) for each in decision.reasons],
        counter_offer=_counter_offer(decision.counter_offer, decision.corrected_rate_bps),
        inputs=decision_pb2.DecisionInputs(
            as_of=write_date(day),
            customer_version=position.version,
            monthly_income=write_money(position.monthly_income_paise),
            approved_limit=write_money(position.approved_limit_paise),
            current_debt=write_money(position.current_debt_paise),
            current_installments=write_money(position.current_installments_paise),
            loan_count=position.loan_count,
            total_principal=write_money(position.total_principal_paise),
            emis_on_time=position.emis_on_time,
            emis_due=position.emis_due,
            current_year_loans=position.current_year_loans,
            inputs_json=stored.inputs_json,
        ),
        scorecard_version=stored.scorecard_version,
        decided_time=write_time(stored.decided_at),
        decided_on=write_date(stored.decided_on),
        loan_id=stored.loan_id or 0,
        request_id="" if stored.request_id is None else str(stored.request_id),
        principal=write_principal(stored.principal),
    )
    fill_score(message.credit_score, decision.score, stored.decided_at)
    return message


def write_principal(principal: str) -> str:
    """Who acted; empty for a caller who was asked for no credentials."""
    return "" if principal == ANONYMOUS else principal
