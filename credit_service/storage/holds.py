"""The holds of OPEN offers, which count in their customers' positions."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from credit_service.domain.positions import Hold

_OPEN = """(SELECT json_agg(json_build_array(o.offer_id, o.principal_paise, o.installment_paise,
    o.last_day) ORDER BY o.offer_id) FROM loan_offers o
    WHERE o.state = 'OPEN' AND o.customer_id = """
OPEN = f"{_OPEN}c.customer_id)"
"""A column that `holds` reads: the offers of the customer of a table aliased c, those past their
last day included."""
OPEN_OF_CUSTOMER = f"{_OPEN}:customer_id)"
"""The same for the parameter. A cluster does not infer the customer from a join with loans."""

SUMS = """
    SELECT coalesce(sum(o.principal_paise), 0)::bigint AS held_principal_paise,
        coalesce(sum(o.installment_paise), 0)::bigint AS held_installments_paise,
        min(o.last_day) + 1 AS held_valid_until
    FROM loan_offers o
    WHERE o.state = 'OPEN' AND o.last_day >= %(day)s AND o.customer_id = """
"""A query of what a customer's offers hold on a day; the customer's id follows."""


def holds(column: Iterable[Any] | None) -> list[Hold]:
    """Return the holds from a column OPEN."""
    return [
        Hold(offer_id, principal, installment, date.fromisoformat(last_day))
        for offer_id, principal, installment, last_day in column or ()
    ]
