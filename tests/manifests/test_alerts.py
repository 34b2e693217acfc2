"""Alert rules ask for metrics that there are, and lead to what is to be done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from controlplane.telemetry.metrics import Metrics
from tests.docs.pages import ROOT, anchors

RULES = [
    rule
    for group in yaml.safe_load((ROOT / "manifests" / "monitoring" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
TARGET = {"job", "instance"}
"""Labels that Prometheus itself gives to what it scrapes."""


@pytest.fixture(scope="module")
def there() -> dict[str, set[str]]:
    """The labels of each series that a process can show."""
    metrics = Metrics()
    metrics.watch_certificates(lambda: 0.0, lambda: 0.0, lambda: 0.0)
    metrics.watch_expiry(lambda: 0.0)
    found = {}
    for name, collector in metrics.registry._names_to_collectors.items():
        found[name] = {*TARGET, *getattr(collector, "_labelnames", ()), *({"le"} if name.endswith("_bucket") else ())}
    return found


def within(expression: str, kind: type[Any]) -> Iterator[Any]:
    """Every part of this kind, the outermost first."""
    parts: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(expression), parts.append)
    return (part for part in parts if isinstance(part, kind))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_series_and_labels_that_there_are(rule: dict[str, Any], there: dict[str, set[str]]) -> None:
    """One that asks for something else never fires, and nobody notices."""
    labels: set[str] = set()
    for series in within(rule["expr"], promql_parser.VectorSelector):
        assert series.name in there
        assert {one.name for one in series.matchers.matchers} <= there[series.name]
        labels |= there[series.name]
    for sum_ in within(rule["expr"], promql_parser.AggregateExpr):
        assert set(sum_.modifier.labels) <= labels
    for sum_ in list(within(rule["expr"], promql_parser.AggregateExpr))[:1]:
        labels = set(sum_.modifier.labels)
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_leads_to_what_is_to_be_done(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)


def test_the_table_of_alerts_has_every_one() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    named = re.findall(r"`(Controlplane\w+)`", page)
    assert sorted(named) == sorted(rule["alert"] for rule in RULES)
