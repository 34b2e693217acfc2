"""The metrics of the process, in a registry of their own; `app` counts, the admin API shows them.

Labels are few and bounded: types of resources, tables, sources. Nodes are no label; the admin API lists them.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from controlplane import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Fine around the goals (15 ms at the median, 40 ms at the 99th percentile), coarse where something is wrong anyway."""


def type_label(type_url: str) -> str:
    """`Cluster` of `type.googleapis.com/envoy.config.cluster.v3.Cluster`; other texts are one label, `other`."""
    name = type_url.rpartition(".")[2]
    return name if type_url.startswith("type.googleapis.com/envoy.") and name.isalnum() else "other"


@dataclass(slots=True)
class _Counts:
    """Of one type; the fields are in the order of `_METRICS`."""

    pushes: int = 0
    resources: int = 0
    response_bytes: int = 0
    acks: int = 0


_METRICS = (
    ("controlplane_pushes", "Responses sent to proxies."),
    ("controlplane_pushed_resources", "Resources in the responses sent."),
    ("controlplane_response_bytes", "Bytes of the responses sent."),
    ("controlplane_acks", "Responses that proxies accepted."),
)


class Traffic(Collector):
    """Responses and their ACKs, counted on the way of every change to every proxy: plain numbers, for one thread alone.

    Four counters with their locks took as long as half of a session's part in a change.
    """

    def __init__(self) -> None:
        self._types: dict[str, _Counts] = {}  # by type URL, of which the caller bounds how many there are

    def pushed(self, type_url: str, size: int, resources: int) -> None:
        """A response of `size` bytes was sent."""
        counts = self._of(type_url)
        counts.pushes += 1
        counts.resources += resources
        counts.response_bytes += size

    def acked(self, type_url: str) -> None:
        """A response was accepted."""
        self._of(type_url).acks += 1

    def _of(self, type_url: str) -> _Counts:
        if (counts := self._types.get(type_url)) is None:
            counts = self._types[type_url] = _Counts()
        return counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counters, as Prometheus reads them."""
        labelled = [(type_label(type_url), counts) for type_url, counts in [*self._types.items()]]
        for (name, help), field in zip(_METRICS, fields(_Counts), strict=True):
            metric = CounterMetricFamily(name, help, labels=["type"])
            for label, counts in labelled:
                metric.add_metric([label], getattr(counts, field.name))
            yield metric


def _reading(give: Callable[[], object], field: str) -> Callable[[], float]:
    return lambda: float(getattr(give(), field))


class Metrics:
    """Every metric. One instance belongs to one process (or to one test)."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each counter, which nobody asks for
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)  # process_start_time_seconds and its like, which every dashboard knows
        self.traffic = Traffic()
        registry.register(self.traffic)
        self.large_responses = Counter(
            "controlplane_large_responses",
            "Streams that got a response larger than 4 MiB, which gRPC clients refuse unless told otherwise.",
            ["type"],
            registry=registry,
        )
        self.nacks = Counter("controlplane_nacks", "Responses that proxies refused.", ["type"], registry=registry)
        self._held = Gauge(
            "controlplane_held_resources",
            "Published resources that are held back from proxies, because they were refused.",
            ["type"],
            registry=registry,
        )
        self.build_seconds = Histogram(
            "controlplane_build_seconds",
            "Time to compile one batch of changes.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.propagation_seconds = Histogram(
            "controlplane_propagation_seconds",
            "Time from a source's event to the last ACK of the proxies that it concerns.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.rows = Gauge("controlplane_rows", "Rows in each table.", ["table"], registry=registry)
        self.problems = Gauge(
            "controlplane_problems", "What is wrong now with what sources say.", ["severity"], registry=registry
        )
        self.refused = Counter(
            "controlplane_refused_identities",
            "Streams refused or ended because of the client's certificate.",
            registry=registry,
        )
        self.tasks = Gauge("controlplane_tasks", "Tasks of the event loop.", registry=registry)
        self.blocks = Gauge(
            "controlplane_allocated_blocks", "Blocks of memory that Python objects take.", registry=registry
        )
        self.nodes = Gauge("controlplane_connected_nodes", "Streams of proxies that are open.", registry=registry)
        self.sequence = Gauge("controlplane_sequence", "Number of the last publication.", registry=registry)
        self.ready = Gauge("controlplane_ready", "1 after the first complete compile.", registry=registry)
        self._held_types: set[str] = set()
        self._source_age = Gauge(
            "controlplane_source_age_seconds",
            "Time since a source last said something or was seen to work.",
            ["source"],
            registry=registry,
        )
        self._source_up = Gauge(
            "controlplane_source_up", "1 while a source can be read.", ["source"], registry=registry
        )
        self.endpoint_changes = Counter(
            "controlplane_endpoint_changes",
            "Publications of endpoints, apart from those of configuration.",
            registry=registry,
        )
        self.endpoint_seconds = Histogram(
            "controlplane_endpoint_seconds",
            "Time from a source's event to the publication of the endpoints it changed.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._delivered = {
            field: Gauge(f"controlplane_source_{field}", help, ["source"], registry=registry)
            for field, help in (
                ("services", "Services that a source delivers, of those that are asked for."),
                ("endpoints", "Endpoints of these services."),
                ("held", "Endpoints of these that stay only because their removal is not believed yet."),
            )
        }
        self._state = {
            field: Gauge(f"controlplane_state_{name}", help, registry=registry)
            for field, name, help in (
                ("is_kept", "kept", "1 while everything that is in force is kept on disk."),
                ("pending", "pending_rows", "Rows that wait to be written to disk."),
                ("mishaps", "mishaps", "How often the file was removed, replaced or damaged, and was written anew."),
            )
        }
        self._status_writer = Gauge(
            "controlplane_status_writer",
            "1 while this process is the one that writes the status of a cluster's specs.",
            ["source"],
            registry=registry,
        )
        build = Gauge("controlplane_build_info", "The version, as a label.", ["version"], registry=registry)
        build.labels(__version__).set(1)

    def watch_status(self, source: str, leads: Callable[[], bool]) -> None:
        """Show whether this process writes the status of a cluster's specs."""
        self._status_writer.labels(source).set_function(leads)

    def watch_state(self, status: Callable[[], object]) -> None:
        """Show how the state on disk is; `status` gives an object with the fields `is_kept`, `pending`, `mishaps`."""
        for field, gauge in self._state.items():
            gauge.set_function(_reading(status, field))

    def watch_services(self, source: str, delivered: Callable[[], object]) -> None:
        """Show what a source delivers; `delivered` gives an object with the fields `services`, `endpoints`, `held`."""
        for field, gauge in self._delivered.items():
            gauge.labels(source).set_function(_reading(delivered, field))

    def large(self, type_url: str) -> None:
        """A stream got a response larger than 4 MiB."""
        self.large_responses.labels(type_label(type_url)).inc()

    def nacked(self, type_url: str) -> None:
        """A response was refused."""
        self.nacks.labels(type_label(type_url)).inc()

    def holding(self, types: Iterable[str]) -> None:
        """What is held back now: the type of each resource."""
        counts = Counts(types)
        for label in self._held_types | counts.keys():
            self._held.labels(label).set(counts[label])
        self._held_types |= counts.keys()

    def watch_certificates(
        self, node: Callable[[], float], server: Callable[[], float], authority: Callable[[], float]
    ) -> None:
        """Show the time left of certificates. A process that asks for none shows nothing: 0 would raise every alarm."""
        for name, help, seconds_left in (
            ("node_certificate", "Time left of the proxy's certificate that ends first.", node),
            ("server_certificate", "Time left of the xDS server's certificate.", server),
            ("authority", "Time left of the authority of proxies' certificates that ends last.", authority),
        ):
            Gauge(f"controlplane_{name}_seconds", help, registry=self.registry).set_function(seconds_left)

    def watch_expiry(self, seconds_left: Callable[[], float]) -> None:
        """Show the time left of the certificates that gateways use."""
        help = "Time left of the certificate of a listener, or of a client to a backend, that ends first."
        Gauge("controlplane_gateway_certificate_seconds", help, registry=self.registry).set_function(seconds_left)

    def watch_source(self, source: str, age_seconds: Callable[[], float], works: Callable[[], bool]) -> None:
        """Ask for the age of this source, and whether it can be read, whenever the metrics are read."""
        self._source_age.labels(source).set_function(age_seconds)
        self._source_up.labels(source).set_function(works)

    def render(self) -> bytes:
        """Everything in Prometheus' text format; its content type is `CONTENT_TYPE`."""
        return generate_latest(self.registry)
