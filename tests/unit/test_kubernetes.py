"""The Kubernetes manifests match their schemas and the code: settings, ports, commands, secrets.

Most tests read the manifests as they are. Those that render the example as an operator does, or
validate it, need `make test-tools`. No cluster is needed.
"""

import importlib.util
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from credit_service.cli import running
from credit_service.cli.app import app
from credit_service.console import app as console_app
from credit_service.observability import metrics, probe
from credit_service.observability.metrics_http import MetricsEndpoint
from credit_service.processes.address import listening_address
from credit_service.rpc import server_group
from credit_service.settings import Settings
from credit_service.settings_messages import variable_of
from tests.tools import tool

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
RULES = ROOT / "deploy" / "prometheus" / "rules"
OPERATIONS = ROOT / "docs" / "operations.md"
# The oldest release that the document names, and the newest with a schema.
VERSIONS = ("1.30", "1.37")
PART = "app.kubernetes.io/component"
OPERATOR = "monitoring.coreos.com/v1"

Resource = dict[str, Any]


def _kustomization(folder: str) -> Resource:
    document: Resource = yaml.safe_load((FOLDER / folder / "kustomization.yml").read_text())
    return document


def _read(folder: str) -> list[Resource]:
    """The resources that a kustomization lists as files."""
    names = [name for name in _kustomization(folder)["resources"] if name.endswith(".yml")]
    return [
        document
        for name in names
        for document in yaml.safe_load_all((FOLDER / folder / name).read_text())
    ]


@pytest.fixture(scope="module")
def resources() -> list[Resource]:
    """The resources of the example before its patches, without the ConfigMap."""
    return [each for folder in ("example", "base", "monitoring") for each in _read(folder)]


@pytest.fixture(scope="module")
def rendered() -> str:
    """The resources of the example, as kubectl would apply them."""
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(FOLDER / "example")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Warnings about deprecated fields.
    assert not done.stderr, done.stderr
    return done.stdout


def _of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    found = [each for each in resources if each["kind"] in kinds]
    assert found, kinds
    return found


def _named(resource: Resource) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


def _workloads(resources: list[Resource]) -> dict[str, Resource]:
    """The Deployments and the Job by their component."""
    found = _of_kind(resources, "Deployment", "Job")
    return {each["spec"]["template"]["metadata"]["labels"][PART]: each for each in found}


def _pod(workload: Resource) -> Resource:
    spec: Resource = workload["spec"]["template"]["spec"]
    return spec


def _container(workload: Resource) -> Resource:
    (container,) = _pod(workload)["containers"]
    found: Resource = container
    return found


def _ports(workload: Resource) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in _container(workload).get("ports", ())}


def _probes(workload: Resource) -> Iterator[Resource]:
    container = _container(workload)
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if name in container:
            yield container[name]


