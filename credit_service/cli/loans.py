"""`loans`, `loan`, `schedule`, `key-facts`, `overdue` and `arrears`."""

from collections.abc import Iterable

from rich.text import Text

from credit_service.cli.common import ExitCode, Format, Target, UsageError
from credit_service.cli.connection import CALL_TIMEOUT_SECONDS
from credit_service.cli.customers import show_customer
from credit_service.cli.outcomes import a_month, cost
from credit_service.cli.output import Listing, money, out, percent, print_data
from credit_service.cli.service import day_text, list_pages, print_facts, print_list, service_at
from credit_service.client.display import enum_name, inr, words
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import decision_pb2, key_facts_pb2, loan_pb2, offer_pb2


def loans(target: Target, customer_id: int, limit: int, form: Format) -> int:
    """List a customer's loans."""
    request = pb.ListLoansRequest(customer_id=customer_id)
    with service_at(target) as service:
        found, more = list_pages(service.ListLoans, request, "loans", limit)
    table = Listing(
        ("loan", "right"), ("amount", "right"), ("rate", "right"), ("installment", "right"),
        ("settled", "right"), ("outstanding", "right"), "state", "next due",
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.loan_id),
            money(each.loan_amount),
            percent(each.interest_rate),
            money(each.monthly_installment),
            f"{each.installments_settled}/{each.tenure_months}",
            money(each.outstanding),
            loan_state(each),
            day_text(each.next_due_date),
        )
    return print_list(table, "loans", found, form, more=more)


def overdue(target: Target, asset_class: str | None, days: int, limit: int, form: Format) -> int:
    """List the overdue loans of all customers, most days past due first."""
    request = pb.ListDelinquentLoansRequest(min_days_past_due=days)
    if asset_class is not None:
        request.asset_class = decision_pb2.AssetClass.Value(f"ASSET_CLASS_{asset_class}")
    with service_at(target) as service:
        found, more = list_pages(service.ListDelinquentLoans, request, "loans", limit)
    table = Listing(
        ("customer", "right"), ("loan", "right"), "class", ("days past due", "right"),
        "unpaid since", ("installments", "right"), ("overdue", "right"),
    )  # fmt: skip
    for each in found:
        table.add(
            str(each.customer_id),
            str(each.loan_id),
            enum_name(each.asset_class, decision_pb2.AssetClass),
            str(each.days_past_due),
            day_text(each.oldest_due_date),
            str(each.overdue_installments),
            money(each.overdue_amount),
        )
    return print_list(table, "loans", found, form, more=more, nouns="overdue loans")


