"""Compares valid rows with the stored ones, and inserts, updates, skips or rejects each.

Everything happens in the caller's transaction. The outcome of a row depends on the earlier rows of
the source and on the stored data, not on where batches begin and end. A dry run decides by the same
code and only writes nothing.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from sqlalchemy import Connection

from credit_service.clock import Moment
from credit_service.domain.customers import approved_limit_paise
from credit_service.domain.positions import position_from_loans
from credit_service.ingestion.cells import EPOCH_ORDINAL, shown
from credit_service.ingestion.digests import mixed
from credit_service.ingestion.frames import (
    NO_DAY,
    NO_LIMIT,
    Arrays,
    Batch,
    RowError,
    arrays_of,
)
from credit_service.ingestion.position_sums import sums
from credit_service.rupees import format_inr, format_rupees
from credit_service.spreadsheets.columns import COLUMNS, Column, ColumnType, Kind
from credit_service.storage import imports, ingestions, positions
from credit_service.storage.database import LostRaceError
from credit_service.storage.imports import CustomerFacts
from credit_service.storage.ingestions import Counts, Ingestion
from credit_service.storage.tables import MAX_IMPORTED_ID

_PHONE_KEY = -1
_CUSTOMER_KEY = 0


@dataclass
class Outcome:
    """The outcome of a batch. `errors` are of rejected rows, in order; `skipped` has an entry for
    each skipped row.

    `moved` are the customers whose positions changed, `over_limit` those of them whose debt now
    exceeds their limit.
    """

    counts: Counts
    errors: Sequence[RowError]
    skipped: Sequence[RowError]
    moved: Sequence[int]
    over_limit: Sequence[int]


def load(
    connection: Connection,
    ingestion: Ingestion,
    batch: Batch,
    moment: Moment,
    *,
    list_skipped: bool = True,
) -> Outcome:
    """Store the valid rows of a batch, and record what later batches need to know.

    A dry run writes nothing but these records. Without `list_skipped`, skipped rows are only
    counted.

    Raises:
        LostRaceError: another call took an id or a phone number meanwhile.
    """
    merge = _Merge(connection, ingestion, moment, list_skipped)
    try:
        if batch.kind == "LOANS":
            _load_loans(merge, batch.frame)
        else:
            _load_customers(merge, batch.frame)
    except psycopg.errors.UniqueViolation as error:
        raise LostRaceError(error.diag.constraint_name or "unique") from error
    errors = sorted([*batch.errors, *merge.errors], key=lambda error: error.row_offset)
    rejected = len({error.row_offset for error in errors})
    return Outcome(
        Counts(merge.inserted, merge.updated, merge.unchanged, merge.skipped, rejected),
        errors,
        merge.skips,
        merge.moved,
        merge.over_limit,
    )


@dataclass
class _Merge:
    """The state of loading one batch."""

    connection: Connection
    ingestion: Ingestion
    moment: Moment
    list_skipped: bool
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    errors: list[RowError] = field(default_factory=list)
    skips: list[RowError] = field(default_factory=list)
    moved: Sequence[int] = ()
    over_limit: list[int] = field(default_factory=list)

    @property
    def writes(self) -> bool:
        return not self.ingestion.validate_only

    @property
    def origin(self) -> imports.Origin:
        ingestion = self.ingestion
        return imports.Origin(ingestion.ingestion_id, ingestion.principal, self.moment.now)

    def reject(
        self, row: tuple[int, int], column: str, code: str, found: str, expected: str, message: str
    ) -> None:
        offset, number = row
        self.errors.append(RowError(offset, number, column, code, found, expected, message))

    def skip(self, row: tuple[int, int], key: str, differing: "_Differing") -> None:
        """List a skipped row: its key is stored with other values."""
        offset, number = row
        column = differing[0][0] if len(differing) == 1 else ""
        found = shown("; ".join(f"{name} {value}" for name, value, _ in differing))
        stored = shown("; ".join(f"{name} {value}" for name, _, value in differing))
        message = f"The {key} is stored with {stored}, which was kept; the row has {found}."
        self.skips.append(
            RowError(
                offset, number, column, "DIFFERS_FROM_STORED", found, stored, message, "SKIPPED"
            )
        )

    def reject_duplicate(self, row: tuple[int, int], key: str, first_row: int) -> None:
        self.reject(
            row,
            "",
            "DUPLICATE_DIFFERS",
            key,
            f"the values of row {first_row}, or another key",
            f"The row has the key of row {first_row}, {key}, and other values.",
        )


_Differing = Sequence[tuple[str, str, str]]
"""(column, value of the row, value that is stored) of the columns in which the two differ."""


_SHOWN: Mapping[ColumnType, Callable[[Any], str]] = {
    "AMOUNT": format_rupees,
    # Hundredths of a percent are written like paise.
    "RATE": format_rupees,
    "DAY": lambda day: date.fromordinal(day + EPOCH_ORDINAL).isoformat(),
}
_COLUMN_OF: Mapping[Kind, Mapping[str, Column]] = {
    kind: {column.fact: column for column in columns} for kind, columns in COLUMNS.items()
}


def _difference(kind: Kind, fact: str, found: Any, stored: Any) -> tuple[str, str, str]:
    column = _COLUMN_OF[kind][fact]
    show = _SHOWN.get(column.type, str)
    return column.field, show(found), show(stored)


# --- Loans ----------------------------------------------------------------------------------------

_Fates = NDArray[np.int8]
"""The fate of each loan of a batch."""
_INSERT, _UPDATE, _UNCHANGED, _SKIPPED, _REJECTED = range(5)


def _load_loans(merge: _Merge, frame: pd.DataFrame) -> None:
    loans = _of_known_customers(merge, arrays_of(frame))
    if not len(loans["offset"]):
        return
    fates = np.full(len(loans["offset"]), _INSERT, np.int8)
    stored = _judge_by_stored(merge, loans, fates)
    _judge_by_memory(merge, loans, fates)
    _judge_by_batch(merge, loans, fates)
    _count_loans(merge, fates)
    if merge.list_skipped:
        _list_skipped_loans(merge, loans, fates, stored)
    if merge.writes:
        _write_loans(merge, _chosen(loans, fates == _INSERT), _chosen(loans, fates == _UPDATE))
        # A loan that this ingestion wrote refers to it; the other rows need a record.
        is_remembered = (fates == _UNCHANGED) | (fates == _SKIPPED)
    else:
        is_remembered = fates != _REJECTED
    _remember_loans(merge, _chosen(loans, is_remembered))


def _chosen(loans: Arrays, places: NDArray[Any]) -> Arrays:
    """The loans at these places, or of this mask."""
    if places.dtype == bool and places.all():
        return loans
    return {name: column[places] for name, column in loans.items()}


def _of_known_customers(merge: _Merge, loans: Arrays) -> Arrays:
    """Lock the customers of the loans, and reject the loans of unknown customers. Returns the
    others."""
    wanted = np.unique(loans["customer_id"])
    known, imported = imports.known_customers(merge.connection, wanted, lock=merge.writes)
    # Read under the lock: a transaction that contests an id locks the customer too.
    contested = imports.contested(merge.connection, wanted)
    registered = set(known[~imported & (known <= MAX_IMPORTED_ID)].tolist())
    if len(known) == len(wanted) and not contested and not registered:
        return loans
    attachable = np.setdiff1d(known, np.array([*contested, *registered], np.int64))
    is_attached = np.isin(loans["customer_id"], attachable)
    for place in np.flatnonzero(~is_attached).tolist():
        customer_id = int(loans["customer_id"][place])
        code, expected, message = _why_unattached(
            customer_id, contested.get(customer_id), registered=customer_id in registered
        )
        row = _row(loans, place)
        merge.reject(row, "customer_id", code, str(customer_id), expected, message)
    return _chosen(loans, is_attached)


def _why_unattached(
    customer_id: int, contested_by: UUID | None, *, registered: bool
) -> tuple[str, str, str]:
    """(code, expected, message) for a loan that cannot be attached to the customer of that id."""
    if contested_by is not None:
        return (
            "CUSTOMER_CONTESTED",
            "the id of a customer who is the same person in the source as here",
            (
                f"Customer {customer_id} came as a different person in ingestion {contested_by}, "
                "and this loan may be that person's. Give that person an id of their own in the "
                "rows of customers and loans; or, where the stored customer is meant, import a row "
                "of customers that names them, and then this loan."
            ),
        )
    if registered:
        return (
            "LOAN_OF_REGISTERED_CUSTOMER",
            "the id of a customer that an import brought",
            (
                f"Customer {customer_id} was registered with this service, and the source's "
                "customer of this id is another. Give the source's customer an id of their own in "
                "the rows of customers and loans."
            ),
        )
    return (
        "CUSTOMER_UNKNOWN",
        "the id of a customer that is stored",
        f"There is no customer {customer_id}; import or register the customer first.",
    )


def _judge_by_stored(merge: _Merge, loans: Arrays, fates: _Fates) -> Mapping[str, Sequence[Any]]:
    """Compare with the stored loans of the same keys. Returns those loans, by column."""
    stored = imports.stored_loans(
        merge.connection,
        loans["customer_id"],
        loans["loan_id"],
        merge.ingestion.ingestion_id,
    )
    places = np.array(stored["place"], np.int64)
    if not len(places):
        return stored
    equal = np.ones(len(places), bool)
    for name in imports.LOAN_FACTS:
        equal &= loans[name][places] == np.array(stored[name], np.int64)
    fates[places[equal]] = _UNCHANGED
    updates = merge.ingestion.on_existing == "UPDATE"
    for index in np.flatnonzero(~equal).tolist():
        place = int(places[index])
        row, key = _row(loans, place), _loan_key(loans, place)
        first_row = stored["ingestion_row"][index]
        fates[place] = _REJECTED
        if first_row is not None:
            merge.reject_duplicate(row, key, first_row)
        elif not updates:
            fates[place] = _SKIPPED
        elif not stored["imported"][index]:
            merge.reject(
                row,
                "loan_id",
                "LOAN_BOOKED_HERE",
                str(loans["loan_id"][place]),
                "a loan that an import brought",
                f"The {key} was booked by this service, and no import changes it.",
            )
        elif stored["has_payments"][index]:
            merge.reject(
                row,
                "loan_id",
                "LOAN_HAS_PAYMENTS",
                str(loans["loan_id"][place]),
                "a loan without payments recorded here",
                f"The {key} has payments recorded here, which other terms would contradict.",
            )
        else:
            fates[place] = _UPDATE
    return stored


def _list_skipped_loans(
    merge: _Merge, loans: Arrays, fates: _Fates, stored: Mapping[str, Sequence[Any]]
) -> None:
    """List how each skipped row differs from the stored loan."""
    for index, place in enumerate(stored["place"]):
        if fates[place] != _SKIPPED:
            continue
        row = {fact: int(loans[fact][place]) for fact in imports.LOAN_FACTS}
        differing = [
            _difference("LOANS", fact, value, stored[fact][index])
            for fact, value in row.items()
            if value != stored[fact][index]
        ]
        merge.skip(_row(loans, place), _loan_key(loans, place), differing)


def _judge_by_memory(merge: _Merge, loans: Arrays, fates: _Fates) -> None:
    """Compare with rows of earlier batches that left the stored loans unchanged."""
    counts = merge.ingestion
    if merge.writes and not counts.unchanged and not counts.skipped:
        return
    seen = ingestions.seen(
        merge.connection,
        merge.ingestion.ingestion_id,
        loans["customer_id"].tolist(),
        loans["loan_id"].tolist(),
    )
    if not seen:
        return
    fingerprints = _fingerprints(loans)
    keys = zip(loans["customer_id"].tolist(), loans["loan_id"].tolist(), strict=True)
    for place, key in enumerate(keys):
        if key not in seen or fates[place] == _REJECTED:
            continue
        first_row, fingerprint = seen[key]
        _judge_repeated(
            merge, loans, fates, place, first_row, equal=fingerprint == fingerprints[place]
        )


def _judge_by_batch(merge: _Merge, loans: Arrays, fates: _Fates) -> None:
    """Compare rows with the same key in this batch with the first accepted one."""
    # By key, and within each key in the order of the source.
    order = np.lexsort((loans["loan_id"], loans["customer_id"]))
    customer_ids, loan_ids = loans["customer_id"][order], loans["loan_id"][order]
    is_next_equal = (customer_ids[1:] == customer_ids[:-1]) & (loan_ids[1:] == loan_ids[:-1])
    equal = np.flatnonzero(is_next_equal)
    if not len(equal):
        return
    fingerprints = _fingerprints(loans)
    first: dict[tuple[int, int], int] = {}
    # All rows whose key occurs more than once.
    for index in np.union1d(equal, equal + 1).tolist():
        place = int(order[index])
        if fates[place] == _REJECTED:
            continue
        before = first.setdefault((int(customer_ids[index]), int(loan_ids[index])), place)
        if before != place:
            _judge_repeated(
                merge,
                loans,
                fates,
                place,
                int(loans["row_number"][before]),
                equal=fingerprints[before] == fingerprints[place],
            )


def _judge_repeated(
    merge: _Merge,
    loans: Arrays,
    fates: _Fates,
    place: int,
    first_row: int,
    *,
    equal: bool,
) -> None:
    """Count a repeated row as unchanged if it has equal facts, and reject it otherwise."""
    if equal:
        fates[place] = _UNCHANGED
    else:
        fates[place] = _REJECTED
        merge.reject_duplicate(_row(loans, place), _loan_key(loans, place), first_row)


def _count_loans(merge: _Merge, fates: _Fates) -> None:
    counts = np.bincount(fates, minlength=5).tolist()
    merge.inserted, merge.updated, merge.unchanged, merge.skipped = counts[:4]


def _write_loans(merge: _Merge, inserts: Arrays, updates: Arrays) -> None:
    ingestion_id = merge.ingestion.ingestion_id
    if len(inserts["offset"]):
        # Inserting in key order fills the index page by page.
        order = np.lexsort((inserts["loan_id"], inserts["customer_id"]))
        records = _records(_chosen(inserts, order))
        imports.insert_loans(merge.connection, records, NO_DAY, ingestion_id)
    if len(updates["offset"]):
        imports.update_loans(merge.connection, _records(updates), NO_DAY, merge.origin)
    # Positions of updated loans are recomputed; new loans are added to the others.
    summed = np.unique(updates["customer_id"])
    merge.moved = np.union1d(inserts["customer_id"], summed).tolist()
    added = _chosen(inserts, ~np.isin(inserts["customer_id"], summed))
    day = merge.moment.today
    if len(summed):
        merge.over_limit += positions.refresh_locked(merge.connection, summed, day)
    if len(added["offset"]):
        merge.over_limit += positions.add_loans(merge.connection, sums(added, day), day)


def _records(loans: Arrays) -> NDArray[np.void]:
    """The loans as one structured array."""
    layout = [(name, column.dtype) for name, column in loans.items()]
    records = np.empty(len(loans["offset"]), layout)
    for name, column in loans.items():
        records[name] = column
    return records


def _remember_loans(merge: _Merge, loans: Arrays) -> None:
    """Record the first row of each key that has no record yet."""
    if not len(loans["offset"]):
        return
    customer_ids, loan_ids = loans["customer_id"].tolist(), loans["loan_id"].tolist()
    ingestion_id = merge.ingestion.ingestion_id
    known = ingestions.seen(merge.connection, ingestion_id, customer_ids, loan_ids)
    keys: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for customer_id, loan_id, row_number, fingerprint in zip(
        customer_ids,
        loan_ids,
        loans["row_number"].tolist(),
        _fingerprints(loans).tolist(),
        strict=True,
    ):
        key = (customer_id, loan_id)
        if key not in known and key not in keys:
            keys[key] = (customer_id, loan_id, row_number, fingerprint)
    ingestions.remember(merge.connection, ingestion_id, list(keys.values()))


def _fingerprints(loans: Arrays) -> NDArray[np.int64]:
    """A hash of 64 bits of each row's source facts."""
    columns = (loans[name].astype(np.int64) for name in imports.LOAN_FACTS)
    return mixed(columns, len(loans["offset"])).view(np.int64)


