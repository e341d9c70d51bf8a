"""The service as the commands call it, and what they share in showing its answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any
from uuid import UUID

from google.protobuf.message import Message
from google.type.date_pb2 import Date
from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS, connected
from credit_service.cli.output import Listing, as_dict, note, out, print_json
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.errors import ServiceError, decoded_errors

_PAGE_SIZE = 1_000


@contextmanager
def service_at(target: Target) -> Iterator[CreditServiceStub]:
    """The service's methods. Failed calls raise ServiceError."""
    with connected(target) as channel, decoded_errors():
        yield CreditServiceStub(channel)


@contextmanager
def repeatable(request_id: UUID, unknown: str) -> Iterator[None]:
    """Say how to repeat a write whose call may have had its effect. `unknown` completes the
    sentence 'It is unknown whether …'."""
    try:
        yield
    except (ServiceError, KeyboardInterrupt) as error:
        if not isinstance(error, ServiceError) or error.unavailable:
            note(
                f"It is unknown whether {unknown}. To retry safely, repeat the command with "
                f"--request-id {request_id}: it takes effect only once."
            )
        raise


def list_pages(
    method: Callable[..., Any], request: Any, name: str, limit: int
) -> tuple[list[Any], bool]:
    """Return the first `limit` items of a list, read page by page, and whether there are more."""
    found: list[Any] = []
    while len(found) < limit:
        request.page_size = min(limit - len(found), _PAGE_SIZE)
        response = method(request, timeout=CALL_TIMEOUT_SECONDS)
        found += getattr(response, name)
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    return found, bool(request.page_token)


def print_list(
    table: Listing, name: str, found: list[Any], form: Format, *, more: bool, nouns: str = ""
) -> int:
    """Print a list in the chosen format. `more`: the service has more than those found. `nouns`:
    what the list has, by default its name."""
    words = nouns or name.replace("_", " ")
    first = f"the first {len(found)} {words}" if len(found) > 1 else "the first one"
    if form.json:
        print_json({name: [as_dict(each) for each in found], "more": more})
    elif form.csv:
        table.print_csv()
        if more:
            note(f"Printed {first}; use --limit to print more.")
    elif not found:
        note(f"There are no {words}.")
    else:
        table.print()
        if more:
            note(f"Showing {first}; use --limit to show more.")
    return ExitCode.GOOD


def print_facts(*facts: tuple[str, str]) -> None:
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        out.print(Text.assemble((f"{name:{width}}  ", "bold"), value), soft_wrap=True)


def by(principal: str) -> str:
    """Return the principal with "by", or '' if the service does not authenticate callers."""
    return f"by {principal}" if principal else ""


def date_of(day: date) -> Date:
    return Date(year=day.year, month=day.month, day=day.day)


def day_text(day: Message) -> str:
    """Return a day as '2026-01-31', or '' if unset."""
    return (
        f"{day.year:04}-{day.month:02}-{day.day:02}" if isinstance(day, Date) and day.year else ""
    )
