"""Commands to try the service out."""

# ruff: noqa: PLC0415 - a command imports its implementation when it runs

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from credit_service.cli.common import Json, flag


def sample_data(
    directory: Annotated[Path, Parameter(help="Folder for the two workbooks.")],
    /,
    *,
    customers: Annotated[int, Parameter(help="Number of rows in customer_data.xlsx.")] = 300,
    loans: Annotated[int, Parameter(help="Number of rows in loan_data.xlsx.")] = 782,
    seed: Annotated[int, Parameter(help="Seed for the random rows.")] = 1,
    json: Json = False,
) -> int:
    """Write customer_data.xlsx and loan_data.xlsx with made-up rows in the public layout.

    Customer 101 has a good history, 102 a poor history, 103 owes more than the limit, 104 and 105
    are in between, 106 has no history.
    """
    from credit_service.cli import sample_data

    return sample_data.write(directory, customers, loans, seed, as_json=json)


def demo(
    *,
    keep: Annotated[
        bool,
        flag("Keep everything running until Ctrl-C, to try more calls."),
    ] = False,
) -> int:
    """Run a demo on a temporary stack. Prints each call and checks each response."""
    from credit_service.cli import demo

    return demo.run(keep=keep)