def _row(loans: Arrays, place: int) -> tuple[int, int]:
    return int(loans["offset"][place]), int(loans["row_number"][place])


def _loan_key(loans: Arrays, place: int) -> str:
    return f"loan {loans['loan_id'][place]} of customer {loans['customer_id'][place]}"


# --- Customers ------------------------------------------------------------------------------------


def _load_customers(merge: _Merge, frame: pd.DataFrame) -> None:
    """Load customers row by row: earlier rows decide whether a phone number is free."""
    rows = _customer_rows(frame)
    if not rows:
        return
    known = _KnownCustomers.read(merge, [row[1] for row in rows])
    inserts: list[CustomerFacts] = []
    updates: list[CustomerFacts] = []
    old_phone_numbers: list[str] = []
    for row, facts in rows:
        customer_id, phone = facts[0], facts[5]
        if not known.may_be_stored(merge, row, facts):
            continue
        stored = known.stored.get(customer_id)
        if stored is not None:
            (*_, old_phone, _), _ = stored
            updates.append(facts)
            old_phone_numbers.append(old_phone)
            # Taken until the ingestion ends, so that a dry run need not track released numbers.
            known.give(old_phone, customer_id, row, remember=old_phone != phone)
        else:
            inserts.append(facts)
        # Later batches read what was written.
        known.give(phone, customer_id, row, remember=not merge.writes)
    merge.inserted, merge.updated = len(inserts), len(updates)
    if merge.writes:
        _write_customers(merge, inserts, updates, old_phone_numbers)
        _write_contests(merge, known.contests)
    ingestions.remember(
        merge.connection, merge.ingestion.ingestion_id, list(known.to_remember.values())
    )


