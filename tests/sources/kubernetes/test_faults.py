"""A cluster that fails: what it said last stays, it is said why, and nothing is asked of it more often than it can bear."""

import asyncio
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.names import ServiceRef
from controlplane.sources.kubernetes import client, reflector
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.client import Trouble
from controlplane.sources.kubernetes.source import KubernetesSource, Watched
from tests.sources.kubernetes.relay import relayed
from tests.sources.kubernetes.rig import addresses, eventually, ref, watching
from tests.support.kubernetes import Kubernetes, kubernetes
from tests.support.ports import free_port

HERE = Watched(region="here")
SLICES = "endpointslices"


@pytest.fixture
def cluster() -> Kubernetes:
    return kubernetes()


@pytest.fixture
def namespace(cluster: Kubernetes) -> str:
    name = cluster.namespace()
    cluster.service(name, "web")
    cluster.slice(name, "web-1", "web", ["10.0.0.1", "10.0.0.2"])
    return name


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches of a second, so that what comes with the next one comes soon."""
    monkeypatch.setattr(reflector, "WATCH_SECONDS", (2, 2))
    monkeypatch.setattr(client, "WATCH_SLACK_SECONDS", 3.0)
    monkeypatch.setattr(client, "ANSWER_SECONDS", 8.0)
    monkeypatch.setattr(client, "CONNECT_SECONDS", 8.0)


def removals(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith("remove")]


def test_a_server_that_is_killed_and_comes_back_causes_nothing(
    cluster: Kubernetes, namespace: str, tmp_path: Path
) -> None:
    """F25: nothing has changed, so nothing is pushed."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        web_ref = ref(namespace, "web")
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
            calls = list(sink.calls)
            for _ in range(2):
                cluster.kill()
                await eventually(lambda: source.kinds[SLICES].trouble is Trouble.UNREACHABLE, "it is noticed")
                await sink.until(lambda: sink.state == "failed")
                cluster.launch()
                await asyncio.to_thread(cluster.wait)
                await sink.until(lambda: sink.state == "synced")
            assert sink.calls == calls
            await asyncio.to_thread(cluster.slice, namespace, "web-1", "web", ["10.0.0.1", "10.0.0.3"])
            await sink.until(lambda: "10.0.0.3" in addresses(sink.services[web_ref]))

    asyncio.run(scenario())


def test_history_that_is_compacted_is_listed_without_a_gap(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """While the server is away its history goes: the watch that resumes is too old (410)."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        web_ref = ref(namespace, "web")
        async with relayed(cluster) as relay:
            cluster.kubeconfig(kubeconfig, server=relay.url)
            async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
                lists = source.kinds[SLICES].lists

                async def away(_: web.Request) -> web.StreamResponse:
                    return web.Response(status=502)

                relay.answer = away
                relay.cut()
                await asyncio.to_thread(cluster.slice, namespace, "web-1", "web", ["10.0.0.1", "10.0.0.7"])
                await asyncio.to_thread(cluster.service, namespace, "noise")
                cluster.kill()
                cluster.compact()
                cluster.launch()
                await asyncio.to_thread(cluster.wait)
                relay.answer = None
                await sink.until(lambda: "10.0.0.7" in addresses(sink.services[web_ref]))
                assert source.kinds[SLICES].lists > lists
                assert removals(sink.calls) == []
                assert sink.calls[-1] == f"put {web_ref}", "what a list lacks is not sure"
                source.confirm([web_ref])
                await sink.until(lambda: sink.calls[-1] == f"put {web_ref} surely")
                assert all("10.0.0.1" in addresses(one) for one in sink.versions[web_ref])

    asyncio.run(scenario())


def test_what_changed_while_it_was_away_arrives(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """F26: additions, changes and deletions, within seconds of its return."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        cluster.service(namespace, "gone")
        web_ref, gone = ref(namespace, "web"), ref(namespace, "gone")
        async with relayed(cluster) as relay:
            cluster.kubeconfig(kubeconfig, server=relay.url)
            async with watching(kubeconfig, [web_ref, gone], watched=HERE) as (sink, _):

                async def away(request: web.Request) -> web.StreamResponse:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()

                relay.answer = away
                relay.cut()
                await asyncio.to_thread(cluster.delete, "Service", "gone", namespace)
                await asyncio.to_thread(cluster.slice, namespace, "web-1", "web", ["10.0.0.2"])
                await asyncio.to_thread(cluster.slice, namespace, "web-2", "web", ["10.0.0.9"])
                await sink.until(lambda: sink.state == "failed")
                assert set(sink.services) == {web_ref, gone}
                relay.answer = None
                await sink.until(lambda: addresses(sink.services[web_ref]) == ["10.0.0.2", "10.0.0.9"])
                await sink.until(lambda: gone not in sink.services)
                await sink.until(lambda: sink.state == "synced")

    asyncio.run(scenario())


def test_a_watch_that_falls_silent_is_noticed(cluster: Kubernetes, namespace: str, tmp_path: Path, quick: None) -> None:
    """F28: no byte comes and no connection breaks."""

    async def scenario() -> None:
        web_ref = ref(namespace, "web")
        async with relayed(cluster) as relay:
            kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=relay.url)
            async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, _):

                async def silence(request: web.Request) -> web.StreamResponse | None:
                    if not relay.silent or "watch" not in request.query:
                        return None
                    response = web.StreamResponse()
                    await response.prepare(request)
                    await asyncio.sleep(3600)
                    return response

                relay.silent, relay.answer = True, silence
                await asyncio.to_thread(cluster.slice, namespace, "web-1", "web", ["10.0.0.1", "10.0.0.4"])
                asked = len(relay.asked)
                await eventually(lambda: len(relay.asked) >= asked + 4, "it is asked again")
                relay.silent = False
                await sink.until(lambda: "10.0.0.4" in addresses(sink.services[web_ref]))

    asyncio.run(scenario())


