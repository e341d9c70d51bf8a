"""`credit-service ingest` interrupted: what is committed is shown, and the command that resumes."""

import shlex
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from rich.progress import Progress

from credit_service.cli import ingest
from credit_service.cli.app import run
from credit_service.cli.common import Target
from credit_service.client import rows
from credit_service.client.rows import open_source
from credit_service.spreadsheets import samples
from credit_service.v1 import ingestion_pb2
from credit_service_client.ingestion import IngestionClient, Listener, Request
from credit_service_client.retrying import Patience
from tests.integration.conftest import Edge

ROWS = 60


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of three batches whose name needs quotes, in the current folder."""
    monkeypatch.setattr(rows, "BATCH_ROWS", ROWS // 3)
    monkeypatch.chdir(tmp_path)
    people = [f"{n},Asha,Rao,30,{9_300_000_000 + n},50000,1800000" for n in range(1, ROWS + 1)]
    path = Path("-people of May's.csv")
    path.write_text("\n".join([",".join(samples.CUSTOMER_HEADERS), *people]))
    return path


class Harmful(ingest._Bar):
    """The progress of a command, in which something happens once a batch was sent."""

    harm: Callable[[], None]

    def sent(self, rows: int, read_bytes: int) -> None:
        super().sent(rows, read_bytes)
        if rows == ROWS // 3:
            type(self).harm()
            # The rest is not sent before the command has ended.
            threading.Event().wait(1.0)


def _resuming_words(stderr: str, ingestion_id: str) -> list[str]:
    lines = stderr.splitlines()
    where = next(
        n for n, line in enumerate(lines) if f"Resume ingestion {ingestion_id} with:" in line
    )
    return shlex.split(lines[where + 1])


def test_ctrl_c_prints_the_command_that_resumes(
    server: Edge,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Harmful, "harm", partial(signal.raise_signal, signal.SIGINT), raising=False)
        patched.setattr(ingest, "_Bar", Harmful)
        ingestion_id = str(uuid4())
        given = [f"./{path}", "--kind", "customers", "--update", "--date-order", "dmy"]
        given += ["--errors", "5", "--ingestion-id", ingestion_id]
        given += ["--address", server.target, "--token-file", "a token"]
        Path("a token").write_text("a.b.c")
        assert run(["ingest", *given, "--json"]) == 130
    words = _resuming_words(capsys.readouterr().err, ingestion_id)
    assert words == ["credit-service", "ingest", *given, "--json"]
    assert run(words[1:]) == 0
    assert f'"inserted": "{ROWS}"' in capsys.readouterr().out


def test_a_lost_connection_prints_the_command_that_resumes(
    server: Edge,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hasty = Patience(give_up_seconds=0.2, longest_pause_seconds=0.1, call_timeout_seconds=0.2)
    monkeypatch.setattr(Harmful, "harm", partial(server.server.stop, 0), raising=False)
    monkeypatch.setattr(ingest, "_Bar", Harmful)
    monkeypatch.setattr(ingest, "IngestionClient", partial(IngestionClient, patience=hasty))
    ingestion_id = str(uuid4())
    secret = ["--token", "a.b.c"]
    given = [f"./{path}", "--dry-run", "--ingestion-id", ingestion_id, "--address", server.target]
    assert run(["ingest", *given, *secret]) == 3
    stderr = capsys.readouterr().err
    assert stderr.index("error: ") < stderr.index("The ingestion is not finished.")
    assert _resuming_words(stderr, ingestion_id) == ["credit-service", "ingest", *given]
    assert "a.b.c" not in stderr
    assert "CREDIT_TOKEN" in stderr


def test_another_file_with_the_same_id_is_rejected_with_the_next_step(
    server: Edge, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["ingest", f"./{path}", "--address", server.target, "--ingestion-id", str(uuid4())]
    assert run(given) == 0
    path.write_text(path.read_text().replace("7,Asha,Rao", "7,Usha,Rao", 1))
    assert run(given) == 1
    stderr = capsys.readouterr().err
    assert "(COMMITTED_ROWS_DIFFER): The row at offset 6 differs from the one" in stderr
    assert "repeat the command without --ingestion-id" in stderr
    assert run(given[:-2]) == 0


def test_the_printed_command_repeats_every_relevant_option() -> None:
    ingestion_id = uuid4()
    options = ingest.Options(
        path=Path("loans.xlsx"),
        kind=None,
        upload=True,
        update=False,
        dry_run=False,
        errors_shown=20,
        ingestion_id=None,
    )
    target = Target(address="host:1", ca=Path("my ca.pem"))
    command = ingest._command(options, ingestion_id, target, as_json=False)
    assert command == (
        f"credit-service ingest loans.xlsx --upload --ingestion-id {ingestion_id} "
        "--address host:1 --ca 'my ca.pem'"
    )


class Patient(Listener):
    """Lets a batch follow once the one before it is reported as committed, on a bar beside."""

    def __init__(self, bar: Listener, shown: Callable[[], float | None]) -> None:
        self._bar = bar
        self._shown = shown
        self._committed = threading.Condition()
        self._rows = 0
        self.seen: list[tuple[int, int, float | None]] = []

    def sent(self, rows: int, read_bytes: int) -> None:
        self._bar.sent(rows, read_bytes)
        with self._committed:
            self.seen.append((rows, read_bytes, self._shown()))
            assert self._committed.wait_for(lambda: self._rows >= rows, timeout=20)

    def advanced(self, ingestion: ingestion_pb2.Ingestion) -> None:
        self._bar.advanced(ingestion)
        with self._committed:
            self._rows = ingestion.committed_offset
            self._committed.notify_all()


def test_the_progress_bar_of_a_stream_shows_committed_rows(server: Edge, path: Path) -> None:
    source = open_source(path)
    with Progress(disable=True) as progress:
        bar = ingest._Bar(progress, source, upload=False, dry_run=False)
        patient = Patient(bar, lambda: progress.tasks[0].completed)
        client = IngestionClient(server.channel)
        ended = client.stream(source, Request(uuid4()), patient).ingestion
        assert ended.inserted == ROWS
        sent_rows, read_bytes, shown = zip(*patient.seen, strict=True)
        assert sent_rows == (20, 40, 60)
        # When a batch was sent, the bar was where the batch before it ends.
        assert shown == (0, *read_bytes[:-1])
        assert "60 rows committed, 60 sent" in progress.tasks[0].fields["rows"]
