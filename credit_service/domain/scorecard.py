"""The scorecard: weights, caps, rate slabs and policy as one versioned, validated document."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from credit_service.domain.document_reader import DocumentReader
from credit_service.domain.errors import (
    INVALID_FORMAT,
    OUT_OF_RANGE,
    REQUIRED,
    InvalidFieldsError,
)
from credit_service.domain.loans import MAX_ANNUAL_RATE_BPS, MAX_PRINCIPAL_PAISE
from credit_service.domain.policy import (
    KEYS,
    DebtBasis,
    NewToCredit,
    OnTimeCounts,
    PolicyRule,
    policy_document,
    read_choice,
    read_new_to_credit,
    read_rules,
)

MAX_SCORE = 100
MAX_GRACE_DAYS = 31
MAX_PREPAYMENT_CHARGE_BPS = 1_000
MAX_CONTINGENT_CHARGES = 20
MAX_CHARGE_TYPE_LENGTH = 50
MAX_SENTENCE_LENGTH = 500
MAX_CAP = 10**15
"""Largest cap; keeps every product within 64 bits for computations in SQL."""


class Component(StrEnum):
    """The components of a credit score."""

    REPAYMENT_HISTORY = "REPAYMENT_HISTORY"
    LOAN_VOLUME = "LOAN_VOLUME"
    LOAN_COUNT = "LOAN_COUNT"
    CURRENT_YEAR_ACTIVITY = "CURRENT_YEAR_ACTIVITY"


@dataclass(frozen=True, slots=True)
class RateSlab:
    """Scores `min_score` … `max_score`: declined, or approved at `min_rate_bps` or more.

    `min_rate_bps` is None for a declined slab.
    """

    min_score: int
    max_score: int
    min_rate_bps: int | None


@dataclass(frozen=True, slots=True)
class ContingentCharge:
    """A charge of a loan that becomes due only if something happens; `sentence` says when it does,
    and how much it is."""

    type: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Scorecard:
    """A validated scorecard. Weights sum to 100; slabs cover 0 … 100 in rising order.

    A component with a cap gives its full weight from the cap on: paise for loan volume, loans for
    loan count and current-year activity. A principal below `min_principal_paise` is declined; 0
    declines none.

    `new_to_credit` to `rules` are the policy; docs/rules.md explains it. Their defaults decide as
    scorecards without a policy do. The last two fields decide nothing: they are charges of the
    loans that the scorecard approves, for foreclosure as a share of the principal that it repays.
    """

    version: str
    repayment_weight: int
    volume_weight: int
    volume_cap_paise: int
    count_weight: int
    count_cap: int
    activity_weight: int
    activity_cap: int
    rate_slabs: tuple[RateSlab, ...]
    income_share_bps: int
    grace_days: int
    min_principal_paise: int = 0
    new_to_credit: NewToCredit | None = None
    on_time_counts: OnTimeCounts = OnTimeCounts.WHEN_PAID
    debt_basis: DebtBasis = DebtBasis.ORIGINAL_PRINCIPAL
    rules: tuple[PolicyRule, ...] = ()
    prepayment_charge_bps: int = 0
    contingent_charges: tuple[ContingentCharge, ...] = ()

    @property
    def needs_facts(self) -> bool:
        """Whether decisions and scores need PolicyFacts: true if it has any part of a policy."""
        return bool(self.rules or self.new_to_credit or self.score_needs_facts)

    @property
    def score_needs_facts(self) -> bool:
        """Whether scores need PolicyFacts."""
        return (
            self.on_time_counts is not OnTimeCounts.WHEN_PAID
            or self.debt_basis is not DebtBasis.ORIGINAL_PRINCIPAL
        )

    def slab(self, score: int) -> RateSlab:
        """The slab of a score in 0 … 100."""
        for slab in reversed(self.rate_slabs):
            if score >= slab.min_score:
                return slab
        raise ValueError(f"score {score} is below 0")


STANDARD_DOCUMENT: Final[dict[str, Any]] = {
    "version": "standard-1",
    "components": {
        "REPAYMENT_HISTORY": {"weight": 35},
        "LOAN_VOLUME": {"weight": 25, "full_at_paise": 100_000_000},
        "LOAN_COUNT": {"weight": 20, "full_at_loans": 10},
        "CURRENT_YEAR_ACTIVITY": {"weight": 20, "full_at_loans": 3},
    },
    "rate_slabs": [
        {"min_score": 0, "max_score": 10, "declined": True},
        {"min_score": 11, "max_score": 30, "min_rate_bps": 1600},
        {"min_score": 31, "max_score": 50, "min_rate_bps": 1200},
        {"min_score": 51, "max_score": 100, "min_rate_bps": 0},
    ],
    "income_share_bps": 5000,
    "grace_days": 0,
}
"""The scorecard of docs/rules.md, as a document."""

PRUDENT_DOCUMENT: Final[dict[str, Any]] = {
    **STANDARD_DOCUMENT,
    "version": "prudent-1",
    "new_to_credit": {"max_principal_paise": 5_000_000, "min_rate_bps": 1600},
    "on_time_counts": "WHEN_DUE",
    "debt_basis": "PRINCIPAL_OUTSTANDING",
    "rules": [
        {
            "code": "OVERDUE_MORE_THAN_30_DAYS",
            "condition": "days_past_due > 30 || asset_class == 4",
            "outcome": "DECLINE",
            "message": "A loan is more than 30 days past due, or the customer's loans are "
            "non-performing.",
        },
        {
            "code": "OVERDUE_UP_TO_30_DAYS",
            "condition": "days_past_due >= 1 && days_past_due <= 30",
            "outcome": "REFER",
            "message": "A loan is 1 to 30 days past due.",
        },
    ],
}
"""A scorecard with a policy for lenders, stored beside the standard one and not active: it regards
days past due, and lends a little to customers without loans."""

_MIN_PRINCIPAL = "min_principal_paise"
_PREPAYMENT_CHARGE = "prepayment_charge_bps"
_CONTINGENT_CHARGES = "contingent_charges"
_OPTIONAL = frozenset({_MIN_PRINCIPAL, _PREPAYMENT_CHARGE, _CONTINGENT_CHARGES})
"""The optional keys of a document besides those of a policy."""
_REQUIRED = frozenset({"version", "components", "rate_slabs", "income_share_bps", "grace_days"})
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CAPS = {
    Component.REPAYMENT_HISTORY: None,
    Component.LOAN_VOLUME: "full_at_paise",
    Component.LOAN_COUNT: "full_at_loans",
    Component.CURRENT_YEAR_ACTIVITY: "full_at_loans",
}


def is_version(text: str) -> bool:
    """Whether the text can be the version of a scorecard."""
    return _VERSION.fullmatch(text) is not None


def parse_scorecard(document: Mapping[str, Any]) -> Scorecard:
    """The scorecard of a document shaped like STANDARD_DOCUMENT. `min_principal_paise`, the keys of
    a policy, as in PRUDENT_DOCUMENT, `prepayment_charge_bps` and `contingent_charges` are optional.

    Raises InvalidFieldsError naming every violation by its path: missing, unknown and out-of-range
    keys, weights that do not sum to 100, slabs that leave a gap, overlap, or treat a better
    score worse, and conditions of rules that are not accepted, with line and column.
    """
    reader = DocumentReader()
    document = reader.mapping(document, "", _REQUIRED | KEYS | _OPTIONAL)
    version = document.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        reader.add("version", INVALID_FORMAT, "must be 1 to 64 letters, digits, '.', '_', '-'")
        version = ""
    weights, caps = _read_components(reader, document.get("components"))
    scorecard = Scorecard(
        version=version,
        repayment_weight=weights[Component.REPAYMENT_HISTORY],
        volume_weight=weights[Component.LOAN_VOLUME],
        volume_cap_paise=caps[Component.LOAN_VOLUME],
        count_weight=weights[Component.LOAN_COUNT],
        count_cap=caps[Component.LOAN_COUNT],
        activity_weight=weights[Component.CURRENT_YEAR_ACTIVITY],
        activity_cap=caps[Component.CURRENT_YEAR_ACTIVITY],
        rate_slabs=_read_slabs(reader, document.get("rate_slabs")),
        income_share_bps=reader.integer(document, "income_share_bps", "", 0, 10_000),
        grace_days=reader.integer(document, "grace_days", "", 0, MAX_GRACE_DAYS),
        min_principal_paise=reader.integer(document, _MIN_PRINCIPAL, "", 1, MAX_PRINCIPAL_PAISE)
        if _MIN_PRINCIPAL in document
        else 0,
        new_to_credit=read_new_to_credit(reader, document),
        on_time_counts=read_choice(reader, document, "on_time_counts", OnTimeCounts.WHEN_PAID),
        debt_basis=read_choice(reader, document, "debt_basis", DebtBasis.ORIGINAL_PRINCIPAL),
        rules=read_rules(reader, document),
        prepayment_charge_bps=reader.integer(
            document, _PREPAYMENT_CHARGE, "", 0, MAX_PREPAYMENT_CHARGE_BPS
        )
        if _PREPAYMENT_CHARGE in document
        else 0,
        contingent_charges=_read_contingent_charges(reader, document),
    )
    if reader.violations:
        raise InvalidFieldsError(reader.violations)
    return scorecard


def _read_components(
    reader: DocumentReader, value: object
) -> tuple[dict[Component, int], dict[Component, int]]:
    """(weights, caps) by component."""
    violations_before = len(reader.violations)
    weights = dict.fromkeys(Component, 0)
    caps = dict.fromkeys(Component, 1)
    if value is None:
        reader.add("components", REQUIRED, "is missing")
        return weights, caps
    components = reader.mapping(value, "components", {str(each) for each in Component})
    for component, cap in _CAPS.items():
        path = f"components.{component}"
        if component not in components:
            reader.add(path, REQUIRED, "is missing")
            continue
        keys = {"weight", cap} if cap else {"weight"}
        fields = reader.mapping(components[component], path, keys)
        weights[component] = reader.integer(fields, "weight", path, 0, MAX_SCORE)
        if cap:
            caps[component] = reader.integer(fields, cap, path, 1, MAX_CAP)
    total = sum(weights.values())
    if total != MAX_SCORE and len(reader.violations) == violations_before:
        reader.add("components", OUT_OF_RANGE, f"must have weights that sum to 100, found {total}")
    return weights, caps


def _read_slabs(reader: DocumentReader, value: object) -> tuple[RateSlab, ...]:
    if not isinstance(value, list | tuple) or not value:
        reader.add("rate_slabs", REQUIRED, "must be a list of slabs")
        return ()
    violations_before = len(reader.violations)
    slabs = [_read_slab(reader, each, f"rate_slabs[{i}]") for i, each in enumerate(value)]
    if len(reader.violations) > violations_before:
        return tuple(slabs)
    expected = 0
    ceiling = MAX_ANNUAL_RATE_BPS + 1
    for index, slab in enumerate(slabs):
        path = f"rate_slabs[{index}]"
        if slab.min_score != expected:
            reader.add(
                f"{path}.min_score", OUT_OF_RANGE, f"must be {expected}, found {slab.min_score}"
            )
        if slab.max_score < slab.min_score:
            reader.add(f"{path}.max_score", OUT_OF_RANGE, "must not be below min_score")
        floor = ceiling if slab.min_rate_bps is None else slab.min_rate_bps
        if floor > ceiling or (slab.min_rate_bps is None and ceiling <= MAX_ANNUAL_RATE_BPS):
            reader.add(
                path, OUT_OF_RANGE, "must not treat a better score worse than the one before"
            )
        ceiling = floor
        expected = slab.max_score + 1
    if expected != MAX_SCORE + 1:
        problem = f"must cover 0 to 100, but the last slab ends at {expected - 1}"
        reader.add("rate_slabs", OUT_OF_RANGE, problem)
    return tuple(slabs)


def _read_slab(reader: DocumentReader, value: object, path: str) -> RateSlab:
    keys = {"min_score", "max_score", "min_rate_bps", "declined"}
    fields = reader.mapping(value, path, keys)
    low = reader.integer(fields, "min_score", path, 0, MAX_SCORE)
    high = reader.integer(fields, "max_score", path, 0, MAX_SCORE)
    declined = fields.get("declined", False)
    if not isinstance(declined, bool):
        reader.add(f"{path}.declined", INVALID_FORMAT, "must be true or false")
    if declined is True:
        if "min_rate_bps" in fields:
            reader.add(f"{path}.min_rate_bps", INVALID_FORMAT, "must be left out when declined")
        return RateSlab(low, high, None)
    rate = reader.integer(fields, "min_rate_bps", path, 0, MAX_ANNUAL_RATE_BPS)
    return RateSlab(low, high, rate)


def _read_contingent_charges(
    reader: DocumentReader, document: Mapping[str, Any]
) -> tuple[ContingentCharge, ...]:
    value = document.get(_CONTINGENT_CHARGES, ())
    if not isinstance(value, list | tuple):
        reader.add(_CONTINGENT_CHARGES, INVALID_FORMAT, "must be a list of charges")
        return ()
    if len(value) > MAX_CONTINGENT_CHARGES:
        problem = f"must have at most {MAX_CONTINGENT_CHARGES} charges, found {len(value)}"
        reader.add(_CONTINGENT_CHARGES, OUT_OF_RANGE, problem)
        return ()
    charges = []
    for index, each in enumerate(value):
        path = f"{_CONTINGENT_CHARGES}[{index}]"
        fields = reader.mapping(each, path, {"type", "sentence"})
        charges.append(
            ContingentCharge(
                reader.text(fields, "type", path, MAX_CHARGE_TYPE_LENGTH),
                reader.text(fields, "sentence", path, MAX_SENTENCE_LENGTH),
            )
        )
    return tuple(charges)


def scorecard_document(scorecard: Scorecard) -> dict[str, Any]:
    """The document from which `parse_scorecard` reads an equal scorecard."""
    document: dict[str, Any] = {
        "version": scorecard.version,
        "components": {
            "REPAYMENT_HISTORY": {"weight": scorecard.repayment_weight},
            "LOAN_VOLUME": {
                "weight": scorecard.volume_weight,
                "full_at_paise": scorecard.volume_cap_paise,
            },
            "LOAN_COUNT": {
                "weight": scorecard.count_weight,
                "full_at_loans": scorecard.count_cap,
            },
            "CURRENT_YEAR_ACTIVITY": {
                "weight": scorecard.activity_weight,
                "full_at_loans": scorecard.activity_cap,
            },
        },
        "rate_slabs": [_slab_document(slab) for slab in scorecard.rate_slabs],
        "income_share_bps": scorecard.income_share_bps,
        "grace_days": scorecard.grace_days,
    }
    if scorecard.min_principal_paise:
        document[_MIN_PRINCIPAL] = scorecard.min_principal_paise
    if scorecard.prepayment_charge_bps:
        document[_PREPAYMENT_CHARGE] = scorecard.prepayment_charge_bps
    if scorecard.contingent_charges:
        document[_CONTINGENT_CHARGES] = [
            {"type": each.type, "sentence": each.sentence} for each in scorecard.contingent_charges
        ]
    return document | policy_document(
        scorecard.new_to_credit, scorecard.on_time_counts, scorecard.debt_basis, scorecard.rules
    )


def _slab_document(slab: RateSlab) -> dict[str, Any]:
    scores = {"min_score": slab.min_score, "max_score": slab.max_score}
    if slab.min_rate_bps is None:
        return {**scores, "declined": True}
    return {**scores, "min_rate_bps": slab.min_rate_bps}


STANDARD: Final[Scorecard] = parse_scorecard(STANDARD_DOCUMENT)


@lru_cache(maxsize=1)
def prudent() -> Scorecard:
    """The scorecard of PRUDENT_DOCUMENT. Parsed when needed, because its conditions take the parser
    of conditions."""
    return parse_scorecard(PRUDENT_DOCUMENT)
