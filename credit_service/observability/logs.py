"""Logs: structured, carrying the ids of what is being worked on, with phone numbers and names
masked.

Everything that any library logs goes the same way, so one place masks it all. Values are masked by
the name of their field wherever it is known (`phone_number`, `first_name`, …), and phone numbers
also wherever they stand in a text. Numbers are left alone: ids and amounts are numbers.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from credit_service.settings import Settings

MASKED_FIELDS = frozenset(
    {"phone_number", "phone", "first_name", "last_name", "full_name", "customer_name"}
)
"""Fields whose values never reach a log."""

_MAX_TEXT = 20_000  # characters of one value; a longer one, such as a deep trace, is cut

_PHONE_NUMBER = re.compile(
    # International, with or without separators; no part of a longer word or number.
    r"(?<![\w+.])\+[1-9]\d{0,2}(?:[ -]?\d){6,12}(?![\w])"
    # An Indian mobile number as people write it: ten digits from 6 up, perhaps behind 0 or 91.
    r"|(?<![\w+.:-])(?:0|91[ -]?)?[6-9]\d{4}[ -]?\d{5}(?![\w:-])"
)
# What a driver adds to an error, such as the row that a constraint refused.
_DETAIL = re.compile(r"^(DETAIL|CONTEXT):.*$", re.MULTILINE)
# A field and its value inside a text, as in the repr of a dataclass or a dict.
_FIELD = re.compile(rf"\b({'|'.join(sorted(MASKED_FIELDS))})(['\"]?\s*[=:]\s*)('[^']*'|\"[^\"]*\")")


def configure_logging(
    settings: Settings, *, component: str = "server", stream: TextIO | None = None
) -> None:
    """Send all logs of this process to `stream`, standard error unless told otherwise.

    `component` names the process (`server`, `worker`, …) in every line. Modules log through
    `structlog.get_logger(__name__)`; ids put into `structlog.contextvars` are in every line that
    the thread logs. Calling it again replaces what was set up before.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _named(component),
        mask,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    output = stream or sys.stderr
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _renderer(settings.log_format, output),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # These tell of every statement, message or step at INFO.
    for name in ("sqlalchemy", "alembic", "dramatiq", "grpc"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It warns of a malformed `traceparent`, which callers would fill the log with.
    logging.getLogger("opentelemetry.trace.propagation").setLevel(logging.ERROR)
    # Of metadata that is no text it logs all, a token too, with a traceback, before anybody knows
    # who calls. Filters are compared: adding this one again changes nothing.
    logging.getLogger("grpc._cython.cygrpc").addFilter(_tells_no_metadata)


def _tells_no_metadata(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Invalid encoding on")


def mask(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The event with every phone number and name in it masked; a processor of structlog."""
    for key, value in event.items():
        event[key] = _masked(key, value)
    return event


def masked_phone_number(number: str) -> str:
    """The number with all but its first three and last two characters hidden."""
    if len(number) <= 5:
        return "*" * len(number)
    return number[:3] + "*" * (len(number) - 5) + number[-2:]


def masked_text(text: str) -> str:
    """The text with the phone numbers, and the names and numbers of known fields, hidden."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + " …"
    text = _DETAIL.sub(r"\1: (hidden)", text)
    text = _FIELD.sub(lambda found: f"{found[1]}{found[2]}'***'", text)
    return _PHONE_NUMBER.sub(lambda found: masked_phone_number(found[0]), text)


def _masked(key: str, value: object) -> object:
    if key in MASKED_FIELDS and value is not None:
        return masked_phone_number(str(value)) if key.startswith("phone") else "***"
    match value:
        case str():
            return masked_text(value)
        case Mapping():
            return {name: _masked(str(name), each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked("", each) for each in value]
        case None | bool() | int():
            return value
        case _ if key.startswith("_"):
            # structlog's own: the record and what it was made from.
            return value
        case _:
            return masked_text(str(value))


def _named(component: str) -> structlog.typing.Processor:
    def add(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["component"] = component
        return event

    return add


def _renderer(log_format: Literal["json", "console"], output: TextIO) -> structlog.typing.Processor:
    if log_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(
        colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
