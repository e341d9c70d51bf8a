"""Bookings in groups against the real database: the same rows and guarantees as one by one."""

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from credit_service import failpoints
from credit_service.clock import Moment
from credit_service.commands import booking_groups as grouped
from credit_service.commands import create_loan as booking
from credit_service.commands.booking_groups import booking_groups
from credit_service.commands.create_loan import (
    BookingGroups,
    CreateLoan,
    CreateLoanOffer,
    create_loan,
    create_loan_offer,
)
from credit_service.domain.charges import Charge, ChargePayee
from credit_service.domain.decisions import decode_inputs
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import (
    InvalidFieldsError,
    NotFoundError,
    RequestIdReusedError,
    UnavailableError,
)
from credit_service.domain.scorecard import prudent
from credit_service.observability import metrics, tracing
from credit_service.storage import bookings, customers, grouped_bookings
from credit_service.storage.cancellation import CancelScope, ScopeCancelledError, current_scope
from credit_service.storage.database import Database
from credit_service.storage.decisions import StoredDecision
from credit_service.storage.statements import Statement
from tests.integration.policies import tried
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on

pytestmark = pytest.mark.one_server("a cluster has no groups")

TODAY = on(date(2026, 6, 10))
SMALL = Ask(LAKH, 1200, 24)
PATIENCE_SECONDS = 20.0

Command = CreateLoan | CreateLoanOffer
Call = Callable[[], Any]


