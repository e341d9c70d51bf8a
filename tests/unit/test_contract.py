"""The contract is complete, documented and lint-clean, and matches the generated package."""

import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodOptions,
)

from credit_service.v1 import (
    credit_service_pb2,
    error_reason_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)
from credit_service.v1.options_pb2 import scope

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {
    "CreditService": credit_service_pb2.DESCRIPTOR.services_by_name["CreditService"],
    "IngestionService": ingestion_service_pb2.DESCRIPTOR.services_by_name["IngestionService"],
    "ScorecardService": scorecard_service_pb2.DESCRIPTOR.services_by_name["ScorecardService"],
    "OperationsService": operations_service_pb2.DESCRIPTOR.services_by_name["OperationsService"],
}
SCOPES = {
    "credit.read",
    "credit.write",
    "credit.review",
    "policy.read",
    "policy.write",
    "ingest",
    "admin",
}
LIST_REQUEST = {"page_size", "page_token"}

# RPC: scope, required names in the request, required names in the response. Other services depend
# on them. Dots separate nested fields.
CONTRACT: dict[str, tuple[str, set[str], set[str]]] = {
    "RegisterCustomer": (
        "credit.write",
        {"request_id", "first_name", "last_name", "age", "monthly_income", "phone_number"},
        {"customer"},
    ),
    "GetCustomer": (
        "credit.read",
        {"customer_id", "phone_number"},
        {
            "customer.approved_limit",
            "customer.current_debt",
            "customer.current_installments",
            "customer.available_credit",
        },
    ),
    "UpdateCustomer": (
        "credit.write",
        {
            "request_id",
            "customer.customer_id",
            "customer.approved_limit",
            "update_mask",
        },
        {"customer.approved_limit_set"},
    ),
    "ListCustomerChanges": (
        "credit.read",
        {"customer_id", *LIST_REQUEST},
        {
            "changes.time",
            "changes.principal",
            "changes.ingestion_id",
            "changes.loan_id",
            "changes.facts.field",
            "changes.facts.previous",
            "changes.facts.current",
            "next_page_token",
        },
    ),
    "ListCustomers": (
        "credit.read",
        {"query", *LIST_REQUEST},
        {"customers", "next_page_token"},
    ),
    "GetCreditScore": (
        "credit.read",
        {"customer_id"},
        {
            "credit_score.score",
            "credit_score.components.component",
            "credit_score.components.points",
            "credit_score.components.max_points",
            "credit_score.components.explanation",
            "credit_score.override",
            "credit_score.scorecard_version",
            "credit_score.customer_version",
            "credit_score.computed_time",
            "credit_score.valid_until",
        },
    ),
    "CheckEligibility": (
        "credit.read",
        {"customer_id", "loan_amount", "interest_rate", "tenure_months"},
        {
            "customer_id",
            "approved",
            "interest_rate",
            "corrected_interest_rate",
            "tenure_months",
            "monthly_installment",
            "credit_score",
            "reasons.code",
            "reasons.message",
            "reasons.found",
            "reasons.threshold",
            "counter_offer",
        },
    ),
    "BatchCheckEligibility": (
        "credit.read",
        {
            "asks.customer_id",
            "asks.loan_amount",
            "asks.interest_rate",
            "asks.tenure_months",
            "asks.charges",
        },
        {"results.eligibility.approved", "results.error"},
    ),
    "CreateLoan": (
        "credit.write",
        {
            "request_id",
            "customer_id",
            "loan_amount",
            "interest_rate",
            "tenure_months",
            "charges",
        },
        {
            "decision_id",
            "approved",
            "message",
            "loan.charges",
            "loan.cost_of_credit",
            "cost_of_credit",
            "interest_rate",
            "corrected_interest_rate",
            "monthly_installment",
            "reasons",
            "counter_offer",
        },
    ),
    "CreateLoanOffer": (
        "credit.write",
        {
            "request_id",
            "customer_id",
            "loan_amount",
            "interest_rate",
            "tenure_months",
            "charges",
            "valid_until",
        },
        {
            "decision_id",
            "approved",
            "message",
            "reasons",
            "counter_offer",
            "offer.offer_id",
            "offer.state",
            "offer.decision_id",
            "offer.held_credit",
            "offer.held_installment",
            "offer.cost_of_credit.annual_percentage_rate",
            "offer.valid_until",
        },
    ),
    "GetLoanOffer": ("credit.read", {"offer_id"}, {"offer"}),
    "ListLoanOffers": (
        "credit.read",
        {"customer_id", "states", *LIST_REQUEST},
        {"offers", "next_page_token"},
    ),
    "AcceptLoanOffer": (
        "credit.write",
        {"request_id", "offer_id", "loan_amount", "disbursed_on"},
        {"loan", "offer"},
    ),
    "WithdrawLoanOffer": ("credit.write", {"request_id", "offer_id", "reason"}, {"offer"}),
    "GetLoan": ("credit.read", {"loan_id", "customer_id"}, {"loan", "customer"}),
    "ListLoans": (
        "credit.read",
        {"customer_id", "state", *LIST_REQUEST},
        {
            "loans.repayments_left",
            "loans.state",
            "loans.start_date",
            "loans.end_date",
            "loans.closed_on",
            "loans.monthly_installment",
            "next_page_token",
        },
    ),
    "GetKeyFactsStatement": (
        "credit.read",
        {"offer_id", "customer_id", "loan_id"},
        {
            "key_facts.cost_of_credit",
            "key_facts.charges",
            "key_facts.contingent_charges",
            "key_facts.prepayment_charge",
            "key_facts.installments.balance",
            "key_facts.valid_until",
        },
    ),
    "GetRepaymentSchedule": (
        "credit.read",
        {"customer_id", "loan_id"},
        {
            "installments.number",
            "installments.due_date",
            "installments.payment",
            "installments.principal",
            "installments.interest",
            "installments.balance",
            "installments.state",
            "totals",
        },
    ),
    "GetDelinquency": (
        "credit.read",
        {"customer_id"},
        {
            "delinquency.asset_class",
            "delinquency.asset_class_since",
            "delinquency.next_change",
            "delinquency.loans.days_past_due",
            "delinquency.loans.overdue_amount",
        },
    ),
    "ListDelinquentLoans": (
        "credit.read",
        {"asset_class", "min_days_past_due", *LIST_REQUEST},
        {"loans.asset_class", "loans.days_past_due", "next_page_token"},
    ),
    "RecordPayment": (
        "credit.write",
        {
            "request_id",
            "customer_id",
            "loan_id",
            "amount",
            "paid_on",
            "purpose",
            "prepayment_effect",
            "validate_only",
        },
        {
            "payment.reversal.reason",
            "loan.principal_outstanding",
            "installments",
            "schedule",
            "totals.interest",
        },
    ),
    "ReversePayment": (
        "credit.write",
        {"request_id", "payment_id", "reason"},
        {"payment.reversal.reason", "loan"},
    ),
    "ListPayments": (
        "credit.read",
        {"customer_id", "loan_id", *LIST_REQUEST},
        {"payments.reversal", "next_page_token"},
    ),
    "GetForeclosureQuote": (
        "credit.read",
        {"customer_id", "loan_id", "paid_on"},
        {
            "paid_on",
            "principal_outstanding",
            "overdue",
            "interest_accrued",
            "charges",
            "prepayment_charge",
            "total",
            "interest_per_day",
        },
    ),
    "GetDecision": (
        "credit.read",
        {"decision_id"},
        {
            "decision.ask",
            "decision.approved",
            "decision.reasons",
            "decision.credit_score.components",
            "decision.inputs",
            "decision.scorecard_version",
            "decision.decided_time",
            "decision.loan_id",
        },
    ),
    "ListDecisions": (
        "credit.read",
        {"customer_id", "referral_state", *LIST_REQUEST},
        {"decisions", "decisions.referral.state", "next_page_token"},
    ),
    "ReviewDecision": (
        "credit.review",
        {"request_id", "decision_id", "verdict", "reason"},
        {
            "decision",
            "decision.reviewed_decision_id",
            "loan",
            "offer",
            "referral.state",
            "referral.last_day",
            "referral.reviewer",
            "referral.reason",
            "referral.result_decision_id",
        },
    ),
    "WatchCreditEvents": (
        "credit.read",
        {"after_event_id", "customer_id", "event_types"},
        {
            "event.event_id",
            "event.time",
            "event.customer_id",
            "event.customer_version",
            "event.customer_registered",
            "event.loan_created",
            "event.loan_declined",
            "event.loan_offer_created",
            "event.loan_offer_ended",
            "event.payment_recorded",
            "event.loan_closed",
            "event.payment_reversed.reopened",
            "event.asset_class_changed.since",
            "event.loan_prepaid.prepaid_principal",
            "event.score_changed",
            "event.rows_ingested",
            "event.customer_updated.changes.previous",
            "event.loan_updated.changes.current",
            "event.scorecard_changed.change.principal",
            "event.decision_referred.last_day",
            "event.decision_reviewed.verdict",
        },
    ),
    "IngestRows": (
        "ingest",
        {
            "header.ingestion_id",
            "header.kind",
            "header.on_existing",
            "header.validate_only",
            "batch.offset",
            "batch.customers.rows",
            "batch.loans.rows",
        },
        {"ingestion", "row_errors"},
    ),
    "UploadSpreadsheet": (
        "ingest",
        {
            "header.ingestion_id",
            "header.kind",
            "header.filename",
            "header.on_existing",
            "header.validate_only",
            "header.sha256",
            "chunk",
        },
        {"ingestion"},
    ),
    "GetIngestion": (
        "ingest",
        {"ingestion_id"},
        {
            "ingestion.state",
            "ingestion.rows_read",
            "ingestion.inserted",
            "ingestion.updated",
            "ingestion.unchanged",
            "ingestion.skipped",
            "ingestion.rejected",
            "ingestion.committed_offset",
            "ingestion.created_time",
            "ingestion.started_time",
            "ingestion.finished_time",
            "ingestion.error",
        },
    ),
    "ListIngestions": ("ingest", LIST_REQUEST, {"ingestions", "next_page_token"}),
    "WatchIngestion": ("ingest", {"ingestion_id"}, {"ingestion"}),
    "ListRowErrors": (
        "ingest",
        {"ingestion_id", *LIST_REQUEST},
        {
            "row_errors.row_number",
            "row_errors.column",
            "row_errors.code",
            "row_errors.found",
            "row_errors.expected",
            "row_errors.message",
            "next_page_token",
        },
    ),
    "CancelIngestion": (
        "ingest",
        {"request_id", "ingestion_id"},
        {"ingestion.state", "ingestion.inserted", "ingestion.finished_time"},
    ),
    "RevertIngestion": (
        "ingest",
        {"request_id", "ingestion_id"},
        {
            "ingestion.state",
            "ingestion.rows_removed",
            "ingestion.rows_restored",
            "ingestion.rows_kept",
            "ingestion.revert_requested_time",
            "ingestion.reverted_time",
            "ingestion.reverted_by",
            "kept_rows.code",
        },
    ),
    "DownloadAnnotatedWorkbook": ("ingest", {"ingestion_id"}, {"header", "chunk"}),
    "CreateScorecard": (
        "policy.write",
        {"request_id", "document", "validate_only"},
        {
            "scorecard.version",
            "scorecard.state",
            "scorecard.document",
            "scorecard.created_time",
            "scorecard.created_by",
            "scorecard.activated_time",
            "scorecard.activated_by",
            "scorecard.scheduled_on",
        },
    ),
    "GetScorecard": (
        "policy.read",
        {"version"},
        {"scorecard", "changes.type", "changes.time", "changes.principal"},
    ),
    "ListScorecards": ("policy.read", LIST_REQUEST, {"scorecards", "next_page_token"}),
    "CompareScorecards": (
        "policy.read",
        {"before_version", "after_version", "after_document"},
        {"differences.path", "differences.before", "differences.after"},
    ),
    "ActivateScorecard": (
        "policy.write",
        {"request_id", "version", "effective_on"},
        {"scorecard"},
    ),
    "SetTrialScorecard": ("policy.write", {"request_id", "version", "end"}, {"scorecard"}),
    "RetireScorecard": ("policy.write", {"request_id", "version"}, {"scorecard"}),
    "ListParkedTasks": (
        "admin",
        {"actor", "task_id", *LIST_REQUEST},
        {
            *("tasks.task_id", "tasks.actor", "tasks.subject", "tasks.attempts"),
            *("tasks.created_time", "tasks.parked_time", "tasks.last_error", "next_page_token"),
        },
    ),
    "RetryParkedTask": ("admin", {"request_id", "task_id"}, {"task_id", "actor", "subject"}),
    "DiscardParkedTask": ("admin", {"request_id", "task_id"}, {"task_id", "actor", "subject"}),
    "GetTrialResults": ("policy.read", {"version"}, {"version", "results.flip_examples"}),
    "BacktestScorecard": (
        "policy.read",
        {"version", "document", "portfolio_ask.loan_amount"},
        {
            "progress.customers_done",
            "result.decisions.before.approved",
            "result.decisions.reasons.examples",
            "result.decisions.flip_examples.customer_id",
            "result.scores.score",
            "result.portfolio",
        },
    ),
}
STREAMS_IN = {"IngestRows", "UploadSpreadsheet"}
STREAMS_OUT = {
    *("WatchCreditEvents", "WatchIngestion", "DownloadAnnotatedWorkbook"),
    "BacktestScorecard",
}

