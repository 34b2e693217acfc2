"""Secrets of a real API server: those that are named, and no others, with a right for those alone."""

import asyncio
from pathlib import Path

import pytest

from controlplane.model.secret import Secret
from controlplane.sources.kubernetes.source import Watched
from tests.sources.kubernetes.rig import secret_ref, watching
from tests.support.kubernetes import Kubernetes, kubernetes


@pytest.fixture
def cluster() -> Kubernetes:
    return kubernetes()


@pytest.fixture
def namespace(cluster: Kubernetes) -> str:
    return cluster.namespace()


@pytest.mark.parametrize("by_namespace", [False, True])
def test_secrets_that_are_named_arrive_and_follow(
    cluster: Kubernetes, namespace: str, tmp_path: Path, by_namespace: bool
) -> None:
    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        for name in ("tls", "other"):
            cluster.secret(namespace, name, {"tls.crt": b"c1", "tls.key": b"k1\xff\0"})
        tls, later = secret_ref(namespace, "tls"), secret_ref(namespace, "later")
        watched = Watched(specs=False, secrets_by_namespace=by_namespace)
        async with watching(kubeconfig, [], [tls, later], watched=watched) as (sink, source):
            assert sink.secrets == {tls: Secret.of({"tls.crt": b"c1", "tls.key": b"k1\xff\0"})}
            assert f"remove {later}" in sink.calls
            await asyncio.to_thread(cluster.secret, namespace, "later", {"a": b"1"})
            await sink.until(lambda: later in sink.secrets)
            await asyncio.to_thread(cluster.secret, namespace, "tls", {"tls.crt": b"c2", "tls.key": b"k2"})
            await sink.until(lambda: sink.secrets[tls].get("tls.crt") == b"c2")
            await asyncio.to_thread(cluster.delete, "Secret", "tls", namespace)
            await sink.until(lambda: tls not in sink.secrets)
            await asyncio.to_thread(cluster.secret, namespace, "tls", {"tls.crt": b"c3"})
            await sink.until(lambda: tls in sink.secrets)
            other = secret_ref(namespace, "other")
            source.want([], [other])
            source.forget([], [later])
            await sink.until(lambda: source.caught_up)
            assert other in sink.secrets
            assert len(source.kinds) == (1 if by_namespace else 2)

    asyncio.run(scenario())
