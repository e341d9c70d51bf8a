"""The command that calls any method."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from typing import Annotated

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, TEXT
from credit_service.cli.common import Format, Target


def call(
    method: Annotated[
        str | None,
        Parameter(
            help="Method name, such as CheckEligibility. If omitted, all methods are listed."
        ),
    ] = None,
    request: Annotated[
        str,
        Parameter(
            help="Request as JSON; - reads standard input. For a client stream: several requests "
            "in a row, or a list.",
            allow_leading_hyphen=True,
        ),
    ] = "{}",
    /,
    *,
    first: Annotated[
        int | None, Parameter(help="Stop after this many responses of a stream. Default: all.")
    ] = None,
    timeout_seconds: Annotated[
        float | None,
        Parameter(name="--timeout", help="Timeout in seconds. Default: 15; none for streams."),
    ] = None,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Call any method of the service with JSON, and print each response as JSON.

    credit-service call GetCreditScore '{"customer_id": 101}'

    With --json each response is one line. With --csv a response is a record, and a page of a list
    is a record for each item.
    """
    from credit_service.cli import call

    if method is None:
        return call.list_methods(form)
    return call.call(method, request, target, form, first=first, timeout_seconds=timeout_seconds)
