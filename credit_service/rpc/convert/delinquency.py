"""Convert messages about arrears."""

from datetime import date

from credit_service.domain.delinquency import AssetClass
from credit_service.domain.errors import OUT_OF_RANGE
from credit_service.queries.delinquency import CustomerDelinquency, OverdueLoan, OverdueLoans
from credit_service.rpc.convert.as_of import write_unknown_facts
from credit_service.rpc.convert.customers import ASSET_CLASSES
from credit_service.rpc.convert.fields import Violations, fill_date, fill_money
from credit_service.rpc.convert.loans import fill_arrears_known_from
from credit_service.rpc.convert.pages import PageTokens, key_id
from credit_service.storage.overdue_loans import PageStart
from credit_service.v1 import credit_service_pb2, decision_pb2, delinquency_pb2

MAX_DAYS_PAST_DUE = 36_600
_PAGES = PageTokens("ListDelinquentLoans", key_id, key_id, key_id, key_id)
_CLASSES: dict[int, AssetClass | None] = {
    decision_pb2.ASSET_CLASS_UNSPECIFIED: None,
    **{ASSET_CLASSES[each]: each for each in AssetClass if each is not AssetClass.STANDARD},
}


def read_class(number: int, field: str, violations: Violations) -> AssetClass | None:
    """The class to filter by; None for any class."""
    if number not in _CLASSES:
        message = f"must be an AssetClass from SMA_0 to NPA, found {number}."
        violations.add(field, OUT_OF_RANGE, message)
        return None
    return _CLASSES[number]


def read_min_days(days: int, field: str, violations: Violations) -> int:
    """The least days past due; 0 means 1."""
    if not 0 <= days <= MAX_DAYS_PAST_DUE:
        message = f"must be 0 to {MAX_DAYS_PAST_DUE:,}, found {days:,}."
        violations.add(field, OUT_OF_RANGE, message)
    return days or 1


def read_page_start(token: str, asset_class: AssetClass | None, days: int) -> PageStart | None:
    """Where the page starts; None for the first page. Raises InvalidFieldsError."""
    key = _PAGES.read(token, *_filters(asset_class, days))
    if key is None:
        return None
    kept, ordinal, customer_id, loan_id = key
    place = date.fromordinal(min(max(ordinal, 1), date.max.toordinal()))
    return PageStart(bool(kept), place, customer_id, loan_id)


def _filters(asset_class: AssetClass | None, days: int) -> tuple[str, int]:
    return "" if asset_class is None else asset_class.name, days


def write_delinquency(
    found: CustomerDelinquency,
) -> credit_service_pb2.GetDelinquencyResponse:
    """The response of GetDelinquency."""
    response = credit_service_pb2.GetDelinquencyResponse()
    message, arrears = response.delinquency, found.delinquency
    message.customer_id = found.customer_id
    fill_date(message.as_of, found.day)
    message.days_past_due = arrears.days_past_due
    message.asset_class = ASSET_CLASSES[arrears.asset_class]
    if arrears.since is not None:
        fill_date(message.asset_class_since, arrears.since)
    if arrears.next_change is not None:
        fill_date(message.next_change, arrears.next_change)
    for each in found.loans:
        _fill_loan(message.loans.add(), each)
    fill_money(message.overdue_amount, sum(each.overdue_paise for each in found.loans))
    if found.known_from is not None:
        fill_date(message.arrears_known_from, found.known_from)
    message.unknown_facts.extend(write_unknown_facts(found.unknown))
    return response


def write_overdue_loans(
    found: OverdueLoans, asset_class: AssetClass | None, days: int, day: date
) -> credit_service_pb2.ListDelinquentLoansResponse:
    """The response of ListDelinquentLoans."""
    response = credit_service_pb2.ListDelinquentLoansResponse()
    for each in found.loans:
        _fill_loan(response.loans.add(), each)
    fill_date(response.as_of, day)
    if found.following is not None:
        kept, place, customer_id, loan_id = found.following
        key: list[int | str] = [int(kept), place.toordinal(), customer_id, loan_id]
        response.next_page_token = _PAGES.write(key, *_filters(asset_class, days))
    return response


def _fill_loan(message: delinquency_pb2.LoanDelinquency, found: OverdueLoan) -> None:
    message.customer_id = found.loan.customer_id
    message.loan_id = found.loan.loan_id
    message.days_past_due = found.days_past_due
    fill_date(message.oldest_due_date, found.oldest_due_date)
    message.overdue_installments = found.installments
    fill_money(message.overdue_amount, found.overdue_paise)
    fill_arrears_known_from(message, found.loan)
    message.asset_class = ASSET_CLASSES[found.asset_class]
