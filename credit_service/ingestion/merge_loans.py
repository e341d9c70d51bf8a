"""Compares valid loans with the stored ones, a whole batch at a time."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from credit_service.ingestion.digests import mixed
from credit_service.ingestion.frames import NO_DAY, NO_LIMIT, Arrays, arrays_of
from credit_service.ingestion.merge import Merge, difference
from credit_service.ingestion.position_sums import sums
from credit_service.observability import metrics
from credit_service.storage import (
    arrears,
    committed_rows,
    imported_customers,
    imported_loans,
    positions,
)
from credit_service.storage.tables import MAX_IMPORTED_ID

_Fates = NDArray[np.int8]
"""The fate of each loan of a batch."""
_INSERT, _UPDATE, _UNCHANGED, _SKIPPED, _REJECTED = range(5)


def load_loans(merge: Merge, frame: pd.DataFrame) -> None:
    """Store the loans that may be stored, and count and report each of the others."""
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


def _of_known_customers(merge: Merge, loans: Arrays) -> Arrays:
    """Lock the customers of the loans, and reject the loans of unknown customers. Returns the
    others."""
    wanted = np.unique(loans["customer_id"])
    known, imported = imported_customers.known_customers(
        merge.connection, wanted, lock=merge.writes
    )
    # Read under the lock: a transaction that contests an id locks the customer too.
    contested = imported_customers.contested(merge.connection, wanted)
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


def _judge_by_stored(merge: Merge, loans: Arrays, fates: _Fates) -> Mapping[str, Sequence[Any]]:
    """Compare with the stored loans of the same keys. Returns those loans, by column."""
    stored = imported_loans.stored_loans(
        merge.connection,
        loans["customer_id"],
        loans["loan_id"],
        merge.ingestion.ingestion_id,
    )
    places = np.array(stored["place"], np.int64)
    if not len(places):
        return stored
    equal = np.ones(len(places), bool)
    for name in imported_loans.LOAN_FACTS:
        equal &= loans[name][places] == np.array(stored[name], np.int64)
    given = loans["settled_given"][places]
    equal &= (given == NO_LIMIT) | (given == np.array(stored["settled_given"], np.int64))
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
    merge: Merge, loans: Arrays, fates: _Fates, stored: Mapping[str, Sequence[Any]]
) -> None:
    """List how each skipped row differs from the stored loan."""
    for index, place in enumerate(stored["place"]):
        if fates[place] != _SKIPPED:
            continue
        row = {fact: int(loans[fact][place]) for fact in imported_loans.LOAN_FACTS}
        differing = [
            difference("LOANS", fact, value, stored[fact][index])
            for fact, value in row.items()
            if value != stored[fact][index]
        ]
        given = int(loans["settled_given"][place])
        if given not in (NO_LIMIT, stored["settled_given"][index]):
            differing.append(
                difference("LOANS", "settled_given", given, stored["settled_given"][index])
            )
        merge.skip(_row(loans, place), _loan_key(loans, place), differing)


def _judge_by_memory(merge: Merge, loans: Arrays, fates: _Fates) -> None:
    """Compare with rows of earlier batches that left the stored loans unchanged."""
    counts = merge.ingestion
    if merge.writes and not counts.unchanged and not counts.skipped:
        return
    seen = committed_rows.seen(
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


def _judge_by_batch(merge: Merge, loans: Arrays, fates: _Fates) -> None:
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
    merge: Merge,
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


def _count_loans(merge: Merge, fates: _Fates) -> None:
    counts = np.bincount(fates, minlength=5).tolist()
    merge.inserted, merge.updated, merge.unchanged, merge.skipped = counts[:4]


def _write_loans(merge: Merge, inserts: Arrays, updates: Arrays) -> None:
    ingestion_id = merge.ingestion.ingestion_id
    if len(inserts["offset"]):
        # Inserting in key order fills the index page by page.
        order = np.lexsort((inserts["loan_id"], inserts["customer_id"]))
        records = _records(_chosen(inserts, order))
        imported_loans.insert_loans(merge.connection, records, NO_DAY, ingestion_id)
    if len(updates["offset"]):
        imported_loans.update_loans(merge.connection, _records(updates), NO_DAY, merge.origin)
    # Positions of updated loans are recomputed; new loans are added to the others.
    summed = np.unique(updates["customer_id"])
    merge.moved = np.union1d(inserts["customer_id"], summed).tolist()
    added = _chosen(inserts, ~np.isin(inserts["customer_id"], summed))
    day = merge.moment.today
    if len(summed):
        merge.over_limit += positions.refresh_locked(merge.connection, summed, day)
    if len(added["offset"]):
        merge.over_limit += positions.add_loans(merge.connection, sums(added, day), day)
    # Other new loans start without arrears.
    given = inserts["customer_id"][inserts["settled_given"] != NO_LIMIT]
    announced = np.union1d(given, summed).tolist()
    if announced:
        metrics.count_class_changes(arrears.announce(merge.connection, announced, merge.moment))


def _records(loans: Arrays) -> NDArray[np.void]:
    """The loans as one structured array."""
    layout = [(name, column.dtype) for name, column in loans.items()]
    records = np.empty(len(loans["offset"]), layout)
    for name, column in loans.items():
        records[name] = column
    return records


def _remember_loans(merge: Merge, loans: Arrays) -> None:
    """Record the first row of each key that has no record yet."""
    if not len(loans["offset"]):
        return
    customer_ids, loan_ids = loans["customer_id"].tolist(), loans["loan_id"].tolist()
    ingestion_id = merge.ingestion.ingestion_id
    known = committed_rows.seen(merge.connection, ingestion_id, customer_ids, loan_ids)
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
    committed_rows.remember(merge.connection, ingestion_id, list(keys.values()))


def _fingerprints(loans: Arrays) -> NDArray[np.int64]:
    """A hash of 64 bits of each row's source facts."""
    columns = (loans[name].astype(np.int64) for name in imported_loans.LOAN_FACTS)
    count = len(loans["offset"])
    hashes = mixed(columns, count).view(np.int64)
    # Releases before the column have stored the hashes of rows without it.
    given = loans["settled_given"].astype(np.int64)
    return np.where(given == NO_LIMIT, hashes, mixed([hashes, given], count).view(np.int64))


def _row(loans: Arrays, place: int) -> tuple[int, int]:
    return int(loans["offset"][place]), int(loans["row_number"][place])


def _loan_key(loans: Arrays, place: int) -> str:
    return f"loan {loans['loan_id'][place]} of customer {loans['customer_id'][place]}"
