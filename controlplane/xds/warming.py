"""What a cluster needs before traffic may be sent to it: an ACK of the cluster does not mean that it is warm.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-warming
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from envoy.config.cluster.v3 import cluster_pb2

from controlplane.resources import Resource

RESOLUTION_HOLD = 1.0
"""Seconds that new routes wait for a cluster whose names must be resolved first: Envoy does not report it warm. The former
routes go on meanwhile. (With 0.25 and a resolver that takes 0.4, edits of such a backend failed 75 to 97 requests.)"""
HEALTH_HOLD = 0.5
"""Seconds that new routes wait for the first health checks of a cluster: none passes in less than a round trip."""

_RESOLVED = {cluster_pb2.Cluster.STRICT_DNS, cluster_pb2.Cluster.LOGICAL_DNS}
_RESOLVING_EXTENSIONS = {"envoy.cluster.dns", "envoy.clusters.dns"}


@dataclass(frozen=True, slots=True)
class Warming:
    """`assignment`: the load assignment that the client will ask for; `hold`: seconds after the ACK, bounded."""

    assignment: str | None = None
    hold: float = 0.0


def warming(cluster: Resource) -> Warming:
    """What this cluster, just sent to a client, waits for."""
    return _warming(cluster.body)


@lru_cache(maxsize=1024)
def _warming(body: bytes) -> Warming:
    message = cluster_pb2.Cluster.FromString(body)
    hold = HEALTH_HOLD if message.health_checks else 0.0
    if message.type == cluster_pb2.Cluster.EDS:
        return Warming(message.eds_cluster_config.service_name or message.name, hold)
    if message.type in _RESOLVED or message.cluster_type.name in _RESOLVING_EXTENSIONS:
        return Warming(hold=max(hold, RESOLUTION_HOLD))
    return Warming(hold=hold)