METHODS = {method.name: method for service in SERVICES.values() for method in service.methods}


def our_files() -> list[FileDescriptorProto]:
    """The contract's files, with comments, from the descriptor set that reflection serves."""
    data = files("credit_service.v1").joinpath("descriptors.binpb").read_bytes()
    every = FileDescriptorSet.FromString(data).file
    return [file for file in every if file.package == "credit_service.v1"]


def declared(file: FileDescriptorProto) -> dict[str, tuple[int, ...]]:
    """The declarations of a file: dotted name to path, numbered as in descriptor.proto."""
    paths: dict[str, tuple[int, ...]] = {}

    def of_enum(enum: EnumDescriptorProto, name: str, path: tuple[int, ...]) -> None:
        paths[name] = path
        paths.update({f"{name}.{v.name}": (*path, 2, i) for i, v in enumerate(enum.value)})

    def of_message(message: DescriptorProto, name: str, path: tuple[int, ...]) -> None:
        paths[name] = path
        paths.update({f"{name}.{f.name}": (*path, 2, i) for i, f in enumerate(message.field)})
        for index, nested in enumerate(message.nested_type):
            of_message(nested, f"{name}.{nested.name}", (*path, 3, index))
        for index, enum in enumerate(message.enum_type):
            of_enum(enum, f"{name}.{enum.name}", (*path, 4, index))
        for index, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):  # the implied oneof of an optional field
                paths[f"{name}.{oneof.name}"] = (*path, 8, index)

    for index, message in enumerate(file.message_type):
        of_message(message, message.name, (4, index))
    for index, enum in enumerate(file.enum_type):
        of_enum(enum, enum.name, (5, index))
    for index, service in enumerate(file.service):
        paths[service.name] = (6, index)
        methods = enumerate(service.method)
        paths.update({f"{service.name}.{m.name}": (6, index, 2, i) for i, m in methods})
    paths.update({extension.name: (7, index) for index, extension in enumerate(file.extension)})
    return paths


