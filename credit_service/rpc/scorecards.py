"""ScorecardService: scorecards are stored, compared, tried, activated and retired."""

# The method names are the contract's, the arguments grpc's.
# ruff: noqa: N802, ARG002

import math
import threading
import time
from collections.abc import Iterator

import grpc

from credit_service.clock import Clock
from credit_service.commands.scorecards import (
    activate_scorecard,
    create_scorecard,
    retire_scorecard,
    set_trial_scorecard,
)
from credit_service.queries.backtest import Backtest, backtest, trial_results
from credit_service.queries.scorecards import (
    compare_scorecards,
    find_scorecard,
    get_scorecard,
    list_scorecards,
)
from credit_service.rpc.calls.call import current_call
from credit_service.rpc.calls.streams import shutting_down
from credit_service.rpc.convert import pages
from credit_service.rpc.convert import scorecards as convert
from credit_service.rpc.convert.fields import Violations
from credit_service.rpc.convert.pages import PageTokens
from credit_service.storage.database import Database
from credit_service.v1 import scorecard_pb2, scorecard_service_pb2_grpc
from credit_service.v1 import scorecard_service_pb2 as pb

_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 0.5
_PAGES = PageTokens("ListScorecards", pages.key_instant, str)


class ScorecardServicer(scorecard_service_pb2_grpc.ScorecardServiceServicer):
    """Implements ScorecardService. The contract lists the errors of each method."""

    def __init__(self, database: Database, clock: Clock, *, stopping: threading.Event) -> None:
        """Backtests end when `stopping` is set."""
        self._database = database
        self._clock = clock
        self._stopping = stopping
        # They compute: two at once would take twice as long each.
        self._backtests = threading.BoundedSemaphore(1)

    def CreateScorecard(
        self, request: pb.CreateScorecardRequest, context: grpc.ServicerContext
    ) -> pb.CreateScorecardResponse:
        """Check a document and store it."""
        command, scorecard = convert.read_create_scorecard(request)
        if request.validate_only:
            checked = scorecard_pb2.Scorecard(version=scorecard.version, document=command.document)
            return pb.CreateScorecardResponse(scorecard=checked)
        stored = create_scorecard(
            self._database, command, self._clock.moment(), current_call().principal
        )
        return pb.CreateScorecardResponse(scorecard=convert.write_scorecard_message(stored))

    def GetScorecard(
        self, request: pb.GetScorecardRequest, context: grpc.ServicerContext
    ) -> pb.GetScorecardResponse:
        """Get a scorecard with its history."""
        violations = Violations()
        version = convert.read_optional_version(request.version, "version", violations)
        violations.raise_if_any()
        stored, changes = get_scorecard(self._database, version, self._clock.moment())
        return pb.GetScorecardResponse(
            scorecard=convert.write_scorecard_message(stored),
            changes=[convert.write_change(each) for each in changes],
        )

    def ListScorecards(
        self, request: pb.ListScorecardsRequest, context: grpc.ServicerContext
    ) -> pb.ListScorecardsResponse:
        """List scorecards, the oldest first."""
        violations = Violations()
        size = pages.read_page_size(request.page_size, violations)
        violations.raise_if_any()
        key = _PAGES.read(request.page_token)
        after = None if key is None else (key[0], key[1])
        found = list_scorecards(self._database, self._clock.moment(), after, size + 1)
        page = found[:size]
        response = pb.ListScorecardsResponse(
            scorecards=[convert.write_scorecard_message(each) for each in page]
        )
        if len(found) > size:
            last = page[-1]
            response.next_page_token = _PAGES.write([last.added_at.isoformat(), last.version])
        return response

    def CompareScorecards(
        self, request: pb.CompareScorecardsRequest, context: grpc.ServicerContext
    ) -> pb.CompareScorecardsResponse:
        """Compare two scorecards field by field."""
        before, after = convert.read_compare_scorecards(request)
        found = compare_scorecards(self._database, before, after, self._clock.moment())
        return pb.CompareScorecardsResponse(
            before_version=found.before_version,
            after_version=found.after_version,
            differences=[convert.write_difference(each) for each in found.differences],
        )

    def ActivateScorecard(
        self, request: pb.ActivateScorecardRequest, context: grpc.ServicerContext
    ) -> pb.ActivateScorecardResponse:
        """Make a scorecard active, now or from a coming day on."""
        command = convert.read_activate_scorecard(request)
        stored = activate_scorecard(
            self._database, command, self._clock.moment(), current_call().principal
        )
        return pb.ActivateScorecardResponse(scorecard=convert.write_scorecard_message(stored))

    def SetTrialScorecard(
        self, request: pb.SetTrialScorecardRequest, context: grpc.ServicerContext
    ) -> pb.SetTrialScorecardResponse:
        """Make a scorecard the trial, or end the trial."""
        command = convert.read_set_trial_scorecard(request)
        stored = set_trial_scorecard(
            self._database, command, self._clock.moment(), current_call().principal
        )
        if stored is None:
            return pb.SetTrialScorecardResponse()
        return pb.SetTrialScorecardResponse(scorecard=convert.write_scorecard_message(stored))

    def RetireScorecard(
        self, request: pb.RetireScorecardRequest, context: grpc.ServicerContext
    ) -> pb.RetireScorecardResponse:
        """Retire a scorecard that is not in use."""
        command = convert.read_retire_scorecard(request)
        stored = retire_scorecard(
            self._database, command, self._clock.moment(), current_call().principal
        )
        return pb.RetireScorecardResponse(scorecard=convert.write_scorecard_message(stored))

    def GetTrialResults(
        self, request: pb.GetTrialResultsRequest, context: grpc.ServicerContext
    ) -> pb.GetTrialResultsResponse:
        """Compare a trial's decisions with the real ones."""
        violations = Violations()
        version = convert.read_optional_version(request.version, "version", violations)
        violations.raise_if_any()
        version, results = trial_results(self._database, version, self._clock.moment())
        return pb.GetTrialResultsResponse(
            version=version, results=convert.write_comparison(results)
        )

    def BacktestScorecard(
        self, request: pb.BacktestScorecardRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.BacktestScorecardResponse]:
        """Decide and score again, and stream the progress and the result."""
        tested, ask = convert.read_backtest_scorecard(request)
        call = current_call()

        def raise_if_ended() -> None:
            if self._stopping.is_set():
                raise shutting_down()
            call.raise_if_cancelled()
            call.raise_if_expired()

        if isinstance(tested, str):
            tested = find_scorecard(self._database, tested)
        while not self._backtests.acquire(timeout=_POLL_SECONDS):
            raise_if_ended()
        try:
            sent_at = -math.inf
            for found in backtest(
                self._database,
                tested,
                self._clock.moment(),
                ask=ask,
                skip_decisions=request.skip_decisions,
                skip_portfolio=request.skip_portfolio,
            ):
                raise_if_ended()
                if isinstance(found, Backtest):
                    yield convert.write_backtest(found)
                elif time.monotonic() - sent_at >= _PROGRESS_SECONDS:
                    sent_at = time.monotonic()
                    yield convert.write_progress(found)
        finally:
            self._backtests.release()
