"""The console's pages of scorecards, before a server in this process."""

import copy
import html
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest

from credit_service.clock import Clock
from credit_service.domain.scorecard import PRUDENT_DOCUMENT
from credit_service.v1 import scorecard_service_pb2 as pb
from tests.consoles import Answer, Visitor, console
from tests.integration.conftest import Edge
from tests.integration.lending import ask, import_loans, register

PRUDENT = "/qa/scorecards/prudent-1"


@pytest.fixture
def visitor(server: Edge) -> Iterator[Visitor]:
    document = json.dumps(PRUDENT_DOCUMENT)
    server.scorecards.CreateScorecard(
        pb.CreateScorecardRequest(request_id=str(uuid4()), document=document)
    )
    with console(server.target) as place:
        yield Visitor(place)


def draft(visitor: Visitor, document: object, intent: str) -> Answer:
    text = document if isinstance(document, str) else json.dumps(document, indent=2)
    fields = {"request_id": str(uuid4()), "base": "standard-1", "document": text}
    return visitor.send("/qa/draft", intent=intent, **fields)


def send(visitor: Visitor, to: str, page: str = "", **fields: str) -> Answer:
    return visitor.send(page or to, to, request_id=str(uuid4()), **fields)


def test_scorecards_are_listed_and_shown_in_words(visitor: Visitor) -> None:
    page = visitor.ask("/qa/scorecards").text
    assert 'Active: <a href="/qa/scorecards/standard-1">standard-1</a>' in page
    assert f'<a href="{PRUDENT}">prudent-1</a>' in page
    page = visitor.ask(PRUDENT).text
    assert "<dt>Customers without loans</dt><dd>at most ₹50,000.00, at least 16 %</dd>" in page
    assert "<code>days_past_due &gt; 30 || asset_class == 4</code>" in page
    assert visitor.ask("/qa/scorecards/none").status == 404
    assert visitor.ask("/qa/scorecards/a%20b").status == 404


def test_two_scorecards_are_compared(visitor: Visitor) -> None:
    page = visitor.ask("/qa/comparison?before=standard-1&after=prudent-1").text
    assert "From standard-1 to prudent-1" in page
    assert "<code>debt_basis</code>" in page
    assert visitor.ask("/qa/comparison?before=none&after=prudent-1").status == 404
    page = visitor.ask("/qa/comparison?before=prudent-1&after=prudent-1").text
    assert "Both say the same." in page


def test_a_draft_is_checked_with_the_place_of_each_error_and_then_stored(
    visitor: Visitor,
) -> None:
    page = html.unescape(visitor.ask("/qa/draft?base=prudent-1").text)
    assert '"version": "prudent-2"' in page
    bad = {**PRUDENT_DOCUMENT, "version": "mine-1", "grace_days": -1}
    bad["rules"] = [{**PRUDENT_DOCUMENT["rules"][0], "condition": "days_past_due >> 3"}]
    answer = draft(visitor, bad, "check")
    assert answer.status == 400
    lines = json.dumps(bad, indent=2).splitlines()
    for name, path in (("condition", "rules[0].condition"), ("grace_days", "grace_days")):
        number = 1 + next(n for n, line in enumerate(lines) if f'"{name}"' in line)
        assert f'<a href="#line-{number}">Line {number}</a> <code>{path}</code>' in answer.text
    answer = draft(visitor, '{\n"version": \n}', "store")
    assert '<a href="#line-3">Line 3</a>: Is not JSON' in answer.text
    good = {**PRUDENT_DOCUMENT, "version": "mine-1"}
    page = draft(visitor, good, "check").text
    assert "Valid: mine-1" in page
    assert "Compared with standard-1. Nothing is stored yet." in page
    assert visitor.ask("/qa/scorecards/mine-1").status == 404
    answer = draft(visitor, good, "store")
    assert (answer.status, answer.headers["location"]) == (303, "/qa/scorecards/mine-1")
    assert "It decides nothing yet." in visitor.ask("/qa/scorecards/mine-1").text
    taken = draft(visitor, {**good, "grace_days": 3}, "store")
    assert taken.status == 409
    assert "SCORECARD_VERSION_TAKEN" in taken.text


def test_a_large_document_can_be_sent(visitor: Visitor) -> None:
    document = json.dumps({**PRUDENT_DOCUMENT, "version": "large-1"}, indent=2)
    text = document.replace("\n", "\r\n") + " " * (65_536 - len(document))
    assert "Valid: large-1" in draft(visitor, text, "check").text