def test_a_dead_watch_is_noticed_within_a_minute() -> None:
    assert reflector.WATCH_SECONDS[1] + client.WATCH_SLACK_SECONDS + reflector.FIRST_DELAY <= 60


def test_a_frozen_server_loses_nothing(cluster: Kubernetes, namespace: str, tmp_path: Path, quick: None) -> None:
    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        web_ref = ref(namespace, "web")
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, _):
            calls = list(sink.calls)
            cluster.freeze()
            try:
                await sink.until(lambda: sink.state == "failed")
            finally:
                cluster.thaw()
            await sink.until(lambda: sink.state == "synced")
            assert sink.calls == calls

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("status", "body", "trouble"),
    [
        (429, b"", Trouble.BUSY),
        (500, b"oops", Trouble.BROKEN),
        (503, b"", Trouble.BUSY),
        (403, b'{"kind":"Status","message":"no such right"}', Trouble.DENIED),
        (200, b"", Trouble.BROKEN),
        (200, b"{}", Trouble.BROKEN),
        (200, b"null", Trouble.BROKEN),
        (200, b'{"metadata":{"resourceVersion":"7"},"items":[{"metad', Trouble.BROKEN),
        (200, b'{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":7}}]}', Trouble.BROKEN),
        (200, b'{"metadata":{},"items":[]}', Trouble.BROKEN),
        (302, b"", Trouble.BROKEN),
        (410, b'{"kind":"Status","code":410,"message":"too old resource version"}', Trouble.BROKEN),
    ],
)
def test_an_answer_that_is_none_changes_nothing(
    cluster: Kubernetes, namespace: str, tmp_path: Path, status: int, body: bytes, trouble: Trouble
) -> None:
    """History is gone and the list is bad: the emptiness of an answer is never an answer."""

    async def scenario() -> None:
        web_ref = ref(namespace, "web")
        async with relayed(cluster) as relay:
            kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=relay.url)
            async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
                calls = list(sink.calls)

                async def bad(request: web.Request) -> web.StreamResponse:
                    if "watch" in request.query:
                        return web.Response(status=410, body=b'{"kind":"Status","code":410,"message":"too old"}')
                    return web.Response(status=status, body=body, headers={"Retry-After": "1"})

                relay.answer = bad
                relay.cut()
                await eventually(lambda: source.kinds[SLICES].trouble is trouble, "it is said")
                await sink.until(lambda: sink.state == "failed")
                relay.answer = None
                await sink.until(lambda: sink.state == "synced")
                assert sink.calls == calls

    asyncio.run(scenario())


def test_a_busy_server_is_asked_when_it_says(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """F29: `Retry-After` is obeyed, and a failing server sees at most one request a second of each kind."""

    async def scenario() -> None:
        web_ref = ref(namespace, "web")
        async with relayed(cluster) as relay:
            kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=relay.url)
            async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
                wait = "3"

                async def busy(_: web.Request) -> web.StreamResponse:
                    return web.Response(status=429, headers={"Retry-After": wait})

                relay.answer = busy
                relay.cut()
                await eventually(lambda: source.kinds[SLICES].trouble is Trouble.BUSY, "it is said")
                begin = len(relay.asked)
                times: list[float] = []

                def twice() -> bool:
                    times[:] = [at for at, path in relay.asked[begin:] if SLICES in path]
                    return len(times) >= 2

                await eventually(twice, "it is asked twice more")
                assert all(late - early >= 3.0 for early, late in pairwise(times))
                relay.answer = None
                await sink.until(lambda: sink.state == "synced")

    asyncio.run(scenario())


