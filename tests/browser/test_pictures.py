"""Takes the pictures of the console for the documentation, from a sandbox that runs.

`make up SANDBOX=1` runs one. Only `make pictures` takes the pictures, in the folder SCREENSHOTS.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2
from credit_service.v1 import ingestion_service_pb2 as ingestion_pb
from credit_service.v1.ingestion_service_pb2_grpc import IngestionServiceStub
from credit_service_client.client import CreditClient
from credit_service_client.errors import ServiceError
from tests.browser.conftest import Tab, new_context

pytestmark = pytest.mark.pictures

ADDRESS = os.environ.get("CREDIT_ADDRESS", "127.0.0.1:50051")
CONSOLE = os.environ.get("CREDIT_CONSOLE", "http://127.0.0.1:8080")
MAX_PICTURE_BYTES = 300 * 1024

Picture = tuple[str, str, dict[str, bool]]

PICTURES: tuple[Picture, ...] = (
    ("dashboard", "dashboard", {}),
    ("loan-dark", "loan", {"dark": True}),
    ("overdue", "overdue", {}),
    ("simulator-phone-dark", "simulator", {"narrow": True, "dark": True}),
    ("decision", "decision", {}),
    ("ingestion", "ingestion", {}),
    ("comparison", "comparison", {}),
)


@pytest.fixture(scope="module")
def pages() -> Iterator[dict[str, str]]:
    """Addresses of pages that show something."""
    with CreditClient(ADDRESS) as client:
        try:
            client.require_ready()
        except ServiceError as error:
            pytest.fail(f"no sandbox at {ADDRESS}, start one with `make up SANDBOX=1`: {error}")
        yield _found(client)


def _found(client: CreditClient) -> dict[str, str]:
    credit = client.credit
    late = credit.ListDelinquentLoans(
        pb.ListDelinquentLoansRequest(asset_class=decision_pb2.ASSET_CLASS_SMA_1, page_size=1)
    ).loans[0]
    declined = credit.ListDecisions(
        pb.ListDecisionsRequest(outcome=decision_pb2.DECISION_OUTCOME_DECLINED, page_size=1)
    ).decisions[0]
    ingestions = IngestionServiceStub(client.channel).ListIngestions(
        ingestion_pb.ListIngestionsRequest()
    )
    rejected = next(each for each in ingestions.ingestions if each.rejected)
    ask = f"customer_id={late.customer_id}&loan_amount=150000&interest_rate=12&tenure_months=24"
    return {
        "dashboard": "/qa/",
        "loan": f"/qa/customers/{late.customer_id}/loans/{late.loan_id}",
        "overdue": "/qa/overdue",
        "simulator": f"/qa/eligibility?{ask}",
        "decision": f"/qa/decisions/{declined.decision_id}",
        "ingestion": f"/qa/ingestions/{rejected.ingestion_id}",
        "comparison": "/qa/comparison?before=standard-1&after=prudent-1",
    }


@pytest.mark.parametrize(("picture", "name", "kind"), PICTURES, ids=[each[0] for each in PICTURES])
def test_a_picture_is_taken(
    browser: Browser, pages: dict[str, str], picture: str, name: str, kind: dict[str, bool]
) -> None:
    context = new_context(browser, CONSOLE, **kind)
    tab = Tab(context.new_page())
    tab.page.goto(pages[name])
    _settle(tab.page)
    path = Path(os.environ["SCREENSHOTS"]) / f"console-{picture}.png"
    tab.page.screenshot(path=path)
    context.close()
    tab.check()
    assert 10 * 1024 < path.stat().st_size <= MAX_PICTURE_BYTES


def _settle(page: Page) -> None:
    page.evaluate("window.scrollTo(0, 0); document.activeElement.blur()")
    # Wait for parts that load later, animations and late fonts.
    page.wait_for_timeout(1_500)
