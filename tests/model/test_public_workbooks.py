"""Compares the scores of the public workbooks' customers with the model, fed from the same
cells."""

from pathlib import Path

import pandas as pd
import pytest

from credit_service.clock import Clock
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import score_pb2
from tests.integration.conftest import Edge
from tests.integration.conftest import server as server  # noqa: PLC0414 - a fixture
from tests.integration.conftest import settings as settings  # noqa: PLC0414 - a fixture
from tests.integration.ingestion.test_ingestion_uploads import upload
from tests.model.bank import Bank
from tests.model.wire import hundredths_of, paise_of


@pytest.fixture
def bank(public_workbooks: Path) -> Bank:
    """The model with every row of both workbooks."""
    model = Bank(Clock().moment().today)
    customers = pd.read_excel(public_workbooks / "customer_data.xlsx", engine="calamine").dropna()
    rows = [
        {
            "customer_id": int(row[0]),
            "age": int(row[3]),
            "phone": f"+91{int(row[4])}",
            "income": int(row[5]) * 100,
            "limit": int(row[6]) * 100,
        }
        for row in customers.itertuples(index=False)
    ]
    assert model.import_customers("customers", rows, update=False, writes=True)["inserted"] == 300
    loans = pd.read_excel(public_workbooks / "loan_data.xlsx", engine="calamine")
    rows = [
        {
            "customer_id": int(row[0]),
            "loan_id": int(row[1]),
            "principal": int(row[2]) * 100,
            "tenure": int(row[3]),
            "bps": round(row[4] * 100),
            "installment": round(row[5] * 100),
            "source_on_time": int(row[6]),
            "start": row[7].date(),
        }
        for row in loans.itertuples(index=False)
    ]
    assert model.import_loans("loans", rows, update=False, writes=True)["inserted"] == 782
    return model


def test_every_score_and_debt_equals_the_model(
    server: Edge, database: Database, bank: Bank, public_workbooks: Path
) -> None:
    for kind, name in (("CUSTOMERS", "customer_data"), ("LOANS", "loan_data")):
        content = (public_workbooks / f"{name}.xlsx").read_bytes()
        upload(database, kind, content, f"{name}.xlsx")  # type: ignore[arg-type]  # one of two
    seen = set()
    for number in bank.customers:
        request = pb.GetCreditScoreRequest(customer_id=number)
        found = server.credit.GetCreditScore(request, timeout=20).credit_score
        score, points, override = bank.score(number)
        assert found.score == score
        assert [hundredths_of(each.points) for each in found.components] == points
        name = score_pb2.ScoreOverride.Name(found.override)
        assert name == f"SCORE_OVERRIDE_{override or 'UNSPECIFIED'}"
        customer = server.credit.GetCustomer(pb.GetCustomerRequest(customer_id=number)).customer
        assert paise_of(customer.current_debt) == bank.debt(number)
        assert paise_of(customer.current_installments) == bank.installments(number)
        seen.add(score)
    assert len(seen) > 20
