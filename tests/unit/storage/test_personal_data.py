"""Every table says what it holds of a person, and what an erasure does with it."""

import pytest

from credit_service.domain.customers import erased_phone_number, parse_phone_number
from credit_service.storage.personal_data import HOLDINGS, exported_tables
from credit_service.storage.tables import metadata


def test_every_table_says_what_it_holds_of_a_person() -> None:
    assert set(HOLDINGS) == set(metadata.tables)
    for name, holding in HOLDINGS.items():
        assert bool(holding.holds) == bool(holding.erasure), name


def test_every_column_that_names_a_person_is_in_a_table_that_is_exported() -> None:
    exported = {each.name for each in exported_tables()}
    assert all(HOLDINGS[name].holds for name in exported)
    personal = {"customer_id", "first_name", "last_name", "phone_number"}
    for name, table in metadata.tables.items():
        assert name in exported or not personal.intersection(table.c.keys()), name
    # What the others hold of a person has no column of the person.
    others = {name for name, holding in HOLDINGS.items() if holding.holds} - exported
    assert others == {
        *("ingestions", "ingestion_chunks", "ingestion_batches", "row_errors"),
        *("tasks", "task_actions"),
    }


def test_no_caller_can_give_the_phone_number_of_an_erased_customer() -> None:
    for number in (0, 123_456_789_012, 10**12 - 1):
        text = erased_phone_number(number)
        assert len(text) == len("+999") + 12
        with pytest.raises(ValueError, match="not a"):
            parse_phone_number(text)
