"""The metrics, their endpoint, and several processes at one address."""

import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from credit_service.observability import metrics
from credit_service.observability.metrics import Readings, method_metrics
from credit_service.observability.metrics_http import (
    PROCESS_LABEL,
    MetricsEndpoint,
    Processes,
    answer_until_closed,
    request_exposition,
)
from credit_service.processes.address import AddressRefusedError


def _samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _value(name: str, in_registry: CollectorRegistry | None = None, /, **labels: str) -> float:
    registry = metrics.REGISTRY if in_registry is None else in_registry
    return registry.get_sample_value(name, labels) or 0.0


# Calls.


def test_a_method_shows_every_status_before_its_first_call() -> None:
    method_metrics("/a.v1.Shown/First", client_streaming=False, server_streaming=False)

    for code in metrics.GRPC_CODES:
        value = metrics.REGISTRY.get_sample_value(
            "grpc_server_handled_total",
            {
                "grpc_type": "unary",
                "grpc_service": "a.v1.Shown",
                "grpc_method": "First",
                "grpc_code": code,
            },
        )
        assert value == 0, code


@pytest.mark.parametrize(
    ("client", "server", "name"),
    [
        (False, False, "unary"),
        (True, False, "client_stream"),
        (False, True, "server_stream"),
        (True, True, "bidi_stream"),
    ],
)
def test_metrics_of_calls_have_the_names_of_go_grpc_prometheus(
    client: bool, server: bool, name: str
) -> None:
    labels = {"grpc_type": name, "grpc_service": "a.v1.Named", "grpc_method": f"M{name}"}
    method = method_metrics(
        f"/a.v1.Named/M{name}", client_streaming=client, server_streaming=server
    )

    method.begin()
    method.begin()
    method.received.inc(3)
    method.sent.inc()
    method.end(5, 0.002)
    method.end(metrics.OK, 20.0)

    assert _value("grpc_server_started_total", None, **labels) == 2
    assert _value("grpc_server_handled_total", None, **labels, grpc_code="NotFound") == 1
    assert _value("grpc_server_handled_total", None, **labels, grpc_code="OK") == 1
    assert _value("grpc_server_msg_received_total", None, **labels) == 3
    assert _value("grpc_server_msg_sent_total", None, **labels) == 1
    assert _value("grpc_server_handling_seconds_count", None, **labels) == 2
    assert _value("grpc_server_handling_seconds_sum", None, **labels) == pytest.approx(20.002)
    assert _value("grpc_server_handling_seconds_bucket", None, **labels, le="0.0025") == 1
    assert _value("grpc_server_handling_seconds_bucket", None, **labels, le="10.0") == 1
    assert _value("grpc_server_handling_seconds_bucket", None, **labels, le="+Inf") == 2


def test_the_codes_are_those_of_grpc_in_order() -> None:
    grpc = pytest.importorskip("grpc")
    by_number = {code.value[0]: code.name for code in grpc.StatusCode}

    assert len(metrics.GRPC_CODES) == len(by_number)
    for number, name in enumerate(metrics.GRPC_CODES):
        expected = by_number[number].replace("_", "").lower()
        assert name.lower() == expected.replace("cancelled", "canceled")


def test_no_series_has_a_creation_time() -> None:
    assert "_created" not in generate_latest(metrics.REGISTRY).decode()


# Gauges.


def test_readings_sum_their_sources_without_removed_ones() -> None:
    readings = Readings({"a": ("An a.", ()), "b": ("A b.", ("kind",))})
    registry = CollectorRegistry()
    registry.register(readings)
    first = readings.add(lambda: [("a", (), 1.0)])
    readings.add(lambda: [("a", (), 2.0), ("b", ("x",), 5.0), ("b", ("y",), 6.0)])

    assert _value("a", registry) == 3.0
    assert (_value("b", registry, kind="x"), _value("b", registry, kind="y")) == (5.0, 6.0)

    first()
    first()

    assert _value("a", registry) == 2.0


