"""A person's data is exported whole, and erased without a change of any figure."""

import json
import os
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import exc, text

from credit_service.cli import app
from credit_service.clock import Clock
from credit_service.commands.create_loan import CreateLoan, create_loan
from credit_service.commands.erase_customer import Erasure, erase_customer
from credit_service.commands.register_customer import RegisterCustomer, register_customer
from credit_service.commands.update_customer import UpdateCustomer, update_customer
from credit_service.domain.customers import CustomerChange, NewCustomer
from credit_service.domain.eligibility import Ask
from credit_service.domain.errors import NotFoundError, RequestIdReusedError
from credit_service.queries.as_of import credit_of
from credit_service.queries.backtest import replay_decision
from credit_service.queries.customers import get_customer
from credit_service.queries.personal_data import export
from credit_service.rpc.convert.events import write_event
from credit_service.storage import event_stream
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Ingestion
from credit_service.storage.tables import metadata
from tests.integration.imported import CustomerRow, LoanRow, ingest
from tests.integration.portfolio import LAKH, a_customer, a_good_customer, on

TODAY = on(date(2026, 6, 10))
TOMORROW = on(date(2026, 6, 11))
PHONE, FORMER_PHONE = "+919876543210", "+919876500001"
SECRETS = ("Kaveri", "Subramaniam", "Kavya", PHONE[3:], FORMER_PHONE[3:])
REGISTRATION = RegisterCustomer(
    uuid4(), NewCustomer("Kaveri", "Subramaniam", 31, LAKH, FORMER_PHONE)
)


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.autocommit() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def everything(database: Database) -> str:
    """All rows of all tables, as text."""
    parts = []
    for table in sorted(metadata.tables):
        parts += rows(database, f"SELECT '{table}', row_to_json(t)::text FROM {table} t")  # noqa: S608 - a name of the schema
    return "\n".join(": ".join(each) for each in parts)


def found_in_errors(database: Database, ingestion: Ingestion) -> list[str]:
    """The values in the row errors of an ingestion, those of rejected and of skipped rows."""
    with database.autocommit() as connection:
        query = text("SELECT found FROM row_errors WHERE ingestion_id = :key ORDER BY found")
        return list(connection.execute(query, {"key": ingestion.ingestion_id}).scalars())


def erase(database: Database, customer_id: int, **options: Any) -> Erasure:
    return erase_customer(database, customer_id, TOMORROW, "operator:meera", **options)


def a_known_customer(database: Database) -> int:
    """A customer with former names and phone number, and a declined loan; returns the id."""
    customer_id = register_customer(database, REGISTRATION, TODAY, "tests").customer.customer_id
    change = CustomerChange(first_name="Kavya", phone_number=PHONE)
    update_customer(database, UpdateCustomer(uuid4(), customer_id, change), TODAY, "tests")
    change = CustomerChange(first_name="Kaveri")
    update_customer(database, UpdateCustomer(uuid4(), customer_id, change), TODAY, "tests")
    ask = Ask(LAKH, 1_200, 12)
    create_loan(database, CreateLoan(uuid4(), customer_id, ask), TODAY, "tests")
    return customer_id


def test_nothing_is_left_of_names_and_phone_numbers(database: Database) -> None:
    customer_id = a_known_customer(database)
    # A source that another customer's phone number comes from.
    taken = ingest(database, [CustomerRow(5, PHONE)], TODAY)
    assert found_in_errors(database, taken) == [PHONE]
    before = get_customer(database, customer_id=customer_id)
    (decision_id,) = (row[0] for row in rows(database, "SELECT decision_id FROM decisions"))
    assert all(each in everything(database) for each in SECRETS)

    planned = erase(database, customer_id, dry_run=True)
    assert planned.is_allowed
    assert not planned.is_done
    assert all(each in everything(database) for each in SECRETS)

    done = erase(database, customer_id)
    assert done.is_done
    assert (done.kept.decisions, done.row_errors) == (1, 1)
    left = everything(database)
    assert [each for each in SECRETS if each in left] == []

    after = get_customer(database, customer_id=customer_id)
    assert (after.customer.first_name, after.customer.last_name) == ("Erased", "Erased")
    assert after.customer.age == before.customer.age
    assert after.customer.approved_limit_paise == before.customer.approved_limit_paise
    assert after.position.version == before.position.version + 1
    assert replay_decision(database, decision_id).is_identical
    assert credit_of(database, customer_id, TODAY.today, TOMORROW).customer.first_name == "Erased"


