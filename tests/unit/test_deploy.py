"""Deployment and monitoring match the service: names, settings, alerts, dashboards, documents.

promtool, hadolint and docker-compose check their own files. If one is missing, its test is skipped
with the reason, and fails in CI.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from credit_service.domain.reasons import ReasonCode
from credit_service.observability import metrics, probe
from credit_service.rpc.errors import REASONS
from credit_service.settings import Settings
from credit_service.v1 import (
    credit_service_pb2,
    ingestion_service_pb2,
    operations_service_pb2,
    scorecard_service_pb2,
)
from tests import balancer
from tests.tools import tool
from workers.actors import ACTORS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
OPERATIONS = ROOT / "docs" / "operations.md"

# Metrics of Prometheus, of its client for each process, and of HAProxy.
_NOT_OURS = re.compile(r"up|ALERTS|process_\w+|haproxy_\w+")


def _run(*command: str, **more: Any) -> None:
    """Run a checker; its output is the message of a failure."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, **more)
    assert done.returncode == 0, done.stdout + done.stderr


# The existing series by name, with their possible labels.


def _series() -> dict[str, set[str]]:
    supervisor = CollectorRegistry()
    supervisor.register(metrics.server_deaths)
    supervisor.register(metrics.server_processes)
    everywhere = {"instance", "job", "process"}
    found: dict[str, set[str]] = {}
    for collector in _collectors(metrics.REGISTRY, supervisor):
        labels = set(getattr(collector, "_labelnames", ())) | everywhere
        for family in collector.collect():
            match family.type:
                case "counter":
                    found[f"{family.name}_total"] = labels
                case "histogram":
                    found[f"{family.name}_bucket"] = labels | {"le"}
                    found[f"{family.name}_count"] = found[f"{family.name}_sum"] = labels
                case _:
                    found[family.name] = labels
    for readings in (metrics.server_readings, metrics.backlog_readings):
        for name, (_, labels_of_gauge) in readings._gauges.items():
            found[name] = set(labels_of_gauge) | everywhere
    return found


def _collectors(*registries: CollectorRegistry) -> Iterator[Any]:
    for registry in registries:
        yield from registry._collector_to_names


SERIES = _series()


def _rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def _recorded() -> set[str]:
    return {rule["record"] for rule in _rules() if "record" in rule}


def _dashboard_expressions() -> Iterator[tuple[str, str]]:
    for path in DASHBOARDS:
        document = json.loads(path.read_text())
        for panel in document["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}: {panel['title']}", target["expr"]
        for annotation in document["annotations"]["list"]:
            yield f"{path.name}: annotation {annotation['name']}", annotation["expr"]
        for variable in document["templating"]["list"]:
            inner = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert inner is not None
            yield f"{path.name}: variable {variable['name']}", f"sum by ({inner[2]}) ({inner[1]})"


def _expressions() -> list[tuple[str, str]]:
    rules = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in _rules()]
    return rules + list(_dashboard_expressions())


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')
_WORDS = frozenset(
    {"by", "without", "on", "ignoring", "and", "or", "unless", "offset", "bool", "abs", "absent"}
    | {"sum", "max", "min", "avg", "count", "rate", "increase", "vector"}
    | {"histogram_quantile", "avg_over_time"}
)


def _asked(expression: str) -> Iterator[tuple[str, str]]:
    """Each metric in an expression, with the text of its matchers."""
    # Grouping labels and durations are not metrics.
    bare = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", expression)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = re.sub(r"offset \w+", "", bare)
    for found in _SELECTOR.finditer(_STRING.sub(lambda text: text[0], bare)):
        name = found[1]
        if name not in _WORDS and not _inside_braces(bare, found.start()):
            yield name, found[2] or ""


def _inside_braces(text: str, position: int) -> bool:
    before = _STRING.sub(lambda found: " " * len(found[0]), text[:position])
    return before.count("{") > before.count("}") or text[:position].count('"') % 2 == 1


def test_every_expression_uses_existing_metrics() -> None:
    recorded = _recorded()
    for where, expression in _expressions():
        asked = list(_asked(expression))
        assert asked, f"{where} has no metric"
        for name, matchers in asked:
            if name in recorded or _NOT_OURS.fullmatch(name):
                continue
            assert name in SERIES, f"{where} uses {name}, which is not registered"
            for label, _, _ in _MATCHER.findall(matchers):
                assert label in SERIES[name], f"{where} uses an unknown label {label} of {name}"


def test_invalid_expressions_are_detected() -> None:
    """The test above can fail: it finds names and labels in several forms."""
    expression = (
        'sum by (le, kind) (rate(a_total{x="y b", z=~"c|d"}[5m])) / on (kind) e:f:g'
        " > 2 * avg_over_time(h[1d] offset 1h) or vector(0)"
    )
    assert list(_asked(expression)) == [
        ("a_total", '{x="y b", z=~"c|d"}'),
        ("e:f:g", ""),
        ("h", ""),
    ]


