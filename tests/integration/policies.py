"""Scorecards in use, by the commands that the service uses."""

from uuid import uuid4

from credit_service.clock import Moment
from credit_service.commands.scorecards import (
    ActivateScorecard,
    CreateScorecard,
    SetTrialScorecard,
    activate_scorecard,
    create_scorecard,
    set_trial_scorecard,
)
from credit_service.domain.eligibility import Ask
from credit_service.domain.scorecard import Scorecard
from credit_service.domain.scorecard_json import write_scorecard
from credit_service.queries.backtest import Backtest, backtest
from credit_service.storage.database import Database


def stored(database: Database, scorecard: Scorecard, moment: Moment) -> None:
    """Store the scorecard."""
    command = CreateScorecard(uuid4(), write_scorecard(scorecard))
    create_scorecard(database, command, moment, "tests")


def activated(database: Database, scorecard: Scorecard, moment: Moment) -> None:
    """Store the scorecard and make it the active one."""
    stored(database, scorecard, moment)
    command = ActivateScorecard(uuid4(), scorecard.version, None)
    activate_scorecard(database, command, moment, "tests")


def tried(database: Database, scorecard: Scorecard, moment: Moment) -> None:
    """Store the scorecard and make it the trial."""
    stored(database, scorecard, moment)
    set_trial_scorecard(database, SetTrialScorecard(uuid4(), scorecard.version), moment, "tests")


def backtested(
    database: Database, scorecard: Scorecard, moment: Moment, ask: Ask | None = None
) -> Backtest:
    """The result of a backtest."""
    *_, last = backtest(database, scorecard, moment, ask=ask)
    assert isinstance(last, Backtest)
    return last
