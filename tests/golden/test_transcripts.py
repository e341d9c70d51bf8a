"""Plays the transcripts against a real server and compares them exactly.

UPDATE_GOLDEN=1 python -m pytest tests/golden     regenerates the files; review the diff
"""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from credit_service.storage.database import Database
from tests.golden.stage import Stage, stage
from tests.golden.transcript import METHODS, Names, play

TRANSCRIPTS = sorted(Path(__file__).with_name("transcripts").glob("*.yaml"))


@pytest.fixture
def played_here(database: Database, database_url: str, redis_url: str) -> Iterator[Stage]:
    with stage(database, database_url, redis_url) as made:
        yield made


def difference(kept: str, played: str, name: str) -> str:
    return "".join(
        difflib.unified_diff(
            kept.splitlines(keepends=True),
            played.splitlines(keepends=True),
            f"{name}, stored",
            f"{name}, played",
        )
    )


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_responses_equal_the_transcript(path: Path, played_here: Stage) -> None:
    kept = path.read_text(encoding="utf-8")
    played = play(kept, played_here)
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(played, encoding="utf-8")
        return
    assert kept == played, "\n" + difference(kept, played, path.name)


def test_every_method_is_in_a_transcript() -> None:
    texts = [path.read_text(encoding="utf-8") for path in TRANSCRIPTS]
    called = set(re.findall(r"^    call: (\w+)$|^  - call: (\w+)$", "".join(texts), re.MULTILINE))
    assert METHODS.keys() == {first or second for first, second in called}


WRONG = """\
about: |
  An unknown customer.
clock: 2026-01-15 12:00
steps:
  - call: GetCustomer
    request: {customer_id: 4242}
    error:
      code: NOT_FOUND
      message: There is no customer 4243.
      details:
        - ErrorInfo:
            reason: CUSTOMER_NOT_FOUND
            domain: credit_service
            metadata: {customer_id: '4242'}
        - ResourceInfo:
            resource_type: customer
            resource_name: '4242'
            description: There is no customer 4242.
"""


def test_one_wrong_letter_is_detected(played_here: Stage) -> None:
    played = play(WRONG, played_here)
    assert played == WRONG.replace("4243", "4242")
    assert [line for line in difference(WRONG, played, "this").splitlines() if line[0] in "+-"] == [
        "--- this, stored",
        "+++ this, played",
        "-      message: There is no customer 4243.",
        "+      message: There is no customer 4242.",
    ]


def test_a_name_replaces_one_id_everywhere() -> None:
    names = Names()
    names.give({"customer_id": 7})
    first = names.take({"loan_id": "6000001", "message": "Loan 6000001 of customer 7"})
    assert first == {"loan_id": "{loan}", "message": "Loan {loan} of customer 7"}
    assert names.take({"loan_id": "6000002", "customer_id": "7"}) == {
        "loan_id": "{loan2}",
        "customer_id": "7",
    }
    assert names.give({"loan_id": "{loan}"}) == {"loan_id": "6000001"}
    with pytest.raises(KeyError):
        names.give({"loan_id": "{loan3}"})
