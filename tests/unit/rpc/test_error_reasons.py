"""The contract's comment on each error reason matches what the sources raise and callers see."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from credit_service.domain.errors import CreditError, InvalidFieldsError
from credit_service.rpc import errors
from credit_service.rpc.errors import REASONS, to_status

ROOT = Path(__file__).parents[3]
TRANSCRIPTS = sorted((ROOT / "tests/golden/transcripts").glob("*.yaml"))
NOT_RAISED = {"INTERNAL"}
"""Raised by the edge itself, for any other exception."""


@dataclass(frozen=True, slots=True)
class Documented:
    """The contract's comment on a reason."""

    status: str
    details: frozenset[str]
    # The metadata names of each example.
    metadata: frozenset[frozenset[str]]


def _documented() -> dict[str, Documented]:
    data = files("credit_service.v1").joinpath("descriptors.binpb").read_bytes()
    (file,) = (
        file for file in FileDescriptorSet.FromString(data).file if "error_reason" in file.name
    )
    comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
    found = {}
    for place, value in list(enumerate(file.enum_type[0].value))[1:]:
        comment = " ".join(comments[5, 0, 2, place].split())
        head = re.match(r"([A-Z_]+)(?:, with ([\w. ]+?))?\. ", comment)
        assert head, comment
        details = re.findall(r"google\.rpc\.(\w+)", head[2] or "")
        examples = re.findall(r"\{[^}]*\}", comment.partition("Example metadata:")[2])
        found[value.name.removeprefix("ERROR_REASON_")] = Documented(
            head[1],
            frozenset(details),
            frozenset(frozenset(json.loads(example)) for example in examples),
        )
    return found


DOCUMENTED = _documented()


@dataclass(frozen=True, slots=True)
class Raised:
    """A place in the sources that creates an error; `metadata` is None where it cannot be read."""

    reason: str
    kind: type[CreditError]
    metadata: frozenset[str] | None
    place: str


def _kinds() -> dict[str, type[CreditError]]:
    found, waiting = {}, [CreditError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting += kind.__subclasses__()
    return found


KINDS = _kinds()


def _raised() -> Iterator[Raised]:
    """Every call of an error class with a reason of the contract."""
    for path in sorted((ROOT / "credit_service").rglob("*.py")):
        if {"v1", "console", "cli", "client"} & set(path.relative_to(ROOT).parts):
            continue
        source = path.read_text(encoding="utf-8")
        if not any(f"{name}(" in source for name in KINDS):
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                for argument in (*node.args, *(each.value for each in node.keywords)):
                    reason = argument.value if isinstance(argument, ast.Constant) else None
                    if name in KINDS and reason in REASONS:
                        yield Raised(str(reason), KINDS[name], _metadata(node, KINDS[name]), place)


def _metadata(call: ast.Call, kind: type[CreditError]) -> frozenset[str] | None:
    given = [each.value for each in call.keywords if each.arg == "metadata"]
    given += [each for each in call.args if isinstance(each, ast.Dict)]
    if issubclass(kind, InvalidFieldsError):
        return frozenset({"fields"})
    if not given:
        # A missing resource is named by its id.
        resource = call.args[1] if kind.__name__ == "NotFoundError" else None
        return frozenset({f"{resource.value!s}_id"} if isinstance(resource, ast.Constant) else ())
    keys = given[0].keys if isinstance(given[0], ast.Dict) else None
    if keys is None:
        return None
    return frozenset(str(each.value) for each in keys if isinstance(each, ast.Constant))


RAISED = list(_raised())


def test_the_sources_are_read() -> None:
    assert len(RAISED) > 30
    # The transcripts below cover reasons that are passed to a helper.
    assert REASONS - {each.reason for each in RAISED} - {e["reason"] for e in _seen()} <= {
        *NOT_RAISED,
        # By servers of earlier releases only.
        "PAYMENT_BEFORE_PREVIOUS",
        "UNAUTHENTICATED",
        "UPLOAD_UNSAFE",
    }


@pytest.mark.parametrize(
    "raised", RAISED, ids=lambda each: f"{each.reason} {each.place.partition(':')[0]}"
)
def test_raised_errors_match_the_contract(raised: Raised) -> None:
    documented = DOCUMENTED[raised.reason]
    code = errors.status_code(raised.kind.__new__(raised.kind))
    assert code is not None
    assert code.name == documented.status
    if raised.metadata is not None:
        assert raised.metadata in documented.metadata


def _seen() -> Iterator[dict[str, Any]]:
    """Every error of the transcripts: status, reason, metadata and other details."""
    for path in TRANSCRIPTS:
        for error in _errors_in(yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)):
            info, *others = error["details"]
            yield {
                "status": error["code"],
                "reason": info["ErrorInfo"]["reason"],
                "metadata": frozenset(info["ErrorInfo"].get("metadata", ())),
                "details": frozenset(name for each in others for name in each),
            }


def _errors_in(document: Any) -> Iterator[Any]:
    for step in document["steps"]:
        if "error" in step:
            yield step["error"]


def test_errors_in_transcripts_match_the_contract() -> None:
    seen = list(_seen())
    assert len({each["reason"] for each in seen}) > 15
    for each in seen:
        documented = DOCUMENTED[each["reason"]]
        assert each["status"] == documented.status, each
        assert each["details"] == documented.details, each
        assert each["metadata"] in documented.metadata, each


def test_a_defect_matches_the_contract() -> None:
    status = to_status(ZeroDivisionError(), "call-1", "/service/Method")
    assert status.code == 13
    assert DOCUMENTED["INTERNAL"] == Documented(
        "INTERNAL", frozenset(), frozenset({frozenset({"call_id"})})
    )
