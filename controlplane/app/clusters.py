"""The clusters of the configuration as sources. Loaded only when there are any: it brings an HTTP client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from controlplane.config import KubernetesCluster
from controlplane.names import ObjectRef
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.source import KubernetesSource, Watched


def kubernetes_sources(
    clusters: Iterable[KubernetesCluster], last_good: Mapping[ObjectRef, str]
) -> list[KubernetesSource]:
    """One source a cluster. `last_good`: texts of objects that were in force before, of any source."""
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
            last_good=last_good,
        )
        for cluster in clusters
    ]