def test_an_erasure_is_one_event_and_a_repeat_none(database: Database) -> None:
    customer_id = a_known_customer(database)
    erase(database, customer_id)
    recorded = "SELECT DISTINCT event_seq FROM fact_changes WHERE principal = 'operator:meera'"
    assert len(rows(database, recorded)) == 1
    first = get_customer(database, customer_id=customer_id)
    again = erase(database, customer_id)
    assert again.was_erased_before
    assert get_customer(database, customer_id=customer_id) == first
    assert len(rows(database, recorded)) == 1

    with database.transaction() as connection:
        event_stream.publish(connection, 1_000)
        kinds = frozenset({"customer_updated"})
        found = event_stream.read(connection, after=0, until=10_000, limit=1_000, kinds=kinds)
    event = write_event(found[-1])
    assert event is not None
    assert event.customer_updated.principal == "operator:meera"
    facts = [(each.field, each.previous, each.current) for each in event.customer_updated.changes]
    assert facts == [(name, "", "") for name in ("first_name", "last_name", "phone_number")]


def test_a_repeat_of_an_erased_request_is_rejected_and_the_number_is_free(
    database: Database,
) -> None:
    customer_id = register_customer(database, REGISTRATION, TODAY, "tests").customer.customer_id
    update = UpdateCustomer(uuid4(), customer_id, CustomerChange(first_name="Kavya"))
    update_customer(database, update, TODAY, "tests")
    erase(database, customer_id)
    with pytest.raises(RequestIdReusedError):
        update_customer(database, update, TODAY, "tests")
    again = RegisterCustomer(uuid4(), REGISTRATION.customer)
    assert register_customer(database, again, TODAY, "tests").customer.customer_id != customer_id


def test_sources_of_the_person_are_deleted_and_others_stay(database: Database) -> None:
    other = ingest(database, [CustomerRow(8)], TODAY)
    inserted = ingest(database, [CustomerRow(7, PHONE, "Kaveri", "Subramaniam")], TODAY)
    differing = CustomerRow(7, PHONE, "Kaveri", "Subramaniam", age=50)
    skipped = ingest(database, [differing, CustomerRow(9, "12")], TODAY)
    assert found_in_errors(database, skipped) == ["12", "age 50"]
    state = "SELECT source_state FROM ingestions WHERE ingestion_id = '{}'"
    done = erase(database, 7)
    assert done.sources == [inserted.ingestion_id]
    assert rows(database, state.format(inserted.ingestion_id)) == [("DELETED",)]
    assert rows(database, state.format(other.ingestion_id)) == [("KEPT",)]
    assert found_in_errors(database, skipped) == ["(erased)", "12"]

    # The same source again: it is another person now, and nothing of the person is stored again.
    ingest(database, [CustomerRow(7, PHONE, "Kaveri", "Subramaniam")], TODAY, on_existing="UPDATE")
    assert get_customer(database, customer_id=7).customer.first_name == "Erased"


def test_open_loans_offers_and_reviews_prevent_the_erasure(database: Database) -> None:
    customer_id = a_good_customer(database, TODAY)
    assert erase(database, customer_id, dry_run=True).is_allowed
    ask = Ask(LAKH, 1_200, 12)
    create_loan(database, CreateLoan(uuid4(), customer_id, ask), TODAY, "tests")
    refused = erase(database, customer_id)
    assert not refused.is_done
    assert len(refused.obligations.loan_ids) == 1
    assert refused.obligations.debt_paise == LAKH
    assert get_customer(database, customer_id=customer_id).customer.first_name == "Asha"

    another = a_customer(database, TODAY)
    create_loan(database, CreateLoan(uuid4(), another, ask), TODAY, "tests")
    last_day = TOMORROW.today + timedelta(days=1)
    with database.transaction() as connection:
        connection.execute(
            text(
                """INSERT INTO loan_offers (customer_id, offer_id, decision_id, principal_paise,
                    annual_rate_bps, tenure_months, installment_paise, charges, created_at,
                    created_on, last_day, principal, used_at_offer_paise, limit_at_offer_paise)
                SELECT customer_id, 1, decision_id, 1, 1, 1, 1, '[]', decided_at, decided_on,
                    :last_day, 'tests', 0, 0 FROM decisions WHERE customer_id = :customer_id"""
            ),
            {"customer_id": another, "last_day": last_day},
        )
        connection.execute(
            text(
                """INSERT INTO referrals (customer_id, decision_id, kind, requested_by,
                    referred_at, last_day)
                SELECT customer_id, decision_id, 'LOAN', 'tests', decided_at, :last_day
                FROM decisions WHERE customer_id = :customer_id"""
            ),
            {"customer_id": another, "last_day": last_day},
        )
    found = erase(database, another).obligations
    assert (found.offer_ids, len(found.referral_ids)) == ([1], 1)
    later = on(last_day + timedelta(days=1))
    assert erase_customer(database, another, later, "operator:meera").is_done