def test_a_storm_of_410_empties_nothing(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        web_ref = ref(namespace, "web")
        async with relayed(cluster) as relay:
            kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=relay.url)
            async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
                calls = list(sink.calls)
                error = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'

                async def storm(request: web.Request) -> web.StreamResponse | None:
                    return web.Response(body=error) if "watch" in request.query else None

                begin, lists = time.monotonic(), source.kinds[SLICES].lists
                relay.answer = storm
                relay.cut()
                await eventually(lambda: source.kinds[SLICES].lists >= lists + 3, "it is listed again and again")
                assert time.monotonic() - begin >= 3.0, "at most one list a second"
                relay.answer = None
                await asyncio.to_thread(cluster.slice, namespace, "web-2", "web", ["10.0.0.5"])
                await sink.until(lambda: "10.0.0.5" in addresses(sink.services[web_ref]))
                assert sink.calls[: len(calls)] == calls
                assert removals(sink.calls) == []

    asyncio.run(scenario())


def test_a_cluster_that_has_not_answered_has_not_said_everything(
    cluster: Kubernetes, namespace: str, tmp_path: Path
) -> None:
    """Services are read when it is known where nodes stand; how long it has been lost goes on until then."""

    async def scenario() -> None:
        web_ref, nodes = ref(namespace, "web"), asyncio.Event()
        async with relayed(cluster) as relay:
            kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=relay.url)

            async def late(request: web.Request) -> None:
                if request.path.endswith("/nodes"):
                    await nodes.wait()

            relay.answer = late
            async with watching(kubeconfig, [web_ref], ready=False) as (sink, _):
                await eventually(lambda: bool(relay.asked), "it is asked for its nodes")
                await sink.until(lambda: True)
                assert sink.state == "starting"
                nodes.set()
                await sink.until(lambda: sink.state == "synced" and web_ref in sink.services)

    asyncio.run(scenario())


def test_a_cluster_that_is_away_at_the_start_has_been_lost_since_it_was_heard(
    tmp_path: Path, cluster: Kubernetes
) -> None:
    """How long its endpoints are kept is counted from then, though nobody has asked for services when it first fails."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=f"http://127.0.0.1:{free_port()}")
        async with watching(kubeconfig, watched=Watched(specs=True), ready=False) as (sink, _):
            await sink.until(lambda: sink.state == "failed")
            assert sink.endpoints_fail

    asyncio.run(scenario())


def test_a_list_in_pages_that_expires_is_begun_again(
    cluster: Kubernetes, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "PAGE", 2)

    async def scenario() -> None:
        for number in range(2, 8):
            cluster.slice(namespace, f"web-{number}", "web", [f"10.0.1.{number}"])
        web_ref = ref(namespace, "web")
        async with relayed(cluster) as relay:
            kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", server=relay.url)
            expired = 0

            async def expire(request: web.Request) -> web.StreamResponse | None:
                nonlocal expired
                if "continue" in request.query and SLICES in request.path and len(relay.asked) > 4 and not expired:
                    expired += 1
                    return web.Response(status=410, body=b'{"kind":"Status","code":410,"message":"expired"}')
                return None

            relay.answer = expire
            async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
                assert len(addresses(sink.services[web_ref])) == 8
                assert expired == 1
                assert source.kinds[SLICES].lists == 1
                assert [call for call in sink.calls if "web" in call] == [f"put {web_ref}"]

    asyncio.run(scenario())


def test_a_cluster_restored_from_a_backup_is_believed(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """F32: it is behind what it told before; a watch from there would be silent until it catches up."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        web_ref = ref(namespace, "web")
        cluster.stop()
        backup = cluster.backup()
        cluster.launch()
        await asyncio.to_thread(cluster.wait)
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
            for number in range(3, 30):
                await asyncio.to_thread(cluster.slice, namespace, "web-1", "web", [f"10.0.0.{number}"])
            await sink.until(lambda: addresses(sink.services[web_ref]) == ["10.0.0.29"])
            cluster.stop()
            cluster.restore(backup)
            cluster.launch()
            await asyncio.to_thread(cluster.wait)
            await sink.until(lambda: addresses(sink.services[web_ref]) == ["10.0.0.1", "10.0.0.2"])
            await asyncio.to_thread(cluster.slice, namespace, "web-1", "web", ["10.0.0.1", "10.0.0.77"])
            await sink.until(lambda: "10.0.0.77" in addresses(sink.services[web_ref]))
            assert source.kinds[SLICES].trouble is None

    asyncio.run(scenario())


