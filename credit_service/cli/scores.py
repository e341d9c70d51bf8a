"""`score` shows a customer's score, component by component."""

from datetime import date
from decimal import Decimal

from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.output import Listing, out, print_data
from credit_service.cli.service import date_of, day_text, service_at
from credit_service.client.display import enum_name, unknown_fact
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import score_pb2
from credit_service.v1.customer_pb2 import Customer

_BAR_CELLS = 20


def show_as_of(found: Customer | score_pb2.CreditScore) -> None:
    """Show the day of an answer about an earlier day, and what is not known about it."""
    if not found.HasField("as_of"):
        return
    out.print(Text(f"As of {day_text(found.as_of.day)}, by what is known today", style="bold"))
    for each in found.as_of.unknown_facts:
        out.print(Text(f"  not known: {unknown_fact(each)}"), soft_wrap=True)


def score(target: Target, customer_id: int, as_of: date | None, form: Format) -> int:
    """Show a customer's score, component by component, today or as of an earlier day."""
    request = pb.GetCreditScoreRequest(customer_id=customer_id)
    if as_of is not None:
        request.as_of.CopyFrom(date_of(as_of))
    with service_at(target) as service:
        response = service.GetCreditScore(request, timeout=CALL_TIMEOUT_SECONDS)
    if not print_data(form, response, _components(response.credit_score)):
        out.print(Text(f"Customer {customer_id}"))
        show_score(response.credit_score)
    return ExitCode.GOOD


def show_score(found: score_pb2.CreditScore) -> None:
    show_as_of(found)
    out.print(Text.assemble(("score ", "bold"), (f"{found.score}", "bold"), " of 100"))
    if found.override:
        rule = enum_name(found.override, score_pb2.ScoreOverride)
        out.print(Text(f"  override: the rule {rule} sets the score; the components do not count"))
    _components(found).print()
    out.print(
        Text(f"  scorecard {found.scorecard_version}, valid until {day_text(found.valid_until)}"),
        style="dim",
    )


def _components(found: score_pb2.CreditScore) -> Listing:
    table = Listing("component", ("points", "right"), ("max", "right"), "", "explanation")
    for each in found.components:
        name = enum_name(each.component, score_pb2.ScoreComponent)
        points, most = Decimal(each.points.value or "0"), Decimal(each.max_points.value or "0")
        filled = int(points * _BAR_CELLS / most) if most else 0
        bar = "█" * filled + "·" * (_BAR_CELLS - filled)
        table.add(name.lower().replace("_", " "), str(points), str(most), bar, each.explanation)
    return table
