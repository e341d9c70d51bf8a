"""Collect the ids in requests and responses, for the access log.

Ids are read from requests and responses by field name (`customer_id`, `loan_id`, …), so a new
method needs no code here. Names, phone numbers and amounts never reach the log: only ids do, and
text only if it has the form of an id.
"""

import re
from itertools import islice
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MAX_IDS = 1_000
"""Ids of one kind in a line: as many as a page can hold."""

_ID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTRACT_PACKAGE = "credit_service.v1."
# Positions in the stream of events, not records.
_NOT_RECORDS = frozenset({"event_id", "after_event_id", "last_event_id", "cause_event_id"})

Ids = dict[str, dict[int | str, None]]
"""Distinct ids by name, in order of appearance."""


class _Plan(NamedTuple):
    """Where a message type has ids: in its own fields by name, and in nested messages."""

    fields: tuple[tuple[str, str], ...]
    messages: tuple[tuple[str, "_Plan"], ...]
    lists: tuple[tuple[str, "_Plan"], ...]


_EMPTY = _Plan((), (), ())
_plans: dict[type, _Plan] = {}


def collect_ids(message: Any, ids: Ids, *, lists: bool = True) -> None:
    """Add the ids in a message of the contract to `ids`; those in its lists only if `lists`.

    Other objects have none.
    """
    kind = type(message)
    plan = _plans.get(kind)
    if plan is None:
        descriptor = getattr(kind, "DESCRIPTOR", None)
        plan = _plan(descriptor, ()) if isinstance(descriptor, Descriptor) else _EMPTY
        _plans[kind] = plan
    if plan is not _EMPTY:
        _collect(message, plan, ids, lists=lists)


def _collect(message: Any, plan: _Plan, ids: Ids, *, lists: bool) -> None:
    for name, field in plan.fields:
        value = getattr(message, field)
        # An absent id reads as 0 or "".
        if value and (type(value) is int or _ID_TEXT.fullmatch(value)):
            found = ids.get(name)
            if found is None:
                ids[name] = {value: None}
            elif len(found) <= MAX_IDS:  # one more marks that some are left out
                found[value] = None
    for field, below in plan.messages:
        if message.HasField(field):
            _collect(getattr(message, field), below, ids, lists=lists)
    if lists:
        for field, below in plan.lists:
            for each in islice(getattr(message, field), MAX_IDS + 1):
                _collect(each, below, ids, lists=True)


def _plan(descriptor: Descriptor, above: tuple[str, ...]) -> _Plan:
    if descriptor.full_name in above or not descriptor.full_name.startswith(_CONTRACT_PACKAGE):
        return _EMPTY
    above = (*above, descriptor.full_name)
    fields: list[tuple[str, str]] = []
    messages: list[tuple[str, _Plan]] = []
    lists: list[tuple[str, _Plan]] = []
    for field in descriptor.fields:
        if field.message_type is not None:
            below = _plan(field.message_type, above)
            if below != _EMPTY:
                (lists if field.is_repeated else messages).append((field.name, below))
        elif _is_id(field):
            fields.append((f"{field.name}s", field.name))
    return _Plan(tuple(fields), tuple(messages), tuple(lists))


def _is_id(field: FieldDescriptor) -> bool:
    kinds = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_STRING)
    return (
        field.name.endswith("_id")
        and field.name not in _NOT_RECORDS
        and field.type in kinds
        and not field.is_repeated
    )