def test_a_gauge_without_a_value_is_not_shown_as_0() -> None:
    readings = Readings({"a": ("An a.", ())})
    registry = CollectorRegistry()
    registry.register(readings)

    assert registry.get_sample_value("a") is None


def test_an_undeclared_gauge_is_an_error() -> None:
    readings = Readings({"a": ("An a.", ())})
    readings.add(lambda: [("c", (), 1.0)])

    with pytest.raises(KeyError):
        list(readings.collect())


# The endpoint.


def _get(endpoint: MetricsEndpoint, path: str = "/metrics", accept: str = "*/*") -> tuple[str, str]:
    request = urllib.request.Request(f"http://{endpoint.address}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own address
        return answer.read().decode(), answer.headers["Content-Type"]


@contextmanager
def _counting() -> Iterator[tuple[CollectorRegistry, Counter]]:
    registry = CollectorRegistry()
    yield registry, Counter("a_total", "An a.", registry=registry)


def test_the_endpoint_shows_the_registry() -> None:
    with _counting() as (registry, counter):
        counter.inc(3)
        with closing(MetricsEndpoint("127.0.0.1:0", registry)) as endpoint:
            text, kind = _get(endpoint)
            open_metrics, open_kind = _get(endpoint, accept="application/openmetrics-text")

    assert _samples(text) == {("a_total", ()): 3.0}
    assert kind.startswith("text/plain")
    assert open_kind.startswith("application/openmetrics-text")
    assert open_metrics.endswith("# EOF\n")


def test_the_endpoint_shows_nothing_else() -> None:
    with (
        closing(MetricsEndpoint("127.0.0.1:0", CollectorRegistry())) as endpoint,
        pytest.raises(urllib.error.HTTPError) as refused,
    ):
        _get(endpoint, "/")

    assert refused.value.code == 404
    refused.value.close()


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_metrics_on_other_addresses_than_loopback_are_rejected(listen: str) -> None:
    with pytest.raises(AddressRefusedError, match="CREDIT_METRICS_INSECURE"):
        MetricsEndpoint(listen, CollectorRegistry())


def test_metrics_listen_on_other_addresses_if_insecure() -> None:
    with closing(MetricsEndpoint("0.0.0.0:0", CollectorRegistry(), insecure=True)) as endpoint:
        assert endpoint.address.port > 0


def test_a_taken_address_is_refused() -> None:
    with (
        closing(MetricsEndpoint("127.0.0.1:0", CollectorRegistry())) as endpoint,
        pytest.raises(AddressRefusedError, match="cannot be shown"),
    ):
        MetricsEndpoint(str(endpoint.address), CollectorRegistry())


def test_silent_connections_do_not_block_others_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("credit_service.observability.metrics_http._Handler.timeout", 0.2)
    with (
        _counting() as (registry, _),
        closing(MetricsEndpoint("127.0.0.1:0", registry)) as endpoint,
    ):
        silent = [
            socket.create_connection((endpoint.address.host, endpoint.address.port))
            for _ in range(20)
        ]
        try:
            for connection in silent:
                connection.settimeout(10)
                assert connection.recv(1) == b""  # the server has closed the connection
            assert "a_total" in _get(endpoint)[0]
        finally:
            for connection in silent:
                connection.close()


# Several processes.


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to write large metrics than the endpoint waits."""
    monkeypatch.setattr("credit_service.observability.metrics_http._ANSWER_TIMEOUT_SECONDS", 60.0)


@contextmanager
def _process(registry: CollectorRegistry) -> Iterator[socket.socket]:
    """The supervisor's end of the control socket of a process that answers."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    thread = threading.Thread(target=answer_until_closed, args=(theirs, registry))
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(10)
        theirs.close()
    assert not thread.is_alive()


def test_a_process_answers_until_the_other_side_is_closed() -> None:
    with _counting() as (registry, counter), _process(registry) as control:
        for expected in range(1, 5):
            counter.inc()
            text = request_exposition(control)
            assert text is not None
            assert _samples(text) == {("a_total", ()): expected}


def test_large_answers_arrive_complete() -> None:
    registry = CollectorRegistry()
    counter = Counter("a_total", "An a.", ("label",), registry=registry)
    for number in range(20_000):
        counter.labels(f"{number:0100}").inc()

    with _process(registry) as control:
        text = request_exposition(control)

    assert text is not None
    assert len(_samples(text)) == 20_000


def test_a_process_that_does_not_answer_is_omitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("credit_service.observability.metrics_http._ANSWER_TIMEOUT_SECONDS", 0.001)
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours, theirs:
        # So many that the requests no longer fit into the socket buffer.
        assert [request_exposition(ours) for _ in range(400)][-1] is None


def test_late_answers_do_not_reach_later_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was suspended and continues answers the latest request."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with _counting() as (registry, counter), ours:
        with monkeypatch.context() as patch:
            patch.setattr("credit_service.observability.metrics_http._ANSWER_TIMEOUT_SECONDS", 0.05)
            assert request_exposition(ours) is None
        counter.inc(7)
        thread = threading.Thread(target=answer_until_closed, args=(theirs, registry))
        thread.start()
        text = request_exposition(ours)
        ours.close()
        thread.join(10)
        theirs.close()

    assert text is not None
    assert _samples(text) == {("a_total", ()): 7.0}


def test_a_truncated_response_is_none() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)

    def answer_half() -> None:
        _, (handed,), _, _ = socket.recv_fds(theirs, 1, 1)
        with socket.socket(fileno=handed) as asker:
            asker.sendall(b"# TYPE a_total counter\na_total 1")

    thread = threading.Thread(target=answer_half)
    thread.start()
    with ours, theirs:
        assert request_exposition(ours) is None
        thread.join(10)


