"""`replay`: a command for operators, which uses the database directly.

Its settings name a running database. It never starts one.
"""

import json

from rich.text import Text

from credit_service.cli.common import ExitCode
from credit_service.cli.operator_database import operator_database
from credit_service.cli.output import out, print_failure, print_json
from credit_service.domain.decisions import LaterReleaseError
from credit_service.domain.errors import NotFoundError
from credit_service.queries.backtest import replay_decision
from credit_service.settings import Settings


def replay(settings: Settings, decision_id: int, *, as_json: bool) -> int:
    """Recompute a stored decision from its stored inputs and compare the bytes."""
    try:
        with operator_database(settings) as database:
            found = replay_decision(database, decision_id)
    except NotFoundError as error:
        print_failure([error.message])
        return ExitCode.REFUSED
    except LaterReleaseError as error:
        print_failure([f"decision {decision_id} cannot be replayed here: {error}"])
        return ExitCode.REFUSED
    if as_json:
        print_json(
            {
                "decision_id": found.decision_id,
                "scorecard_version": found.scorecard_version,
                "identical": found.is_identical,
                "stored_outcome": json.loads(found.stored_outcome),
                "computed_outcome": json.loads(found.computed_outcome),
            }
        )
    elif found.is_identical:
        size = len(found.stored_outcome.encode())
        out.print(
            Text(
                f"Decision {decision_id} with scorecard {found.scorecard_version}: identical, "
                f"byte for byte ({size} bytes)."
            )
        )
    else:
        print_failure(
            [
                f"decision {decision_id} with scorecard {found.scorecard_version} differs:",
                f"  stored:   {found.stored_outcome}",
                f"  computed: {found.computed_outcome}",
            ]
        )
    return ExitCode.GOOD if found.is_identical else ExitCode.REFUSED
