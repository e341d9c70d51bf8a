"""All that the tables hold of one customer."""

import json
from collections.abc import Iterator
from typing import Any

from credit_service.clock import Moment
from credit_service.queries.credit import unknown_customer
from credit_service.storage import personal_data
from credit_service.storage.database import Database
from credit_service.storage.statements import Statement

_SNAPSHOT = Statement("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


def export(database: Database, customer_id: int, moment: Moment) -> Iterator[str]:
    """Yield the parts of one JSON document with all rows about the customer, by table, and the
    ingestions that stored or changed them. Reads one state of the database, in bounded memory.

    Raises NotFoundError: CUSTOMER_NOT_FOUND, before the first part.
    """
    with database.transaction() as connection:
        _SNAPSHOT.run(connection, {})
        tables = personal_data.exported_tables()
        is_known = any(
            next(personal_data.rows_of(connection, table, customer_id), None) for table in tables
        )
        if not is_known:
            raise unknown_customer(customer_id)
        yield f'{{"customer_id": {customer_id}, "exported_at": "{moment.now.isoformat()}",\n'
        sources = [each._asdict() for each in personal_data.sources(connection, customer_id)]
        yield f'"sources": {_encoded(sources)},\n"tables": {{'
        for place, table in enumerate(tables):
            yield f'{"," if place else ""}\n"{table.name}": ['
            for row_place, row in enumerate(personal_data.rows_of(connection, table, customer_id)):
                yield f"{',' if row_place else ''}\n{row}"
            yield "]"
        yield "}}\n"


def _encoded(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