class Desk:
    """Calls in groups on one lane, and a way to form a group of certain calls."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.groups: BookingGroups = booking_groups(database, None, lanes=1, largest=16)
        self._monkeypatch = monkeypatch
        # No group loses its lane on a slow machine.
        monkeypatch.setattr("credit_service.commands.grouping._MAX_GROUP_SECONDS", math.inf)

    def call(self, command: Command, moment: Moment = TODAY, principal: str = "tests") -> Any:
        """Make the call in a group; return the stored decision."""
        if isinstance(command, CreateLoan):
            return create_loan(self.database, command, moment, principal, groups=self.groups)
        stored, _ = create_loan_offer(self.database, command, moment, principal, groups=self.groups)
        return stored

    def together(self, *calls: Command | Call) -> list[Any]:
        """Make the calls in one group, in this order; return the results or exceptions."""
        with ThreadPoolExecutor(len(calls) + 1) as threads:
            started, ended = threading.Event(), threading.Event()
            alone = booking.book_alone

            def wait(*_: object, **__: object) -> Any:
                started.set()
                assert ended.wait(PATIENCE_SECONDS)
                raise NotFoundError("CUSTOMER_NOT_FOUND", "customer", "0")

            with self._monkeypatch.context() as patched:
                patched.setattr(grouped, "book_alone", wait)
                first = threads.submit(self.call, CreateLoan(uuid4(), 0, SMALL))
                assert started.wait(PATIENCE_SECONDS)
                patched.setattr(grouped, "book_alone", alone)
                futures: list[Future[Any]] = []
                for each in calls:
                    work: Call = each if callable(each) else partial(self.call, each)
                    futures.append(threads.submit(work))
                    self._await(lambda: self.groups.waiting == len(futures))
                ended.set()
            assert isinstance(first.exception(PATIENCE_SECONDS), NotFoundError)
            return [each.exception(PATIENCE_SECONDS) or each.result() for each in futures]

    def _await(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def desk(database: Database, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(database, monkeypatch)


@contextmanager
def exits(**expected: int) -> Iterator[None]:
    """Check how many calls leave groups inside, by reason."""

    def counted() -> Counter[str]:
        found = Counter[str]()
        for reason in metrics.GROUP_EXITS:
            labels = {"command": "booking", "reason": reason}
            value = metrics.REGISTRY.get_sample_value("credit_group_exits_total", labels)
            found[reason] = int(value or 0)
        return found

    before = counted()
    yield
    assert dict(counted() - before) == expected


_TABLES = ("customers", "decisions", "requests", "events", "loans", "loan_offers")
_IDS = ("customer_id", "decision_id", "loan_id", "offer_id", "request_id")
_HIDDEN = {*_IDS, "fingerprint"}  # which contains the customer's id


def rows(database: Database, customer_id: int) -> list[str]:
    """What the database has of the customer, without ids and without facts of the person."""
    found: list[str] = []
    # As text: the order and the spaces of JSON are compared too.
    documents = {"decisions": ", inputs::text, outcome::text", "events": ", payload::text"}
    with database.autocommit() as connection:
        for table in _TABLES:
            statement = f"SELECT *{documents.get(table, '')} FROM {table} WHERE customer_id = :id"  # noqa: S608 - names of ours
            for row in connection.execute(text(statement), {"id": customer_id}).mappings():
                shown = {
                    name: value is not None if name in _HIDDEN else value
                    for name, value in row.items()
                    if name not in {"phone_number", "created_at"} or table == "loan_offers"
                }
                if shown.get("kind") != "customer_registered":
                    found.append(f"{table}: {shown}")
    ids = re.compile(rf"""(["'])({"|".join(_IDS)})\1: ?[0-9]+""")
    return sorted(ids.sub(r"\2: id", each) for each in found)


CHARGE = Charge("PROCESSING_FEE", ChargePayee.LENDER, 1_000_00, 180_00)


def requests(good: Sequence[int], new: int) -> list[Command]:
    """Commands of every kind that a group writes, for five good customers and a new one."""
    return [
        CreateLoan(uuid4(), good[0], SMALL),
        CreateLoan(uuid4(), good[1], Ask(2 * LAKH, 900, 36), (CHARGE,)),
        CreateLoanOffer(uuid4(), good[2], SMALL, (CHARGE,), last_day=date(2026, 6, 12)),
        CreateLoanOffer(uuid4(), good[3], SMALL),
        # Beyond the limit.
        CreateLoan(uuid4(), good[4], Ask(900 * LAKH, 1200, 24)),
        # No credit history.
        CreateLoanOffer(uuid4(), new, SMALL),
    ]


def test_a_group_stores_what_calls_alone_store(desk: Desk) -> None:
    def people() -> tuple[list[int], int]:
        return (
            [a_good_customer(desk.database, TODAY) for _ in range(5)],
            a_customer(desk.database, TODAY),
        )

    alone, together = people(), people()
    for command in requests(*alone):
        desk.call(command)
    # The second decisions start from a position with a loan, a hold, or a decline.
    with exits():
        first = desk.together(*requests(*together))
    for command in requests(*alone):
        desk.call(command)
    with exits():
        second = desk.together(*requests(*together))
    assert [each.approved for each in (*first, *second)] == [True] * 4 + [False] * 2 + [
        True
    ] * 4 + [False] * 2
    for single, member in zip([*alone[0], alone[1]], [*together[0], together[1]], strict=True):
        assert rows(desk.database, member) == rows(desk.database, single)
        with desk.database.autocommit() as connection:
            facts = customers.position_facts(connection, member)
        assert facts.stored == facts.on(TODAY.today)


def test_each_call_of_a_group_gets_its_own_decision(desk: Desk) -> None:
    commands = requests(
        [a_good_customer(desk.database, TODAY) for _ in range(5)], a_customer(desk.database, TODAY)
    )
    for command, stored in zip(commands, desk.together(*commands), strict=True):
        assert stored.request_id == command.request_id
        assert stored.customer_id == command.customer_id
        # A repeat gets the same answer, alone and in a group.
        assert desk.call(command) == stored
    with exits(repeat=6):
        again = desk.together(*commands)
    assert again == [desk.call(command) for command in commands]


def test_a_request_id_that_was_used_for_other_content_is_rejected(desk: Desk) -> None:
    first, other = (a_good_customer(desk.database, TODAY) for _ in range(2))
    command = CreateLoan(uuid4(), first, SMALL)
    desk.call(command)
    changed = replace(command, ask=Ask(2 * LAKH, 1200, 24))
    reused, booked = desk.together(changed, CreateLoan(command.request_id, other, SMALL))
    assert isinstance(reused, RequestIdReusedError)
    assert booked.approved


def test_errors_concern_only_their_own_call(desk: Desk) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    too_much = Charge("PROCESSING_FEE", ChargePayee.LENDER, LAKH, 0)
    unknown, invalid, late, booked = desk.together(
        CreateLoan(uuid4(), 4711, SMALL),
        CreateLoan(uuid4(), good[0], SMALL, (too_much,)),
        CreateLoanOffer(uuid4(), good[1], SMALL, last_day=date(2027, 1, 1)),
        CreateLoan(uuid4(), good[2], SMALL),
    )
    assert isinstance(unknown, NotFoundError)
    assert isinstance(invalid, InvalidFieldsError)
    assert isinstance(late, InvalidFieldsError)
    assert booked.approved
    both = desk.together(CreateLoan(uuid4(), 4711, SMALL), CreateLoan(uuid4(), 4712, SMALL))
    assert [type(each) for each in both] == [NotFoundError] * 2


def test_one_customer_is_once_in_a_group(desk: Desk) -> None:
    customer_id, other = (a_good_customer(desk.database, TODAY) for _ in range(2))
    key = uuid4()
    calls = [
        CreateLoan(key, customer_id, SMALL),
        CreateLoan(key, customer_id, SMALL),
        CreateLoan(uuid4(), customer_id, SMALL),
        CreateLoan(uuid4(), other, SMALL),
    ]
    first, repeated, second, of_other = desk.together(*calls)
    assert first == repeated
    assert len({each.decision_id for each in (first, second, of_other)}) == 3
    assert booked_and_consistent(desk.database, customer_id) == 2


def booked_and_consistent(database: Database, customer_id: int) -> int:
    """The number of booked loans of the customer, whose position must match them."""
    with database.autocommit() as connection:
        facts = customers.position_facts(connection, customer_id)
        values = {"id": customer_id}
        events = connection.execute(
            text("SELECT event_seq FROM events WHERE customer_id = :id ORDER BY 1"), values
        ).scalars()
        assert list(events) == list(range(1, len(list_of_events(database, customer_id)) + 1))
        count: int = connection.execute(
            text("SELECT count(*) FROM loans WHERE customer_id = :id AND NOT imported"), values
        ).scalar_one()
    assert facts.stored == facts.on(TODAY.today)
    return count


def list_of_events(database: Database, customer_id: int) -> list[str]:
    with database.autocommit() as connection:
        rows = connection.execute(
            text("SELECT kind FROM events WHERE customer_id = :id ORDER BY event_seq"),
            {"id": customer_id},
        )
        return list(rows.scalars())


def overtake(monkeypatch: pytest.MonkeyPatch, by: Callable[[], object]) -> None:
    """Let `by` happen between the read and the write of the next group."""
    read = grouped_bookings.read
    overtaken: list[bool] = []

    def overtaken_read(*given: Any, **named: Any) -> Any:
        found = read(*given, **named)
        if not overtaken:
            overtaken.append(True)
            by()
        return found

    monkeypatch.setattr(grouped_bookings, "read", overtaken_read)


def test_a_lost_race_concerns_only_its_own_call(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    half = Ask(6 * LAKH, 1200, 24)
    rival = CreateLoan(uuid4(), good[1], half)
    overtake(monkeypatch, lambda: create_loan(desk.database, rival, TODAY, "rival"))
    with exits(lost_race=1):
        decided = desk.together(*[CreateLoan(uuid4(), each, half) for each in good])
    assert [each.approved for each in decided] == [True, False, True]
    for each in good:
        assert booked_and_consistent(desk.database, each) == 1


@pytest.mark.parametrize("kind", [CreateLoan, CreateLoanOffer])
def test_without_the_version_guard_half_the_income_would_be_exceeded(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, kind: type[Command]
) -> None:
    """A control for the guard of the group's write."""
    guard = " AND c.version = g.read_version"
    assert guard in grouped_bookings.WRITE.text
    unguarded = Statement(grouped_bookings.WRITE.text.replace(guard, ""))
    monkeypatch.setattr(grouped_bookings, "WRITE", unguarded)
    good = [a_good_customer(desk.database, TODAY) for _ in range(2)]
    half = Ask(6 * LAKH, 1200, 24)
    rival = CreateLoan(uuid4(), good[1], half)
    overtake(monkeypatch, lambda: create_loan(desk.database, rival, TODAY, "rival"))
    decided = desk.together(*[kind(uuid4(), each, half) for each in good])
    assert [each.approved for each in decided] == [True, True]
    with desk.database.autocommit() as connection:
        position = customers.position_facts(connection, good[1]).on(TODAY.today)
    used = position.current_installments_paise + position.held_installments_paise
    assert 2 * used > position.monthly_income_paise


def test_a_decline_that_was_overtaken_decides_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(2)]

    def raise_income() -> None:
        with desk.database.transaction() as connection:
            connection.execute(
                text(
                    """UPDATE customers SET version = version + 1,
                    arrears_version = arrears_version + 1,
                    monthly_income_paise = 100 * monthly_income_paise,
                    approved_limit_paise = 100 * approved_limit_paise WHERE customer_id = :id"""
                ),
                {"id": good[0]},
            )

    overtake(monkeypatch, raise_income)
    large = Ask(90 * LAKH, 1200, 240)
    decided = desk.together(*[CreateLoan(uuid4(), each, large) for each in good])
    assert [each.approved for each in decided] == [True, False]
    assert list_of_events(desk.database, good[0])[1:] == ["loan_created"]


def test_a_group_waits_for_no_locked_customer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    ended = threading.Event()
    finish = grouped_bookings.write

    def write(*given: Any, **named: Any) -> Any:
        stored = finish(*given, **named)
        ended.set()
        return stored

    monkeypatch.setattr(grouped_bookings, "write", write)
    locked = threading.Event()

    def keep_locked() -> None:
        with desk.database.transaction() as connection:
            customers.lock(connection, good[1])
            locked.set()
            # The group ends while the row is locked: it would otherwise wait for it.
            assert ended.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(1) as threads:
        keeping = threads.submit(keep_locked)
        assert locked.wait(PATIENCE_SECONDS)
        with exits(lost_race=1):
            decided = desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good])
        keeping.result(PATIENCE_SECONDS)
    assert [each.approved for each in decided] == [True] * 3
    assert [booked_and_consistent(desk.database, each) for each in good] == [1, 1, 1]


