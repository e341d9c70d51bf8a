"""Offers, bookings and acceptances of one customer from several processes at once.

A constraint that only these tests add checks the customer's row at every commit: debt and held
credit are within the limit, and their installments within half of the income.
"""

import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from multiprocessing import get_context
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import exc, text

from credit_service.commands import create_loan as booking
from credit_service.commands.create_loan import (
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.commands.offers import (
    AcceptLoanOffer,
    WithdrawLoanOffer,
    accept_loan_offer,
    expire_offers,
    withdraw_loan_offer,
)
from credit_service.domain import eligibility
from credit_service.domain.eligibility import Decision
from credit_service.domain.errors import PreconditionFailedError, RetryLaterError
from credit_service.domain.loans import Ask
from credit_service.domain.offers import OfferState
from credit_service.storage import bookings, customers, offers
from credit_service.storage.database import Database, LostRaceError
from credit_service.storage.statements import Statement
from tests.integration.portfolio import LAKH, a_good_customer, on

TODAY = on(date(2026, 6, 10))
PROCESSES = 3
THREADS = 6
CALLS = 50

_AT_EVERY_COMMIT = """ALTER TABLE customers ADD CONSTRAINT within_limit_at_every_commit CHECK (
    current_debt_paise + held_principal_paise <= approved_limit_paise
    AND 2 * (current_installments_paise + held_installments_paise) <= monthly_income_paise)"""


@pytest.fixture
def watched(database: Database) -> Database:
    """The database with the constraint at every commit."""
    with database.transaction() as connection:
        connection.execute(text(_AT_EVERY_COMMIT))
    return database


def ask(lakhs: int) -> Ask:
    return Ask(lakhs * LAKH, 1200, 240)


def calls(url: str, customer_id: int, seed: int, offer_ids: list[int]) -> Counter[str]:
    """Make a third of the calls from several threads; return how they ended."""
    database = Database(url, pool_size=THREADS)

    def call(number: int) -> str:
        pick = random.Random(seed * 1000 + number)  # noqa: S311 - repeatable load
        kind = ("CreateLoanOffer", "CreateLoan", "AcceptLoanOffer", "WithdrawLoanOffer")[number % 4]
        offer_id = pick.choice(offer_ids)
        try:
            match kind:
                case "CreateLoanOffer":
                    wanted = CreateLoanOffer(uuid4(), customer_id, ask(pick.randint(1, 4)))
                    made, _ = create_loan_offer(database, wanted, TODAY, "tests")
                    return f"{kind} {made.approved}"
                case "CreateLoan":
                    asked = CreateLoan(uuid4(), customer_id, ask(pick.randint(1, 4)))
                    return f"{kind} {create_loan(database, asked, TODAY, 'tests').approved}"
                case "AcceptLoanOffer":
                    part = pick.choice([None, LAKH])
                    accepted = AcceptLoanOffer(uuid4(), offer_id, part)
                    accept_loan_offer(database, accepted, TODAY, "tests")
                    return f"{kind} True"
                case _:
                    withdrawn = WithdrawLoanOffer(uuid4(), offer_id)
                    withdraw_loan_offer(database, withdrawn, TODAY, "tests")
                    return f"{kind} True"
        except PreconditionFailedError as error:
            return error.reason
        except RetryLaterError as error:
            return error.reason

    with ThreadPoolExecutor(THREADS) as threads:
        found = Counter(threads.map(call, range(-(-CALLS // PROCESSES))))
    database.dispose()
    return found


@pytest.mark.slow
def test_offers_and_bookings_stay_within_the_limit_at_every_commit(
    watched: Database, database_url: str
) -> None:
    customer_id = a_good_customer(watched, TODAY)
    offer_ids = []
    for _ in range(6):
        command = CreateLoanOffer(uuid4(), customer_id, ask(3))
        _, offer = create_loan_offer(watched, command, TODAY, "tests")
        assert offer is not None
        offer_ids.append(offer.offer_id)
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        work = [
            processes.submit(calls, database_url, customer_id, seed, offer_ids)
            for seed in range(PROCESSES)
        ]
        ended = sum((each.result(timeout=120) for each in work), Counter())
    assert ended["AcceptLoanOffer True"] > 0
    assert ended["CreateLoanOffer True"] + ended["CreateLoan True"] > 0
    with watched.autocommit() as connection:
        facts = customers.position_facts(connection, customer_id)
        rows = connection.execute(
            text("SELECT payload ->> 'offer_id' FROM events WHERE kind = 'loan_offer_ended'")
        ).scalars()
        ends = Counter(map(int, rows))
        states = Counter(
            {each: offers.get(connection, customer_id, each).state for each in offer_ids}.values()
        )
        per_offer = connection.execute(
            text("SELECT count(*), count(DISTINCT offer_id) FROM loans WHERE offer_id IS NOT NULL")
        ).one()
    assert facts.stored == facts.on(TODAY.today)
    assert set(ends.values()) == {1}
    assert sum(ends.values()) == ended["AcceptLoanOffer True"] + ended["WithdrawLoanOffer True"]
    assert (
        states[OfferState.ACCEPTED] == ended["AcceptLoanOffer True"] == per_offer[0] == per_offer[1]
    )


def in_parallel(database: Database, customer_id: int) -> list[object]:
    """Offer and book 20 lakh each at once, several times: only one of them fits."""
    made: list[object] = []

    def call(number: int) -> object:
        key = uuid4()
        try:
            if number % 2:
                return create_loan(
                    database, CreateLoan(key, customer_id, ask(20)), TODAY, "tests"
                ).approved
            command = CreateLoanOffer(key, customer_id, ask(20))
            return create_loan_offer(database, command, TODAY, "tests")[0].approved
        except exc.IntegrityError as error:
            return type(error)

    with ThreadPoolExecutor(8) as threads:
        made += threads.map(call, range(8))
    return made


def test_the_constraint_sees_decisions_without_the_holds(
    watched: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: the tests above fail if decisions leave out the held credit."""
    customer_id = a_good_customer(watched, TODAY)
    assert in_parallel(watched, customer_id).count(True) == 1
    decide = eligibility.decide

    def blind(position: object, *given: object, **named: object) -> Decision:
        seen = replace(position, held_principal_paise=0, held_installments_paise=0)  # type: ignore[type-var]  # a position
        return decide(seen, *given, **named)  # type: ignore[arg-type]  # passed on

    other = a_good_customer(watched, TODAY)
    command = CreateLoanOffer(uuid4(), other, ask(20))
    assert create_loan_offer(watched, command, TODAY, "tests")[0].approved
    monkeypatch.setattr(booking, "decide", blind)
    with pytest.raises(exc.IntegrityError, match="within_limit"):
        create_loan(watched, CreateLoan(uuid4(), other, ask(20)), TODAY, "tests")


def test_without_the_version_guard_an_offer_and_a_booking_both_pass(
    watched: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control for the guard of the writes: an offer is made between a booking's read and write.

    The booking writes the held credit that it read: without the guard, the hold would be lost.
    """
    customer_id = a_good_customer(watched, TODAY)
    unguarded = bookings.WRITE_APPROVED.text.replace("AND version = :read_version", "")
    monkeypatch.setattr(bookings, "WRITE_APPROVED", Statement(unguarded))
    read = bookings.read
    overtaken: list[bool] = []

    def overtaken_read(*given: object, **named: object) -> object:
        found = read(*given, **named)  # type: ignore[arg-type]  # passed on
        if not overtaken:
            overtaken.append(True)
            command = CreateLoanOffer(uuid4(), customer_id, ask(20))
            create_loan_offer(watched, command, TODAY, "tests")
        return found

    monkeypatch.setattr(bookings, "read", overtaken_read)
    create_loan(watched, CreateLoan(uuid4(), customer_id, ask(20)), TODAY, "tests")
    with watched.autocommit() as connection:
        facts = customers.position_facts(connection, customer_id)
    assert facts.stored.held_principal_paise == 0
    assert facts.on(TODAY.today).held_principal_paise == 20 * LAKH


def test_two_acceptances_at_once_book_one_loan(database: Database) -> None:
    """The second one read the open offer before the first one's commit."""
    customer_id = a_good_customer(database, TODAY)
    command = CreateLoanOffer(uuid4(), customer_id, ask(5))
    _, offer = create_loan_offer(database, command, TODAY, "tests")
    assert offer is not None
    found: list[str] = []

    def accept(_: int) -> str:
        try:
            accepted = AcceptLoanOffer(uuid4(), offer.offer_id)
            accept_loan_offer(database, accepted, TODAY, "tests")
        except PreconditionFailedError as error:
            return error.reason
        return "booked"

    with ThreadPoolExecutor(8) as threads:
        found += threads.map(accept, range(8))
    assert sorted(found) == ["OFFER_ENDED"] * 7 + ["booked"]


@pytest.mark.parametrize("end", ["accept", "withdraw", "expire"])
def test_an_end_that_was_overtaken_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Between its read and its write the offer ends otherwise; the statement then does nothing,
    even if the version still fitted."""
    customer_id = a_good_customer(database, TODAY)
    last_day = TODAY.today
    command = CreateLoanOffer(uuid4(), customer_id, ask(5), last_day=last_day)
    _, offer = create_loan_offer(database, command, TODAY, "tests")
    assert offer is not None
    write = offers.end
    overtaken: list[bool] = []

    def overtaken_write(*given: object, **named: object) -> bool:
        if not overtaken:
            overtaken.append(True)
            other = WithdrawLoanOffer(uuid4(), offer.offer_id, "first")
            withdraw_loan_offer(database, other, TODAY, "tests")
        done = write(*given, **named)  # type: ignore[arg-type]  # passed on
        if len(overtaken) == 1:
            overtaken.append(done)
        return done

    monkeypatch.setattr(offers, "end", overtaken_write)
    if end == "expire":
        assert expire_offers(database, on(date(2026, 6, 11)), 10) == []
    else:
        call: Any = accept_loan_offer if end == "accept" else withdraw_loan_offer
        kind = AcceptLoanOffer if end == "accept" else WithdrawLoanOffer
        with pytest.raises(PreconditionFailedError, match="OFFER_ENDED"):
            call(database, kind(uuid4(), offer.offer_id), TODAY, "tests")
    with database.autocommit() as connection:
        stored = offers.get(connection, customer_id, offer.offer_id)
    assert (stored.state, stored.reason) == ("WITHDRAWN", "first")


def test_the_open_state_guards_an_end_by_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without the version: an ended offer neither ends again nor moves the customer."""
    customer_id = a_good_customer(database, TODAY)
    command = CreateLoanOffer(uuid4(), customer_id, ask(5))
    _, offer = create_loan_offer(database, command, TODAY, "tests")
    assert offer is not None
    withdraw_loan_offer(database, WithdrawLoanOffer(uuid4(), offer.offer_id, "x"), TODAY, "tests")
    for name in ("_END", "_ACCEPT"):
        unguarded = getattr(offers, name).text.replace("AND version = :read_version", "")
        monkeypatch.setattr(offers, name, Statement(unguarded))
    read = offers.read
    monkeypatch.setattr(
        offers,
        "read",
        lambda *given, **named: replace(
            found := read(*given, **named), offer=found.offer.as_created()
        ),
    )
    with database.autocommit() as connection:
        before = customers.position_facts(connection, customer_id)
    with pytest.raises((LostRaceError, RetryLaterError)):
        accept_loan_offer(database, AcceptLoanOffer(uuid4(), offer.offer_id), TODAY, "tests")
    with database.autocommit() as connection:
        assert customers.position_facts(connection, customer_id) == before
