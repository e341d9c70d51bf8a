"""Scorecards: the list, one scorecard, two side by side, a draft, and their use."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import grpc
from starlette.exceptions import HTTPException
from starlette.responses import Response

from credit_service.console import fields, formats, scorecard_text
from credit_service.console.formats import Typed
from credit_service.console.lists import SCORECARDS
from credit_service.console.page import (
    EXAMPLE_REQUEST_ID,
    Page,
    Problem,
    form_for_retry,
    new_request_id,
)
from credit_service.console.scorecard_text import DifferenceLine
from credit_service.console.views import lists
from credit_service.v1 import scorecard_pb2
from credit_service.v1 import scorecard_service_pb2 as pb
from credit_service_client.errors import ServiceError

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _version(page: Page) -> str:
    """The version in the path. Raises HTTPException (404) for another text."""
    text = str(page.request.path_params["version"])
    if not _VERSION.fullmatch(text):
        raise HTTPException(HTTPStatus.NOT_FOUND, f"“{text[:40]}” is not a scorecard's version.")
    return text


def path_of(version: str) -> str:
    """Return the page of a scorecard."""
    return f"/qa/scorecards/{quote(version, safe='')}"


def index(page: Page) -> Response:
    """All scorecards, and the way back to the one that was active before."""
    found = lists.shown(page, SCORECARDS)
    active, problem = page.attempt(lambda: page.service.scorecard(""))
    return page.render(
        "scorecards.html",
        list=found,
        active=None if active is None else active.scorecard,
        active_problem=problem,
        previous="" if active is None else _previous(active),
    )


def _previous(active: pb.GetScorecardResponse) -> str:
    """The version that the active scorecard replaced, or ''."""
    activated = (
        each
        for each in active.changes
        if each.type == scorecard_pb2.SCORECARD_CHANGE_TYPE_ACTIVATED
        and each.version == active.scorecard.version
    )
    return next((each.previous_version for each in activated), "")


def show(page: Page) -> Response:
    """One scorecard in words, with its history and what can be done with it."""
    return _show(page, {"request_id": new_request_id()}, None)


def _show(page: Page, values: Mapping[str, str], problem: Problem | None) -> Response:
    found = page.service.scorecard(_version(page))
    return page.render(
        "scorecard.html",
        problem.http_status if problem is not None else HTTPStatus.OK,
        scorecard=found.scorecard,
        changes=found.changes,
        text=scorecard_text.describe(found.scorecard.document),
        document=scorecard_text.pretty(found.scorecard.document),
        values=values,
        problem=problem,
        planned=page.planned(
            pb.SetTrialScorecardRequest(
                request_id=EXAMPLE_REQUEST_ID, version=found.scorecard.version
            )
        ),
    )


def start_trial(page: Page) -> Response:
    """Make the scorecard the trial."""
    version = _version(page)
    request = pb.SetTrialScorecardRequest(request_id=page.request_id(), version=version)
    return _set_trial(page, request, f"Scorecard {version} is the trial.")


def end_trial(page: Page) -> Response:
    """End the trial."""
    request = pb.SetTrialScorecardRequest(request_id=page.request_id(), end=True)
    return _set_trial(page, request, "The trial has ended.")


def _set_trial(page: Page, request: pb.SetTrialScorecardRequest, notice: str) -> Response:
    try:
        page.service.set_trial(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _show(page, form_for_retry(page.form, error), Problem(error))
    return page.redirect(path_of(_version(page)), notice)


def compare(page: Page) -> Response:
    """Two scorecards side by side."""
    before, after = page.query.get("before", "").strip(), page.query.get("after", "").strip()
    listed = page.service.scorecards(pb.ListScorecardsRequest(page_size=1_000)).scorecards
    versions = [each.version for each in listed]
    values = {"before": before, "after": after}
    if not after:
        return page.render("comparison.html", versions=versions, values=values, found=None)
    request = pb.CompareScorecardsRequest(before_version=before, after_version=after)
    try:
        found = page.service.compare(request)
        texts = [
            scorecard_text.pretty(page.service.scorecard(each).scorecard.document)
            for each in (found.before_version, found.after_version)
        ]
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        problem = Problem(error)
        return page.render(
            "comparison.html",
            problem.http_status,
            versions=versions,
            values=values,
            found=None,
            problem=problem,
        )
    return page.render(
        "comparison.html",
        versions=versions,
        values={"before": found.before_version, "after": found.after_version},
        found=found,
        lines=scorecard_text.difference_lines(found.differences),
        rows=scorecard_text.side_by_side(*texts),
    )


@dataclass(frozen=True, slots=True)
class DocumentError:
    """An error of a draft: its path in the document, its line from 1 (0 for none), a sentence."""

    path: str
    line: int
    sentence: str


def draft(page: Page) -> Response:
    """The editor, with a copy of a scorecard under the next version."""
    values = page.typed_before()
    if not values:
        base = page.service.scorecard(page.query.get("base", "").strip()).scorecard
        values = {
            "request_id": new_request_id(),
            "base": base.version,
            "document": scorecard_text.next_draft(base.document),
        }
    return _draft(page, values)


def save(page: Page) -> Response:
    """Check the document, or store it."""
    document = page.form.get("document", "").replace("\r\n", "\n")
    values = {**page.form, "document": document}
    request = pb.CreateScorecardRequest(
        request_id=page.request_id(),
        document=document,
        validate_only=page.form.get("intent") != "store",
    )
    try:
        scorecard = page.service.create_scorecard(request)
        if not request.validate_only:
            notice = f"Scorecard {scorecard.version} is stored. It decides nothing yet."
            return page.redirect(path_of(scorecard.version), notice)
        comparison = page.service.compare(
            pb.CompareScorecardsRequest(
                before_version=page.form.get("base", ""), after_document=document
            )
        )
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _draft(page, {**values, **form_for_retry(values, error)}, problem=Problem(error))
    return _draft(page, values, checked=comparison)


def _draft(
    page: Page,
    values: Mapping[str, str],
    *,
    problem: Problem | None = None,
    checked: pb.CompareScorecardsResponse | None = None,
) -> Response:
    document = values.get("document", "")
    errors = [] if problem is None else _errors(problem, document)
    return page.render(
        "draft.html",
        HTTPStatus.OK if problem is None else problem.http_status,
        values=values,
        problem=problem,
        errors=errors,
        bad_lines={each.line for each in errors},
        numbered=list(enumerate(document.splitlines(), 1)),
        checked=checked,
        lines=[] if checked is None else scorecard_text.difference_lines(checked.differences),
        planned=page.planned(
            pb.CreateScorecardRequest(
                request_id=EXAMPLE_REQUEST_ID, document=document[:1_000], validate_only=True
            )
        ),
    )


_PLACE = re.compile(r"\bline ([0-9]{1,6}), column")


def _errors(problem: Problem, document: str) -> list[DocumentError]:
    found = []
    for field, text in problem.error.violations:
        path = field.removeprefix("document").removeprefix(".")
        # A text that is not JSON has no paths: the service names the line.
        place = None if path else _PLACE.search(text)
        line = int(place[1]) if place else scorecard_text.line_of(document, path)
        sentence = text.removeprefix(field).strip()
        found.append(DocumentError(path, line, sentence[:1].upper() + sentence[1:]))
    return found


def activation(page: Page) -> Response:
    """The page that confirms an activation and names what changes."""
    values = page.typed_before() or {"request_id": new_request_id()}
    return _activation(page, values, {}, None)


def activate(page: Page) -> Response:
    """Activate the scorecard, now or from a day on."""
    typed = Typed(page.form)
    day = typed.day("effective_on")
    version = _version(page)
    request = pb.ActivateScorecardRequest(
        request_id=page.request_id(), version=version, effective_on=day
    )
    if typed.problems:
        return _activation(page, page.form, typed.problems, None)
    if page.service.scorecard("").scorecard.version != typed.text("replaces"):
        # What the user confirmed is not what would change now.
        return _activation(page, page.form, {}, None, is_outdated=True)
    try:
        scorecard = page.service.activate(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        problems = fields.beside(("effective_on",), error.violations, {})
        return _activation(page, form_for_retry(page.form, error), problems, Problem(error))
    notice = f"Scorecard {version} is active. The workers recompute all scores."
    if scorecard.state != scorecard_pb2.SCORECARD_STATE_ACTIVE:
        notice = f"Scorecard {version} is active from {formats.civil(day)} on."
    return page.redirect(path_of(version), notice)


def _activation(
    page: Page,
    values: Mapping[str, str],
    problems: dict[str, str],
    problem: Problem | None,
    *,
    is_outdated: bool = False,
) -> Response:
    version = _version(page)
    scorecard = page.service.scorecard(version).scorecard
    compared, lines = _changes(page, version)
    status: int = HTTPStatus.OK
    if problem is not None:
        status = problem.http_status
    elif problems or is_outdated:
        status = HTTPStatus.CONFLICT if is_outdated else HTTPStatus.BAD_REQUEST
    return page.render(
        "activation.html",
        status,
        scorecard=scorecard,
        active_version=compared.before_version,
        lines=lines,
        values=values,
        problems=problems,
        problem=problem,
        is_outdated=is_outdated,
        planned=page.planned(
            pb.ActivateScorecardRequest(request_id=EXAMPLE_REQUEST_ID, version=version)
        ),
    )


def _changes(page: Page, version: str) -> tuple[Any, list[DifferenceLine]]:
    """How the scorecard differs from the active one."""
    found = page.service.compare(pb.CompareScorecardsRequest(after_version=version))
    return found, scorecard_text.difference_lines(found.differences)


def retirement(page: Page) -> Response:
    """The page that confirms a retirement."""
    return _retirement(page, page.typed_before() or {"request_id": new_request_id()}, None)


def retire(page: Page) -> Response:
    """Retire the scorecard."""
    version = _version(page)
    request = pb.RetireScorecardRequest(request_id=page.request_id(), version=version)
    try:
        page.service.retire(request)
    except ServiceError as error:
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            raise
        return _retirement(page, form_for_retry(page.form, error), Problem(error))
    return page.redirect(path_of(version), f"Scorecard {version} is retired.")


def _retirement(page: Page, values: Mapping[str, str], problem: Problem | None) -> Response:
    version = _version(page)
    return page.render(
        "retirement.html",
        HTTPStatus.OK if problem is None else problem.http_status,
        scorecard=page.service.scorecard(version).scorecard,
        values=values,
        problem=problem,
        planned=page.planned(
            pb.RetireScorecardRequest(request_id=EXAMPLE_REQUEST_ID, version=version)
        ),
    )
