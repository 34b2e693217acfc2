"""The clusters of the configuration as sources. Loaded only when there are any: it brings an HTTP client."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from controlplane.app.memory import Memory
from controlplane.app.reports import Reports
from controlplane.config import KubernetesCluster
from controlplane.names import kubernetes_source
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.source import Before, KubernetesSource, Watched
from controlplane.status.writer import Writer


def status_writers(
    clusters: Iterable[KubernetesCluster], sources: Iterable[object], reports: Reports, identity: str
) -> dict[str, Writer]:
    """A writer of statuses for each cluster whose specs are served, by source. `identity` is this process's own."""
    by_name = {source.name: source for source in sources if isinstance(source, KubernetesSource)}
    made = {}
    for cluster in clusters:
        if cluster.specs and cluster.status:
            source = by_name[kubernetes_source(cluster.name)]
            made[source.name] = writer = Writer(
                Access(cluster.kubeconfig, cluster.context),
                source,
                lambda ref, seen: reports.standing(ref, seen.generation, seen.good),
                partial(reports.said, source.name),
                namespace=cluster.lease_namespace,
                identity=identity,
            )
            source.noticed = writer.noticed
    return made


def kubernetes_sources(
    clusters: Iterable[KubernetesCluster], memory: Memory, hold_seconds: float
) -> list[KubernetesSource]:
    """One source a cluster, with what was in force before.

    `hold_seconds`: how long objects stay whose removal is doubted.
    """
    return [
        KubernetesSource(
            cluster.name,
            Access(cluster.kubeconfig, cluster.context),
            Watched(
                specs=cluster.specs,
                endpoints=cluster.endpoints,
                namespaces=None if cluster.namespaces == "all" else cluster.namespaces,
                secrets_by_namespace=cluster.secrets == "namespaces",
                region=cluster.region,
            ),
            before=Before(
                memory.texts,
                {ref: one for ref, one in memory.services.items() if ref.source == kubernetes_source(cluster.name)},
                memory.told.get(kubernetes_source(cluster.name), 0),
            ),
            hold_seconds=hold_seconds,
        )
        for cluster in clusters
    ]
