"""Every method of the contract as a form, its answer, and the index of methods."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import groupby
from typing import Any

import grpc
from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.responses import Response

from credit_service.console import method_form
from credit_service.console.calling import (
    MAX_MESSAGES,
    Answer,
    RequestJsonError,
    answered,
    pretty,
    requests_of,
)
from credit_service.console.calls import Call, full_method, request_json
from credit_service.console.method_form import NotAFormError
from credit_service.console.methods import METHODS, Method
from credit_service.console.page import Page, Problem, new_request_id

MAX_FIELDS = 700
"""Fields of a form: its inputs, ticked choices and counts of entries."""
_DEFAULT_MESSAGES = 10


@dataclass(frozen=True, slots=True)
class _Editor:
    """What the page of a method shows. `values` are typed values, of the form or as JSON."""

    method: Method
    values: Mapping[str, str]
    problems: Mapping[str, str]
    notice: str = ""
    plan: Call | None = None
    answer: Answer | None = None
    request: str = ""
    """The sent request as JSON, for the history."""

    @property
    def is_json(self) -> bool:
        """Whether the request is edited as JSON."""
        return _is_json(self.method, self.values)


def index(page: Page) -> Response:
    """All methods by service."""
    groups = groupby(METHODS.values(), lambda each: each.service)
    return page.render("methods.html", services=[(name, list(each)) for name, each in groups])


def form(page: Page) -> Response:
    """The form of a method."""
    method = _method(page)
    values = page.typed_before() or _initial(method)
    return _shown(page, _Editor(method, values, {}))


def send(page: Page) -> Response:
    """Call the method, or change the form as its button says."""
    method = _method(page)
    values = {name: text for name, text in page.form.items() if name not in ("csrf_token", "act")}
    act, _, name = page.form.get("act", "send").partition(" ")
    descriptor = method.descriptor.input_type
    if act == "add":
        values, problem = method_form.with_entry(descriptor, values, name)
        return _shown(page, _Editor(method, values, {}, notice=problem))
    if act == "remove":
        values = method_form.without_entry(values, name)
        return _shown(page, _Editor(method, values, {}))
    if act == "renew":
        return _shown(page, _renewed(_Editor(method, values, {})))
    requests, problems = _requests(method, values)
    editor = _Editor(method, values, problems)
    if problems:
        return _shown(page, editor)
    if act == "json":
        document = "\n".join(pretty(each) for each in requests)
        return _shown(page, replace(editor, values={"mode": "json", "json": document}))
    if act in ("form", "again"):
        editor = _as_form(editor, requests)
        return _shown(page, _renewed(editor) if act == "again" else editor)
    if act == "plan":
        return _shown(page, replace(editor, plan=_call(requests)))
    answer = answered(page.service, method, requests, _messages(values))
    if answer.error is not None and answer.error.code is grpc.StatusCode.UNAUTHENTICATED:
        raise answer.error
    return _shown(page, replace(editor, answer=answer, request=_call(requests).request_json))


def _method(page: Page) -> Method:
    names = page.request.path_params
    method = METHODS.get((names["service"], names["method"]))
    if method is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "The contract does not have this method.")
    return method


def _initial(method: Method) -> dict[str, str]:
    if method.descriptor.client_streaming:
        return {"mode": "json", "json": "{}"}
    return {"request_id": new_request_id()} if method.has_request_id else {}


def _is_json(method: Method, values: Mapping[str, str]) -> bool:
    return method.descriptor.client_streaming or values.get("mode") == "json"


def _requests(method: Method, values: Mapping[str, str]) -> tuple[list[Message], dict[str, str]]:
    """Return the typed requests and the problems of the fields."""
    if not _is_json(method, values):
        message, problems = method_form.read(method.descriptor.input_type, values)
        return [message], problems
    try:
        return requests_of(method, values.get("json", "")), {}
    except RequestJsonError as error:
        return [], {"json": str(error)}


def _as_form(editor: _Editor, requests: list[Message]) -> _Editor:
    if editor.method.descriptor.client_streaming:
        return editor
    try:
        return replace(editor, values=method_form.written(requests[0]))
    except NotAFormError as error:
        return replace(editor, notice=f"{error} Edit it as JSON.")


def _renewed(editor: _Editor) -> _Editor:
    """Return the editor with a new request id, so that sending it is a new request."""
    if not editor.method.has_request_id:
        return editor
    if not editor.is_json:
        return replace(editor, values={**editor.values, "request_id": new_request_id()})
    (request,), problems = _requests(editor.method, editor.values)
    if problems:
        return replace(editor, problems=problems)
    changed: Any = request
    changed.request_id = new_request_id()
    return replace(editor, values={**editor.values, "json": pretty(request)})


def _call(requests: list[Message]) -> Call:
    text = " ".join(request_json(each) for each in requests)
    return Call(full_method(requests[0]), text)


def _messages(values: Mapping[str, str]) -> int:
    text = values.get("messages", "")
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else _DEFAULT_MESSAGES
    return min(max(count, 1), MAX_MESSAGES)


def _shown(page: Page, editor: _Editor) -> Response:
    method, answer = editor.method, editor.answer
    form = [] if editor.is_json else method_form.parts(method.descriptor.input_type, editor.values)
    error = answer.error if answer else None
    problem = Problem(error) if error else None
    found, others = method_form.beside(form, error.violations if error else [])
    problems = {**found, **editor.problems}
    if problem is not None:
        status = problem.http_status
    else:
        status = HTTPStatus.BAD_REQUEST if editor.problems else HTTPStatus.OK
    return page.render(
        "method.html",
        status,
        method=method,
        form=form,
        is_json=editor.is_json,
        values=editor.values,
        problems=problems,
        problem=problem,
        other_violations=others,
        form_notice=editor.notice,
        plan=editor.plan,
        answer=answer,
        sent=editor.request,
        answer_id=new_request_id(),
        messages=_messages(editor.values),
        max_messages=MAX_MESSAGES,
    )
