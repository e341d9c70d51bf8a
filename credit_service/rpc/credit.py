"""CreditService: each method converts the request, calls its use case, converts the response."""

# The method names are the contract's, the arguments grpc's.
# ruff: noqa: N802, ARG002

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import grpc

from credit_service.cache.positions import PositionCache
from credit_service.clock import Clock
from credit_service.commands.booking_groups import booking_groups
from credit_service.commands.create_loan import create_loan, create_loan_offer
from credit_service.commands.offers import accept_loan_offer, withdraw_loan_offer
from credit_service.commands.payment_groups import payment_groups
from credit_service.commands.record_payment import record_payment
from credit_service.commands.register_customer import register_customer
from credit_service.commands.reverse_payment import reverse_payment
from credit_service.commands.review_decision import review_decision
from credit_service.commands.update_customer import update_customer
from credit_service.domain.errors import OUT_OF_RANGE, REQUIRED, InvalidFieldsError
from credit_service.observability import metrics
from credit_service.queries import as_of
from credit_service.queries.credit import CreditQueries
from credit_service.queries.customers import get_customer, list_customer_changes, list_customers
from credit_service.queries.decisions import get_decision, list_decisions
from credit_service.queries.delinquency import (
    delinquency_as_of,
    get_delinquency,
    list_overdue_loans,
)
from credit_service.queries.key_facts import loan_statement, offer_statement
from credit_service.queries.loans import list_loans, repayment_schedule
from credit_service.queries.offers import get_loan_offer, list_loan_offers
from credit_service.queries.payments import foreclosure_quote, list_payments
from credit_service.rpc import batch
from credit_service.rpc.calls.call import current_call
from credit_service.rpc.convert import (
    customers,
    decisions,
    delinquency,
    fields,
    key_facts,
    loans,
    offers,
    pages,
    payments,
    referrals,
    reviews,
    scores,
)
from credit_service.rpc.convert import events as convert_events
from credit_service.rpc.convert.as_of import fill_as_of, read_as_of, write_customer_as_of
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.convert.pages import PageTokens
from credit_service.rpc.credit_reads import CreditReads
from credit_service.rpc.watch import EventTail
from credit_service.storage.customer_search import PageStart
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import credit_service_pb2_grpc

_CUSTOMER_PAGES = PageTokens("ListCustomers", pages.key_id)
_CUSTOMER_PAGES_BY_TERM = PageTokens("ListCustomers", pages.key_id, pages.key_id)
_CHANGE_PAGES = PageTokens("ListCustomerChanges", pages.key_id)
_LOAN_PAGES = PageTokens("ListLoans", pages.key_id)
_PAYMENT_PAGES = PageTokens("ListPayments", pages.key_id)
_OFFER_PAGES = PageTokens("ListLoanOffers", pages.key_id)
_DECISION_PAGES = PageTokens("ListDecisions", pages.key_id)

_MAX_PAGE_BYTES = 3 * 1024 * 1024
"""Largest page of decisions: a page ends early rather than exceed the message limit."""

T = TypeVar("T")