@pytest.fixture(scope="module")
def variables() -> dict[str, str]:
    """The settings of the pods."""
    (generator,) = _kustomization("base")["configMapGenerator"]
    (name,) = generator["envs"]
    lines = (FOLDER / "base" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def settings(variables: dict[str, str]) -> Settings:
    return _settings(variables)


def _settings(variables: dict[str, str]) -> Settings:
    given: dict[str, Any] = {
        name.removeprefix("CREDIT_").lower(): value for name, value in variables.items()
    }
    return Settings(**given)


# Rendering and schemas.


def _validate(document: str, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("kubernetes-validate"), "--strict", "-k", version, "-"],
        input=document,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_matches_its_schema(rendered: str, version: str) -> None:
    done = _validate(rendered, version)
    assert done.returncode == 0, done.stdout
    passed = set(re.findall(r"INFO - passed for resource (\S+) against", done.stdout))
    # The Prometheus operator's kinds have no schema here; see the tests of what is scraped.
    assert passed == {
        f"{each['kind'].lower()}/{each['metadata']['name']}"
        for each in yaml.safe_load_all(rendered)
        if each["apiVersion"] != OPERATOR
    }


def test_a_misspelled_field_does_not_match(resources: list[Resource]) -> None:
    (job,) = _of_kind(resources, "Job")
    done = _validate(yaml.safe_dump(job | {"spec": job["spec"] | {"backofLimit": 1}}), VERSIONS[-1])
    assert done.returncode == 1
    assert "backofLimit" in done.stdout


def test_the_example_changes_what_depends_on_the_cluster(
    rendered: str, resources: list[Resource], variables: dict[str, str]
) -> None:
    found = list(yaml.safe_load_all(rendered))
    (config,) = _of_kind(found, "ConfigMap")
    assert {_named(each) for each in found} == {_named(each) for each in resources} | {
        _named(config)
    }
    assert {each["metadata"].get("namespace") for each in found} == {"credit-service", None}
    assert variables.items() <= config["data"].items()
    _settings(config["data"])
    example = _kustomization("example")
    (image,) = example["images"]
    for each in _workloads(found).values():
        container = _container(each)
        assert container["image"] == f"{image['newName']}:{image['newTag']}"
        # Kustomize appends the hash of the content to the name.
        assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    (databases,) = [
        each
        for each in _of_kind(found, "NetworkPolicy")
        if each["metadata"]["name"] == "credit-databases"
    ]
    assert "ipBlock" in databases["spec"]["egress"][0]["to"][0]


@pytest.mark.parametrize("folder", ["base", "monitoring", "example"])
def test_files_of_kustomizations_exist(folder: str) -> None:
    document = _kustomization(folder)
    named = [*document["resources"], *document.get("components", ())]
    named += [
        name for each in document.get("configMapGenerator", ()) for name in each.get("envs", ())
    ]
    assert all((FOLDER / folder / name).exists() for name in named), named
    files = {path.name for path in (FOLDER / folder).iterdir()} - {"kustomization.yml"}
    assert files <= set(named)


def test_patches_of_the_example_change_what_exists(resources: list[Resource]) -> None:
    for patch in _kustomization("example")["patches"]:
        kind, name = patch["target"]["kind"], patch["target"]["name"]
        (target,) = [each for each in resources if _named(each) == f"{kind} {name}"]
        for operation in yaml.safe_load(patch["patch"]):
            *parents, last = operation["path"].strip("/").split("/")
            place: Any = target
            for each in parents:
                place = place[int(each)] if isinstance(place, list) else place[each]
            assert (last in place) == (operation["op"] == "replace"), operation


def test_the_base_needs_nothing_that_a_cluster_may_lack() -> None:
    for each in _read("base"):
        assert each["apiVersion"] != OPERATOR
        assert "namespace" not in each["metadata"]


# Settings and secrets.


def test_the_settings_exist_and_allow_serving(
    variables: dict[str, str], settings: Settings
) -> None:
    assert variables.keys() <= {variable_of(name) for name in Settings.model_fields} | {
        "CREDIT_SECRETS_DIR"
    }
    assert str(listening_address(settings)) == settings.listen
    assert not settings.insecure


def test_every_pod_reads_the_settings(resources: list[Resource]) -> None:
    (generator,) = _kustomization("base")["configMapGenerator"]
    for each in _workloads(resources).values():
        assert _container(each)["envFrom"] == [{"configMapRef": {"name": generator["name"]}}]
        assert "env" not in _container(each)
        # Kubernetes would set variables such as CREDIT_SERVER_PORT.
        assert _pod(each)["enableServiceLinks"] is False


def test_the_repository_has_no_secret(resources: list[Resource]) -> None:
    assert not [_named(each) for each in resources if each["kind"] == "Secret"]
    text = "".join(path.read_text() for path in FOLDER.rglob("*.*"))
    assert not re.search(r"secretGenerator|://\w+:\w+@", text)


def _mounted(workload: Resource) -> dict[str, Resource]:
    """The volumes of a pod by the path of their mount."""
    volumes = {each["name"]: each for each in _pod(workload)["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in _container(workload)["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    return {mounts[name]: volume for name, volume in volumes.items()}


def test_files_of_the_settings_are_mounted(resources: list[Resource], settings: Settings) -> None:
    server, console = (_mounted(_workloads(resources)[name]) for name in ("server", "console"))
    for path in (settings.tls_certificate, settings.tls_private_key):
        assert path is not None
        items = server[str(path.parent)]["secret"]["items"]
        assert path.name in {each["path"] for each in items}
    assert settings.server_ca is not None
    items = console[str(settings.server_ca.parent)]["secret"]["items"]
    assert [each["path"] for each in items] == [settings.server_ca.name]
    assert str(settings.token_keys) in server


def _created(name: str) -> set[str]:
    """The keys that a `kubectl create` in the document gives a Secret or a ConfigMap."""
    block = re.search(
        rf"kubectl create (?:secret generic|configmap) {name}((?: [^\n]*\\\n)*[^\n]*)\n",
        OPERATIONS.read_text(),
    )
    assert block is not None, f"{OPERATIONS.name} does not create {name}"
    return set(re.findall(r"--from-(?:file|literal)=([\w.-]+)=", block[1]))


def test_the_document_creates_what_pods_mount(
    resources: list[Resource], variables: dict[str, str]
) -> None:
    names_of_files = {variable_of(name).lower() for name in Settings.model_fields}
    for workload in _workloads(resources).values():
        for path, volume in _mounted(workload).items():
            if "secret" in volume:
                created = _created(volume["secret"]["secretName"])
                assert {each["key"] for each in volume["secret"].get("items", ())} <= created
                if path == variables["CREDIT_SECRETS_DIR"]:
                    assert created <= names_of_files
            elif "configMap" in volume:
                assert all(key.endswith(".json") for key in _created(volume["configMap"]["name"]))
            else:
                assert "emptyDir" in volume


def test_secrets_are_read_as_kubernetes_mounts_them(tmp_path: Path) -> None:
    """A mounted Secret has links to files in a folder that changes with its content."""
    secrets = {
        "database_url": "postgresql://credit:password@postgres.example/credit_service",
        "redis_url": "redis://redis.example:6379/0",
    }
    assert _created("credit-service-databases") == secrets.keys()
    content = tmp_path / "..2026_11_27"
    content.mkdir()
    (tmp_path / "..data").symlink_to(content.name)
    for name, value in secrets.items():
        (content / name).write_text(value)
        (tmp_path / name).symlink_to(f"..data/{name}")
    # mypy does not know the arguments of pydantic-settings that start with an underscore.
    found = Settings(_secrets_dir=tmp_path)  # type: ignore[call-arg]
    assert found.database_url is not None
    assert found.redis_url is not None
    assert found.database_url.get_secret_value() == secrets["database_url"]
    assert found.redis_url.get_secret_value() == secrets["redis_url"]


def test_a_pod_has_only_the_secrets_that_it_needs(resources: list[Resource]) -> None:
    def secrets(part: str) -> dict[str, set[str]]:
        volumes = _pod(_workloads(resources)[part])["volumes"]
        return {
            each["secret"]["secretName"]: {item["key"] for item in each["secret"].get("items", ())}
            for each in volumes
            if "secret" in each
        }

    databases, tls = "credit-service-databases", "credit-service-tls"
    assert secrets("server") == {databases: set(), tls: {"tls.crt", "tls.key"}}
    assert secrets("worker") == {databases: set()}
    assert secrets("migrate") == {databases: {"database_url"}}
    assert secrets("console") == {"credit-service-console": set(), tls: {"ca.crt"}}


# Commands and probes.


def test_the_commands_exist(resources: list[Resource]) -> None:
    for part, workload in _workloads(resources).items():
        container = _container(workload)
        if "command" in container:
            python, option, module = container["command"]
            assert (python, option) == ("python", "-m"), part
            assert importlib.util.find_spec(f"{module}.__main__") is not None, part
        else:
            # The entrypoint of the image is credit-service.
            (command,) = container["args"]
            assert app[command] is not None, part


def test_the_image_is_that_of_the_composition() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    image = compose["x-service"]["image"]
    text = "".join(path.read_text() for path in (FOLDER / "base").glob("*.yml"))
    assert set(re.findall(r"image: (\S+)", text)) == {image}
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.M)
    assert user is not None
    assert set(re.findall(r"runAsUser: (\d+)", text)) == {user[1]}
    assert set(re.findall(r"(?:runAsGroup|fsGroup): (\d+)", text)) == {user[2]}


def _port(address: str | None) -> int:
    assert address is not None
    return int(address.rpartition(":")[2])


def test_containers_and_services_name_the_ports_of_the_settings(
    resources: list[Resource], settings: Settings
) -> None:
    workloads = _workloads(resources)
    ports = {part: _ports(workload) for part, workload in workloads.items()}
    assert ports == {
        "server": {"grpc": _port(settings.listen), "metrics": _port(settings.metrics_listen)},
        "worker": {"metrics": _port(settings.worker_metrics_listen)},
        "console": {"http": _port(settings.console_listen)},
        "migrate": {},
    }
    for service in _of_kind(resources, "Service"):
        part = service["spec"]["selector"][PART]
        for port in service["spec"]["ports"]:
            assert ports[part][port["targetPort"]] == port["port"], _named(service)


def test_the_console_calls_the_headless_service(
    resources: list[Resource], settings: Settings
) -> None:
    (server,) = [
        each
        for each in _of_kind(resources, "Service")
        if each["spec"]["selector"][PART] == "server"
    ]
    assert server["spec"]["clusterIP"] == "None"
    name, port = server["metadata"]["name"], _port(settings.listen)
    assert settings.server_address == f"dns:///{name}:{port}"


def test_probes_ask_what_is_answered(resources: list[Resource]) -> None:
    endpoint = MetricsEndpoint("127.0.0.1:0", CollectorRegistry(), is_ready=lambda: True)
    served = {getattr(route, "path", "") for route in console_app.build_app(Settings()).routes}
    try:
        for part, workload in _workloads(resources).items():
            for each in _probes(workload):
                match each:
                    case {"httpGet": {"port": "metrics", "path": path}}:
                        url = f"http://{endpoint.address}{path}"
                        with urllib.request.urlopen(url, timeout=30) as answer:
                            assert answer.status == 200, part
                    case {"httpGet": {"port": "http", "path": path, "httpHeaders": headers}}:
                        assert path in served, part
                        assert headers == [{"name": "Host", "value": "localhost"}]
                    case {"exec": {"command": ["python", "-m", module, *arguments]}}:
                        assert module == probe.__name__
                        _check_probe(arguments, _ports(workload)["metrics"])
                    case _:
                        pytest.fail(f"{part} has a probe of another kind: {each}")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{endpoint.address}/healthy", timeout=30)
    finally:
        endpoint.close()


def _check_probe(arguments: list[str], port: int) -> None:
    url, *names = arguments
    assert url == f"http://127.0.0.1:{port}/metrics"
    # Of each serving process, and never 0.
    assert names == ["credit_server_threads"]
    assert names[0] in metrics.server_readings._gauges


def test_every_pod_that_serves_has_its_probes(resources: list[Resource]) -> None:
    found = {
        part: {name for name in _container(workload) if name.endswith("Probe")}
        for part, workload in _workloads(resources).items()
    }
    every = {"startupProbe", "livenessProbe", "readinessProbe"}
    assert found == {
        "server": every,
        "console": every,
        "worker": every - {"readinessProbe"},
        "migrate": set(),
    }
    ready = _container(_workloads(resources)["server"])["readinessProbe"]
    assert ready["httpGet"]["path"] == "/ready"


# Stops, limits, security.


def test_pods_have_the_time_to_drain(resources: list[Resource], settings: Settings) -> None:
    seconds = {
        part: _pod(workload).get("terminationGracePeriodSeconds", 30)
        for part, workload in _workloads(resources).items()
    }
    drain = settings.shutdown_delay_seconds + settings.shutdown_grace_seconds
    assert settings.shutdown_delay_seconds > 0
    assert seconds["server"] > drain + server_group._STOP_SLACK_SECONDS
    assert seconds["worker"] > running._STOP_TIMEOUT_SECONDS > settings.shutdown_grace_seconds
    assert seconds["console"] > console_app._STOP_SECONDS


def test_pods_satisfy_the_restricted_standard(resources: list[Resource]) -> None:
    (namespace,) = _of_kind(resources, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for part, workload in _workloads(resources).items():
        pod = _pod(workload)
        assert pod["automountServiceAccountToken"] is False, part
        assert pod["securityContext"]["runAsNonRoot"] is True, part
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, part
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys(), part
        assert _container(workload)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, part


def _bytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


def test_memory_has_room_for_uploads(resources: list[Resource], settings: Settings) -> None:
    for part, workload in _workloads(resources).items():
        empty = _mounted(workload)["/tmp"]["emptyDir"]  # noqa: S108 - of a container
        size, resource = _bytes(empty["sizeLimit"]), _container(workload)["resources"]
        assert empty["medium"] == "Memory", part
        # The files in memory count towards the limit.
        assert size + _bytes(resource["requests"]["memory"]) <= _bytes(
            resource["limits"]["memory"]
        ), part
        assert "cpu" in resource["requests"], part
        if part == "server":
            uploads = settings.max_streams + settings.ingestion_streams
            assert size >= uploads * settings.upload_max_bytes
        if part == "worker":
            assert size >= settings.worker_threads * settings.upload_max_bytes


# Scaling and disruptions.


def test_autoscalers_scale_what_exists(resources: list[Resource]) -> None:
    deployments = {each["metadata"]["name"]: each for each in _of_kind(resources, "Deployment")}
    scaled = set()
    for each in _of_kind(resources, "HorizontalPodAutoscaler"):
        name = each["spec"]["scaleTargetRef"]["name"]
        scaled.add(name)
        # Applying a number of replicas would undo what the autoscaler did.
        assert "replicas" not in deployments[name]["spec"]
        assert each["spec"]["minReplicas"] >= 2
        assert each["spec"]["metrics"][0]["resource"]["name"] == "cpu"
        assert "cpu" in _container(deployments[name])["resources"]["requests"]
    assert scaled == {"credit-server", "credit-worker"}
    assert deployments["credit-console"]["spec"]["replicas"] == 1


def test_the_document_states_the_connections_of_the_base() -> None:
    """The base's largest number of pods, by the formula of the alert about the pools."""
    settings = Settings()
    most = {}
    for each in _of_kind(_read("base"), "HorizontalPodAutoscaler"):
        most[each["metadata"]["name"]] = each["spec"]["maxReplicas"]
    # One more of each during a rolling update.
    servers = (most["credit-server"] + 1) * (settings.pool_size + 1)
    workers = (most["credit-worker"] + 1) * (2 * settings.worker_threads + 7)
    assert f"{servers + workers} connections" in OPERATIONS.read_text()


def test_selectors_select_pods(resources: list[Resource]) -> None:
    pods = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in _of_kind(resources, "Deployment", "Job")
    ]
    for resource in resources:
        for selector in _selectors(resource):
            labels = selector.get("matchLabels", selector).items()
            chosen = [pod for pod in pods if labels <= pod.items()]
            assert chosen, _named(resource)
            for expression in selector.get("matchExpressions", ()):
                values = {pod[expression["key"]] for pod in chosen}
                assert set(expression["values"]) <= values, _named(resource)


def _selectors(node: Any) -> Iterator[Resource]:
    """Each selector of pods in a resource, or of Services, which have the labels of their pods."""
    if isinstance(node, list):
        for each in node:
            yield from _selectors(each)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in ("selector", "labelSelector", "podSelector"):
                yield value
            else:
                yield from _selectors(value)


def test_network_policies_name_ports_of_the_pods(
    resources: list[Resource], settings: Settings
) -> None:
    names = {name for each in _workloads(resources).values() for name in _ports(each)}
    ports = set()
    for policy in _of_kind(resources, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []) + policy["spec"].get("egress", []):
            assert rule.get("from") or rule.get("to") or _named(policy).endswith("databases")
            ports |= {each["port"] for each in rule["ports"]}
    assert ports == names | {53, 5432, 6379}
    # One policy isolates every pod, so the others add what is allowed.
    (isolating,) = [
        each
        for each in _of_kind(resources, "NetworkPolicy")
        if each["metadata"]["name"] == "credit-service"
    ]
    assert isolating["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in isolating["spec"]
    assert PART not in isolating["spec"]["podSelector"]["matchLabels"]


# Monitoring.


def test_prometheus_scrapes_every_port_of_metrics(resources: list[Resource]) -> None:
    """By the fields of the operator's API: endpoints of a ServiceMonitor, podMetricsEndpoints."""
    services = _of_kind(resources, "Service")
    jobs = {}
    for monitor in _of_kind(resources, "ServiceMonitor", "PodMonitor"):
        spec = monitor["spec"]
        assert monitor["apiVersion"] == OPERATOR
        of_service = monitor["kind"] == "ServiceMonitor"
        key = "endpoints" if of_service else "podMetricsEndpoints"
        assert spec.keys() == {"selector", key}
        labels = spec["selector"]["matchLabels"]
        part = labels[PART]
        if of_service:
            (service,) = [e for e in services if labels.items() <= e["metadata"]["labels"].items()]
            ports = {each["name"] for each in service["spec"]["ports"]}
        else:
            ports = set(_ports(_workloads(resources)[part]))
        (endpoint,) = spec[key]
        assert endpoint.keys() == {"port", "path", "interval", "scrapeTimeout", "relabelings"}
        assert endpoint["port"] == "metrics"
        assert endpoint["port"] in ports
        assert endpoint["path"] == "/metrics"
        (relabeling,) = endpoint["relabelings"]
        assert relabeling["targetLabel"] == "job"
        jobs[part] = relabeling["replacement"]
    assert jobs == {"server": "credit-server", "worker": "credit-worker"}
    alerts = (RULES / "alerts.yml").read_text()
    assert all(job in alerts for job in jobs.values())


def test_the_rules_are_printed_for_the_operator() -> None:
    done = subprocess.run(
        [str(FOLDER / "prometheus-rules.sh")], capture_output=True, text=True, check=True
    )
    printed = list(yaml.safe_load_all(done.stdout))
    files = sorted(RULES.glob("*.yml"))
    assert len(printed) == len(files) > 1
    for each, path in zip(printed, files, strict=True):
        assert each["apiVersion"] == OPERATOR
        assert each["kind"] == "PrometheusRule"
        assert each["metadata"]["name"] == f"credit-service-{path.stem}"
        assert each["spec"] == yaml.safe_load(path.read_text())

    linked = subprocess.run(
        [str(FOLDER / "prometheus-rules.sh")],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.defpath, "RUNBOOKS": "https://docs.example.com/credit-service"},
    )
    links = re.findall(r"runbook_url: \"(.*)\"", linked.stdout)
    assert len(links) == done.stdout.count("runbook_url:") > 1
    address = "https://docs.example.com/credit-service/operations.html#credit"
    assert all(each.startswith(address) for each in links)
