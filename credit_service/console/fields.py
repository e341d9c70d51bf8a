"""Labels of fields on the pages, and the service's messages about fields with these labels."""

import re
from collections.abc import Iterable, Mapping

from credit_service.client import display

LABELS: Mapping[str, str] = {
    "customer_id": "Customer id",
    "loan_id": "Loan id",
    "decision_id": "Decision id",
    "first_name": "First name",
    "last_name": "Last name",
    "age": "Age",
    "monthly_income": "Monthly income",
    "approved_limit": "Approved limit",
    "phone_number": "Phone number",
    "loan_amount": "Loan amount",
    "charges": "Charges",
    "lender_charges": "Charges of the lender",
    "third_party_charges": "Charges of third parties",
    "interest_rate": "Yearly rate",
    "tenure_months": "Months",
    "amount": "Amount",
    "paid_on": "Paid on",
    "as_of": "Day",
    "disbursed_on": "Disbursed on",
    "reason": "Reason",
    "valid_until": "Last day",
    "document": "Document",
    "effective_on": "First day",
    "version": "Version",
    "request_id": "Request id",
    "ingestion_id": "Ingestion id",
    "kind": "Kind of rows",
    "on_existing": "Rows that are already stored",
    "filename": "File name",
    "sha256": "Checksum of the file",
    "query": "Search text",
    "page_token": "Page",
    "page_size": "Page size",
    "token": "Token",
    "task_id": "Task id",
    "actor": "Actor",
}
"""Labels by the field's name in the contract."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?:\.[a-z_]+)*")


def field_of(path: str) -> str:
    """Return the form field of a violation's path: 'loan_amount.units' gives 'loan_amount'."""
    parts = re.sub(r"\[[0-9]*\]", "", path).split(".")
    return next((part for part in parts if part in LABELS), parts[0])


def label(path: str) -> str:
    """Return a field's label: 'loan_amount.units' gives 'Loan amount'."""
    name = field_of(path)
    return LABELS.get(name) or display.words(name)


def in_words(text: str) -> str:
    """Return a sentence of the service with labels in place of field names."""

    def replaced(match: re.Match[str]) -> str:
        name = field_of(match[0])
        return LABELS[name].lower() if name in LABELS else match[0]

    words = _NAME.sub(replaced, text)
    return words[:1].upper() + words[1:]


def sentence(path: str, description: str) -> str:
    """Return a violation as a sentence that starts with the label: 'Age must be 18 to 120.'"""
    rest = _without_name(path, description)
    if rest == description:
        return in_words(description)
    return f"{label(path)} {in_words(f'x {rest}')[2:]}"


def beside_field(path: str, description: str) -> str:
    """Return a violation for display beside its field: 'Must be 18 to 120, found 17.'"""
    return in_words(_without_name(path, description))


def _without_name(path: str, description: str) -> str:
    for name in (path, field_of(path)):
        if description.startswith(f"{name} "):
            return description[len(name) + 1 :]
    return description


def beside(
    names: Iterable[str], violations: Iterable[tuple[str, str]], typed: Mapping[str, str]
) -> dict[str, str]:
    """Return the problem of each field of a form, in the form's order.

    `typed` has the values that the console cannot parse, which take precedence. Violations of other
    fields are omitted: the page shows them in a box.
    """
    found: dict[str, str] = {}
    for path, description in violations:
        found.setdefault(field_of(path), beside_field(path, description))
    found.update(typed)
    return {name: found[name] for name in names if name in found}
