"""The command line as a user runs it: a process, its output, its exit code."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import openpyxl
import psutil
import pytest

from credit_service.client.channel import open_channel
from credit_service.spreadsheets import samples
from credit_service.v1 import credit_service_pb2
from credit_service.v1.credit_service_pb2_grpc import CreditServiceStub
from credit_service_client.errors import ServiceError, decoded_errors
from tests.system.up import Up, credit_service, environment, up

CUSTOMERS = 120
LOANS = 300
DEMO_SECONDS = 90


@pytest.fixture(scope="module")
def service() -> Iterator[Up]:
    with up() as running:
        yield running


@pytest.fixture(scope="module")
def sample_files(tmp_path_factory: pytest.TempPathFactory) -> samples.Samples:
    folder = tmp_path_factory.mktemp("samples")
    done = credit_service(
        "sample-data", str(folder), f"--customers={CUSTOMERS}", f"--loans={LOANS}", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["loans"]["rows"] == LOANS
    return samples.Samples(
        Path(document["customers"]["path"]), Path(document["loans"]["path"]), CUSTOMERS, LOANS
    )


def _counts(output: str) -> dict[str, int]:
    ingestion = json.loads(output)["ingestion"]
    names = ("rows_read", "inserted", "updated", "unchanged", "skipped", "rejected")
    return {name: int(ingestion.get(name, 0)) for name in names if int(ingestion.get(name, 0))}


def _wait_until(holds: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def ingested(service: Up, sample_files: samples.Samples) -> None:
    """The sample files in the service: customers by upload after a dry run, loans by stream."""
    address = f"--address={service.address}"
    customers, loans = str(sample_files.customer_path), str(sample_files.loan_path)
    for way in ("--dry-run", "--upload"):
        done = credit_service("ingest", customers, address, way, "--json")
        assert done.returncode == 0, done.stderr
        assert _counts(done.stdout) == {"rows_read": CUSTOMERS, "inserted": CUSTOMERS}
    done = credit_service("ingest", loans, address, "--json")
    assert done.returncode == 0, done.stderr
    assert _counts(done.stdout) == {"rows_read": LOANS, "inserted": LOANS}


@pytest.mark.usefixtures("ingested")
def test_a_repeated_ingestion_is_unchanged_and_invalid_rows_are_listed(
    service: Up, sample_files: samples.Samples, tmp_path: Path
) -> None:
    address = f"--address={service.address}"
    loans = str(sample_files.loan_path)
    for option in ("--upload", "--update"):
        done = credit_service("ingest", loans, address, "--json", option)
        assert done.returncode == 0, done.stderr
        assert _counts(done.stdout) == {"rows_read": LOANS, "unchanged": LOANS}

    faulty = tmp_path / "faulty.csv"
    header = ",".join(samples.LOAN_HEADERS)
    faulty.write_text(
        f"{header}\n1,900001,100000,two,12,5000,0,2024-01-31,\n\n"
        "1,900002,100000,24,12,5000,0,2024-01-31,2026-01-31\n999999,900003,1,24,12,5000,0,2024-01-31,\n"
    )
    for option in ("--upload", "--kind=loans"):
        done = credit_service("ingest", str(faulty), address, option)
        assert done.returncode == 1, done.stderr
        lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
        # With the file's own headers.
        assert any(line.startswith("2 Tenure NOT_A_NUMBER two ") for line in lines)
        assert any(line.startswith("5 Customer ID CUSTOMER_UNKNOWN 999999 ") for line in lines)
        assert "rejected 2" in done.stdout
        assert not done.stderr


def test_a_damaged_file_reports_what_is_stored_and_how_to_resume(
    service: Up, tmp_path: Path
) -> None:
    address = f"--address={service.address}"
    path = tmp_path / "people.csv"
    header = ",".join(samples.CUSTOMER_HEADERS)
    rows = [f"{70_000 + n},Asha,Rao,30,{9_300_000_000 + n},50000,1800000" for n in range(40_000)]
    damaged = [*rows]
    damaged[39_000] = '"' + damaged[39_000]
    path.write_text("\n".join([header, *damaged]))
    ingestion_id = str(uuid4())
    send = ("ingest", str(path), address, "--kind=customers", f"--ingestion-id={ingestion_id}")
    done = credit_service(*send)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    words = " ".join(done.stdout.split())
    assert words.startswith("FAILED")
    assert "39002" in words.replace(",", "")
    assert f"--ingestion-id {ingestion_id}" in words
    path.write_text("\n".join([header, *rows]))
    done = credit_service(*send, "--json")
    assert done.returncode == 0, done.stdout
    assert _counts(done.stdout) == {"rows_read": 40_000, "inserted": 40_000}
    # A row that is stored with other values is shown with both values.
    path.write_text("\n".join([header, rows[0].replace(",30,", ",31,")]))
    done = credit_service("ingest", str(path), address, "--kind=customers")
    words = " ".join(done.stdout.split())
    assert ("skipped 1" in words, "age 31" in words, "age 30" in words) == (True, True, True)


@pytest.mark.usefixtures("ingested")
def test_the_date_order_is_given_or_detected_from_the_column(service: Up, tmp_path: Path) -> None:
    address = f"--address={service.address}"
    header = ",".join(samples.LOAN_HEADERS)

    def loans(*days: str) -> str:
        path = tmp_path / f"loans-{len(days)}.csv"
        rows = (f"7,{90_100 + n},100000,12,12,8884.88,0,{day}," for n, day in enumerate(days))
        path.write_text("\n".join([header, *rows]))
        return str(path)

    both_orders, one_order = (
        loans("03-04-2024", "05-06-2024"),
        loans("03-04-2024", "", "31-05-2024"),
    )
    for option in ("--upload", "--kind=loans"):
        done = credit_service("ingest", both_orders, address, "--dry-run", option)
        assert (done.returncode, "rejected 2" in done.stdout) == (1, True)
        assert "DATE_AMBIGUOUS" in done.stdout
        assert "--date-order" in " ".join(done.stdout.split())
        done = credit_service(
            "ingest", both_orders, address, "--dry-run", "--date-order=dmy", "--json", option
        )
        assert done.returncode == 0, done.stdout
        done = credit_service("ingest", one_order, address, "--dry-run", "--json", option)
        assert _counts(done.stdout) == {"rows_read": 3, "inserted": 2, "rejected": 1}
    done = credit_service("ingest", both_orders, address, "--date-order=yy")
    assert done.returncode == 2


def test_invalid_rows_are_saved_in_an_annotated_workbook(
    service: Up, sample_files: samples.Samples, tmp_path: Path
) -> None:
    address = f"--address={service.address}"
    faulty = tmp_path / "faults.csv"
    faulty.write_text(f"{','.join(samples.LOAN_HEADERS)}\n7,8,100000,two,12,5000,0,2024-01-31,\n")
    done = credit_service("ingest", str(faulty), address, "--upload", "--dry-run")
    assert done.returncode == 1, done.stderr
    offered = done.stdout.splitlines()[-1].split()
    assert offered[:2] == ["credit-service", "annotated"]
    path = tmp_path / "marked.xlsx"
    command = ("annotated", offered[2], address, f"--output={path}")
    done = credit_service(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Saved {path} (")
    assert openpyxl.load_workbook(path).worksheets[1]["D2"].comment is not None
    before = path.read_bytes()
    again = credit_service(*command)
    assert (again.returncode, again.stdout) == (1, "")
    assert "already exists" in again.stderr
    assert path.read_bytes() == before
    for option in ("--upload", "--kind=loans"):
        done = credit_service("ingest", str(path), address, "--dry-run", option)
        assert "rejected 1" in done.stdout
    done = credit_service("annotated", str(uuid4()), address)
    assert (done.returncode, "INGESTION_NOT_FOUND" in done.stderr) == (1, True)


@pytest.mark.usefixtures("ingested")
def test_ingested_rows_are_served(service: Up) -> None:
    with open_channel(service.address) as channel:
        stub = CreditServiceStub(channel)
        request = credit_service_pb2.GetCreditScoreRequest
        good = stub.GetCreditScore(request(customer_id=101), timeout=10).credit_score
        bad = stub.GetCreditScore(request(customer_id=102), timeout=10).credit_score
        assert good.score > 50
        assert bad.score == 6
        with pytest.raises(ServiceError) as raised, decoded_errors():
            stub.GetLoan(credit_service_pb2.GetLoanRequest(loan_id=1003), timeout=10)
        assert raised.value.reason == "LOAN_ID_AMBIGUOUS"
        assert raised.value.metadata["customer_ids"] == "101,105"
        with pytest.raises(ServiceError) as raised, decoded_errors():
            stub.CheckEligibility(
                credit_service_pb2.CheckEligibilityRequest(customer_id=-1), timeout=10
            )
        fields = {name for name, _ in raised.value.violations}
        assert {"customer_id", "loan_amount", "tenure_months"} <= fields
        assert not raised.value.unavailable


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ingest", "absent.xlsx"], 1, "There is no file absent.xlsx"),
        (["ingest", "absent.xlsx", "--kind=houses"], 2, "customers"),
        (["ingest"], 2, "FILE"),
        (["no-such-command"], 2, "no-such-command"),
        (["sample-data", "x", "--customers=3"], 2, "customers must be 10 to 1,000,000, found 3"),
        (["sample-data", "/proc/self/x"], 1, "/proc/self/x: No such file or directory"),
        (["serve", "--listen=nowhere"], 2, "CREDIT_LISTEN=nowhere is not accepted"),
        (["serve", "--listen=0.0.0.0:0"], 2, "can be reached from other machines"),
        (
            ["up", "--processes=0"],
            2,
            "CREDIT_PROCESSES=0 is not accepted: write a whole number of at least 1 and at most 64",
        ),
        (["migrate"], 3, "the database is unavailable"),
    ],
)
def test_failures_are_reported_in_a_few_lines(
    arguments: list[str], code: int, message: str
) -> None:
    nowhere = environment(
        DATABASE_URL="postgresql://user@127.0.0.1:1/none", REDIS_URL="redis://127.0.0.1:1/0"
    )
    done = credit_service(*arguments, env=nowhere)
    assert (done.returncode, message in " ".join(done.stderr.split())) == (code, True), done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 8


def test_a_missing_service_has_its_own_exit_code(sample_files: samples.Samples) -> None:
    done = credit_service("ingest", str(sample_files.loan_path), "--address=127.0.0.1:1")
    assert done.returncode == 3
    assert "No credit service answers at 127.0.0.1:1" in done.stderr


def _loaded(heavy: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a command. Return its result and which packages of `heavy` it imported."""
    program = (
        "import sys; from credit_service.cli.app import run; code = run(sys.argv[2:]);"
        "loaded = {name.partition('.')[0] for name in sys.modules};"
        "print(*loaded & set(sys.argv[1].split()));"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, heavy, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, set(done.stdout.splitlines()[-1].split())


def test_help_is_fast_and_complete() -> None:
    """Slow imports would delay the help."""
    done, loaded = _loaded("grpc sqlalchemy pandas dramatiq", "--help")
    assert (done.returncode, done.stderr, loaded) == (0, "", set())
    for command in (
        *("up", "serve", "worker", "migrate", "ingest", "sample-data", "demo", "call", "customer"),
        *("score", "check", "loans", "loan", "schedule", "pay", "decisions", "decision", "events"),
        *("register-customer", "update-customer", "changes", "create-loan", "review-decision"),
        *("offers", "offer", "create-offer", "accept-offer", "withdraw-offer"),
        *("payments", "reverse-payment", "prepay", "foreclosure"),
        *("doctor", "completion", "token", "scorecard", "backtest", "replay"),
    ):
        assert f"│ {command} " in done.stdout
    assert "Exit codes" in done.stdout


@pytest.mark.usefixtures("ingested")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["customer", "1"], 0), (["customer", "999999"], 1), (["check", "1"], 2), (["nothing"], 2)],
)
def test_client_commands_do_not_import_the_server(
    service: Up, arguments: list[str], code: int
) -> None:
    done, loaded = _loaded(
        "grpc sqlalchemy psycopg redis pandas dramatiq", *arguments, f"--address={service.address}"
    )
    assert (done.returncode, loaded - {"grpc"}) == (code, set()), done.stderr


