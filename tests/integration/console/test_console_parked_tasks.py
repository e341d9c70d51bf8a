"""The console's pages of parked tasks, over HTTP without scripts, before a real server."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from credit_service.settings import Settings
from credit_service.storage.database import Database
from tests.consoles import Visitor, console
from tests.integration.conftest import Edge
from tests.integration.rpc.test_identity_methods import ISSUER, KEY, token, write_keys
from tests.integration.rpc.test_parked_tasks import discard, retry, rows, stored

PAGE = "/qa/parked-tasks"


@pytest.fixture
def visitor(server: Edge) -> Iterator[Visitor]:
    with console(server.target) as place:
        yield Visitor(place)


def request_id(visitor: Visitor, page: str) -> str:
    found = re.search(r'name="request_id" value="([^"]+)"', visitor.ask(page).text)
    assert found is not None
    return found[1]


def test_parked_tasks_are_listed_filtered_and_exported(
    visitor: Visitor, database: Database
) -> None:
    assert "No task is parked." in visitor.ask(PAGE).text
    upload = str(uuid4())
    first = stored(database, upload, error="<b>boom</b>", actor="ingest_upload")
    stored(database, "7", error="=1+1 of +919876543210")
    page = visitor.ask(PAGE).text
    assert "&lt;b&gt;boom&lt;/b&gt;" in page
    assert f'<a href="/qa/ingestions/{upload}">' in page
    assert "98765" not in page
    filtered = visitor.ask(f"{PAGE}?actor=ingest_upload").text
    assert upload in filtered
    assert "=1+1" not in filtered
    assert "No task is parked with these filters." in visitor.ask(f"{PAGE}?actor=none").text
    assert visitor.ask(f"{PAGE}?task_id=x").status == 400
    export = visitor.ask("/qa/exports/parked-tasks.csv").body.decode()
    found = list(csv.DictReader(io.StringIO(export)))
    assert found[0]["task_id"] == str(first)
    assert found[1]["last_error"].startswith("'=1+1")


def test_a_task_is_retried_after_a_confirmation(visitor: Visitor, database: Database) -> None:
    task_id = stored(database, "7", error="boom")
    page = f"{PAGE}/{task_id}/retry"
    shown = visitor.ask(page).text
    assert "boom" in shown
    assert "Confirm and retry the task" in shown
    form = {"request_id": request_id(visitor, page)}
    sent = [visitor.send("/qa/login", page, **form) for _ in range(2)]
    assert [each.status for each in sent] == [303, 303]
    assert f"Task {task_id} waits for a worker." in visitor.ask(PAGE).text
    assert rows(database, "SELECT task_id, state FROM tasks") == [(task_id, "PENDING")]
    gone = visitor.ask(page)
    assert gone.status == 404
    assert f"Task {task_id} is not parked" in gone.text
    assert visitor.ask(f"{PAGE}/x/retry").status == 404


def test_an_administrator_who_is_late_sees_why(
    server: Edge, visitor: Visitor, database: Database
) -> None:
    for act, reason, status in (
        (retry, "TASK_NOT_PARKED", 409),
        (discard, "TASK_NOT_FOUND", 404),
    ):
        task_id = stored(database, act.__name__)
        page = f"{PAGE}/{task_id}/discard"
        form = {"request_id": request_id(visitor, page)}
        act(server, task_id)
        late = visitor.send("/qa/login", page, **form)
        assert late.status == status
        assert reason in late.text
        assert f"Task {task_id} is not parked" in late.text
        assert "Confirm and discard" not in late.text


class TestWithoutTheScope:
    """A caller of another team."""

    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        keys = tmp_path / "jwks.json"
        write_keys(keys, k1=KEY)
        return settings.model_copy(update={"token_keys": keys, "token_issuer": ISSUER})

    def test_neither_list_nor_actions_are_allowed(
        self, visitor: Visitor, database: Database
    ) -> None:
        task_id = stored(database, "7", error="boom")
        signed_in = visitor.send("/qa/login", token=token(scope="credit.read credit.write ingest"))
        assert signed_in.status == 303
        page = visitor.ask(PAGE)
        assert page.status == 403
        assert "<code>admin</code>" in page.text
        assert "boom" not in page.text
        for action in ("retry", "discard"):
            sent = visitor.send("/qa/", f"{PAGE}/{task_id}/{action}", request_id=str(uuid4()))
            assert sent.status == 403
        assert rows(database, "SELECT state FROM tasks") == [("PARKED",)]