def test_a_violated_key_makes_every_call_run_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decline keeps the version, so the guard does not see the same request of a rival."""
    good, new = a_good_customer(desk.database, TODAY), a_customer(desk.database, TODAY)
    declined = CreateLoan(uuid4(), new, SMALL)
    overtake(monkeypatch, lambda: create_loan(desk.database, declined, TODAY, "tests"))
    with exits(failed=2):
        booked, repeated = desk.together(CreateLoan(uuid4(), good, SMALL), declined)
    assert booked.approved
    assert repeated == desk.call(declined)
    assert list_of_events(desk.database, new)[1:] == ["loan_declined"]
    # Groups form again at once.
    with exits():
        desk.together(*[CreateLoan(uuid4(), good, SMALL)] * 1, CreateLoan(uuid4(), new, SMALL))


def test_a_defect_of_the_group_stops_groups_for_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    broken = Statement("SELECT customer_id FROM no_such_table")
    monkeypatch.setattr(grouped_bookings, "WRITE", broken)
    with exits(failed=3):
        booked = desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good[:2]])
        booked.append(desk.call(CreateLoan(uuid4(), good[2], SMALL)))
    assert [each.approved for each in booked] == [True] * 3


def test_a_lost_connection_fails_every_call_and_repeats_are_safe(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    commands = [CreateLoan(uuid4(), each, SMALL) for each in good]
    write = grouped_bookings.write

    def lose_answer(*given: Any, **named: Any) -> Any:
        write(*given, **named)
        raise psycopg.OperationalError("the connection is lost")

    with monkeypatch.context() as patched, exits():
        patched.setattr(grouped_bookings, "write", lose_answer)
        failed = desk.together(*commands)
    assert [type(each) for each in failed] == [UnavailableError] * 3
    assert {each.reason for each in failed} == {"DATABASE_UNAVAILABLE"}
    with exits(repeat=3):
        repeated = desk.together(*commands)
    assert [each.approved for each in repeated] == [True] * 3
    assert [booked_and_consistent(desk.database, each) for each in good] == [1, 1, 1]


def test_a_cancelled_leader_does_not_stop_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    scopes = [CancelScope(time.monotonic() + PATIENCE_SECONDS, "write") for _ in good]
    overtake(monkeypatch, scopes[0].cancel)

    def call(customer_id: int, scope: CancelScope) -> Call:
        def made() -> Any:
            token = current_scope.set(scope)
            try:
                return desk.call(CreateLoan(uuid4(), customer_id, SMALL))
            finally:
                current_scope.reset(token)

        return made

    decided = desk.together(*map(call, good, scopes))
    assert [each.approved for each in decided[1:]] == [True, True]
    assert [booked_and_consistent(desk.database, each) for each in good] == [1, 1, 1]
    # With the last call, the work stops.
    scopes = [CancelScope(time.monotonic() + PATIENCE_SECONDS, "write") for _ in good]

    def cancel_all() -> None:
        for each in scopes:
            each.cancel()

    with monkeypatch.context() as patched:
        slow = f"SELECT pg_sleep({PATIENCE_SECONDS}), {grouped_bookings.READ.text.strip()[6:]}"
        patched.setattr(grouped_bookings, "READ", Statement(slow))
        cancelling = threading.Timer(0.2, cancel_all)
        cancelling.start()
        stopped = desk.together(*map(call, good, scopes))
    assert {type(each) for each in stopped} <= {ScopeCancelledError, UnavailableError}
    assert [booked_and_consistent(desk.database, each) for each in good] == [1, 1, 1]


class DeathError(BaseException):
    """Simulates the end of a thread: no code in the service catches it."""


@pytest.mark.parametrize("point", ["create_loan.before_write", "create_loan.after_commit"])
def test_the_calls_of_a_leader_that_dies_are_booked_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(4)]
    commands = [CreateLoan(uuid4(), each, SMALL) for each in good]
    armed = [point]

    def reach(reached: str) -> None:
        if armed and reached == armed[0]:
            armed.pop()
            raise DeathError

    monkeypatch.setattr(failpoints, "reach", reach)
    with exits(leader_died=3):
        leader, *others = desk.together(*commands)
    assert isinstance(leader, DeathError)
    assert [each.approved for each in others] == [True] * 3
    assert desk.together(*commands) == [desk.call(each) for each in commands]
    assert [booked_and_consistent(desk.database, each) for each in good] == [1] * 4


def test_each_call_of_a_group_reaches_the_failpoints(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    reached: list[str] = []
    monkeypatch.setattr(failpoints, "reach", reached.append)
    desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good])
    assert reached == ["create_loan.before_write"] * 3 + ["create_loan.after_commit"] * 3


@contextmanager
def executed() -> Iterator[list[str]]:
    """The statements that calls execute inside."""
    found: list[str] = []
    execute = Statement._executed

    def recorded(statement: Statement, *given: Any) -> Any:
        found.append(str(statement))
        return execute(statement, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Statement, "_executed", recorded)
        yield found


def test_a_group_takes_two_statements_and_a_lone_call_those_of_before(desk: Desk) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(5)]
    with executed() as statements:
        desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good])
    assert statements == [str(grouped_bookings.READ), str(grouped_bookings.WRITE)]
    with executed() as statements:
        desk.call(CreateLoan(uuid4(), good[0], SMALL))
    assert statements == [str(bookings.READ), str(bookings.WRITE_APPROVED)]


def test_a_policy_that_needs_facts_stops_groups_for_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(3)]
    tried(desk.database, prudent(), TODAY)
    with exits(facts=3), executed() as statements:
        decided = desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good[:2]])
        decided.append(desk.call(CreateLoan(uuid4(), good[2], SMALL)))
    assert [decode_inputs(each.inputs_json).facts is None for each in decided] == [False] * 3
    assert statements.count(str(grouped_bookings.READ)) == 1
    monkeypatch.setattr(desk.groups, "_paused_until", 0.0)
    with exits(facts=2):
        desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good[:2]])


def test_a_group_writes_no_referral(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only policies refer, and a policy needs facts. If not, the group would fail, and each call
    would write alone."""
    good = [a_good_customer(desk.database, TODAY) for _ in range(2)]
    write = grouped_bookings.write

    def refer(connection: Any, decided: Sequence[Any], *given: Any) -> Any:
        first, *others = decided
        referred = first._replace(booking=replace(first.booking, referred=True))
        return write(connection, [referred, *others], *given)

    monkeypatch.setattr(grouped_bookings, "write", refer)
    with exits(failed=2):
        booked = desk.together(*[CreateLoan(uuid4(), each, SMALL) for each in good])
    assert [each.approved for each in booked] == [True, True]


