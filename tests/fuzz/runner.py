"""Sends mutants of each kind by number, and checks their answers."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from joserfc.jwk import ECKey

from credit_service.v1 import ingestion_pb2
from tests.fuzz import calls, credentials, judge
from tests.fuzz.credentials import BareMutants, CredentialMutants
from tests.fuzz.fields import FieldMutants, Mutant
from tests.fuzz.files import FileMutants
from tests.fuzz.judge import Answer
from tests.fuzz.rows import RowMutants
from tests.fuzz.wire import WireMutants
from tests.fuzz.world import World

KINDS = ("fields", "wire", "rows", "files", "credentials", "bare")

_SERVICE_FAULTS = frozenset(
    {
        ingestion_pb2.INGESTION_ERROR_CODE_ATTEMPTS_EXHAUSTED,
        ingestion_pb2.INGESTION_ERROR_CODE_FILE_LOST,
        ingestion_pb2.INGESTION_ERROR_CODE_INTERNAL,
    }
)


@dataclass(frozen=True)
class Targets:
    """The servers under test. `guarded` requires tokens of `key`, issued at `now` (seconds since
    1970); `finish` waits for, or performs, the ingestion of an upload."""

    channel: grpc.Channel
    guarded: grpc.Channel
    guarded_address: str
    key: ECKey
    now: int
    finish: Callable[[str], ingestion_pb2.Ingestion]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A mutant's description, its status, and the error in the answer."""

    what: str
    status: str
    faults: tuple[str, ...]


class Fuzzer:
    """All kinds of mutants of one seed for one pair of servers. Thread-safe."""

    def __init__(self, seed: int, world: World, targets: Targets) -> None:
        self._targets = targets
        self.fields = FieldMutants(seed, world)
        self._wire = WireMutants(self.fields)
        self._rows = RowMutants(seed, world)
        self._files = FileMutants(seed)
        self._credentials = CredentialMutants(self.fields, targets.key, targets.now)
        self._bare = BareMutants(self.fields, self._credentials.token({}))

    def attempt(self, kind: str, number: int) -> Outcome:
        """Send the mutant of a kind and number."""
        match kind:
            case "bare":
                what, sent = self._bare.make(number)
                faults = credentials.send_bare(self._targets.guarded_address, sent)
                return Outcome(what, "ended", tuple(faults))
            case "credentials":
                return self._guarded(self._credentials.make(number))
            case "fields":
                return self._open(self.fields.make(number))
            case "wire":
                return self._open(self._wire.make(number))
            case "rows":
                return self._ingested(self._rows.make(number))
            case "files":
                return self._ingested(self._files.make(number))
        raise ValueError(f"no kind of mutants: {kind}")

    def _open(self, mutant: Mutant) -> Outcome:
        answer = calls.send(self._targets.channel, mutant)
        faults = judge.faults(mutant.method, answer, oversized=calls.oversized(mutant))
        return _outcome(mutant, answer, faults)

    def _guarded(self, mutant: Mutant) -> Outcome:
        answer = calls.send(self._targets.guarded, mutant)
        large = credentials.oversized(mutant)
        faults = judge.faults(mutant.method, answer, oversized=large)
        if mutant.refused and credentials.may_pass(answer.code) and not large:
            faults.append(f"admitted: {answer.code.name}")
        return _outcome(mutant, answer, faults, judge_accepted=False)

    def _ingested(self, mutant: Mutant) -> Outcome:
        answer = calls.send(self._targets.channel, mutant)
        faults = judge.faults(mutant.method, answer, oversized=calls.oversized(mutant))
        uploaded = mutant.method == "UploadSpreadsheet" and answer.code is grpc.StatusCode.OK
        if not uploaded:
            return _outcome(mutant, answer, faults)
        (stored,) = judge.ingestions_in(answer.responses[0])
        ended = self._targets.finish(stored.ingestion_id)
        state = ingestion_pb2.IngestionState.Name(ended.state)
        if ended.state not in (
            ingestion_pb2.INGESTION_STATE_SUCCEEDED,
            ingestion_pb2.INGESTION_STATE_FAILED,
        ):
            faults.append(f"did not end: {state}")
        if ended.error.code in _SERVICE_FAULTS:
            faults.append(f"failed by a fault of the service: {ended.error.message}")
        faults += judge.unaccounted(ended)
        return _outcome(mutant, answer, faults)


def _outcome(
    mutant: Mutant, answer: Answer, faults: list[str], *, judge_accepted: bool = True
) -> Outcome:
    if judge_accepted and answer.code is grpc.StatusCode.OK:
        rejected = sum(
            each.rejected for response in answer.responses for each in judge.ingestions_in(response)
        )
        if mutant.refused and not any(map(judge.errors_in, answer.responses)):
            faults.append("accepted, and must be rejected")
        elif rejected < mutant.rejected:
            faults.append(f"{rejected} rows rejected, {mutant.rejected} are invalid")
    status = answer.code.name if not answer.reason else f"{answer.code.name}/{answer.reason}"
    return Outcome(f"{mutant.method} {mutant.what}", status, tuple(faults))


def write_keys(folder: Path) -> tuple[ECKey, Path]:
    """A new signing key, and its file of public keys for a server."""
    key = ECKey.generate_key("P-256")
    path = folder / "jwks.json"
    public = {**key.as_dict(private=False), "kid": credentials.KID}
    path.write_text(json.dumps({"keys": [public]}), encoding="utf-8")
    return key, path


@contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    """A separate connection without message size limits."""
    options = (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    )
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel


def now_in_seconds() -> int:
    """Seconds since 1970."""
    return int(time.time())