def test_up_serves_restarts_dead_processes_and_stops_cleanly() -> None:
    with up("--processes=2") as running:
        assert len(running.running("credit_service.rpc")) == 2
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert f"grpcurl -plaintext -d '{{\"page_size\": 3}}' {running.address}" in running.log
        assert "buf curl" in running.log

        os.kill(running.worker_pid, signal.SIGKILL)
        running.running("credit_service.rpc")[0].kill()
        _wait_until(lambda: "restarting in" in running.log)
        _wait_until(lambda: len(running.running("credit_service.rpc")) == 2)
        _wait_until(lambda: len(running.running("workers")) == 1)
        children += psutil.Process(running.process.pid).children(recursive=True)

        assert running.stop() == 0
        # The stopping processes may log in between.
        _, stopping, end = running.log.partition("Stopping …\n")
        assert stopping
        assert end.endswith("Stopped.\n")
        assert "Traceback" not in end
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        assert not (running.folder / "ready.json").exists()


def test_up_can_be_interrupted_while_it_starts() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cli-"))
    folder.chmod(0o711)
    process = subprocess.Popen(
        [sys.executable, "-m", "credit_service.cli", "up"],
        env=environment(CREDIT_DATA_DIR=str(folder / "data"), CREDIT_LISTEN="127.0.0.1:0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "Starting" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not _processes_of(folder)
    shutil.rmtree(folder)


def test_two_stacks_run_side_by_side_but_not_in_one_folder(service: Up) -> None:
    with up() as other:
        assert other.address != service.address
        done = credit_service(
            "up",
            "--listen=127.0.0.1:0",
            env=environment(CREDIT_DATA_DIR=str(other.folder / "data")),
        )
        assert done.returncode == 3
        assert "already runs the servers in" in done.stderr


def test_migrate_uses_the_running_database(service: Up) -> None:
    env = environment(CREDIT_DATA_DIR=str(service.folder / "data"))
    done = credit_service("migrate", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"]


def test_the_demo_succeeds() -> None:
    folder = Path(tempfile.mkdtemp(prefix="cli-"))
    folder.chmod(0o711)
    try:
        started = time.monotonic()
        done = credit_service("demo", env=environment(TMPDIR=str(folder)), timeout_seconds=110)
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - started < DEMO_SECONDS
        assert "checks in" in done.stdout
        assert "FAILED" not in done.stdout
        assert not _processes_of(folder)
        assert not list(folder.iterdir())
    finally:
        shutil.rmtree(folder)


def _processes_of(folder: Path) -> list[psutil.Process]:
    """The processes that were started with this folder in their arguments."""
    return [p for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info["cmdline"])]


@pytest.mark.parametrize("way", [(), ("--upload",)], ids=["stream", "upload"])
def test_both_kinds_of_one_workbook_are_ingested_customers_first(
    service: Up, tmp_path: Path, way: tuple[str, ...]
) -> None:
    address = f"--address={service.address}"
    first_id = 700_001 if way else 700_101
    book = openpyxl.Workbook()
    loans = book.active
    assert loans is not None
    loans.title = "Loan book"
    loans.append([*samples.LOAN_HEADERS, "Branch"])
    loans.append([first_id, 1, 100_000, 12, 12, 8_884.88, 12, "2020-01-31", "2021-01-31", "Pune"])
    customers = book.create_sheet("Borrowers")
    customers.append(samples.CUSTOMER_HEADERS)
    phone = 9_812_300_000 + first_id % 1_000
    customers.append([first_id, "Asha", "Rao", 30, phone, 50_000, None])
    path = tmp_path / "both.xlsx"
    book.save(path)

    done = credit_service("ingest", str(path), address, *way, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    ingestions = [each["ingestion"] for each in json.loads(done.stdout)["ingestions"]]
    assert [each["kind"] for each in ingestions] == [
        "INGESTION_KIND_CUSTOMERS",
        "INGESTION_KIND_LOANS",
    ]
    assert [each["inserted"] for each in ingestions] == ["1", "1"]
    assert [each["filename"] for each in ingestions] == ["both.xlsx"] * 2
    assert [each["sheet"] for each in ingestions] == ["Borrowers", "Loan book"]
    assert ingestions[1]["ignored_columns"] == ["Branch"]
    assert [each["unread_sheets"] for each in ingestions] == [["Loan book"], ["Borrowers"]]

    # The same id resumes both, and one kind alone reports the unread sheet.
    again = (f"--ingestion-id={ingestions[0]['ingestion_id']}",)
    done = credit_service("ingest", str(path), address, *way, *again, "--json")
    repeated = [each["ingestion"] for each in json.loads(done.stdout)["ingestions"]]
    assert [each["ingestion_id"] for each in repeated] == [
        each["ingestion_id"] for each in ingestions
    ]
    done = credit_service("ingest", str(path), address, *way, "--kind", "loans")
    assert done.returncode == 0, done.stderr
    assert "Sheet read: Loan book" in done.stdout
    assert "Sheets not read: Borrowers" in done.stdout
    assert "Columns ignored: Branch" in done.stdout


def test_loans_are_not_sent_if_the_customers_of_their_file_failed(
    service: Up, tmp_path: Path
) -> None:
    path = tmp_path / "both.xlsx"
    book = openpyxl.Workbook()
    customers = book.active
    assert customers is not None
    customers.append(samples.CUSTOMER_HEADERS)
    loans = book.create_sheet("Loans")
    loans.append(samples.LOAN_HEADERS)
    loans.append([1, 1, 100_000, 12, 12, 8_884.88, 12, "2020-01-31", "2021-01-31"])
    book.save(path)
    done = credit_service("ingest", str(path), f"--address={service.address}", "--upload")
    assert done.returncode == 1
    assert "The loans were not sent" in done.stderr


def test_a_stack_in_another_folder_is_found(tmp_path: Path) -> None:
    """Run `up` with a data folder, and each command that uses its database or accepts the
    option."""
    home = tmp_path / "home"
    with up() as running:
        data = f"--data-dir={running.folder / 'data'}"
        env = environment(HOME=str(home), XDG_DATA_HOME=str(home))
        called = f"--address={running.address}"
        for arguments in (
            ("scorecard", "list", called),
            ("migrate",),
            ("scorecard", "shadow", called),
        ):
            done = credit_service(*arguments, data, env=env)
            assert done.returncode == 0, done
        done = credit_service("replay", "1", data, env=env)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done
        done = credit_service("doctor", data, f"--address={running.address}", env=env)
        for line in ("ok    database", "ok    migrations", "ok    Redis"):
            assert line in done.stdout, done
        assert not home.exists()