_Row = tuple[int, int]


def _customer_rows(frame: pd.DataFrame) -> list[tuple[_Row, CustomerFacts]]:
    columns = ("offset", "row_number", *imports.CUSTOMER_FACTS)
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

    stored: dict[int, tuple[CustomerFacts, bool]]
    # The customer of each phone number, now or when the ingestion began.
    holders: dict[str, int]
    # (row number, fingerprint) of the first accepted row of a customer.
    accepted: dict[int, tuple[int, int]]
    # Contested ids, and the ids that the rows contest (True) or settle (False).
    contested: Collection[int] = ()
    contests: dict[int, bool] = field(default_factory=dict)
    to_remember: dict[tuple[int, int], tuple[int, int, int, int]] = field(default_factory=dict)
    _remembered: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def read(cls, merge: _Merge, facts: Sequence[CustomerFacts]) -> "_KnownCustomers":
        ids = sorted({each[0] for each in facts})
        phones = sorted({each[5] for each in facts})
        updates = merge.writes and merge.ingestion.on_existing == "UPDATE"
        stored = imports.stored_customers(merge.connection, ids, lock=updates)
        holders = imports.phone_holders(merge.connection, phones)
        # Includes the numbers that customers of this batch may release.
        numbers = [_digits(phone) for phone in {*phones, *(s[0][5] for s in stored.values())}]
        seen = ingestions.seen(
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
        contested = imports.contested(merge.connection, np.array(ids, np.int64))
        return cls(stored, holders, accepted, contested, _remembered=frozenset(seen))

    def may_be_stored(self, merge: _Merge, row: _Row, facts: CustomerFacts) -> bool:
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
        stored, imported = self.stored.get(customer_id, (None, True))
        if stored is not None and _another_person(stored, facts):
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
        limit = _limit_given(stored, facts)
        ceiling = merge.ingestion.max_limit_paise
        if limit is not None and ceiling is not None and limit > ceiling:
            _reject_limit(merge, row, facts, limit, ceiling)
            return False
        self._accept(customer_id, row, fingerprint)
        return True

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


def _differing(stored: CustomerFacts, facts: CustomerFacts) -> _Differing:
    return [
        _difference("CUSTOMERS", name, found, kept)
        for name, found, kept in zip(imports.CUSTOMER_FACTS, facts, stored, strict=True)
        if found is not None and found != kept
    ]


def _another_person(stored: CustomerFacts, facts: CustomerFacts) -> bool:
    """Whether the row is of another person than the stored customer: both the phone number and the
    name differ. One of them alone may change."""
    return stored[5] != facts[5] and _full_name(stored) != _full_name(facts)


def _full_name(facts: CustomerFacts) -> str:
    return " ".join(f"{facts[1]} {facts[2]}".casefold().split())


def _limit_given(stored: CustomerFacts | None, facts: CustomerFacts) -> int | None:
    """The approved limit in paise that the row sets; None if it stays as it is."""
    if stored is None:
        return approved_limit_paise(facts[4]) if facts[6] is None else facts[6]
    return None if facts[6] == stored[6] else facts[6]


def _reject_limit(merge: _Merge, row: _Row, facts: CustomerFacts, limit: int, ceiling: int) -> None:
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


def _reject_another_person(merge: _Merge, row: _Row, customer_id: int) -> None:
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


def _write_contests(merge: _Merge, contests: Mapping[int, bool]) -> None:
    begun = [customer_id for customer_id, is_contested in contests.items() if is_contested]
    ended = [customer_id for customer_id, is_contested in contests.items() if not is_contested]
    if begun:
        imports.mark_contested(
            merge.connection, begun, merge.ingestion.ingestion_id, merge.moment.now
        )
    if ended:
        imports.clear_contested(merge.connection, ended)


def _customer_fingerprint(facts: Iterable[object]) -> int:
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _write_customers(
    merge: _Merge,
    inserts: list[CustomerFacts],
    updates: list[CustomerFacts],
    old_phone_numbers: list[str],
) -> None:
    merge.moved = [facts[0] for facts in updates]
    if updates:
        merge.over_limit += imports.update_customers(
            merge.connection, updates, old_phone_numbers, merge.origin
        )
    if inserts:
        with_limits = [
            (*facts[:6], approved_limit_paise(facts[4]) if facts[6] is None else facts[6])
            for facts in inserts
        ]
        day = merge.moment.today
        imports.insert_customers(
            merge.connection,
            with_limits,
            merge.moment.now,
            day.isoformat(),
            _empty_position_ends(day).isoformat(),
        )


def _empty_position_ends(day: date) -> date:
    return position_from_loans(0, 1, 0, 0, (), day).valid_until