def test_a_token_that_is_worth_nothing_any_more(
    cluster: Kubernetes, namespace: str, tmp_path: Path, quick: None
) -> None:
    """F30: `AuthFailed` is a word of its own; the file is read again, and nothing was lost meanwhile."""

    async def scenario() -> None:
        token = tmp_path / "token"
        for account in ("one", "two"):
            cluster.service_account(namespace, account)
            binding = {"kind": "ClusterRoleBinding", "metadata": {"name": f"{namespace}-{account}"}}
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
            subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
            cluster.apply({**binding, "roleRef": role, "subjects": [subject]})
        token.write_text(cluster.token(namespace, "one"))
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig", {"tokenFile": "token"})
        web_ref = ref(namespace, "web")
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
            calls = list(sink.calls)
            await asyncio.to_thread(cluster.delete, "ServiceAccount", "one", namespace)
            await eventually(lambda: source.kinds[SLICES].trouble is Trouble.AUTH_FAILED, "it is said")
            await sink.until(lambda: sink.state == "failed")
            token.write_text(await asyncio.to_thread(cluster.token, namespace, "two"))
            await sink.until(lambda: sink.state == "synced")
            assert sink.calls == calls
            # Rotation in good time is no fault at all.
            failures = sink.failures
            await asyncio.to_thread(cluster.service_account, namespace, "one")
            token.write_text(await asyncio.to_thread(cluster.token, namespace, "two"))
            watches = source.kinds[SLICES].watches
            await eventually(lambda: source.kinds[SLICES].watches >= watches + 2, "it watches with the new token")
            assert sink.failures == failures

    asyncio.run(scenario())


def test_a_server_certificate_that_has_expired(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        web_ref = ref(namespace, "web")
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
            calls = list(sink.calls)
            cluster.kill()
            cluster.certify(cluster.authority.leaf("127.0.0.1", "localhost", life=timedelta(hours=-1)))
            cluster.launch()
            try:
                await eventually(lambda: "expired" in source.kinds[SLICES].reason, "it is said")
                await sink.until(lambda: sink.state == "failed")
            finally:
                cluster.kill()
                cluster.certify()
                cluster.launch()
            await asyncio.to_thread(cluster.wait)
            await sink.until(lambda: sink.state == "synced")
            assert sink.calls == calls

    asyncio.run(scenario())


def test_a_client_certificate_that_rotates(cluster: Kubernetes, namespace: str, tmp_path: Path, quick: None) -> None:
    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        stranger = cluster.certified(cluster.client_certificate("nobody"))
        web_ref = ref(namespace, "web")
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, source):
            cluster.kubeconfig(kubeconfig, stranger)
            await eventually(lambda: source.kinds[SLICES].trouble is Trouble.DENIED, "it is said")
            cluster.kubeconfig(kubeconfig)
            await sink.until(lambda: sink.state == "synced")
            assert addresses(sink.services[web_ref]) == ["10.0.0.1", "10.0.0.2"]

    asyncio.run(scenario())


def test_a_namespace_that_is_deleted(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """Its objects are deleted one by one, and each deletion is seen."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        web_ref = ref(namespace, "web")
        async with watching(kubeconfig, [web_ref], watched=HERE) as (sink, _):
            await asyncio.to_thread(cluster.delete_all, "EndpointSlice", namespace)
            await sink.until(lambda: addresses(sink.services[web_ref]) == [])
            await asyncio.to_thread(cluster.delete_all, "Service", namespace)
            await sink.until(lambda: web_ref not in sink.services)
            assert sink.calls[-1] == f"remove {web_ref} surely"

    asyncio.run(scenario())


def test_two_clusters_with_equal_names(cluster: Kubernetes, namespace: str, tmp_path: Path) -> None:
    """A service is that of its cluster; what is wanted of the other is nobody's business."""

    async def scenario() -> None:
        kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
        one, other = ref(namespace, "web"), ServiceRef("kubernetes/other", namespace, "web")
        source = KubernetesSource("other", Access(kubeconfig), HERE)
        async with (
            watching(kubeconfig, [one, other], watched=HERE) as (first, _),
            watching(kubeconfig, [one, other], source=source) as (second, _),
        ):
            assert set(first.services) == {one}
            assert set(second.services) == {other}

    asyncio.run(scenario())
