"""Uploads on a full disk: rejected with RetryInfo, and accepted once there is space."""

from datetime import date
from pathlib import Path
from uuid import UUID

import pytest

from credit_service import failpoints
from credit_service.clock import Clock
from credit_service.domain.errors import OverloadedError
from credit_service.ingestion.uploads import run_upload, store_upload
from credit_service.queries.ingestions import list_ingestions
from credit_service.storage.database import Database
from credit_service.storage.ingestions import Header
from tests.integration.imported import PRINCIPAL
from tests.integration.portfolio import on
from tests.unit.spreadsheets.workbooks import A_CUSTOMER, CUSTOMER_HEADERS, csv_of

MOMENT = on(date(2026, 6, 10))
HEADER = Header(UUID(int=7), "CUSTOMERS", filename="customers.csv")


def arm(folder: Path, point: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a full disk at the failpoint until the returned file is removed."""
    monkeypatch.setattr(failpoints, "reach", failpoints.armed_in(folder))
    order = folder / point
    order.write_text("full")
    return order


def store(database: Database) -> None:
    content = csv_of(CUSTOMER_HEADERS, A_CUSTOMER)
    store_upload(database, HEADER, [content], MOMENT, PRINCIPAL, 1_000_000)


def test_an_upload_without_disk_space_can_be_retried(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = arm(tmp_path, "upload.spool", monkeypatch)
    with pytest.raises(OverloadedError) as refused:
        store(database)
    assert refused.value.retry_after_seconds > 0
    assert not list_ingestions(database, None, 10)
    order.unlink()
    store(database)
    assert len(list_ingestions(database, None, 10)) == 1


def test_a_worker_without_disk_space_continues_later(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(database)
    order = arm(tmp_path, "upload.restore", monkeypatch)
    with pytest.raises(OverloadedError):
        run_upload(database, HEADER.ingestion_id, Clock())
    order.unlink()
    ended = run_upload(database, HEADER.ingestion_id, Clock())
    assert (ended.state, ended.inserted) == ("SUCCEEDED", 1)
