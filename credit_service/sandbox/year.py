"""The year: imports at its start, then day after day up to today."""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

from google.protobuf.field_mask_pb2 import FieldMask

from credit_service.sandbox import files
from credit_service.sandbox.agenda import Agenda, SteppedClock, World
from credit_service.sandbox.lending import Lending
from credit_service.sandbox.repaying import Repaying
from credit_service.spreadsheets import samples
from credit_service.spreadsheets.samples import SampleCustomer
from credit_service.v1 import credit_service_pb2 as pb
from credit_service.v1 import customer_pb2, decision_pb2, ingestion_pb2
from credit_service.v1 import scorecard_service_pb2 as scorecards
from credit_service_client.client import CreditClient
from credit_service_client.ingestion import IngestionClient, Request
from credit_service_client.values import rupees

_CALLS_AT_A_TIME = 8
_OVERDUE_ASK_TODAY = 8
_MORNING, _NOON, _EVENING = 10, 13, 17
_CUSTOMERS = ingestion_pb2.INGESTION_KIND_CUSTOMERS
_LOANS = ingestion_pb2.INGESTION_KIND_LOANS


@dataclass(frozen=True, slots=True)
class Size:
    """How much happens. The defaults take about two minutes on two cores."""

    days: int = 365
    customers: int = 2_000
    loans: int = 2_600
    registrations_a_day: int = 2
    asks_a_day: int = 6
    rows_of_a_file: int = 90


