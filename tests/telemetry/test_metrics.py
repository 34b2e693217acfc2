"""Metrics: what is counted appears under its name, and nothing makes labels without bound."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from controlplane.telemetry.metrics import Metrics, type_label

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def _samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_pushes_acks_and_nacks_are_counted_by_type() -> None:
    metrics = Metrics()
    metrics.traffic.pushed(CLUSTER, 100, 2)
    metrics.traffic.pushed(CLUSTER, 50, 1)
    metrics.traffic.acked(CLUSTER)
    metrics.nacked(CLUSTER)
    samples = _samples(metrics)
    label = (("type", "Cluster"),)
    assert samples["controlplane_pushes_total", label] == 2
    assert samples["controlplane_pushed_resources_total", label] == 3
    assert samples["controlplane_response_bytes_total", label] == 150
    assert samples["controlplane_acks_total", label] == 1
    assert samples["controlplane_nacks_total", label] == 1


def test_unknown_types_share_one_label() -> None:
    """A client chooses the type URLs it asks for; it must not be able to fill our memory with series."""
    assert {type_label(f"type.googleapis.com/evil.T{number}") for number in range(100)} == {"other"}
    assert type_label('type.googleapis.com/envoy.x"}\n1') == "other"


def test_certificates_are_shown_by_who_asks_for_them() -> None:
    metrics = Metrics()
    name = "controlplane_node_certificate_seconds"
    assert (name, ()) not in _samples(metrics)
    metrics.watch_certificates(lambda: float("inf"), lambda: 7.0, lambda: 70.0)
    samples = _samples(metrics)
    assert samples[name, ()] == float("inf")
    assert samples["controlplane_server_certificate_seconds", ()] == 7
    assert samples["controlplane_authority_seconds", ()] == 70


def test_the_process_shows_what_every_dashboard_knows() -> None:
    samples = _samples(Metrics())
    assert samples["process_start_time_seconds", ()] > 0
    assert samples["process_resident_memory_bytes", ()] > 0


def test_how_a_source_is_is_asked_when_it_is_read() -> None:
    metrics = Metrics()
    age = 1.0
    works = False
    metrics.watch_source("files", lambda: age, lambda: works)
    assert _samples(metrics)["controlplane_source_age_seconds", (("source", "files"),)] == 1
    age = 7.0
    assert _samples(metrics)["controlplane_source_age_seconds", (("source", "files"),)] == 7
    assert _samples(metrics)["controlplane_source_up", (("source", "files"),)] == 0
    works = True
    assert _samples(metrics)["controlplane_source_up", (("source", "files"),)] == 1


def test_two_instances_do_not_share_anything() -> None:
    first, second = Metrics(), Metrics()
    first.traffic.acked(CLUSTER)
    assert ("controlplane_acks_total", (("type", "Cluster"),)) not in _samples(second)


def test_propagation_has_buckets_around_the_goals() -> None:
    metrics = Metrics()
    metrics.propagation_seconds.observe(0.012)
    samples = _samples(metrics)
    assert samples["controlplane_propagation_seconds_bucket", (("le", "0.015"),)] == 1
    assert samples["controlplane_propagation_seconds_bucket", (("le", "0.01"),)] == 0