# Rules and dashboards use existing values of labels.

_VALUES: dict[str, set[str]] = {
    "grpc_code": set(metrics.GRPC_CODES),
    "grpc_type": {"unary", "client_stream", "server_stream", "bidi_stream"},
    "outcome": {
        *metrics.ROW_OUTCOMES,
        *("approved", "declined", "hit", "miss", "failure", "done", "failed", "parked"),
    },
    "reason": {*REASONS, *ReasonCode, "RATE_STANDS", "RATE_CORRECTED"},
    "actor": {actor.name for actor in ACTORS},
    "state": {"pending", "sent", "running", "parked", "queued", "succeeded", "failed"},
    "source": {"stream", "upload"},
    "kind": {"customers", "loans"},
}


def test_every_expression_uses_existing_label_values() -> None:
    for where, expression in _expressions():
        for label, operator, quoted in _MATCHER.findall(expression):
            values = json.loads(quoted).split("|") if "~" in operator else [json.loads(quoted)]
            for value in values:
                known = _VALUES.get(label)
                assert known is None or value in known, f"{where}: {label} is never {value}"


# Alerts.


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "alert" in rule]


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def test_every_alert_has_a_summary_and_a_runbook_link() -> None:
    headings = re.findall(r"^#+ (.+)$", OPERATIONS.read_text(), re.MULTILINE)
    anchors = {_anchor(heading) for heading in headings}
    for alert in _alerts():
        assert alert["labels"]["severity"] in {"critical", "warning"}, alert["alert"]
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        # The site of `make docs` has this page.
        assert page == "{{ $externalLabels.credit_runbooks }}/operations.html"
        assert anchor in anchors, f"{alert['alert']} has no section in {OPERATIONS.name}"
        assert alert["alert"] in OPERATIONS.read_text(), alert["alert"]
        assert alert["annotations"]["summary"].endswith("."), alert["alert"]


def test_one_address_makes_all_links_to_runbooks_absolute() -> None:
    configured = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    address = configured["global"]["external_labels"]["credit_runbooks"]
    assert re.fullmatch(r"https://\S+[^/]", address)
    for path in RULE_TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            assert case["external_labels"] == {"credit_runbooks": address}, case["name"]


def test_every_alert_is_tested_to_fire() -> None:
    fired = {
        case["alertname"]
        for path in RULE_TESTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    assert {alert["alert"] for alert in _alerts()} == fired


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool = tool("promtool")
    _run(promtool, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))
    _run(promtool, "check", "rules", *map(str, RULES))


@pytest.mark.slow
def test_the_alert_rules_pass_their_tests() -> None:
    _run(tool("promtool"), "test", "rules", *map(str, RULE_TESTS))


# Generated files.


