"""`sample-data` writes workbooks of made-up customers and loans."""

from pathlib import Path

from credit_service.cli.common import ExitCode, UsageError
from credit_service.cli.output import out, paste, print_json
from credit_service.rupees import group_digits
from credit_service.settings import Settings
from credit_service.spreadsheets import samples


def write(directory: Path, customers: int, loans: int, seed: int, *, as_json: bool) -> int:
    """Write the two workbooks as of today in the business time zone. Raises UsageError."""
    try:
        samples.check_sizes(customers, loans)
    except ValueError as error:
        raise UsageError(str(error)) from error
    today = Settings().clock.moment().today
    written = samples.write_samples(
        directory, customers=customers, loans=loans, seed=seed, today=today
    )
    if as_json:
        print_json(
            {
                "customers": {"path": str(written.customer_path), "rows": customers},
                "loans": {"path": str(written.loan_path), "rows": loans},
                "seed": seed,
                "day": today.isoformat(),
            }
        )
        return ExitCode.GOOD
    out.print(f"{written.customer_path}  {group_digits(customers)} customers", soft_wrap=True)
    out.print(f"{written.loan_path}  {group_digits(loans)} loans", soft_wrap=True)
    out.print("Send them to a running service:")
    out.print(paste(f"  credit-service ingest {written.customer_path}"), soft_wrap=True)
    out.print(paste(f"  credit-service ingest {written.loan_path}"), soft_wrap=True)
    return ExitCode.GOOD
