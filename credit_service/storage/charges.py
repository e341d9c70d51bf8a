"""Charges as stored JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from credit_service.domain.charges import Charge, ChargePayee


def documents(charges: Iterable[Charge]) -> list[dict[str, Any]]:
    """Return the charges as JSON-able documents; `read` restores equal ones."""
    return [
        {
            "type": each.type,
            "payee": each.payee,
            "amount_paise": each.amount_paise,
            "tax_paise": each.tax_paise,
        }
        for each in charges
    ]


def text(charges: Sequence[Charge]) -> str | None:
    """Return the charges as JSON text; None without any."""
    return json.dumps(documents(charges)) if charges else None


def read(stored: Iterable[Mapping[str, Any]] | None) -> tuple[Charge, ...]:
    """Return the charges of `documents`; none for None."""
    return tuple(
        [
            Charge(
                each["type"], ChargePayee(each["payee"]), each["amount_paise"], each["tax_paise"]
            )
            for each in stored or ()
        ]
    )