def test_a_dead_process_sends_no_response() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        assert request_exposition(ours) is None


def _registry_of(expositions: Callable[[], Mapping[str, str]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Processes(expositions))
    return registry


def test_processes_keep_their_series_apart() -> None:
    text = (
        "# HELP a_total An a.\n# TYPE a_total counter\n"
        'a_total{{kind="x"}} {value}\n'
        "# HELP h A histogram.\n# TYPE h histogram\n"
        'h_bucket{{le="1.0"}} 1\nh_bucket{{le="+Inf"}} {value}\nh_count {value}\nh_sum 4\n'
        "# HELP g A gauge.\n# TYPE g gauge\ng 0.5\n"
    )
    registry = _registry_of(lambda: {"0": text.format(value=3), "1": text.format(value=9)})

    shown = generate_latest(registry).decode()

    assert shown.count("# TYPE a_total counter") == 1
    assert shown.count("# TYPE h histogram") == 1
    found = _samples(shown)
    assert found["a_total", (("kind", "x"), (PROCESS_LABEL, "0"))] == 3
    assert found["a_total", (("kind", "x"), (PROCESS_LABEL, "1"))] == 9
    assert found["h_bucket", (("le", "+Inf"), (PROCESS_LABEL, "1"))] == 9
    assert found["g", ((PROCESS_LABEL, "0"),)] == 0.5
    assert len(found) == 12


def test_all_metrics_pass_a_supervisor_unchanged() -> None:
    own = generate_latest(metrics.REGISTRY).decode()
    shown = generate_latest(_registry_of(lambda: {"0": own})).decode()

    expected = {
        (name, tuple(sorted((*labels, (PROCESS_LABEL, "0"))))) for name, labels in _samples(own)
    }
    assert set(_samples(shown)) == expected


def test_a_restarted_process_shows_its_own_counts() -> None:
    """Prometheus handles a counter that restarts at 0."""
    answers = {"0": "# TYPE a_total counter\na_total 100\n"}
    registry = _registry_of(lambda: answers)
    assert _value("a_total", registry, process="0") == 100

    answers["0"] = "# TYPE a_total counter\na_total 1\n"

    assert _value("a_total", registry, process="0") == 1