def test_an_outdated_position_and_another_day_make_a_call_run_alone(desk: Desk) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(4)]
    desk.call(CreateLoan(uuid4(), good[0], SMALL))
    later, much_later = on(date(2026, 6, 11)), on(date(2026, 8, 3))
    with exits(day=1):
        decided = desk.together(
            CreateLoan(uuid4(), good[1], SMALL),
            lambda: desk.call(CreateLoan(uuid4(), good[2], SMALL), later),
        )
    assert [each.decided_on for each in decided] == [TODAY.today, later.today]
    with exits(outdated=1):
        decided = desk.together(
            lambda: desk.call(CreateLoan(uuid4(), good[3], SMALL), much_later),
            lambda: desk.call(CreateLoan(uuid4(), good[0], SMALL), much_later),
        )
    assert [each.decided_on for each in decided] == [much_later.today] * 2
    with desk.database.autocommit() as connection:
        facts = customers.position_facts(connection, good[0])
    assert facts.stored == facts.on(much_later.today)


def test_the_events_of_a_group_have_their_calls_traces(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [a_good_customer(desk.database, TODAY) for _ in range(2)]
    own = threading.local()
    monkeypatch.setattr(tracing, "traceparent", lambda: getattr(own, "parent", None))

    def call(customer_id: int) -> Call:
        def made() -> Any:
            own.parent = f"00-{customer_id:032x}-{customer_id:016x}-01"
            return desk.call(CreateLoan(uuid4(), customer_id, SMALL))

        return made

    desk.together(*map(call, good))
    for each in good:
        with desk.database.autocommit() as connection:
            found = connection.execute(
                text(
                    """SELECT traceparent FROM events
                    WHERE customer_id = :id AND kind = 'loan_created'"""
                ),
                {"id": each},
            ).scalar_one()
        assert found == f"00-{each:032x}-{each:016x}-01"


@pytest.mark.slow
@pytest.mark.parametrize("customers_count", [3, 40])
def test_many_callers_never_exceed_a_limit(
    database: Database, database_url: str, customers_count: int
) -> None:
    """Groups of two processes' databases, with repeats, offers and more than the limit allows."""
    good = [
        a_good_customer(database, TODAY, monthly_income_paise=2 * LAKH)
        for _ in range(customers_count)
    ]
    databases = [Database(database_url, pool_size=12) for _ in range(2)]
    groups = [booking_groups(each, None) for each in databases]
    keys = [uuid4() for _ in range(6 * customers_count)]
    answers: dict[UUID, list[StoredDecision]] = {each: [] for each in keys}

    def call(number: int) -> None:
        # Each request comes three times, to both databases.
        key = keys[number // 3]
        customer_id = good[number // 3 % customers_count]
        here = number % 2
        ask = Ask(5 * LAKH, 1200, 24)
        if number // 3 % 5:
            stored = create_loan(
                databases[here],
                CreateLoan(key, customer_id, ask),
                TODAY,
                "tests",
                groups=groups[here],
            )
        else:
            stored, _ = create_loan_offer(
                databases[here],
                CreateLoanOffer(key, customer_id, ask),
                TODAY,
                "tests",
                groups=groups[here],
            )
        answers[key].append(stored)

    with ThreadPoolExecutor(32) as threads:
        list(threads.map(call, range(3 * len(keys))))
    for each in databases:
        each.dispose()
    for found in answers.values():
        assert len(found) == 3
        assert len({(each.decision_id, each.outcome_json) for each in found}) == 1
    for customer_id in good:
        with database.autocommit() as connection:
            facts = customers.position_facts(connection, customer_id)
        position = facts.on(TODAY.today)
        assert facts.stored == position
        used = position.current_debt_paise + position.held_principal_paise
        assert used <= position.approved_limit_paise
        used = position.current_installments_paise + position.held_installments_paise
        assert 2 * used <= position.monthly_income_paise
        approved = [
            each[0].approved for each in answers.values() if each[0].customer_id == customer_id
        ]
        assert 5 * LAKH * sum(approved) == (
            position.current_debt_paise + position.held_principal_paise
        )
        assert 0 < sum(approved) < len(approved)
