"""Writes the Grafana dashboards in deploy/grafana/dashboards, or checks that they are up to date.

    python scripts/dashboards.py write | check

Grafana's dashboard files have thousands of lines that cannot be reviewed; this file has only the
content. tests/unit checks every expression against the metric names that the service registers.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"

_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS = 24
_FAILED = 'grpc_code=~"Unknown|Internal|Unavailable|DataLoss|DeadlineExceeded"'
_AT_CAPACITY = 'reason=~"OVERLOADED|TOO_MANY_STREAMS|TOO_MANY_CALLS|RATE_LIMITED"'
_SCORECARD = 'scorecard_version=~"$scorecard"'
_RED_ABOVE_ZERO = [(None, "green"), (1, "red")]


@dataclass(frozen=True)
class Panel:
    """One panel: its queries (expression and legend) and its style."""

    title: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    description: str = ""
    stacked: str = "none"  # or normal, percent
    steps: Sequence[tuple[float | None, str]] = ((None, "green"),)
    minimum: float | None = 0
    maximum: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Dashboard:
    """A dashboard: titled rows of panels."""

    uid: str
    title: str
    description: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    variables: Sequence[dict[str, Any]] = ()


def _stat(title: str, query: str, unit: str = "short", **more: Any) -> Panel:
    return Panel(title, [(query, "")], kind="stat", unit=unit, width=4, height=4, **more)


def _rate(metric: str, by: str = "", where: str = "", window: str = "$__rate_interval") -> str:
    """The summed rate of a counter per second."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{window}]))"


def _balancer(backend: str) -> str:
    """Calls per second that the load balancer answers itself."""
    return _rate("haproxy_backend_http_requests_total", where=f'proxy="{backend}"')


def _rise(metric: str, by: str = "", where: str = "", window: str = "$__rate_interval") -> str:
    """The summed increase of a counter in the window."""
    return f"sum by ({by}) (increase({metric}{{{where}}}[{window}]))"