def test_a_scorecard_is_tried_activated_scheduled_rolled_back_and_retired(
    visitor: Visitor,
) -> None:
    assert send(visitor, f"{PRUDENT}/trial", PRUDENT).status == 303
    page = visitor.ask(PRUDENT).text
    assert "Scorecard prudent-1 is the trial." in page
    assert "End the trial" in page
    assert send(visitor, f"{PRUDENT}/end", PRUDENT).status == 303

    page = visitor.ask(f"{PRUDENT}/activate").text
    assert "It replaces standard-1 for every customer and every caller." in page
    assert "<code>debt_basis</code>" in page
    # The page names what changes: another active scorecard than that one is not replaced.
    stale = send(visitor, f"{PRUDENT}/activate", replaces="other", effective_on="")
    assert stale.status == 409
    assert "Another scorecard is active since this page was opened." in stale.text
    day = Clock().moment().today
    bad = send(visitor, f"{PRUDENT}/activate", replaces="standard-1", effective_on="2001-01-01")
    assert bad.status == 409
    assert "ACTIVATION_DAY_OUT_OF_RANGE" in bad.text
    bad = send(visitor, f"{PRUDENT}/activate", replaces="standard-1", effective_on="soon")
    assert bad.status == 400
    tomorrow = (day + timedelta(days=1)).isoformat()
    done = send(visitor, f"{PRUDENT}/activate", replaces="standard-1", effective_on=tomorrow)
    assert done.status == 303
    page = visitor.ask(PRUDENT).text
    assert "Scorecard prudent-1 is active from" in page
    assert "To cancel this" in page
    done = send(visitor, f"{PRUDENT}/activate", replaces="standard-1", effective_on="")
    assert done.status == 303
    assert "is active. The workers recompute all scores." in visitor.ask(PRUDENT).text

    page = visitor.ask("/qa/scorecards").text
    assert 'href="/qa/scorecards/standard-1/activate">Roll back to standard-1</a>' in page
    back = "/qa/scorecards/standard-1/activate"
    assert send(visitor, back, replaces="prudent-1", effective_on="").status == 303
    in_use = send(visitor, "/qa/scorecards/standard-1/retire")
    assert in_use.status == 409
    assert "SCORECARD_IN_USE" in in_use.text


def test_a_form_of_an_earlier_session_is_not_sent(visitor: Visitor) -> None:
    visitor.ask(PRUDENT)
    body = f"csrf_token=other&request_id={uuid4()}".encode()
    answer = visitor.ask(f"{PRUDENT}/trial", body, "application/x-www-form-urlencoded")
    assert answer.status == 403
    assert "Nothing was sent." in answer.text
    assert "Start the trial" in visitor.ask(PRUDENT).text
    address = visitor.ask(f"{PRUDENT}/trial").headers["location"]
    assert address == PRUDENT


def test_a_backtest_runs_beside_its_page_and_shows_its_result(
    server: Edge, visitor: Visitor
) -> None:
    customer = register(server.credit, "9876500001")
    import_loans(server, customer, 3)
    server.credit.CreateLoan(ask(customer))
    terms = {"loan_amount": "50,000", "interest_rate": "12", "tenure_months": "12"}
    bad = visitor.send("/qa/backtest", version="prudent-1", loan_amount="much")
    assert bad.status == 400
    document = {**copy.deepcopy(PRUDENT_DOCUMENT), "version": "other-1", "income_share_bps": 1}
    document["components"]["LOAN_COUNT"]["full_at_loans"] = 2
    server.scorecards.CreateScorecard(
        pb.CreateScorecardRequest(request_id=str(uuid4()), document=json.dumps(document))
    )
    started = visitor.send("/qa/backtest", version="other-1", **terms)
    assert started.status == 303
    address = started.headers["location"]
    until = time.monotonic() + 60
    while 'data-ended="no"' in visitor.ask(f"{address}/progress").text:
        assert time.monotonic() < until
        time.sleep(0.05)
    page = visitor.ask(address).text
    assert "scores change." in page
    assert "The loan for every customer" in page
    assert "Customers by score: standard-1 and other-1." in page
    link = f'<a href="/qa/customers/{customer}">{customer}</a>'
    assert link in page.partition("Largest changes of scores")[2].partition("</table>")[0]
    assert f"<td>{link}</td>" in page.partition("Reasons of customers")[2].partition("</table>")[0]
    # Only the session that started it sees it.
    assert Visitor(visitor.place).ask(address).status == 404
    ended = visitor.send("/qa/backtest", version="none")
    address = ended.headers["location"]
    while 'data-ended="no"' in visitor.ask(f"{address}/progress").text:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert "SCORECARD_NOT_FOUND" in visitor.ask(address).text


def test_the_results_of_a_trial_are_shown(server: Edge, visitor: Visitor) -> None:
    assert visitor.ask("/qa/trial").status == 404
    assert send(visitor, f"{PRUDENT}/trial", PRUDENT).status == 303
    page = visitor.ask("/qa/trial").text
    assert "<h1>Trial of prudent-1</h1>" in page
    assert "No decisions yet." in page