@pytest.mark.parametrize("script", ["dashboards.py", "configuration.py"])
def test_the_output_of_each_script_is_up_to_date(script: str) -> None:
    _run(
        sys.executable,
        str(ROOT / "scripts" / script),
        "check",
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_do_not_overlap_and_have_unique_ids(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


# Containers.


@pytest.fixture(scope="module")
def composition() -> dict[str, Any]:
    """docker-compose.yml with its anchors resolved."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    _run(tool("hadolint"), str(DEPLOY / "Dockerfile"))


def test_docker_compose_accepts_the_composition() -> None:
    _run(
        tool("docker-compose"),
        *("--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"),
        env={"PATH": os.defpath, "HOME": "/nonexistent"},
    )


def test_haproxy_accepts_its_configuration() -> None:
    names = ("BALANCER_LISTEN", "BALANCER_METRICS_LISTEN", "SERVER_1", "SERVER_2")
    addresses = dict.fromkeys(names, "127.0.0.1:1")
    _run(
        balancer.program(),
        *("-c", "-dW", "-f", str(balancer.CONFIGURATION)),
        env={"PATH": os.defpath, **addresses},
    )


def test_every_image_has_one_version(composition: dict[str, Any]) -> None:
    images = [service["image"] for service in composition["services"].values()]
    images += re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), f"{image} may be another one tomorrow"


def test_only_loopback_is_published(composition: dict[str, Any]) -> None:
    for name, service in composition["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port}"
        if "outside" not in service["networks"]:
            assert "ports" not in service, f"{name} has no network that leads out"


def test_containers_have_minimal_privileges(composition: dict[str, Any]) -> None:
    for name, service in composition["services"].items():
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "privileged" not in service, name
        # PostgreSQL's image starts as root, to own its folders.
        assert name == "postgres" or service["cap_drop"] == ["ALL"], name


def test_containers_have_health_checks(composition: dict[str, Any]) -> None:
    # The servers use the health check of the image.
    of_image = {"server-1", "server-2"}
    for name, service in composition["services"].items():
        assert (name in of_image) != ("healthcheck" in service), name
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "HEALTHCHECK" in dockerfile
    for metric in re.findall(r'"(credit_\w+)"\]', dockerfile):
        assert metric in SERIES


def test_containers_have_existing_settings_only(composition: dict[str, Any]) -> None:
    names = {"DATABASE_URL", "REDIS_URL"} | {
        f"CREDIT_{name.upper()}" for name in Settings.model_fields
    }
    for name, service in composition["services"].items():
        if "credit-service" in service.get("image", ""):
            unknown = service["environment"].keys() - names
            assert not unknown, f"{name}: {unknown}"
            settings = Settings(
                **{
                    variable.removeprefix("CREDIT_").lower(): value
                    for variable, value in service["environment"].items()
                }
            )
            grace_seconds = int(service.get("stop_grace_period", "10s").removesuffix("s"))
            if "command" in service and service["command"] in (["serve"], ["worker"]):
                longest = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds
                assert grace_seconds > longest, name


def test_secrets_are_files_and_stay_out_of_the_repository(composition: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"(password|secret)\w*: \w{8,}$", text, re.IGNORECASE | re.MULTILINE)
    script = (DEPLOY / "make-secrets.sh").read_text()
    for name, secret in composition["secrets"].items():
        assert secret["file"] == f"deploy/secrets/{name}"
        assert f"make_secret {name} " in script
    assert "secrets/" in (DEPLOY / ".gitignore").read_text().split()
    for service in composition["services"].values():
        for secret in service.get("secrets", ()):
            name = secret if isinstance(secret, str) else secret["source"]
            assert name in composition["secrets"]


def test_secrets_are_generated_once(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    for _ in range(2):
        _run("sh", str(tmp_path / "make-secrets.sh"))
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == {"postgres_password", "database_url", "console_secret", "grafana_password"}
    assert made["postgres_password"] in made["database_url"]
    assert len(set(made.values())) == 4
    before = dict(made)
    _run("sh", str(tmp_path / "make-secrets.sh"))
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == before


def test_prometheus_scrapes_the_addresses_of_the_metrics(composition: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    environment = composition["services"]["server-1"]["environment"]
    server_port = environment["CREDIT_METRICS_LISTEN"].rpartition(":")[2]
    (static,) = jobs["credit-server"]["static_configs"]
    assert static["targets"] == [f"server-1:{server_port}", f"server-2:{server_port}"]
    (dns,) = jobs["credit-worker"]["dns_sd_configs"]
    assert dns["names"] == ["worker"]
    assert str(dns["port"]) == environment["CREDIT_WORKER_METRICS_LISTEN"].rpartition(":")[2]
    for job in ("credit-server", "credit-worker"):
        assert any(f'job="{job}"' in rule["expr"] for rule in _alerts()) or job in str(_alerts())


def test_the_balancer_reads_the_readiness_on_a_private_address(composition: dict[str, Any]) -> None:
    text, services = balancer.CONFIGURATION.read_text(), composition["services"]
    environment = services["server-1"]["environment"]
    port = environment["CREDIT_METRICS_LISTEN"].rpartition(":")[2]
    assert re.findall(r"presetenv READY_PORT_\d (\d+)", text) == [port, port]
    assert "http-check send meth GET uri /ready" in text
    published = services["balancer"]["ports"]
    assert published == ["127.0.0.1:50051:50051"]
    console = services["console"]["environment"]["CREDIT_SERVER_ADDRESS"]
    inside = services["balancer"]["environment"]["BALANCER_INSIDE_LISTEN"]
    assert console.rpartition(":")[2] == inside.rpartition(":")[2] != "50051"


def test_the_balancer_counts_streams_separately() -> None:
    text = balancer.CONFIGURATION.read_text()
    paths = re.findall(r"^    acl stream path_end (.*)$", text, re.MULTILINE)
    streams = {
        f"/{method.name}"
        for file in (
            credit_service_pb2.DESCRIPTOR,
            ingestion_service_pb2.DESCRIPTOR,
            scorecard_service_pb2.DESCRIPTOR,
            operations_service_pb2.DESCRIPTOR,
        )
        for service in file.services_by_name.values()
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    assert set(" ".join(paths).split()) == streams


# The probe of the containers.


@pytest.mark.parametrize(
    ("exposition", "trouble"),
    [
        ("a 1.0\n", None),
        ('a{process="0"} 1.0\na{process="1"} 1.0\n', None),
        ('a{process="0"} 1.0\na{process="1"} 0.0\n', "a is 0"),
        ("ab 1.0\n# TYPE a gauge\n", "a is not shown"),
    ],
)
def test_the_probe_checks_all_processes(exposition: str, trouble: str | None) -> None:
    assert probe.trouble(exposition, ["a"]) == trouble


def test_the_probe_needs_only_the_standard_library() -> None:
    module = "credit_service.observability.probe"
    code = f"import sys; sys.path[:0] = ['.']; import {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"grpc", "pydantic", "sqlalchemy", "prometheus_client"}


def test_the_probe_reports_the_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["http://127.0.0.1:1/metrics"]) == 1
    assert "does not answer" in capsys.readouterr().err
    assert probe.main([]) == 2
