"""Convert messages of key facts statements."""

from credit_service.domain.errors import INVALID_FORMAT, REQUIRED
from credit_service.domain.key_facts import KeyFacts
from credit_service.rpc.convert import fields, offers
from credit_service.rpc.convert.charges import cost_message, write_charges
from credit_service.rpc.convert.fields import Violations, write_date, write_money
from credit_service.v1 import credit_service_pb2, key_facts_pb2


def read_key_facts(
    request: credit_service_pb2.GetKeyFactsStatementRequest,
) -> int | tuple[int, int]:
    """The id of the offer, or (customer id, loan id). Raises InvalidFieldsError."""
    violations = Violations()
    if not request.offer_id and not request.customer_id and not request.loan_id:
        violations.add("offer_id", REQUIRED, "is required, or customer_id and loan_id.")
        violations.raise_if_any()
    if request.offer_id:
        fields.read_id(request.offer_id, "offer_id", violations)
        for field in ("customer_id", "loan_id"):
            if getattr(request, field):
                violations.add(field, INVALID_FORMAT, "must be left out with offer_id.")
        violations.raise_if_any()
        return request.offer_id
    customer_id = fields.read_id(request.customer_id, "customer_id", violations)
    loan_id = fields.read_id(request.loan_id, "loan_id", violations)
    violations.raise_if_any()
    return customer_id, loan_id


def write_key_facts(found: KeyFacts) -> key_facts_pb2.KeyFacts:
    """A statement."""
    agreed, lines = found.agreed, found.schedule.installments
    message = key_facts_pb2.KeyFacts(
        customer_id=agreed.customer_id,
        customer_name=found.customer_name,
        loan_id=agreed.loan_id,
        prepared_on=write_date(found.prepared_on),
        loan_amount=write_money(agreed.principal_paise),
        interest_rate=fields.write_hundredths(agreed.annual_rate_bps),
        tenure_months=agreed.tenure_months,
        monthly_installment=write_money(agreed.installment_paise),
        last_installment=write_money(lines[-1].payment_paise),
        start_date=write_date(agreed.start_date),
        charges=write_charges(agreed.charges),
        cost_of_credit=cost_message(
            agreed.principal_paise, agreed.annual_rate_bps, agreed.tenure_months, agreed.charges
        ),
        prepayment_charge=fields.write_hundredths(found.scorecard.prepayment_charge_bps),
        contingent_charges=[
            key_facts_pb2.ContingentCharge(type=each.type, sentence=each.sentence)
            for each in found.scorecard.contingent_charges
        ],
        scorecard_version=found.scorecard.version,
    )
    if found.offer is not None:
        message.offer_id = found.offer.offer_id
        message.offer_state = offers.offer_state(found.offer.state_on(found.prepared_on))
        message.valid_until.CopyFrom(write_date(found.offer.last_day))
    for line in lines:
        installment = message.installments.add()
        installment.number = line.number
        fields.fill_date(installment.due_date, line.due_date)
        fields.fill_money(installment.payment, line.payment_paise)
        fields.fill_money(installment.principal, line.principal_paise)
        fields.fill_money(installment.interest, line.interest_paise)
        fields.fill_money(installment.balance, line.balance_paise)
    return message
