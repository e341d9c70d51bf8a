"""Decisions on the 300 customers of the public workbooks: unchanged under the standard scorecard,
as documented under the prudent one."""

import hashlib
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from credit_service.clock import Clock, Moment
from credit_service.domain.decisions import encode_outcome
from credit_service.domain.eligibility import Ask, decide
from credit_service.domain.scorecard import STANDARD, prudent
from credit_service.queries.credit import CreditQueries
from credit_service.storage import policy_facts
from credit_service.storage.database import Database
from tests.integration.ingestion import test_ingestion_uploads as uploads

CUSTOMERS = range(1, 301)
ASKS = [
    Ask(principal_paise, annual_rate_bps, tenure_months)
    for principal_paise in (1_000_000, 10_000_000, 90_000_000)
    for annual_rate_bps in (800, 1254, 2000)
    for tenure_months in (6, 24, 120)
]
ASK = Ask(10_000_000, 1200, 24)
"""The ask of the figures in docs/rules.md: ₹1,00,000 over 24 months at 12 %."""

_STANDARD = {
    "APPROVED 1200": 256,
    "APPROVED 1600": 3,
    "DECLINED EMI_BURDEN_TOO_HIGH": 17,
    "DECLINED NO_CREDIT_HISTORY": 17,
    "DECLINED DEBT_EXCEEDS_APPROVED_LIMIT": 7,
}
DOCUMENTED = {
    0: (
        _STANDARD,
        {
            "APPROVED 1200": 257,
            "APPROVED 1600": 3,
            "DECLINED EMI_BURDEN_TOO_HIGH": 23,
            "DECLINED NEW_TO_CREDIT_AMOUNT_EXCEEDED": 17,
        },
    ),
    30: (
        _STANDARD,
        {
            "APPROVED 1200": 190,
            "APPROVED 1600": 3,
            "REFERRED POLICY_RULE": 67,
            "DECLINED EMI_BURDEN_TOO_HIGH": 23,
            "DECLINED NEW_TO_CREDIT_AMOUNT_EXCEEDED": 17,
        },
    ),
    60: (
        _STANDARD,
        {
            "APPROVED 1200": 190,
            "APPROVED 1600": 3,
            "DECLINED POLICY_RULE": 78,
            "DECLINED EMI_BURDEN_TOO_HIGH": 12,
            "DECLINED NEW_TO_CREDIT_AMOUNT_EXCEEDED": 17,
        },
    ),
}
"""By days since the import, without any payment: outcomes under the standard and the prudent
scorecard, with the rate or the first reason."""


def at_noon(day: date) -> Moment:
    return Moment(datetime(day.year, day.month, day.day, 6, 30, tzinfo=UTC), day)


IMPORTED = at_noon(date(2026, 11, 27))


class _ClockOfImport(Clock):
    def moment(self) -> Moment:
        return IMPORTED


@pytest.fixture
def public(database: Database, public_workbooks: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database into which both public workbooks were imported on one day."""
    monkeypatch.setattr(uploads, "CLOCK", _ClockOfImport())
    for kind, name in (("CUSTOMERS", "customer_data"), ("LOANS", "loan_data")):
        content = (public_workbooks / f"{name}.xlsx").read_bytes()
        uploads.upload(database, kind, content, f"{name}.xlsx")  # type: ignore[arg-type] # one of two
    return database


def test_the_public_customers_are_decided_on_as_documented(public: Database) -> None:
    digest, outcomes = _digest_under_the_standard_scorecard(public)
    assert outcomes == {True: 5_801, False: 2_299}
    assert digest == "a9740dbfea217936d47ada9405a0a04586f1d643f42d63221eabe59b8962570c"
    for days, (standard, prudently) in DOCUMENTED.items():
        found = _outcomes(public, at_noon(IMPORTED.today + timedelta(days=days)))
        assert found == (standard, prudently), days


def _digest_under_the_standard_scorecard(public: Database) -> tuple[str, Counter[bool]]:
    """The digest of the bytes of 8,100 decisions. The code of release 0.1.0's rules, without
    policies, gave the same."""
    digest, outcomes = hashlib.sha256(), Counter[bool]()
    positions = CreditQueries(public).snapshots(CUSTOMERS, IMPORTED).positions
    for customer_id in CUSTOMERS:
        for asked in ASKS:
            decision = decide(positions[customer_id], asked, STANDARD, IMPORTED.today)
            digest.update(encode_outcome(decision).encode() + b"\n")
            outcomes[decision.approved] += 1
    return digest.hexdigest(), outcomes


def _outcomes(public: Database, day: Moment) -> tuple[dict[str, int], dict[str, int]]:
    """How many customers have which outcome under the two scorecards."""
    positions = CreditQueries(public).snapshots(CUSTOMERS, day).positions
    with public.autocommit() as connection:
        facts = policy_facts.read_many(connection, CUSTOMERS, day.today)
    standard, prudently = Counter[str](), Counter[str]()
    for customer_id, position in positions.items():
        for scorecard, counter in ((STANDARD, standard), (prudent(), prudently)):
            decision = decide(position, ASK, scorecard, day.today, facts=facts[customer_id])
            reason = decision.reasons[0].code if decision.reasons else decision.corrected_rate_bps
            counter[f"{decision.outcome} {reason}"] += 1
    return dict(standard), dict(prudently)
