"""Which server answers a call of a method that a standby may serve."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from pydantic import SecretStr, ValidationError

from credit_service.domain.errors import NotFoundError, UnavailableError
from credit_service.rpc.replica import Replica
from credit_service.rpc.server import SERVICES
from credit_service.settings import REPLICA_METHODS, Settings
from credit_service.settings_messages import problems
from credit_service.storage.database import Database, LostRaceError

NOWHERE = SecretStr("postgresql://user:secret@127.0.0.1:1/none")
MISSING = NotFoundError("LOAN_NOT_FOUND", "loan", "1", "No loan.", {})
UNREACHABLE = UnavailableError("DATABASE_UNAVAILABLE", "unreachable", 1.0)


class Servicer:
    """One method that returns or raises what it is given."""

    def __init__(self, result: object) -> None:
        self._result = result

    def GetLoan(self, request: Any, context: Any) -> object:  # noqa: N802, ARG002 - the contract's
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


@pytest.fixture
def replica() -> Replica:
    settings = Settings(database_url=NOWHERE, replica_url=NOWHERE, replica_methods="GetLoan")
    return Replica(settings, Database(settings.require_replica_url()))


def routed(replica: Replica, on_standby: object) -> Callable[[], object]:
    servicer = Servicer("primary")
    replica.serve(servicer, Servicer(on_standby))
    return lambda: servicer.GetLoan(None, None)


def test_the_primary_answers_until_the_age_of_the_data_is_known(replica: Replica) -> None:
    ask = routed(replica, "standby")
    assert ask() == "primary"
    replica._complete_at = float("inf")
    assert ask() == "standby"


@pytest.mark.parametrize("error", [MISSING, LostRaceError("40001"), UNREACHABLE])
def test_the_primary_answers_what_the_standby_cannot(replica: Replica, error: Exception) -> None:
    ask = routed(replica, error)
    replica._complete_at = float("inf")
    assert ask() == "primary"
    # An unreachable standby is not asked again before the next probe.
    assert (replica._complete_at < 0) == (error is UNREACHABLE)


def test_another_error_ends_the_call(replica: Replica) -> None:
    ask = routed(replica, ValueError("a defect"))
    replica._complete_at = float("inf")
    with pytest.raises(ValueError, match="a defect"):
        ask()


def test_a_standby_serves_only_methods_without_effects() -> None:
    reading = {
        method.name
        for service in SERVICES
        for method in service.methods
        if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        and not (method.client_streaming or method.server_streaming)
    }
    assert set(REPLICA_METHODS) <= reading
    # Promises about the present.
    present = {"CheckEligibility", "BatchCheckEligibility", "GetCreditScore", "GetForeclosureQuote"}
    assert present <= reading - set(REPLICA_METHODS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"replica_methods": "GetLoans"}, "did you mean GetLoan? Otherwise a standby may serve"),
        ({"replica_methods": "CheckEligibility"}, "a standby may serve GetCustomer"),
        ({"replica_url": "postgresql://user:secret@a,b/x"}, "name one host"),
        ({"replica_url": "http://user:secret@a/x"}, "write a URL that starts with postgresql://"),
    ],
)
def test_wrong_settings_are_explained(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(given)
    (problem,) = problems(caught.value)
    assert message in problem
    assert "secret" not in problem


def test_no_method_uses_a_standby_without_a_url() -> None:
    assert Settings(replica_methods="GetLoan").replica_method_names == []