def comments() -> dict[str, str]:
    """The comment of each dotted name in the contract; "" if it has none."""
    found: dict[str, str] = {}
    for file in our_files():
        by_path = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
        found.update({name: by_path.get(path, "") for name, path in declared(file).items()})
    return found


def has_name(message: Descriptor, dotted: str) -> bool:
    """Whether a message has a field of this name; dots separate nested fields."""
    first, _, rest = dotted.partition(".")
    field = message.fields_by_name.get(first)
    if field is None:
        return False
    return not rest or (field.message_type is not None and has_name(field.message_type, rest))


def contract(command: str, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs scripts/contract.py of a project folder."""
    return subprocess.run(
        [sys.executable, root / "scripts" / "contract.py", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the contract and the generated files, which tests may damage."""
    for name in ("scripts", "protos", "clients/python/src/credit_service/v1"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "buf.yaml", tmp_path / "buf.yaml")
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_contract_has_exactly_the_methods_that_were_agreed() -> None:
    assert METHODS.keys() == CONTRACT.keys()
    assert {name for name, method in METHODS.items() if method.client_streaming} == STREAMS_IN
    assert {name for name, method in METHODS.items() if method.server_streaming} == STREAMS_OUT


@pytest.mark.parametrize("name", CONTRACT)
def test_a_method_has_the_agreed_scope_and_names(name: str) -> None:
    agreed_scope, request_names, response_names = CONTRACT[name]
    method = METHODS[name]
    assert method.GetOptions().Extensions[scope] == agreed_scope
    assert method.input_type.name == f"{name}Request"
    assert method.output_type.name == f"{name}Response"
    assert {n for n in request_names if not has_name(method.input_type, n)} == set()
    assert {n for n in response_names if not has_name(method.output_type, n)} == set()


def test_every_method_declares_a_known_scope() -> None:
    scopes = {name: method.GetOptions().Extensions[scope] for name, method in METHODS.items()}
    unknown = {n: s for n, s in scopes.items() if s not in SCOPES}
    assert unknown == {}


def test_only_methods_that_write_are_not_marked_free_of_side_effects() -> None:
    writing = {
        name
        for name, method in METHODS.items()
        if method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    }
    assert writing == STREAMS_IN | {
        *("CancelIngestion", "RevertIngestion", "RetryParkedTask", "DiscardParkedTask"),
        *("RegisterCustomer", "UpdateCustomer"),
        *("CreateLoan", "RecordPayment", "ReversePayment", "ReviewDecision"),
        *("CreateLoanOffer", "AcceptLoanOffer", "WithdrawLoanOffer"),
        *("CreateScorecard", "ActivateScorecard", "SetTrialScorecard", "RetireScorecard"),
    }


def test_everything_has_a_comment() -> None:
    assert [name for name, comment in comments().items() if not comment.strip()] == []


def test_every_field_of_a_request_says_whether_it_is_required() -> None:
    every = comments()
    unsaid: list[str] = []
    seen: set[str] = set()
    todo = [method.input_type for method in METHODS.values()]
    while todo:
        message = todo.pop()
        if message.name in seen or message.file.package != "credit_service.v1":
            continue
        seen.add(message.name)
        todo.extend(field.message_type for field in message.fields if field.message_type)
        # A field that could not be read, and a customer, of whom update_mask names the fields.
        if message.name in ("UnreadableCell", "Customer", "AsOf"):
            continue
        names = [f"{message.name}.{field.name}" for field in message.fields]
        unsaid += [n for n in names if not re.match(r" (Required|Optional)[.,]", every[n])]
    assert unsaid == []


def test_every_error_reason_documents_its_status_and_metadata() -> None:
    every = comments()
    statuses = {code.name for code in grpc.StatusCode}
    for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name:
        if name == "ERROR_REASON_UNSPECIFIED":
            continue
        comment = every[f"ErrorReason.{name}"]
        assert re.split(r"[,.]", comment.strip())[0] in statuses, name
        examples = re.findall(r"\{[^}]*\}", comment.partition("Example metadata:")[2])
        assert examples, name
        for example in examples:
            metadata = json.loads(example)
            assert all(isinstance(value, str) for value in metadata.values()), name
            # The rule of google.rpc.ErrorInfo for keys.
            assert all(re.fullmatch(r"[a-z][a-zA-Z0-9-_]+", key) for key in metadata), name


def test_the_errors_documented_at_methods_are_exactly_the_existing_ones() -> None:
    every = comments()
    known = {
        name.removeprefix("ERROR_REASON_")
        for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    }
    statuses = {code.name for code in grpc.StatusCode}
    at_services = [every[name] for name in SERVICES]
    at_methods = [every[f"{method.containing_service.name}.{n}"] for n, method in METHODS.items()]
    named: set[str] = set()
    for comment in at_services + at_methods:
        for group in re.findall(r"\(([A-Z_,\s]+)\)", comment):
            named.update(reason.strip() for reason in group.split(","))
        for status in re.findall(r"^ ([A-Z_]{5,}) \(", comment, flags=re.MULTILINE):
            assert status in statuses
    assert named - known == set()
    # The services document reasons that are named like their status by the status only.
    # Only servers of earlier releases send PAYMENT_BEFORE_PREVIOUS.
    assert known - named - statuses == {"UNSPECIFIED", "PAYMENT_BEFORE_PREVIOUS"}


def test_lists_are_paged_alike() -> None:
    for name, method in METHODS.items():
        if name.startswith("List"):
            fields = method.input_type.fields_by_name
            assert fields["page_size"].type == FieldDescriptor.TYPE_INT32
            assert fields["page_token"].type == FieldDescriptor.TYPE_STRING
            assert "next_page_token" in method.output_type.fields_by_name


def test_no_field_is_floating_point() -> None:
    floating = {FieldDescriptorProto.TYPE_DOUBLE, FieldDescriptorProto.TYPE_FLOAT}
    messages = [message for file in our_files() for message in file.message_type]
    assert [f.name for m in messages for f in m.field if f.type in floating] == []


def test_the_generated_package_matches_the_protos() -> None:
    result = contract("check")
    assert result.returncode == 0, result.stderr


def test_buf_lint_passes() -> None:
    result = contract("lint")
    assert result.returncode == 0, result.stderr


def test_the_contract_is_compatible_with_the_last_release() -> None:
    result = contract("breaking")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_check_detects_changed_missing_and_obsolete_files(copy: Path) -> None:
    package = copy / "clients/python/src/credit_service/v1"
    (package / "left_over_pb2.py").write_text("", encoding="utf-8")
    (package / "loan_pb2.pyi").unlink()
    replace(copy / "protos/credit_service/v1/customer.proto", "A customer, with", "One customer: ")
    result = contract("check", copy)
    assert result.returncode == 1
    # A comment reaches the type stub and the descriptor set, not the module.
    names = "customer_pb2.pyi, descriptors.binpb, left_over_pb2.py, loan_pb2.pyi"
    assert f"({names})" in result.stderr
    assert contract("generate", copy).returncode == 0
    assert contract("check", copy).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  // Size of it.\n", "", "comment"),
        ("  int64 size = 1;", "  int64 Size = 1;", "lower_snake_case"),
        ("  int64 size = 1;", "  int64 size   = 1;", "size   = 1"),
        ("  int64 size = 1;", "  google.type.Money size = 1;", "google.type.Money"),
    ],
)
def test_lint_detects_errors(copy: Path, old: str, new: str, complaint: str) -> None:
    proto = copy / "protos/credit_service/v1/extra.proto"
    header = 'syntax = "proto3";\n\npackage credit_service.v1;\n\n'
    body = "// Something.\nmessage Extra {\n  // Size of it.\n  int64 size = 1;\n}\n"
    proto.write_text(header + body, encoding="utf-8")
    result = contract("lint", copy)
    assert result.returncode == 0, result.stderr
    replace(proto, old, new)
    result = contract("lint", copy)
    assert result.returncode == 1
    assert complaint in result.stderr


def test_breaking_and_release_reject_an_incompatible_contract(copy: Path) -> None:
    released = copy / "protos/released/credit_service_v1.binpb"
    before = released.read_bytes()
    replace(
        copy / "protos/credit_service/v1/customer.proto",
        "int64 version = 11;",
        "int64 version = 90;",
    )
    for command in ("breaking", "release"):
        result = contract(command, copy)
        assert result.returncode == 1
        assert '"version"' in result.stderr
    assert released.read_bytes() == before


@pytest.mark.slow
def test_release_stores_the_current_contract(copy: Path) -> None:
    replace(
        copy / "protos/credit_service/v1/customer.proto",
        "int64 version = 11;",
        "int64 version = 11;\n  // Something new.\n  int64 novelty = 90;",
    )
    assert contract("breaking", copy).returncode == 0
    assert contract("release", copy).returncode == 0
    data = (copy / "protos/released/credit_service_v1.binpb").read_bytes()
    assert b"novelty" in data