class CreditServicer(credit_service_pb2_grpc.CreditServiceServicer):
    """Implements CreditService. The contract lists the errors of each method."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        cache: PositionCache | None,
        stopping: threading.Event,
        referral_days: int,
        others_run: Callable[[], bool],
    ) -> None:
        """Event streams end when `stopping` is set. A referred decision can be reviewed up to
        `referral_days` later. `others_run` says whether calls besides batches and streams run."""
        self._others_run = others_run
        self._referral_days = referral_days
        self._database = database
        self._clock = clock
        self._cache = cache
        self._booking_groups = booking_groups(database, cache)
        self._queries = CreditQueries(database, cache)
        self._reads = CreditReads(database, self._queries)
        self._tail = EventTail(database, stopping)
        self._payment_groups = payment_groups(database, cache)

    def RegisterCustomer(
        self, request: pb.RegisterCustomerRequest, context: grpc.ServicerContext
    ) -> pb.RegisterCustomerResponse:
        """Register a customer."""
        command = customers.read_register_customer(request)
        moment = self._clock.moment()
        view = register_customer(self._database, command, moment, current_call().principal)
        return pb.RegisterCustomerResponse(customer=customers.write_customer(view, moment.today))

    def GetCustomer(
        self, request: pb.GetCustomerRequest, context: grpc.ServicerContext
    ) -> pb.GetCustomerResponse:
        """Get a customer by id or phone number, today or as of an earlier day."""
        violations, moment = Violations(), self._clock.moment()
        database, today = self._database, moment.today
        key = request.WhichOneof("key")
        customer_id, phone = 0, ""
        if key == "customer_id":
            customer_id = fields.read_id(request.customer_id, key, violations)
        elif key == "phone_number":
            phone = fields.read_phone_number(request.phone_number, key, violations)
        else:
            violations.add("key", REQUIRED, "is required: set customer_id or phone_number.")
        day = read_as_of(request, today, violations)
        if day is not None:
            found = (
                as_of.credit_by_phone(database, phone, day, moment)
                if phone
                else as_of.credit_of(database, customer_id, day, moment)
            )
            return pb.GetCustomerResponse(customer=write_customer_as_of(found))
        view = (
            get_customer(database, phone_number=phone, day=today)
            if phone
            else get_customer(database, customer_id=customer_id, day=today)
        )
        return pb.GetCustomerResponse(customer=customers.write_customer(view, today))

    def UpdateCustomer(
        self, request: pb.UpdateCustomerRequest, context: grpc.ServicerContext
    ) -> pb.UpdateCustomerResponse:
        """Change facts of a customer."""
        command = customers.read_update_customer(request)
        moment = self._clock.moment()
        view = update_customer(
            self._database, command, moment, current_call().principal, cache=self._cache
        )
        # A repeat, on whatever day, gets the first response: likewise below.
        day = view.position.as_of
        return pb.UpdateCustomerResponse(customer=customers.write_customer(view, day))

    def ListCustomerChanges(
        self, request: pb.ListCustomerChangesRequest, context: grpc.ServicerContext
    ) -> pb.ListCustomerChangesResponse:
        """List the changes of a customer's facts, the latest first."""
        violations = Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        before = _id_of(_CHANGE_PAGES.read(request.page_token, customer_id))
        found, more = _page(
            list_customer_changes(self._database, customer_id, before, size + 1), size
        )
        response = pb.ListCustomerChangesResponse()
        for each in found:
            convert_events.fill_customer_change(response.changes.add(), each)
        if more:
            response.next_page_token = _CHANGE_PAGES.write([found[-1].event_seq], customer_id)
        return response

    def ListCustomers(
        self, request: pb.ListCustomersRequest, context: grpc.ServicerContext
    ) -> pb.ListCustomersResponse:
        """List customers in order of id."""
        violations = Violations()
        query = fields.read_query(request.query, "query", violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        start = _read_customers_token(request.page_token, query)
        today = self._clock.moment().today
        page = list_customers(self._database, query, start, size, today)
        response = pb.ListCustomersResponse()
        for view in page.customers:
            customers.fill_customer(response.customers.add(), view, today)
        if page.following is not None:
            response.next_page_token = _write_customers_token(page.following, query)
        return response

    def GetCreditScore(
        self, request: pb.GetCreditScoreRequest, context: grpc.ServicerContext
    ) -> pb.GetCreditScoreResponse:
        """Compute the score of a customer, for today or as of an earlier day."""
        moment = self._clock.moment()
        violations = Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        day = read_as_of(request, moment.today, violations)
        response = pb.GetCreditScoreResponse()
        if day is None:
            _, score = self._queries.credit_score(customer_id, moment)
        else:
            score, found = as_of.score_of(self._database, customer_id, day, moment)
            fill_as_of(response.credit_score.as_of, found)
        scores.fill_score(response.credit_score, score, moment.now)
        return response

    def CheckEligibility(
        self, request: pb.CheckEligibilityRequest, context: grpc.ServicerContext
    ) -> pb.CheckEligibilityResponse:
        """Decide as CreateLoan would now, without storing anything."""
        customer_id, ask, charges = decisions.read_check_eligibility(request)
        moment = self._clock.moment()
        found = self._reads.snapshot(customer_id, moment)
        _, decision = self._queries.decide(found, ask, moment)
        return decisions.write_eligibility(customer_id, ask, charges, decision, moment)

    def BatchCheckEligibility(
        self, request: pb.BatchCheckEligibilityRequest, context: grpc.ServicerContext
    ) -> pb.BatchCheckEligibilityResponse:
        """Answer each ask as CheckEligibility would."""
        return batch.check_many(
            self._queries, request, self._clock.moment(), current_call(), self._others_run
        )

    def CreateLoan(
        self, request: pb.CreateLoanRequest, context: grpc.ServicerContext
    ) -> pb.CreateLoanResponse:
        """Decide on a loan and book it if approved."""
        command = decisions.read_create_loan(request)
        stored = create_loan(
            self._database,
            command,
            self._clock.moment(),
            current_call().principal,
            cache=self._cache,
            referral_days=self._referral_days,
            groups=self._booking_groups,
        )
        return decisions.write_created_loan(stored, command.ask, command.charges)

    def CreateLoanOffer(
        self, request: pb.CreateLoanOfferRequest, context: grpc.ServicerContext
    ) -> pb.CreateLoanOfferResponse:
        """Decide on a loan and hold its credit if approved."""
        command = offers.read_create_loan_offer(request)
        stored, offer = create_loan_offer(
            self._database,
            command,
            self._clock.moment(),
            current_call().principal,
            cache=self._cache,
            referral_days=self._referral_days,
            groups=self._booking_groups,
        )
        return offers.write_created_offer(stored, offer, command.ask)

    def GetLoanOffer(
        self, request: pb.GetLoanOfferRequest, context: grpc.ServicerContext
    ) -> pb.GetLoanOfferResponse:
        """Get an offer."""
        offer_id = fields.read_single_id(request.offer_id, "offer_id")
        found = get_loan_offer(self._database, offer_id)
        today = self._clock.moment().today
        return pb.GetLoanOfferResponse(offer=offers.write_offer(found, today))

    def ListLoanOffers(
        self, request: pb.ListLoanOffersRequest, context: grpc.ServicerContext
    ) -> pb.ListLoanOffersResponse:
        """List a customer's offers, the latest first."""
        violations = Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        states = offers.read_states(request.states, violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        filters = (customer_id, *map(str, states))
        before = _id_of(_OFFER_PAGES.read(request.page_token, *filters))
        today = self._clock.moment().today
        found, more = _page(
            list_loan_offers(self._database, customer_id, states, before, size + 1, today), size
        )
        response = pb.ListLoanOffersResponse(
            offers=[offers.write_offer(each, today) for each in found]
        )
        if more:
            response.next_page_token = _OFFER_PAGES.write([found[-1].offer_id], *filters)
        return response

    def AcceptLoanOffer(
        self, request: pb.AcceptLoanOfferRequest, context: grpc.ServicerContext
    ) -> pb.AcceptLoanOfferResponse:
        """Book the loan of an offer."""
        command = offers.read_accept_loan_offer(request)
        moment = self._clock.moment()
        ended = accept_loan_offer(
            self._database, command, moment, current_call().principal, cache=self._cache
        )
        ended_at = ended.ended_at or moment.now
        return offers.write_accepted_offer(ended, ended_at.astimezone(moment.zone).date())

    def WithdrawLoanOffer(
        self, request: pb.WithdrawLoanOfferRequest, context: grpc.ServicerContext
    ) -> pb.WithdrawLoanOfferResponse:
        """Release the credit of an offer."""
        command = offers.read_withdraw_loan_offer(request)
        moment = self._clock.moment()
        ended = withdraw_loan_offer(
            self._database, command, moment, current_call().principal, cache=self._cache
        )
        return pb.WithdrawLoanOfferResponse(offer=offers.write_offer(ended, moment.today))

    def GetLoan(
        self, request: pb.GetLoanRequest, context: grpc.ServicerContext
    ) -> pb.GetLoanResponse:
        """Get a loan, by its id alone where the id is unique."""
        violations = Violations()
        loan_id = fields.read_id(request.loan_id, "loan_id", violations)
        customer_id = _optional_customer_id(request, violations)
        violations.raise_if_any()
        moment = self._clock.moment()
        today = moment.today
        loan, view = self._reads.loan(loan_id, customer_id, moment)
        response = pb.GetLoanResponse()
        loans.fill_loan(response.loan, loan, today)
        customers.fill_customer(response.customer, view, today)
        return response

    def ListLoans(
        self, request: pb.ListLoansRequest, context: grpc.ServicerContext
    ) -> pb.ListLoansResponse:
        """List a customer's loans in order of id."""
        violations = Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        state = loans.read_loan_state(request.state, "state", violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        after = _id_of(_LOAN_PAGES.read(request.page_token, customer_id, state))
        found, more = _page(list_loans(self._database, customer_id, state, after, size + 1), size)
        response, today = pb.ListLoansResponse(), self._clock.moment().today
        for each in found:
            loans.fill_loan(response.loans.add(), each, today)
        if more:
            key = found[-1].loan_id
            response.next_page_token = _LOAN_PAGES.write([key], customer_id, state)
        return response

    def GetKeyFactsStatement(
        self, request: pb.GetKeyFactsStatementRequest, context: grpc.ServicerContext
    ) -> pb.GetKeyFactsStatementResponse:
        """Get the key facts of an offer or of a booked loan."""
        key = key_facts.read_key_facts(request)
        today = self._clock.moment().today
        if isinstance(key, int):
            found = offer_statement(self._database, key, today)
        else:
            found = loan_statement(self._database, *key, today)
        return pb.GetKeyFactsStatementResponse(key_facts=key_facts.write_key_facts(found))

    def GetDelinquency(
        self, request: pb.GetDelinquencyRequest, context: grpc.ServicerContext
    ) -> pb.GetDelinquencyResponse:
        """Get a customer's arrears."""
        moment, violations = self._clock.moment(), Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        day = read_as_of(request, moment.today, violations)
        found = (
            get_delinquency(self._database, customer_id, moment.today)
            if day is None
            else delinquency_as_of(self._database, customer_id, day, moment)
        )
        return delinquency.write_delinquency(found)

    def ListDelinquentLoans(
        self, request: pb.ListDelinquentLoansRequest, context: grpc.ServicerContext
    ) -> pb.ListDelinquentLoansResponse:
        """List the overdue loans of all customers, the worst first."""
        violations = Violations()
        asset_class = delinquency.read_class(request.asset_class, "asset_class", violations)
        days = delinquency.read_min_days(request.min_days_past_due, "min_days_past_due", violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        start = delinquency.read_page_start(request.page_token, asset_class, days)
        today = self._clock.moment().today
        found = list_overdue_loans(self._database, asset_class, days, start, size, today)
        return delinquency.write_overdue_loans(found, asset_class, days, today)

    def GetRepaymentSchedule(
        self, request: pb.GetRepaymentScheduleRequest, context: grpc.ServicerContext
    ) -> pb.GetRepaymentScheduleResponse:
        """List a loan's installments."""
        violations = Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        loan_id = fields.read_id(request.loan_id, "loan_id", violations)
        violations.raise_if_any()
        found = repayment_schedule(self._database, customer_id, loan_id, self._clock.moment())
        return loans.write_schedule(found)

    def RecordPayment(
        self, request: pb.RecordPaymentRequest, context: grpc.ServicerContext
    ) -> pb.RecordPaymentResponse:
        """Record a payment on a loan."""
        command = payments.read_record_payment(request)
        moment = self._clock.moment()
        recorded = record_payment(
            self._database,
            command,
            moment,
            current_call().principal,
            cache=self._cache,
            groups=self._payment_groups,
        )
        # A repeat, on whatever day, gets the first response.
        day = recorded.payment.recorded_at.astimezone(moment.zone).date()
        return payments.write_recorded_payment(recorded, day)

    def ReversePayment(
        self, request: pb.ReversePaymentRequest, context: grpc.ServicerContext
    ) -> pb.ReversePaymentResponse:
        """Reverse a payment."""
        command = payments.read_reverse_payment(request)
        moment = self._clock.moment()
        done = reverse_payment(
            self._database, command, moment, current_call().principal, cache=self._cache
        )
        reversal = done.payment.reversal
        reversed_at = moment.now if reversal is None else reversal.reversed_at
        return payments.write_reversed_payment(done, reversed_at.astimezone(moment.zone).date())

    def ListPayments(
        self, request: pb.ListPaymentsRequest, context: grpc.ServicerContext
    ) -> pb.ListPaymentsResponse:
        """List a loan's payments in the order of recording."""
        violations = Violations()
        customer_id = fields.read_id(request.customer_id, "customer_id", violations)
        loan_id = fields.read_id(request.loan_id, "loan_id", violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        after = _id_of(_PAYMENT_PAGES.read(request.page_token, customer_id, loan_id))
        page = list_payments(self._database, customer_id, loan_id, after, size + 1)
        found, more = _page(page.payments, size)
        response = pb.ListPaymentsResponse(
            payments=[
                payments.write_payment(each, page.prepaid_paise.get(each.payment_number, 0))
                for each in found
            ]
        )
        if more:
            key = found[-1].payment_number
            response.next_page_token = _PAYMENT_PAGES.write([key], customer_id, loan_id)
        return response

    def GetForeclosureQuote(
        self, request: pb.GetForeclosureQuoteRequest, context: grpc.ServicerContext
    ) -> pb.GetForeclosureQuoteResponse:
        """Compute what closes a loan on a day."""
        customer_id, loan_id, paid_on = payments.read_foreclosure_quote(request)
        quote = foreclosure_quote(
            self._database, customer_id, loan_id, paid_on, self._clock.moment()
        )
        return payments.write_foreclosure_quote(customer_id, loan_id, quote)

    def GetDecision(
        self, request: pb.GetDecisionRequest, context: grpc.ServicerContext
    ) -> pb.GetDecisionResponse:
        """Get a stored decision."""
        decision_id = fields.read_single_id(request.decision_id, "decision_id")
        stored = get_decision(self._database, decision_id)
        today = self._clock.moment().today
        return pb.GetDecisionResponse(decision=decisions.write_decision(stored, today))

    def ListDecisions(
        self, request: pb.ListDecisionsRequest, context: grpc.ServicerContext
    ) -> pb.ListDecisionsResponse:
        """List stored decisions, the latest first."""
        violations = Violations()
        customer_id = _optional_customer_id(request, violations)
        outcome = decisions.read_outcome(request.outcome, "outcome", violations)
        state = referrals.read_referral_state(request.referral_state, "referral_state", violations)
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        # Without the filters a token is that of releases that do not have them.
        filters = (customer_id, *(str(each) for each in (outcome, state) if each is not None))
        before = _id_of(_DECISION_PAGES.read(request.page_token, *filters))
        today = self._clock.moment().today
        listed = list_decisions(
            self._database, customer_id, before, size + 1, outcome, state=state, day=today
        )
        found, more = _page(listed, size)
        response = pb.ListDecisionsResponse()
        room_bytes = _MAX_PAGE_BYTES
        for stored in found:
            message = decisions.write_decision(stored, today)
            room_bytes -= message.ByteSize()
            if room_bytes < 0:
                more = True
                break
            response.decisions.append(message)
        if more:
            key = response.decisions[-1].decision_id
            response.next_page_token = _DECISION_PAGES.write([key], *filters)
        return response

    def ReviewDecision(
        self, request: pb.ReviewDecisionRequest, context: grpc.ServicerContext
    ) -> pb.ReviewDecisionResponse:
        """Approve or decline a referred decision."""
        command = reviews.read_review_decision(request)
        review = review_decision(
            self._database,
            command,
            self._clock.moment(),
            current_call().principal,
            cache=self._cache,
            referral_days=self._referral_days,
        )
        return reviews.write_review(review)

    def WatchCreditEvents(
        self, request: pb.WatchCreditEventsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchCreditEventsResponse]:
        """Stream events until the caller goes or the server stops."""
        violations = Violations()
        if request.after_event_id < 0:
            violations.add("after_event_id", OUT_OF_RANGE, "must be 0 or more.")
        customer_id = _optional_customer_id(request, violations)
        kinds = convert_events.read_event_kinds(request.event_types, "event_types", violations)
        violations.raise_if_any()
        call, last_event_id = current_call(), request.after_event_id
        for found in self._tail.follow(request.after_event_id, customer_id, kinds):
            call.raise_if_cancelled()
            call.raise_if_expired(last_event_id=last_event_id)
            last_event_id = found if isinstance(found, int) else found.event_id
            if isinstance(found, int):
                now = fields.write_time(self._clock.moment().now)
                beat = pb.WatchHeartbeat(time=now, last_event_id=found)
                yield pb.WatchCreditEventsResponse(heartbeat=beat)
                continue
            event = convert_events.write_event(found)
            if event is None:
                # Only a later release, running beside this one, knows the kind. Ending the stream
                # here would end every resumed stream here too.
                metrics.events_skipped.inc()
                continue
            yield pb.WatchCreditEventsResponse(event=event)


def _optional_customer_id(
    request: pb.GetLoanRequest | pb.ListDecisionsRequest | pb.WatchCreditEventsRequest,
    violations: Violations,
) -> int | None:
    """The customer's id where the field is set; 0 counts as set, and is invalid."""
    if not request.HasField("customer_id"):
        return None
    return fields.read_id(request.customer_id, "customer_id", violations)


def _read_customers_token(token: str, query: str) -> PageStart:
    """The start of the page. Raises InvalidFieldsError."""
    try:
        return PageStart(*_CUSTOMER_PAGES.read(token, query) or ())
    except InvalidFieldsError:
        return PageStart(*_CUSTOMER_PAGES_BY_TERM.read(token, query) or ())


def _write_customers_token(start: PageStart, query: str) -> str:
    if start.term is None:
        return _CUSTOMER_PAGES.write([start.after], query)
    return _CUSTOMER_PAGES_BY_TERM.write([start.after, start.term], query)


def _id_of(key: list[int] | None) -> int | None:
    """The id in the key of a page token."""
    return None if key is None else key[0]


def _page(found: Sequence[T], size: int) -> tuple[Sequence[T], bool]:
    """The page, and whether there is more; the query asked for one more than `size`."""
    return found[:size], len(found) > size
