"""A Kubernetes source at work on the API server that the tests of a process share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from controlplane.model.endpoint import Health, Service
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.source import KubernetesSource, Watched
from controlplane.spec.parse import parse_text
from tests.sources.rig import Remembering
from tests.support.waiting import PATIENCE

SOURCE = "kubernetes/test"


def ref(namespace: str, name: str) -> ServiceRef:
    return ServiceRef(SOURCE, namespace, name)


def secret_ref(namespace: str, name: str) -> SecretRef:
    return SecretRef(SOURCE, namespace, name)


def valid(namespace: str, name: str = "api", port: int = 8080) -> str:
    """A RouteSpec with one backend and one route, to which the parser has no objection."""
    text = f"""
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  gateway: platform/edge
  backends: [{{name: b, members: [{{static: {{address: 192.0.2.1, port: {port}}}}}]}}]
  routes: [{{name: r, hosts: [a.example], public: true, match: [{{path: {{prefix: /{name}}}}}], to: [{{backend: b}}]}}]
"""
    (parsed,) = parse_text(text, "spec.yaml")
    assert parsed.document is not None, "\n".join(map(str, parsed.diagnostics))
    return text


def route_ref(namespace: str, name: str = "api") -> ObjectRef:
    return ObjectRef(SOURCE, "RouteSpec", namespace, name)


def addresses(service: Service) -> list[str]:
    return [endpoint.address for endpoint in service.endpoints]


def states(service: Service) -> dict[str, Health]:
    return {endpoint.address: endpoint.health for endpoint in service.endpoints}


async def eventually(holds: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Ask until something holds that no flush tells of."""
    try:
        async with asyncio.timeout(seconds):
            while not holds():  # noqa: ASYNC110  it happens beside the sink, or in another process
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {seconds:g} s") from None


@asynccontextmanager
async def watching(
    kubeconfig: Path,
    services: Collection[ServiceRef] = (),
    secrets: Collection[SecretRef] = (),
    *,
    watched: Watched | None = None,
    source: KubernetesSource | None = None,
    ready: bool = True,
) -> AsyncIterator[tuple[Remembering, KubernetesSource]]:
    """The source at work; `ready`: after it has caught up with all that is wanted."""
    source = source or KubernetesSource("test", Access(kubeconfig), watched or Watched())
    sink = Remembering()
    source.want(services, secrets)
    task = asyncio.create_task(source.run(sink))
    try:
        if ready:
            # A definition that was just made is served before its storage is: the first list may have to come again.
            await sink.until(lambda: source.caught_up and sink.state == "synced")
        yield sink, source
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
