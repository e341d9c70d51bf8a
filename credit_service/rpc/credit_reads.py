"""What CheckEligibility and GetLoan read, by themselves or for other calls too."""

from functools import partial

from credit_service.clock import Moment
from credit_service.domain.loans import Loan
from credit_service.queries.credit import CreditQueries, CreditSnapshot
from credit_service.queries.loans import get_loan, get_loans
from credit_service.rpc.calls.call import current_call
from credit_service.rpc.calls.shared_reads import SharedReads
from credit_service.storage.customers import CustomerView
from credit_service.storage.database import Database
from credit_service.v1 import credit_service_pb2 as pb


class CreditReads:
    """The shared reads of a servicer. Thread-safe. Calls use it on their own threads."""

    def __init__(self, database: Database, queries: CreditQueries) -> None:
        self._database = database
        self._queries = queries
        self._snapshots: SharedReads[int, CreditSnapshot] = SharedReads(
            "check", _customer_of_check, queries.shared_snapshots
        )
        self._loans: SharedReads[tuple[int, int], tuple[Loan, CustomerView]] = SharedReads(
            "loan", _key_of_loan, lambda keys, moment: [get_loans(database, keys, moment.today)]
        )

    def snapshot(self, customer_id: int, moment: Moment) -> CreditSnapshot:
        """Return what `CreditQueries.snapshot` does, and raise the same."""
        alone = partial(self._queries.snapshot, customer_id, moment)
        return self._snapshots.get(current_call().arrival, customer_id, moment, alone)

    def loan(
        self, loan_id: int, customer_id: int | None, moment: Moment
    ) -> tuple[Loan, CustomerView]:
        """Return what `get_loan` does, and raise the same."""
        alone = partial(get_loan, self._database, loan_id, customer_id, moment.today)
        if customer_id is None:
            return alone()
        return self._loans.get(current_call().arrival, (customer_id, loan_id), moment, alone)


def _customer_of_check(data: bytes) -> int | None:
    """The customer of a CheckEligibility; None if the request is invalid."""
    customer_id = pb.CheckEligibilityRequest.FromString(data).customer_id
    return customer_id if customer_id > 0 else None


def _key_of_loan(data: bytes) -> tuple[int, int] | None:
    """The customer and the loan of a GetLoan; None without a customer."""
    request = pb.GetLoanRequest.FromString(data)
    if request.customer_id <= 0 or request.loan_id <= 0:
        return None
    return request.customer_id, request.loan_id