def arrears(target: Target, customer_id: int, form: Format) -> int:
    """Show a customer's days past due, asset class and overdue loans."""
    request = pb.GetDelinquencyRequest(customer_id=customer_id)
    with service_at(target) as service:
        response = service.GetDelinquency(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    found = response.delinquency
    print_facts(
        ("customer", str(found.customer_id)),
        ("class", enum_name(found.asset_class, decision_pb2.AssetClass)),
        ("since", day_text(found.asset_class_since) or "the start"),
        ("days past due", str(found.days_past_due)),
        ("overdue", inr(found.overdue_amount)),
        ("next change", day_text(found.next_change) or "none"),
    )
    if found.HasField("arrears_known_from"):
        known = day_text(found.arrears_known_from)
        out.print(f"Arrears of imported loans before {known} are unknown.")
    for each in found.loans:
        known_from = day_text(each.arrears_known_from)
        known = f", arrears known from {known_from}" if known_from else ""
        out.print(
            Text(
                f"  loan {each.loan_id}: {each.days_past_due} days, {inr(each.overdue_amount)} in "
                f"{each.overdue_installments} installments since "
                f"{day_text(each.oldest_due_date)}{known}"
            ),
            soft_wrap=True,
        )
    return ExitCode.GOOD


def loan(target: Target, loan_id: int, customer_id: int | None, form: Format) -> int:
    """Show one loan with its customer."""
    request = pb.GetLoanRequest(loan_id=loan_id, customer_id=customer_id)
    with service_at(target) as service:
        response = service.GetLoan(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    show_loan(response.loan)
    out.print()
    show_customer(response.customer)
    return ExitCode.GOOD


def show_loan(found: loan_pb2.Loan) -> None:
    source = enum_name(found.source, loan_pb2.LoanSource).lower()
    by = f", by decision {found.decision_id}" if found.decision_id else ""
    print_facts(
        ("loan", f"{found.loan_id}  of customer {found.customer_id}, {source}{by}"),
        ("state", loan_state(found)),
        ("amount", f"{inr(found.loan_amount)} at {found.interest_rate.value} % a year"),
        ("installment", a_month(found)),
        (
            "installments",
            (
                f"{found.installments_settled} of {found.tenure_months} settled, "
                f"{found.emis_paid_on_time} on time, {found.repayments_left} left"
            ),
        ),
        ("term", f"{day_text(found.start_date)} to {day_text(found.end_date)}"),
        ("outstanding", inr(found.outstanding)),
        *([("paid too much", inr(found.excess_paid))] if found.HasField("excess_paid") else []),
        ("next due", day_text(found.next_due_date) or "none"),
        *([("cost", cost(found.cost_of_credit))] if found.HasField("cost_of_credit") else []),
        ("days past due", str(found.days_past_due)),
    )


def loan_state(found: loan_pb2.Loan) -> str:
    state = enum_name(found.state, loan_pb2.LoanState).lower()
    return f"{state} {day_text(found.closed_on)}".strip()


def key_facts(
    target: Target,
    offer_id: int | None,
    customer_id: int | None,
    loan_id: int | None,
    form: Format,
) -> int:
    """Show the key facts of an offer, or of a loan. Raises UsageError, ServiceError."""
    given = [each is not None for each in (offer_id, customer_id, loan_id)]
    if given not in ([True, False, False], [False, True, True]):
        raise UsageError("give either the id of an offer, or --customer and --loan")
    request = pb.GetKeyFactsStatementRequest(
        offer_id=offer_id or 0, customer_id=customer_id or 0, loan_id=loan_id or 0
    )
    with service_at(target) as service:
        response = service.GetKeyFactsStatement(request, timeout=CALL_TIMEOUT_SECONDS)
    if print_data(form, response):
        return ExitCode.GOOD
    _show_key_facts(response.key_facts)
    return ExitCode.GOOD


def _show_key_facts(found: key_facts_pb2.KeyFacts) -> None:
    cost = found.cost_of_credit
    lender, others = inr(cost.lender_charges), inr(cost.third_party_charges)
    charges = f"{lender} of the lender, {others} of third parties"
    about = f"loan {found.loan_id}"
    if found.offer_id:
        about = f"offer {found.offer_id}, valid until {day_text(found.valid_until)}"
    print_facts(
        ("key facts", f"{about}, prepared on {day_text(found.prepared_on)}"),
        ("customer", f"{found.customer_id}  {found.customer_name}"),
        ("amount", f"{inr(found.loan_amount)} at {found.interest_rate.value} % a year, fixed"),
        ("installments", f"{found.tenure_months}, {a_month(found)}"),
        ("term", f"{day_text(found.start_date)} to {day_text(found.installments[-1].due_date)}"),
        ("APR", f"{cost.annual_percentage_rate.value} %"),
        ("disbursed", inr(cost.net_disbursed)),
        ("charges", charges),
        ("interest", inr(cost.total_interest)),
        ("to pay", inr(cost.total_payable)),
        ("foreclosure", f"charge of {found.prepayment_charge.value} % of the principal repaid"),
    )  # fmt: skip
    for each in found.charges:
        payee = words(enum_name(each.payee, offer_pb2.ChargePayee)).lower()
        out.print(Text(f"  {each.type} ({payee}): {inr(each.amount)}, tax {inr(each.tax)}"))
    for charge in found.contingent_charges:
        out.print(Text(f"  {charge.type}: {charge.sentence}"), soft_wrap=True)
    installments_table(found.installments).print()


def installments_table(
    installments: Iterable[loan_pb2.Installment | key_facts_pb2.KeyFactsInstallment],
) -> Listing:
    """Return a table of installments, without their states."""
    table = Listing(
        ("no.", "right"), "due", ("payment", "right"), ("principal", "right"),
        ("interest", "right"), ("balance", "right"),
    )  # fmt: skip
    for line in installments:
        table.add(
            str(line.number),
            day_text(line.due_date),
            money(line.payment),
            money(line.principal),
            money(line.interest),
            money(line.balance),
        )
    return table


def schedule(target: Target, customer_id: int, loan_id: int, form: Format) -> int:
    """Show all installments of a loan."""
    request = pb.GetRepaymentScheduleRequest(customer_id=customer_id, loan_id=loan_id)
    with service_at(target) as service:
        response = service.GetRepaymentSchedule(request, timeout=CALL_TIMEOUT_SECONDS)
    table = Listing(
        ("no.", "right"), "due", ("payment", "right"), ("principal", "right"),
        ("interest", "right"), ("balance", "right"), "state",
    )  # fmt: skip
    for each in response.installments:
        table.add(
            str(each.number),
            day_text(each.due_date),
            money(each.payment),
            money(each.principal),
            money(each.interest),
            money(each.balance),
            _installment_state(each),
        )
    if print_data(form, response, table):
        return ExitCode.GOOD
    totals = response.totals
    table.add(
        "", "total", inr(totals.payments), inr(totals.principal), inr(totals.interest), "", "",
    )  # fmt: skip
    table.print()
    payments = [inr(each.payment) for each in response.installments]
    if payments and payments[-1] != payments[0]:
        out.print(Text(f"The last installment is {payments[-1]}, the others are {payments[0]}."))
    out.print(Text(f"Outstanding: {inr(totals.outstanding)}"))
    return ExitCode.GOOD


def _installment_state(each: loan_pb2.Installment) -> str:
    name = enum_name(each.state, loan_pb2.InstallmentState)
    state = name.lower().replace("_", " ")
    if each.state == loan_pb2.INSTALLMENT_STATE_PARTLY_PAID:
        return f"{state}: {inr(each.paid_amount)}"
    return f"{state} {day_text(each.settled_on)}".strip()
