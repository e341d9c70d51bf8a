"""Compares valid customers with the stored ones, row by row."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from credit_service.domain.customers import approved_limit_paise, has_set_limit
from credit_service.domain.positions import position_from_loans
from credit_service.ingestion.frames import NO_LIMIT
from credit_service.ingestion.merge import Differing, Merge, difference
from credit_service.rupees import format_inr, format_rupees
from credit_service.storage import committed_rows, imported_customers
from credit_service.storage.imported_customers import CustomerFacts, NewLimit, StoredFacts

_PHONE_KEY = -1
_CUSTOMER_KEY = 0


def load_customers(merge: Merge, frame: pd.DataFrame) -> None:
    """Load customers row by row: earlier rows decide whether a phone number is free."""
    rows = _customer_rows(frame)
    if not rows:
        return
    known = _KnownCustomers.read(merge, [row[1] for row in rows])
    inserts: list[tuple[CustomerFacts, int]] = []
    updates: list[tuple[CustomerFacts, int, StoredFacts]] = []
    for row, facts in rows:
        customer_id, phone = facts[0], facts[5]
        if not known.may_be_stored(merge, row, facts):
            continue
        stored = known.stored.get(customer_id)
        if stored is not None:
            (*_, old_phone, _), *_ = stored
            updates.append((facts, row[1], stored))
            # Taken until the ingestion ends, so that a dry run need not track released numbers.
            known.give(old_phone, customer_id, row, remember=old_phone != phone)
        else:
            inserts.append((facts, row[1]))
        # Later batches read what was written.
        known.give(phone, customer_id, row, remember=not merge.writes)
    merge.inserted, merge.updated = len(inserts), len(updates)
    if merge.writes:
        _write_customers(merge, inserts, updates)
        _write_contests(merge, known.contests)
    committed_rows.remember(
        merge.connection, merge.ingestion.ingestion_id, list(known.to_remember.values())
    )


_Row = tuple[int, int]


def _customer_rows(frame: pd.DataFrame) -> list[tuple[_Row, CustomerFacts]]:
    columns = ("offset", "row_number", *imported_customers.CUSTOMER_FACTS)
    return [
        (
            (offset, number),
            (customer_id, first, last, age, income, phone, None if limit == NO_LIMIT else limit),
        )
        for offset, number, customer_id, first, last, age, income, phone, limit in zip(
            *(frame[name].tolist() for name in columns), strict=True
        )
    ]


@dataclass
class _KnownCustomers:
    """The stored customers and phone numbers of a batch, as changed by its rows so far."""

    stored: dict[int, StoredFacts]
    # The customer of each phone number, now or when the ingestion began.
    holders: dict[str, int]
    # (row number, fingerprint) of the first accepted row of a customer.
    accepted: dict[int, tuple[int, int]]
    # Contested ids, and the ids that the rows contest (True) or settle (False).
    contested: Collection[int] = ()
    contests: dict[int, bool] = field(default_factory=dict)
    to_remember: dict[tuple[int, int], tuple[int, int, int, int]] = field(default_factory=dict)
    # (phone number, customer id) of the customers who had one of the batch's phone numbers before.
    former_holders: Collection[tuple[str, int]] = ()
    _remembered: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def read(cls, merge: Merge, facts: Sequence[CustomerFacts]) -> "_KnownCustomers":
        ids = sorted({each[0] for each in facts})
        phones = sorted({each[5] for each in facts})
        updates = merge.writes and merge.ingestion.on_existing == "UPDATE"
        stored = imported_customers.stored_customers(merge.connection, ids, lock=updates)
        holders = imported_customers.phone_holders(merge.connection, phones)
        # Includes the numbers that customers of this batch may release.
        numbers = [_digits(phone) for phone in {*phones, *(s[0][5] for s in stored.values())}]
        seen = committed_rows.seen(
            merge.connection,
            merge.ingestion.ingestion_id,
            [*ids, *numbers],
            [_CUSTOMER_KEY] * len(ids) + [_PHONE_KEY] * len(numbers),
        )
        accepted = {}
        for (number, which), (row_number, value) in seen.items():
            if which == _CUSTOMER_KEY:
                accepted[number] = (row_number, value)
            else:
                holders[f"+{number}"] = value
        contested = imported_customers.contested(merge.connection, np.array(ids, np.int64))
        others = [
            each[5] for each in facts if each[0] in stored and _differs(stored[each[0]].facts, each)
        ]
        former_holders: Collection[tuple[str, int]] = ()
        if others:
            former_holders = imported_customers.former_holders(merge.connection, others)
        return cls(
            stored,
            holders,
            accepted,
            contested,
            former_holders=former_holders,
            _remembered=frozenset(seen),
        )

    def may_be_stored(self, merge: Merge, row: _Row, facts: CustomerFacts) -> bool:
        """Whether to insert or update the row; otherwise counts it."""
        customer_id, phone = facts[0], facts[5]
        fingerprint = _customer_fingerprint(facts)
        if customer_id in self.accepted:
            first_row, first_fingerprint = self.accepted[customer_id]
            if first_fingerprint == fingerprint:
                merge.unchanged += 1
            else:
                merge.reject_duplicate(row, f"customer {customer_id}", first_row)
            return False
        known = self.stored.get(customer_id)
        stored, imported = (None, True) if known is None else (known.facts, known.imported)
        if stored is not None and self._another_person(stored, facts):
            self.contests[customer_id] = True
            _reject_another_person(merge, row, customer_id)
            return False
        if customer_id in self.contested or customer_id in self.contests:
            self.contests[customer_id] = False
        if stored is not None and _same_customer(stored, facts):
            merge.unchanged += 1
            self._accept(customer_id, row, fingerprint)
            return False
        if stored is not None and merge.ingestion.on_existing == "SKIP":
            merge.skipped += 1
            if merge.list_skipped:
                merge.skip(row, f"customer {customer_id}", _differing(stored, facts))
            self._accept(customer_id, row, fingerprint)
            return False
        if not imported:
            merge.reject(
                row,
                "customer_id",
                "CUSTOMER_REGISTERED_HERE",
                str(customer_id),
                "a customer that an import brought",
                f"Customer {customer_id} was registered with this service, and no import changes "
                "that.",
            )
            return False
        if self.holders.get(phone, customer_id) != customer_id:
            merge.reject(
                row,
                "phone_number",
                "PHONE_TAKEN",
                phone,
                "a phone number that no other customer has",
                f"The phone number {phone} belongs to another customer.",
            )
            return False
        limit = _new_limit(known, facts).paise
        is_kept = stored is not None and limit == stored[6]
        ceiling = merge.ingestion.max_limit_paise
        if not is_kept and ceiling is not None and limit > ceiling:
            _reject_limit(merge, row, facts, limit, ceiling)
            return False
        self._accept(customer_id, row, fingerprint)
        return True

    def _another_person(self, stored: CustomerFacts, facts: CustomerFacts) -> bool:
        """Whether the row is of another person than the stored customer: both the phone number and
        the name differ, and the customer did not have that phone number before. One of them alone
        may change."""
        return _differs(stored, facts) and (facts[5], facts[0]) not in self.former_holders

    def give(self, phone: str, customer_id: int, row: _Row, *, remember: bool) -> None:
        """Assign the phone number to the customer."""
        self.holders[phone] = customer_id
        if remember:
            self._remember(_digits(phone), _PHONE_KEY, row, customer_id)

    def _accept(self, customer_id: int, row: _Row, fingerprint: int) -> None:
        self.accepted[customer_id] = (row[1], fingerprint)
        self._remember(customer_id, _CUSTOMER_KEY, row, fingerprint)

    def _remember(self, number: int, which: int, row: _Row, value: int) -> None:
        if (number, which) not in self._remembered:
            self.to_remember[number, which] = (number, which, row[1], value)


def _digits(phone: str) -> int:
    return int(phone[1:])


def _same_customer(stored: CustomerFacts, facts: CustomerFacts) -> bool:
    """Whether the row equals the stored customer; a row without a limit leaves it unchanged."""
    return stored[:6] == facts[:6] and facts[6] in (None, stored[6])


def _differing(stored: CustomerFacts, facts: CustomerFacts) -> Differing:
    return [
        difference("CUSTOMERS", name, found, kept)
        for name, found, kept in zip(imported_customers.CUSTOMER_FACTS, facts, stored, strict=True)
        if found is not None and found != kept
    ]


def _differs(stored: CustomerFacts, facts: CustomerFacts) -> bool:
    """Whether both the phone number and the name differ."""
    return stored[5] != facts[5] and _full_name(stored) != _full_name(facts)


def _full_name(facts: CustomerFacts) -> str:
    return " ".join(f"{facts[1]} {facts[2]}".casefold().split())


def _new_limit(known: StoredFacts | None, facts: CustomerFacts) -> NewLimit:
    """The approved limit that the row leaves: its own, else the stored one if that was set or the
    income stays, else the one by the rule."""
    income, given = facts[4], facts[6]
    if given is not None:
        return NewLimit(given, limit_set=True)
    by_rule = approved_limit_paise(income)
    if known is None:
        return NewLimit(by_rule, limit_set=False)
    old_income, stored_limit = known.facts[4], known.facts[6] or 0
    if income == old_income:
        return NewLimit(stored_limit, known.limit_set)
    if has_set_limit(known.limit_set, stored_limit, old_income):
        return NewLimit(stored_limit, limit_set=True)
    return NewLimit(by_rule, limit_set=False)


def _reject_limit(merge: Merge, row: _Row, facts: CustomerFacts, limit: int, ceiling: int) -> None:
    by_income = "" if facts[6] is not None else ", 36 times the monthly income,"
    merge.reject(
        row,
        "approved_limit",
        "LIMIT_ABOVE_CEILING",
        format_rupees(limit),
        f"an approved limit of at most {format_inr(ceiling)}",
        f"The approved limit of {format_inr(limit)}{by_income} is above {format_inr(ceiling)}, the "
        "highest that an import may give here (CREDIT_MAX_IMPORTED_LIMIT_RUPEES).",
    )


def _reject_another_person(merge: Merge, row: _Row, customer_id: int) -> None:
    """Reject the row, without disclosing anything of the stored person."""
    merge.reject(
        row,
        "customer_id",
        "CUSTOMER_MISMATCH",
        str(customer_id),
        "the phone number or the name of the customer who is stored under this id",
        f"Customer {customer_id} is stored as a different person: neither the phone number nor the "
        "name is theirs. Loans of this id are rejected until a row of customers names the stored "
        "person. Give the customer of this row an id of their own, here and in the rows of loans.",
    )


def _write_contests(merge: Merge, contests: Mapping[int, bool]) -> None:
    begun = [customer_id for customer_id, is_contested in contests.items() if is_contested]
    ended = [customer_id for customer_id, is_contested in contests.items() if not is_contested]
    if begun:
        imported_customers.mark_contested(
            merge.connection, begun, merge.ingestion.ingestion_id, merge.moment.now
        )
    if ended:
        imported_customers.clear_contested(merge.connection, ended)


def _customer_fingerprint(facts: Iterable[object]) -> int:
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _write_customers(
    merge: Merge,
    inserts: Sequence[tuple[CustomerFacts, int]],
    updates: Sequence[tuple[CustomerFacts, int, StoredFacts]],
) -> None:
    """Insert customers, given with their row numbers, and update others, given also with their
    stored facts."""
    merge.moved = [facts[0] for facts, _, _ in updates]
    if updates:
        changed = [facts for facts, _, _ in updates]
        row_numbers = [row_number for _, row_number, _ in updates]
        merge.over_limit += imported_customers.update_customers(
            merge.connection,
            changed,
            row_numbers,
            [_new_limit(known, facts) for facts, _, known in updates],
            [known.facts[5] for _, _, known in updates],
            merge.origin,
        )
    if inserts:
        day = merge.moment.today
        imported_customers.insert_customers(
            merge.connection,
            [facts for facts, _ in inserts],
            [row_number for _, row_number in inserts],
            [_new_limit(None, facts) for facts, _ in inserts],
            merge.origin,
            day.isoformat(),
            _empty_position_ends(day).isoformat(),
        )


def _empty_position_ends(day: date) -> date:
    return position_from_loans(0, 1, 0, 0, (), day).valid_until