class Year:
    """Lives through the days before today on a service that follows a clock file."""

    def __init__(
        self,
        client: CreditClient,
        clock: SteppedClock,
        today: date,
        say: Callable[[str], None],
        size: Size | None = None,
        seed: int = 1,
    ) -> None:
        """`say` gets a line for each month."""
        self._client = client
        self._clock = clock
        self._size = size or Size()
        self._last = today
        self._first = today - timedelta(days=self._size.days)
        self._say = say
        self._seed = seed
        self._chance = Random(seed)  # noqa: S311 - a made-up year, no secret
        self._agenda = Agenda(self._first)
        self.world = World(client, self._agenda, seed)
        self._repaying = Repaying(self.world)
        self._lending = Lending(self.world, self._repaying)
        self._incomes: dict[int, int] = {}
        self._people = samples.sample_customers(samples.MAX_CUSTOMERS, seed + 1)

    def live(self) -> None:
        """Live through the year. Afterwards it is the present. Raises ServiceError, SourceError."""
        with (
            tempfile.TemporaryDirectory() as folder,
            ThreadPoolExecutor(_CALLS_AT_A_TIME) as pool,
        ):
            try:
                self._clock.set(self._first, _MORNING)
                self._open(Path(folder), pool)
                milestones = self._milestones(Path(folder))
                for number in range(1, self._size.days):
                    day = self._agenda.today = self._first + timedelta(days=number)
                    self._clock.set(day, _MORNING)
                    for milestone in milestones.get(day, ()):
                        milestone()
                    self._meet_people()
                    self._clock.set(day, _NOON)
                    self._ask(pool)
                    self._clock.set(day, _EVENING)
                    self._agenda.run(pool)
                    if day.day == 1:
                        self._say(self._summary())
            finally:
                self._clock.release()
            self._close(Path(folder), pool)
        self._say(self._summary())

    def _open(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        """Import the customers and loans that the lender has when the year begins."""
        written = samples.write_samples(
            folder,
            customers=self._size.customers,
            loans=self._size.loans,
            seed=self._seed,
            today=self._first,
        )
        self._upload(written.customer_path, _CUSTOMERS)
        self._upload(written.loan_path, _LOANS)
        for each in samples.sample_customers(self._size.customers, self._seed):
            self._incomes[each.customer_id] = each.monthly_salary_rupees
        for _ in pool.map(self._follow_loans_of, list(self._incomes)):
            pass

    def _follow_loans_of(self, customer_id: int) -> None:
        request = pb.ListLoansRequest(customer_id=customer_id)
        for page in self._client.pages(self._client.credit.ListLoans, request):
            for loan in page.loans:
                self._repaying.follow(loan)

    def _milestones(self, folder: Path) -> dict[date, list[Callable[[], None]]]:
        """What happens once, by the share of the year that is over then."""
        planned: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.12, partial(self._branch_file, folder / "branch_jaipur.csv", 500_000)),
            (0.30, partial(self._correct_loans, folder / "loan_corrections.xlsx")),
            (0.40, partial(self._put_on_trial, "prudent-1")),
            (0.55, partial(self._activate, "prudent-1")),
            (0.65, partial(self._put_on_trial, "standard-1")),
            (0.70, partial(self._import_by_mistake, folder / "partner_list.csv", 600_000)),
        )
        by_day: dict[date, list[Callable[[], None]]] = {}
        for share, act in planned:
            day = self._first + timedelta(days=round(share * self._size.days))
            by_day.setdefault(day, []).append(act)
        return by_day

    def _meet_people(self) -> None:
        """Register customers, and let some earn more."""
        for each in islice(
            self._people, self._chance.randint(0, 2 * self._size.registrations_a_day)
        ):
            request = pb.RegisterCustomerRequest(
                first_name=each.first_name,
                last_name=each.last_name,
                age=each.age,
                monthly_income=rupees(each.monthly_salary_rupees),
                phone_number=f"+91{each.phone_number}",
            )
            customer = self._client.credit.RegisterCustomer(request).customer
            self.world.did("registrations")
            self._incomes[customer.customer_id] = each.monthly_salary_rupees
        if self._chance.random() < 0.4:
            customer_id = self._any_customer()
            income = self._incomes[customer_id] * 11 // 10
            changed = customer_pb2.Customer(customer_id=customer_id, monthly_income=rupees(income))
            mask = FieldMask(paths=["monthly_income"])
            self._client.credit.UpdateCustomer(
                pb.UpdateCustomerRequest(customer=changed, update_mask=mask)
            )
            self._incomes[customer_id] = income

    def _overdue(self) -> list[int]:
        """Return customers with a loan at most 30 days past due, in random order."""
        request = pb.ListDelinquentLoansRequest(asset_class=decision_pb2.ASSET_CLASS_SMA_0)
        loans = self._client.credit.ListDelinquentLoans(request).loans
        known = sorted({each.customer_id for each in loans} & self._incomes.keys())
        return self._chance.sample(known, len(known))

    def _any_customer(self) -> int:
        return self._chance.choice(list(self._incomes))

    def _ask(self, pool: ThreadPoolExecutor, overdue: int = 1) -> None:
        asking = {
            self._any_customer() for _ in range(self._chance.randint(1, 2 * self._size.asks_a_day))
        }
        asking.update(self._overdue()[:overdue])
        for _ in pool.map(lambda each: self._lending.ask(each, self._incomes[each]), asking):
            pass

    def _close(self, folder: Path, pool: ThreadPoolExecutor) -> None:
        """Today: what is due, new requests, and a file with mistakes."""
        self._agenda.today = self._last
        self._ask(pool, _OVERDUE_ASK_TODAY)
        self._agenda.run(pool)
        self._branch_file(folder / "branch_kochi.csv", 700_000)
        loans = samples.further_loans(
            list(range(1, 101)), self._size.rows_of_a_file, self._seed, self._last, 900_001
        )
        self._upload(files.loans(folder / "month_end_loans.csv", loans), _LOANS)

    def _branch_file(self, path: Path, first_id: int) -> None:
        self._upload(files.customers(path, self._strangers(first_id)), _CUSTOMERS)

    def _strangers(self, first_id: int) -> list[SampleCustomer]:
        people = islice(self._people, self._size.rows_of_a_file)
        return [
            SampleCustomer(
                first_id + number,
                each.first_name,
                each.last_name,
                each.age,
                each.phone_number,
                each.monthly_salary_rupees,
                each.approved_limit_rupees,
            )
            for number, each in enumerate(people)
        ]

    def _correct_loans(self, path: Path) -> None:
        loans = samples.sample_loans(
            self._size.customers, self._size.loans, self._seed, self._first
        )
        # A loan with payments recorded here keeps its terms, and most running loans have some.
        ended = (
            each
            for each in loans
            if each.end_date < self._first and each.emis_paid_on_time < each.tenure_months
        )
        files.corrected_loans(path, islice(ended, self._size.rows_of_a_file))
        self._upload(path, _LOANS, update=True)

    def _import_by_mistake(self, path: Path, first_id: int) -> None:
        ingestion_id = self._upload(
            files.customers(path, self._strangers(first_id)), _CUSTOMERS
        ).ingestion_id
        day = self._agenda.today + timedelta(days=2)
        self._agenda.add(day, first_id, lambda: self._revert(ingestion_id))

    def _revert(self, ingestion_id: str) -> None:
        IngestionClient(self._client.channel).revert(UUID(ingestion_id), uuid4())

    def _put_on_trial(self, version: str) -> None:
        request = scorecards.SetTrialScorecardRequest(version=version)
        self._client.scorecards.SetTrialScorecard(request)

    def _activate(self, version: str) -> None:
        request = scorecards.ActivateScorecardRequest(version=version)
        self._client.scorecards.ActivateScorecard(request)

    def _upload(
        self, path: Path, kind: ingestion_pb2.IngestionKind.ValueType, *, update: bool = False
    ) -> ingestion_pb2.Ingestion:
        client = IngestionClient(self._client.channel)
        queued = client.upload(path, kind, Request(uuid4(), update_existing=update))
        self.world.did("files")
        return client.follow(UUID(queued.ingestion_id))

    def _summary(self) -> str:
        counts = self.world.counts
        done = ", ".join(
            f"{counts[what]:,} {what}"
            for what in ("registrations", "loans", "offers", "referrals", "payments", "reversals")
        )
        return f"{self._agenda.today}: {done}"
