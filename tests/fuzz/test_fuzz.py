"""A few invalid inputs of each kind as a regular test; `make fuzz` sends thousands."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from credit_service.clock import Clock
from credit_service.ingestion.uploads import run_upload
from credit_service.rpc.server import CreditServer
from credit_service.settings import Settings
from credit_service.storage.database import Database
from credit_service.v1 import ingestion_pb2
from credit_service.v1 import ingestion_service_pb2 as pb
from tests.fuzz import credentials, runner, world
from tests.fuzz.contract import METHODS, reasons_of, status_of_reason
from tests.fuzz.fields import FieldMutants
from tests.fuzz.runner import Fuzzer, Targets, channel_to
from tests.integration.conftest import Edge
from tests.integration.conftest import server as server  # noqa: PLC0414 - a fixture
from tests.integration.conftest import settings as settings  # noqa: PLC0414 - a fixture

SEED = 20_240_131
SAMPLES = {"fields": 200, "wire": 150, "rows": 4, "files": 6, "credentials": 60, "bare": 20}


@pytest.fixture
def fuzzer(
    server: Edge, settings: Settings, database: Database, tmp_path: Path
) -> Iterator[Fuzzer]:
    """All kinds of mutants for the server and a second one that requires tokens."""
    key, keys_file = runner.write_keys(tmp_path)
    required = {"token_keys": keys_file, "token_issuer": credentials.ISSUER}
    guarded = CreditServer(settings.model_copy(update=required), database)
    guarded.start()

    def finish(ingestion_id: str) -> ingestion_pb2.Ingestion:
        run_upload(database, UUID(ingestion_id), Clock())
        request = pb.GetIngestionRequest(ingestion_id=ingestion_id)
        return server.ingestion.GetIngestion(request, timeout=20).ingestion

    with channel_to(str(guarded.address)) as channel:
        targets = Targets(
            server.channel, channel, str(guarded.address), key, runner.now_in_seconds(), finish
        )
        yield Fuzzer(SEED, world.make(server.channel), targets)
    guarded.stop(grace_seconds=5)


@pytest.mark.slow
def test_invalid_inputs_get_documented_responses(fuzzer: Fuzzer) -> None:
    # Spread over the mutants with a single change, which come first.
    step = fuzzer.fields.systematic // SAMPLES["fields"]
    found = []
    for kind, count in SAMPLES.items():
        for number in range(count):
            place = number * step if kind == "fields" else number
            outcome = fuzzer.attempt(kind, place)
            found += [f"{kind}:{place} {outcome.what}: {fault}" for fault in outcome.faults]
    assert not found


def test_every_field_of_every_method_is_mutated(fuzzer: Fuzzer) -> None:
    """Each field of each request, by its path, and each reason of the contract."""
    tried = {method for method, _, _, _ in fuzzer.fields.single}
    assert tried == METHODS.keys()
    for method, descriptor in METHODS.items():
        names = {field.name for field in descriptor.input_type.fields}
        words = " ".join(what for name, _, what, _ in fuzzer.fields.single if name == method)
        assert not {name for name in names if name not in words}
        assert reasons_of(method) <= status_of_reason().keys()


def test_a_mutant_is_reproducible(fuzzer: Fuzzer) -> None:
    fields = fuzzer.fields
    again = FieldMutants(fields.seed, fields.world)
    for number in (0, 7, fields.systematic, fields.systematic + 99):
        assert fields.make(number) == again.make(number)
    assert fields.make(fields.systematic) != FieldMutants(8, fields.world).make(fields.systematic)
