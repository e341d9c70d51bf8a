"""The command that prints events."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from typing import Annotated, Literal

from cyclopts import Parameter

from credit_service.cli.commands.root import HERE, TEXT
from credit_service.cli.common import Format, Target

EventType = Literal[
    "CUSTOMER_REGISTERED",
    "CUSTOMER_UPDATED",
    "LOAN_CREATED",
    "LOAN_DECLINED",
    "LOAN_UPDATED",
    "LOAN_OFFER_CREATED",
    "LOAN_OFFER_ENDED",
    "LOAN_PREPAID",
    "LOAN_CLOSED",
    "DECISION_REFERRED",
    "DECISION_REVIEWED",
    "PAYMENT_RECORDED",
    "PAYMENT_REVERSED",
    "SCORE_CHANGED",
    "ASSET_CLASS_CHANGED",
    "SCORECARD_CHANGED",
    "ROWS_INGESTED",
]


def events(
    *,
    after: Annotated[
        int, Parameter(help="Print only events after this event id. 0: all events kept.")
    ] = 0,
    customer: Annotated[
        int | None, Parameter(help="Only events about this customer. Default: all.")
    ] = None,
    type: Annotated[  # noqa: A002 - the name of the option
        tuple[EventType, ...],
        Parameter(help="Only events of this type. Can be given several times."),
    ] = (),
    follow: Annotated[
        bool,
        Parameter(help="Wait for new events until Ctrl-C, or end after the last stored event."),
    ] = True,
    target: Target = HERE,
    form: Format = TEXT,
) -> int:
    """Print events as they happen. Resumes after the last event if the connection is lost.

    With --json each event is one line of JSON.
    """
    from credit_service.cli import events

    options = events.EventOptions(after, customer, type, follow)
    return events.follow(target, options, form)
