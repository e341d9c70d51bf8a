"""The sample workbooks are reproducible, and the featured customers are as documented."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pytest
from python_calamine import CalamineWorkbook

from credit_service.domain.customers import parse_phone_number
from credit_service.domain.eligibility import Decision, decide
from credit_service.domain.loans import Ask, Loan, imported_settled
from credit_service.domain.money import LAKH_PAISE
from credit_service.domain.positions import CreditPosition, position_from_loans
from credit_service.domain.reasons import ReasonCode
from credit_service.domain.scorecard import STANDARD
from credit_service.domain.scoring import Override, score
from credit_service.rupees import RUPEE_PAISE
from credit_service.spreadsheets import samples
from credit_service.spreadsheets.samples import SampleCustomer, SampleLoan

# Ends and beginnings of months and years, and a leap day.
DAYS = [
    date(2024, 2, 29),
    date(2025, 1, 1),
    date(2025, 6, 15),
    date(2025, 8, 31),
    date(2025, 12, 31),
    date(2027, 1, 31),
    date(2031, 3, 1),
]
DAYS_LATER = [0, 1, 40, 364]
MODEST = Ask(principal_paise=LAKH_PAISE, annual_rate_bps=1050, tenure_months=12)


def _imported(row: SampleLoan, import_day: date) -> Loan:
    settled, closed_on = imported_settled(
        row.emis_paid_on_time, row.start_date, row.tenure_months, import_day
    )
    return Loan(
        customer_id=row.customer_id,
        loan_id=row.loan_id,
        principal_paise=row.principal_rupees * RUPEE_PAISE,
        annual_rate_bps=row.annual_rate_bps,
        tenure_months=row.tenure_months,
        installment_paise=row.installment_rupees * RUPEE_PAISE,
        start_date=row.start_date,
        end_date=row.end_date,
        imported=True,
        decision_id=None,
        settled_at_import=settled,
        emis_paid_on_time=row.emis_paid_on_time,
        installments_settled=settled,
        paid_paise=0,
        last_paid_on=None,
        closed_on=closed_on,
    )


@dataclass
class Portfolio:
    """Sample files as imported on `import_day`."""

    customers: dict[int, SampleCustomer]
    loans: dict[int, list[Loan]]

    def position(self, customer_id: int, day: date) -> CreditPosition:
        customer = self.customers[customer_id]
        return position_from_loans(
            customer_id,
            1,
            customer.monthly_salary_rupees * RUPEE_PAISE,
            customer.approved_limit_rupees * RUPEE_PAISE,
            self.loans[customer_id],
            day,
        )

    def decide(self, customer_id: int, day: date, ask: Ask = MODEST) -> Decision:
        return decide(self.position(customer_id, day), ask, STANDARD, day)


def _portfolio(
    made_on: date, import_day: date, *, customers: int = 300, seed: int = 1
) -> Portfolio:
    loans = defaultdict(list)
    for row in samples.sample_loans(customers, 200, seed, made_on):
        loans[row.customer_id].append(_imported(row, import_day))
    return Portfolio(
        {each.customer_id: each for each in samples.sample_customers(customers, seed)}, loans
    )


@pytest.mark.parametrize("days_later", DAYS_LATER)
@pytest.mark.parametrize("made_on", DAYS)
def test_sample_customers_have_the_same_outcome_on_any_day(made_on: date, days_later: int) -> None:
    day = made_on + timedelta(days=days_later)
    portfolio = _portfolio(made_on, day)

    good = portfolio.decide(samples.GOOD_CUSTOMER_ID, day)
    assert good.approved
    assert good.score.score > 50
    assert good.corrected_rate_bps == MODEST.annual_rate_bps

    bad = portfolio.decide(samples.BAD_CUSTOMER_ID, day)
    assert not bad.approved
    assert 0 < bad.score.score <= 10
    assert bad.score.override is None
    assert [each.code for each in bad.reasons] == [ReasonCode.CREDIT_SCORE_TOO_LOW]

    over = portfolio.decide(samples.OVER_LIMIT_CUSTOMER_ID, day)
    assert not over.approved
    assert over.score.override is Override.DEBT_EXCEEDS_APPROVED_LIMIT
    assert over.reasons[0].code is ReasonCode.DEBT_EXCEEDS_APPROVED_LIMIT

    low = portfolio.decide(samples.LOW_BAND_CUSTOMER_ID, day)
    assert 11 <= low.score.score <= 30
    assert (low.approved, low.corrected_rate_bps) == (True, 1600)

    middle = portfolio.decide(samples.MIDDLE_BAND_CUSTOMER_ID, day)
    assert 31 <= middle.score.score <= 50
    assert (middle.approved, middle.corrected_rate_bps) == (True, 1200)

    newcomer = portfolio.decide(samples.NO_HISTORY_CUSTOMER_ID, day)
    assert newcomer.score.override is Override.NO_CREDIT_HISTORY


def test_a_workbook_keeps_its_scores_after_the_import() -> None:
    """A year after the import, the stable customers are in the same slab."""
    made_on = date(2025, 6, 15)
    portfolio = _portfolio(made_on, made_on)
    later = date(2026, 7, 1)
    scores = {
        customer_id: score(portfolio.position(customer_id, later), STANDARD).score
        for customer_id in range(101, 107)
    }
    assert scores[101] > 50
    assert (scores[102], scores[103], scores[104], scores[105], scores[106]) == (6, 0, 20, 41, 0)


@pytest.mark.parametrize(("customers", "loans"), [(10, 20), (105, 150), (300, 782), (2000, 5000)])
def test_rows_are_well_formed(customers: int, loans: int) -> None:
    today = date(2026, 3, 31)
    people = list(samples.sample_customers(customers, 7))
    rows = list(samples.sample_loans(customers, loans, 7, today))
    ids = {each.customer_id for each in people}

    assert len(people) == len(ids) == customers
    assert set(range(101, 107)) <= ids
    phones = {parse_phone_number(str(each.phone_number)) for each in people}
    assert len(phones) == customers
    assert all(each.approved_limit_rupees >= 100_000 for each in people)

    assert len({(each.customer_id, each.loan_id) for each in rows}) == len(rows) == loans
    assert all(each.customer_id in ids for each in rows)
    for row in rows:
        assert row.start_date <= today
        assert 0 <= row.emis_paid_on_time <= row.tenure_months
        assert row.installment_rupees * row.tenure_months >= row.principal_rupees


def test_the_layout_has_the_traps_of_the_public_file() -> None:
    rows = list(samples.sample_loans(300, 782, 1, date(2026, 3, 31)))
    owners: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        owners[row.loan_id].add(row.customer_id)
    shared = [loan_id for loan_id, customers in owners.items() if len(customers) == 2]
    assert owners[samples.SHARED_LOAN_ID] == {101, 105}
    assert 15 <= len(shared) <= 45
    assert not any(len(customers) > 2 for customers in owners.values())
    rates = Counter(type(row.cells()[4]) for row in rows)
    assert rates[int] > 50
    assert rates[float] > 50


def test_sample_workbooks_are_readable_and_reproducible(tmp_path: Path) -> None:
    today = date(2026, 3, 31)
    first = samples.write_samples(tmp_path / "a", customers=120, loans=150, seed=3, today=today)
    again = samples.write_samples(tmp_path / "b", customers=120, loans=150, seed=3, today=today)
    other = samples.write_samples(tmp_path / "c", customers=120, loans=150, seed=4, today=today)
    assert first.loan_path.read_bytes() == again.loan_path.read_bytes()
    assert first.customer_path.read_bytes() == again.customer_path.read_bytes()
    assert first.loan_path.read_bytes() != other.loan_path.read_bytes()

    customers = _read(first.customer_path)
    loans = _read(first.loan_path)
    assert customers[0] == list(samples.CUSTOMER_HEADERS)
    assert customers[1:] == [list(each.cells()) for each in samples.sample_customers(120, 3)]
    assert loans[0] == list(samples.LOAN_HEADERS)
    assert loans[1:] == [list(each.cells()) for each in samples.sample_loans(120, 150, 3, today)]


def test_text_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    samples.write_workbook(path, ["<a> & b", " c "], [["<&>\"'", 2]])
    assert _read(path) == [["<a> & b", " c "], ["<&>\"'", 2]]


@pytest.mark.parametrize(("customers", "loans"), [(9, 20), (10, 19), (10, 2_000_000), (10**7, 20)])
def test_sizes_out_of_range_are_rejected(tmp_path: Path, customers: int, loans: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        samples.write_samples(
            tmp_path / "new", customers=customers, loans=loans, seed=1, today=date(2026, 3, 31)
        )
    assert not (tmp_path / "new").exists()


def _read(path: Path) -> Sequence[Sequence[object]]:
    rows: Sequence[Sequence[object]] = (
        CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python()
    )
    return rows