def test_an_unfinished_ingestion_of_the_person_prevents_the_erasure(database: Database) -> None:
    inserted = ingest(database, [CustomerRow(7, PHONE, "Kaveri", "Subramaniam")], TODAY)
    key = {"key": inserted.ingestion_id, "end": None}
    end = "UPDATE ingestions SET state = :state, finished_at = :end WHERE ingestion_id = :key"
    with database.transaction() as connection:
        connection.execute(text(end), {**key, "state": "RUNNING"})
    refused = erase(database, 7)
    assert (refused.is_done, refused.unfinished) == (False, [inserted.ingestion_id])
    assert get_customer(database, customer_id=7).customer.first_name == "Kaveri"
    with database.transaction() as connection:
        connection.execute(text(end), {**key, "state": "SUCCEEDED", "end": TODAY.now})
    assert erase(database, 7).is_done


def test_facts_of_a_person_change_in_no_other_way(database: Database) -> None:
    customer_id = a_known_customer(database)
    values = {"customer_id": customer_id}
    for change in (
        "UPDATE fact_changes SET old_value = 'Anita', new_value = NULL",
        "UPDATE fact_changes SET old_value = 'Erased'",
        "UPDATE fact_changes SET old_value = 'Erased', new_value = NULL, principal = 'anita'",
        "DELETE FROM fact_changes",
    ):
        query = text(f"{change} WHERE customer_id = :customer_id AND fact = 'first_name'")
        with (
            database.autocommit() as connection,
            pytest.raises(exc.DBAPIError, match="rows are facts and never change"),
        ):
            connection.execute(query, values)
    with pytest.raises(NotFoundError):
        erase(database, 404)


# --- The export -----------------------------------------------------------------------------------


def exported(parts: Iterable[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads("".join(parts))
    return document


def test_the_export_has_every_row_about_the_customer(database: Database) -> None:
    ingest(database, [CustomerRow(7, PHONE, "Kaveri", "Subramaniam"), CustomerRow(8)], TODAY)
    ingest(database, [LoanRow(7, 70), LoanRow(8, 80)], TODAY)
    document = exported(export(database, 7, TODAY))
    # Not a list of names: each table with a column that names a customer.
    expected = {
        name
        for name, table in metadata.tables.items()
        if any("customer" in column.name and column.name != "customer_after" for column in table.c)
        and name != "ingestions"  # a count: customers_over_limit
    }
    assert set(document["tables"]) == expected
    assert [each["loan_id"] for each in document["tables"]["loans"]] == [70]
    assert document["tables"]["phone_numbers"] == [{"phone_number": PHONE, "customer_id": 7}]
    for table, found in document["tables"].items():
        count = rows(database, f"SELECT count(*) FROM {table} WHERE customer_id = 7")  # noqa: S608 - likewise
        assert [(len(found),)] == count, table
        assert {each["customer_id"] for each in found} <= {7}
    assert {each["kind"] for each in document["sources"]} == {"CUSTOMERS", "LOANS"}
    with pytest.raises(NotFoundError):
        exported(export(database, 404, TODAY))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database_url: str
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command on the database; returns exit code, output, errors."""
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"DATABASE_URL": database_url})

    def one(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.run(arguments)
        return code, *capsys.readouterr()

    return one


def test_the_commands_export_and_erase(
    run: Callable[..., tuple[int, str, str]], database: Database, tmp_path: Path
) -> None:
    customer_id = a_customer(database, Clock().moment())
    file = tmp_path / "person.json"
    assert run("personal-data", "export", str(customer_id), "--output", str(file))[0] == 0
    assert file.stat().st_mode & 0o777 == 0o600
    document = exported([file.read_text("utf-8")])
    assert document["tables"]["customers"][0]["first_name"] == "Asha"
    assert exported([run("personal-data", "export", str(customer_id))[1]])["tables"]
    assert run("personal-data", "export", str(customer_id), "--output", str(file))[0] == 1
    assert run("personal-data", "export", "404")[0] == 1

    code, shown, _ = run("personal-data", "erase", str(customer_id))
    assert (code, "repeat the command with --yes" in shown) == (0, True)
    assert get_customer(database, customer_id=customer_id).customer.first_name == "Asha"
    code, shown, _ = run("personal-data", "erase", str(customer_id), "--yes", "--json")
    assert (code, json.loads(shown)["is_done"]) == (0, True)
    assert get_customer(database, customer_id=customer_id).customer.first_name == "Erased"
    assert "Asha" not in run("personal-data", "erase", str(customer_id), "--yes")[1]

    debtor = a_good_customer(database, Clock().moment())
    create_loan(
        database, CreateLoan(uuid4(), debtor, Ask(LAKH, 1_200, 12)), Clock().moment(), "tests"
    )
    code, _, problems = run("personal-data", "erase", str(debtor), "--yes")
    assert code == 1
    assert "loans that are not repaid" in problems
    assert "debt: ₹1,00,000" in problems