def _within(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """The quantile of a histogram; `share` is 0 to 1."""
    rate = _rate(f"{histogram}_bucket", f"le, {by}" if by else "le", where)
    return f"histogram_quantile({share}, {rate})"


def _approved(by: str = "") -> str:
    """The share of approvals among the decisions of the last hour."""
    approved = _rise("credit_decisions_total", by, f'outcome="approved", {_SCORECARD}', "1h")
    return f"{approved} / {_rise('credit_decisions_total', by, _SCORECARD, '1h')}"


SERVICE = Dashboard(
    "credit-service",
    "Credit service",
    "Calls, capacity, database, cache and processes of all servers.",
    [
        (
            "Now",
            [
                _stat(
                    "Processes ready",
                    "sum(credit_server_ready)",
                    steps=[(None, "red"), (1, "orange"), (2, "green")],
                    description="Serving processes whose health says SERVING.",
                ),
                _stat("Calls per second", "sum(rate(grpc_server_started_total[5m]))", "reqps"),
                _stat(
                    "Failed calls",
                    "service:grpc_server_failed:ratio_rate5m",
                    "percentunit",
                    steps=[(None, "green"), (0.001, "orange"), (0.0144, "red")],
                    description="Failures caused by the service. Red is the rate that pages.",
                ),
                _stat(
                    "99 of 100 calls within",
                    _within(0.99, "grpc_server_handling_seconds", where='grpc_type="unary"'),
                    "s",
                    steps=[(None, "green"), (0.1, "orange"), (0.5, "red")],
                ),
                _stat(
                    "Rejected: at capacity",
                    "service:credit_calls_shed:ratio_rate5m",
                    "percentunit",
                    steps=[(None, "green"), (0.001, "orange"), (0.01, "red")],
                ),
                _stat(
                    "Alerts",
                    'count(ALERTS{alertstate="firing", alertname=~"Credit.+"}) or vector(0)',
                    steps=_RED_ABOVE_ZERO,
                ),
            ],
        ),
        (
            "Calls",
            [
                Panel(
                    "Calls by method",
                    [
                        (
                            _rate("grpc_server_started_total", "grpc_method"),
                            "{{grpc_method}}",
                        )
                    ],
                    unit="reqps",
                ),
                Panel(
                    "Failures of the service by method",
                    [
                        (
                            _rate("grpc_server_handled_total", "grpc_method, grpc_code", _FAILED)
                            + " > 0",
                            "{{grpc_method}} {{grpc_code}}",
                        ),
                        (_balancer("away") + " > 0", "Unavailable, from the load balancer"),
                    ],
                    unit="reqps",
                ),
                Panel(
                    "Rejections and failures by reason",
                    [
                        (
                            _rate("credit_call_failures_total", "reason") + " > 0",
                            "{{reason}}",
                        ),
                        (_balancer("away") + " > 0", "DATABASE_UNAVAILABLE, by the balancer"),
                        (_balancer("refused") + " > 0", "OVERLOADED, by the balancer"),
                    ],
                    unit="reqps",
                    description="The reason in ErrorInfo; docs/reference/errors.md explains each.",
                ),
                Panel(
                    "99 of 100 calls within, by method",
                    [("method:grpc_server_handling_seconds:p99_5m", "{{grpc_method}}")],
                    unit="s",
                ),
                Panel(
                    "Median latency by method",
                    [("method:grpc_server_handling_seconds:p50_5m", "{{grpc_method}}")],
                    unit="s",
                ),
                Panel(
                    "Latency of unary calls",
                    [
                        (
                            _rise("grpc_server_handling_seconds_bucket", "le", 'grpc_type="unary"'),
                            "{{le}}",
                        )
                    ],
                    kind="heatmap",
                    unit="s",
                ),
                Panel(
                    "Messages on streams",
                    [
                        (
                            _rate("grpc_server_msg_received_total", "grpc_method") + " > 0",
                            "{{grpc_method}} received",
                        ),
                        (
                            _rate("grpc_server_msg_sent_total", "grpc_method") + " > 0",
                            "{{grpc_method}} sent",
                        ),
                    ],
                    unit="cps",
                ),
            ],
        ),
        (
            "Capacity",
            [
                Panel(
                    "Threads busy",
                    [("instance:credit_server_threads_busy:ratio", "{{instance}}")],
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Calls waiting for a thread",
                    [
                        ("sum by (instance) (credit_server_calls_waiting)", "{{instance}}"),
                        (
                            "sum by (instance) (credit_server_calls_waiting_limit)",
                            "{{instance}} limit",
                        ),
                    ],
                ),
                Panel(
                    "Open streams",
                    [
                        ("sum by (instance) (credit_server_streams)", "{{instance}}"),
                        ("sum by (instance) (credit_server_streams_limit)", "{{instance}} limit"),
                    ],
                ),
                Panel(
                    "Database connections in use",
                    [("instance:credit_database_pool_in_use:ratio", "{{instance}}")],
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Lost races",
                    [
                        (
                            _rate("credit_database_lost_races_total", "instance"),
                            "{{instance}}",
                        )
                    ],
                    unit="cps",
                    description="Attempts repeated because another call changed the customer.",
                ),
                Panel(
                    "Rejected: at capacity",
                    [
                        (
                            _rate("credit_call_failures_total", "reason", _AT_CAPACITY),
                            "{{reason}}",
                        ),
                        (_balancer("refused"), "OVERLOADED, by the balancer"),
                    ],
                    unit="reqps",
                ),
            ],
        ),
        (
            "Cache",
            [
                Panel(
                    "Cache reads",
                    [
                        (
                            _rate("credit_cache_reads_total", "outcome"),
                            "{{outcome}}",
                        )
                    ],
                    unit="cps",
                    stacked="normal",
                ),
                Panel(
                    "Cache hit ratio",
                    [("service:credit_cache_reads_hit:ratio_rate5m", "hits")],
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Cache writes",
                    [
                        (
                            _rate("credit_cache_writes_total", "outcome"),
                            "{{outcome}}",
                        )
                    ],
                    unit="cps",
                ),
            ],
        ),
        (
            "Processes",
            [
                Panel(
                    "Memory",
                    [
                        (
                            'process_resident_memory_bytes{job=~"credit-.+"}',
                            "{{instance}} {{process}}",
                        )
                    ],
                    unit="bytes",
                ),
                Panel(
                    "CPU time",
                    [
                        (
                            'rate(process_cpu_seconds_total{job=~"credit-.+"}[$__rate_interval])',
                            "{{instance}} {{process}}",
                        )
                    ],
                    unit="percentunit",
                ),
                Panel(
                    "Open files",
                    [('process_open_fds{job=~"credit-.+"}', "{{instance}} {{process}}")],
                ),
                Panel(
                    "Process restarts",
                    [("increase(credit_server_process_deaths_total[1h])", "{{instance}}")],
                ),
                Panel(
                    "Releases",
                    [("count by (job, version) (credit_build_info)", "{{job}} {{version}}")],
                ),
            ],
        ),
    ],
)

LENDING = Dashboard(
    "credit-lending",
    "Lending",
    "Decisions and their reasons, ingestions, and freshness of the scores.",
    [
        (
            "Decisions",
            [
                _stat(
                    "Approved in the last hour",
                    _approved(),
                    "percentunit",
                ),
                _stat(
                    "Decisions in the last hour",
                    _rise("credit_decisions_total", where=_SCORECARD, window="1h"),
                ),
                _stat(
                    "Mean score in the last hour",
                    _rise("credit_score_sum", window="1h")
                    + " / "
                    + _rise("credit_score_count", window="1h"),
                    steps=[(None, "red"), (11, "orange"), (31, "yellow"), (51, "green")],
                    maximum=100,
                ),
                _stat(
                    "Tasks parked",
                    'sum(actor:credit_outbox_tasks:max{state="parked"}) or vector(0)',
                    steps=_RED_ABOVE_ZERO,
                ),
                _stat(
                    "Discrepancies in the last day",
                    _rise("credit_discrepancies_total", window="1d"),
                    steps=_RED_ABOVE_ZERO,
                ),
                _stat(
                    "Age of the oldest event",
                    "service:credit_outbox_oldest_event_age_seconds:max",
                    "s",
                    steps=[(None, "green"), (5, "orange"), (30, "red")],
                ),
                Panel(
                    "Decisions by outcome",
                    [
                        (
                            _rate("credit_decisions_total", "outcome", _SCORECARD),
                            "{{outcome}}",
                        )
                    ],
                    unit="cps",
                    stacked="normal",
                ),
                Panel(
                    "Approval rate, and decline reasons",
                    [
                        (
                            _rise("credit_decisions_total", "outcome, reason", _SCORECARD, "1h"),
                            "{{outcome}} {{reason}}",
                        )
                    ],
                    stacked="percent",
                    description="Each decision by its most important reason, over an hour.",
                ),
                Panel(
                    "Declines by reason",
                    [
                        (
                            _rate(
                                "credit_decisions_total",
                                "reason",
                                f'outcome="declined", {_SCORECARD}',
                            ),
                            "{{reason}}",
                        )
                    ],
                    unit="cps",
                    stacked="normal",
                ),
                Panel(
                    "Referred decisions that wait for a reviewer",
                    [("max(credit_referrals_pending)", "decisions")],
                ),
                Panel(
                    "Age of the oldest that waits",
                    [("max(credit_referrals_oldest_pending_age_seconds)", "age")],
                    unit="s",
                ),
                Panel(
                    "Approval rate by scorecard",
                    [
                        (
                            _approved("scorecard_version"),
                            "{{scorecard_version}}",
                        )
                    ],
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Scores used for decisions",
                    [
                        (
                            _rise("credit_score_bucket", "le"),
                            "{{le}}",
                        )
                    ],
                    kind="heatmap",
                ),
                Panel(
                    "Distribution of these scores in the last day",
                    [(_rise("credit_score_bucket", "le", window="1d"), "{{le}}")],
                    kind="bargauge",
                    description="Decisions by the score's upper bound, ten points per bar.",
                    options={"format": "heatmap"},
                ),
            ],
        ),
        (
            "Ingestion",
            [
                Panel(
                    "Rows by outcome",
                    [
                        (
                            _rate("credit_ingestion_rows_total", "outcome"),
                            "{{outcome}}",
                        )
                    ],
                    unit="cps",
                    stacked="normal",
                ),
                Panel(
                    "Rows rejected",
                    [("kind:credit_ingestion_rows_rejected:ratio_1h", "{{kind}}")],
                    unit="percentunit",
                    maximum=1,
                ),
                Panel(
                    "Batch duration",
                    [
                        (
                            _within(0.5, "credit_ingestion_batch_seconds", "kind"),
                            "{{kind}} half within",
                        ),
                        (
                            _within(0.99, "credit_ingestion_batch_seconds", "kind"),
                            "{{kind}} 99 of 100 within",
                        ),
                    ],
                    unit="s",
                ),
                Panel(
                    "Unfinished ingestions",
                    [("max by (state) (credit_ingestions_unfinished)", "{{state}}")],
                ),
                Panel(
                    "Ingestions ended per hour",
                    [
                        (
                            _rise("credit_ingestions_total", "state, source", window="1h"),
                            "{{source}} {{state}}",
                        )
                    ],
                ),
            ],
        ),
        (
            "Arrears",
            [
                Panel(
                    "Customers by new asset class, per day",
                    [
                        (
                            _rise("credit_asset_class_changes_total", "asset_class", window="1d"),
                            "{{asset_class}}",
                        )
                    ],
                    width=12,
                    description="Announced changes. A change for the worse counts after its day.",
                ),
                Panel(
                    "Delay of the announcement",
                    [
                        (
                            (
                                "actor:credit_outbox_oldest_task_overdue_seconds:max"
                                '{actor="announce_classes"}'
                            ),
                            "overdue task",
                        )
                    ],
                    unit="s",
                    width=12,
                ),
            ],
        ),
        (
            "Outbox and workers",
            [
                Panel(
                    "Age of the oldest event",
                    [("service:credit_outbox_oldest_event_age_seconds:max", "event")],
                    unit="s",
                ),
                Panel(
                    "Events",
                    [
                        ("max(credit_outbox_events_waiting)", "waiting"),
                        (
                            _rate("credit_events_published_total"),
                            "published a second",
                        ),
                    ],
                ),
                Panel(
                    "Overdue tasks",
                    [("actor:credit_outbox_oldest_task_overdue_seconds:max", "{{actor}}")],
                    unit="s",
                ),
                Panel(
                    "Tasks by state",
                    [("sum by (state) (actor:credit_outbox_tasks:max)", "{{state}}")],
                ),
                Panel(
                    "Attempts by outcome",
                    [
                        (
                            _rate("credit_tasks_total", "actor, outcome") + " > 0",
                            "{{actor}} {{outcome}}",
                        )
                    ],
                    unit="cps",
                ),
                Panel(
                    "99 of 100 attempts within",
                    [
                        (
                            _within(0.99, "credit_task_seconds", "actor"),
                            "{{actor}}",
                        )
                    ],
                    unit="s",
                ),
            ],
        ),
        (
            "Retention",
            [
                Panel(
                    "Time since the oldest row should have been deleted",
                    [("max by (table) (credit_retention_overdue_seconds)", "{{table}}")],
                    unit="s",
                ),
                Panel(
                    "Age of the oldest row that can expire",
                    [("max by (table) (credit_retention_oldest_age_seconds)", "{{table}}")],
                    unit="s",
                ),
                Panel(
                    "Rows deleted a second",
                    [(_rate("credit_retention_deleted_rows_total", "table"), "{{table}}")],
                    unit="cps",
                ),
            ],
        ),
        (
            "Correctness of scores",
            [
                Panel(
                    "Customers compared with the facts",
                    [
                        (
                            _rate("credit_reconciled_customers_total"),
                            "compared a second",
                        )
                    ],
                    unit="cps",
                ),
                Panel(
                    "Discrepancies found and corrected",
                    [(_rise("credit_discrepancies_total", window="1h"), "in an hour")],
                    steps=_RED_ABOVE_ZERO,
                ),
                Panel(
                    "Outdated scores",
                    [("max(credit_scores_past_horizon)", "customers")],
                ),
                Panel(
                    "Responses from the cache",
                    [("service:credit_cache_reads_hit:ratio_rate5m", "hits")],
                    unit="percentunit",
                    maximum=1,
                ),
            ],
        ),
    ],
    variables=[
        {
            "name": "scorecard",
            "label": "Scorecard",
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {
                "query": "label_values(credit_decisions_total, scorecard_version)",
                "refId": "scorecard",
            },
            "definition": "label_values(credit_decisions_total, scorecard_version)",
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "refresh": 2,
            "sort": 1,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }
    ],
)


def _placed(dashboard: Dashboard) -> list[dict[str, Any]]:
    """Rows and panels with grid positions, in Grafana's format."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in dashboard.rows:
        placed.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": y},
            }
        )
        y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y, height = 0, y + height, 0
            placed.append(_panel(panel, x, y))
            x += panel.width
            height = max(height, panel.height)
        y += height
    for number, each in enumerate(placed, 1):
        each["id"] = number
    return placed


def _panel(panel: Panel, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": color} for value, color in panel.steps],
        },
    }
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "lineWidth": 2,
            "fillOpacity": 10 if panel.stacked == "none" else 60,
            "showPoints": "never",
            "stacking": {"mode": panel.stacked, "group": "A"},
        }
    as_heatmap = panel.kind == "heatmap" or panel.options.get("format") == "heatmap"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _DATASOURCE,
            "expr": expression,
            "legendFormat": legend or "__auto",
            "format": "heatmap" if as_heatmap else "time_series",
            "instant": panel.kind in {"stat", "bargauge"},
            "range": panel.kind not in {"stat", "bargauge"},
        }
        for number, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": targets,
    }


def _options(panel: Panel) -> dict[str, Any]:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "stat":
            return {"reduceOptions": reduced, "colorMode": "background", "graphMode": "none"}
        case "bargauge":
            return {
                "reduceOptions": reduced,
                "orientation": "vertical",
                "displayMode": "basic",
                "showUnfilled": False,
            }
        case "heatmap":
            return {
                "calculate": False,
                "color": {"mode": "scheme", "scheme": "Blues"},
                "yAxis": {"unit": panel.unit},
                "cellGap": 1,
            }
        case _:
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def document(dashboard: Dashboard) -> str:
    """The dashboard in the format of Grafana's provisioning."""
    return (
        json.dumps(
            {
                "uid": dashboard.uid,
                "title": dashboard.title,
                "description": dashboard.description,
                "tags": ["credit-service"],
                "schemaVersion": 39,
                "version": 1,
                "editable": False,
                "graphTooltip": 1,
                "refresh": "30s",
                "time": {"from": "now-6h", "to": "now"},
                "timezone": "browser",
                "templating": {"list": list(dashboard.variables)},
                "annotations": {
                    "list": [
                        {
                            "name": "Alerts",
                            "datasource": _DATASOURCE,
                            "enable": True,
                            "iconColor": "red",
                            "expr": 'ALERTS{alertstate="firing", alertname=~"Credit.+"}',
                            "titleFormat": "{{alertname}}",
                        }
                    ]
                },
                "panels": _placed(dashboard),
            },
            indent=2,
        )
        + "\n"
    )


DASHBOARDS = {"service.json": SERVICE, "lending.json": LENDING}


def main(command: str) -> int:
    """Write the files, or report those that are out of date."""
    stale = []
    for name, dashboard in DASHBOARDS.items():
        path, text = FOLDER / name, document(dashboard)
        if command == "write":
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python scripts/dashboards.py write")
    return 1 if stale else 0


if __name__ == "__main__":
    if sys.argv[1:] not in (["write"], ["check"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
