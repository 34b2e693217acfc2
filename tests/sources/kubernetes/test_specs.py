"""Gateway specs as custom resources of a real API server: what they say counts, what they lack is looked at twice."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import yaml
from aiohttp import web

from controlplane.sources.kubernetes import definitions
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.client import Refused, Trouble
from controlplane.sources.kubernetes.definitions import SpecWatch
from controlplane.sources.kubernetes.source import Before, KubernetesSource, Watched
from controlplane.sources.kubernetes.specs import Documents, text_of
from controlplane.sources.kubernetes.watches import Watches
from controlplane.spec.parse import parse_text
from controlplane.spec.yaml import Loaded, load
from tests.sources.kubernetes.relay import relayed
from tests.sources.kubernetes.rig import SOURCE, eventually, ref, route_ref, secret_ref, valid, watching
from tests.sources.rig import Remembering
from tests.support.kubernetes import Kubernetes, anything, kubernetes


@pytest.fixture
def cluster() -> Iterator[Kubernetes]:
    found = kubernetes()
    yield found
    found.define()


@pytest.fixture
def namespace(cluster: Kubernetes) -> str:
    return cluster.namespace()


@pytest.fixture
def kubeconfig(cluster: Kubernetes, tmp_path: Path) -> Path:
    return cluster.kubeconfig(tmp_path / "kubeconfig")


def specs_of(namespace: str) -> Watched:
    return Watched(specs=True, namespaces=(namespace,))


@pytest.mark.parametrize(
    "character", ["\0", "\n", "\x7f", "\x85", "\x9f", "\u2028", "\u2029", "\ufeff", "\uffff", "é", "🙂"]
)
def test_whatever_the_api_server_takes_arrives(character: str) -> None:
    """JSON has characters that YAML does not, or for which it ends a line."""
    document = {character: [f"a {character} b"]}
    assert load(text_of(document)) == Loaded(document)
    assert "\n" not in text_of(document)


def test_documents_arrive_and_follow(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        cluster.spec(valid(namespace, "a"))
        cluster.spec(valid(cluster.namespace("outside"), "outside"))
        async with watching(kubeconfig, watched=specs_of(namespace)) as (sink, source):
            assert source.caught_up
            assert set(sink.objects) == {route_ref(namespace, "a")}
            (written,) = parse_text(valid(namespace, "a"), "spec.yaml", SOURCE)
            (arrived,) = parse_text(sink.objects[route_ref(namespace, "a")].text, "object", SOURCE)
            assert arrived.document is not None
            assert written.document is not None
            assert (arrived.document.spec, arrived.ref) == (written.document.spec, written.ref)

            await asyncio.to_thread(cluster.spec, valid(namespace, "b"))
            await sink.until(lambda: route_ref(namespace, "b") in sink.objects)
            puts = sink.calls.count("put a")
            await asyncio.to_thread(cluster.spec, valid(namespace, "a", 9090))
            await sink.until(lambda: "9090" in sink.objects[route_ref(namespace, "a")].text)
            assert sink.calls.count("put a") == puts + 1
            await asyncio.to_thread(cluster.delete, "RouteSpec", "a", namespace)
            await sink.until(lambda: route_ref(namespace, "a") not in sink.objects)
            await asyncio.to_thread(cluster.spec, valid(namespace, "a"))
            await sink.until(lambda: route_ref(namespace, "a") in sink.objects)

    asyncio.run(scenario())


def test_status_and_metadata_of_the_server_are_no_change(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    """F48: writing status never causes a compile."""

    async def scenario() -> None:
        cluster.spec(valid(namespace))
        async with watching(kubeconfig, watched=specs_of(namespace)) as (sink, _):
            calls = len(sink.calls)
            path = f"/apis/gatewayspec.dev/v1alpha1/namespaces/{namespace}/routespecs"
            merge = "application/merge-patch+json"
            for number in range(5):
                status = {"status": {"observedGeneration": number}}
                await asyncio.to_thread(cluster.call, "PATCH", f"{path}/api/status", status, merge)
                note = {"metadata": {"annotations": {"note": str(number)}}}
                await asyncio.to_thread(cluster.call, "PATCH", f"{path}/api", note, merge)
            await asyncio.to_thread(cluster.spec, valid(namespace, "other"))
            await sink.until(lambda: route_ref(namespace, "other") in sink.objects)
            assert sink.calls[calls:] == ["put other"]

    asyncio.run(scenario())


def test_an_object_with_errors_keeps_its_last_good_version(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    async def scenario() -> None:
        cluster.spec(valid(namespace))
        async with watching(kubeconfig, watched=specs_of(namespace)) as (sink, _):
            broken = valid(namespace).replace("gateway: platform/edge", "gatway: platform/edge")
            await asyncio.to_thread(cluster.spec, broken)
            await sink.until(lambda: bool(sink.said))
            found = [str(one) for one in sink.said[route_ref(namespace).subject]]
            where = f"{SOURCE}: RouteSpec {namespace}/api: spec: "
            assert any(one.startswith(where + 'unknown field "gatway"') for one in found), found
            assert route_ref(namespace) in sink.objects, "it stays in force"
            await asyncio.to_thread(cluster.spec, valid(namespace, port=9999))
            await sink.until(lambda: not sink.said)
            assert "9999" in sink.objects[route_ref(namespace)].text

    asyncio.run(scenario())


def test_a_definition_that_is_removed_takes_nothing_away(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    """Deleting the custom resource definition deletes every object of its kind; that is nobody's wish for each of them."""

    async def scenario() -> None:
        cluster.spec(valid(namespace, "a"))
        cluster.spec(valid(namespace, "b"))
        async with watching(kubeconfig, watched=specs_of(namespace)) as (sink, source):
            await asyncio.to_thread(cluster.undefine, "RouteSpec")
            await sink.until(lambda: len(sink.said) == 2)
            assert set(sink.objects) == {route_ref(namespace, "a"), route_ref(namespace, "b")}
            assert {str(one.code) for said in sink.said.values() for one in said} == {"GW0305"}
            await asyncio.to_thread(cluster.define, anything("RouteSpec"))
            await asyncio.to_thread(cluster.spec, valid(namespace, "b", 7777))
            await sink.until(lambda: "7777" in sink.objects[route_ref(namespace, "b")].text)
            assert route_ref(namespace, "a") in sink.objects, "what did not come back stays for now"
            await asyncio.to_thread(cluster.delete, "RouteSpec", "b", namespace)
            await sink.until(lambda: route_ref(namespace, "b") not in sink.objects)
            await sink.until(lambda: sink.state == "synced" and not source.kinds[f"routespecs in {namespace}"].trouble)

    asyncio.run(scenario())


def test_a_definition_that_is_back_before_the_last_object_was_seen_to_go() -> None:
    """Asked then, the API server says that the kind is there: deletions after the first one that was none do not ask."""
    sink = Remembering()
    documents = Documents(SOURCE, "RouteSpec", None, {}, sink)

    listed(documents, written("a", "old"), written("b", "old"))
    documents.deleted(written("a", "old"))
    documents.hold()
    documents.deleted(written("b", "old"))
    assert documents.doubted == set()
    documents.changed(written("a", "new"))
    documents.deleted(written("a", "new"))
    assert documents.doubted == {route_ref("shop", "a")}, "a single deletion is asked about as ever"
    documents.delete(documents.doubted)
    assert set(sink.objects) == {route_ref("shop", "b")}


def test_a_definition_that_was_removed_while_nobody_watched(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    """It is there again, without the objects: none of those that come is one of those that were."""

    async def scenario() -> None:
        cluster.spec(valid(namespace, "a"))
        cluster.spec(valid(namespace, "b"))
        async with relayed(cluster) as relay:
            cluster.kubeconfig(kubeconfig, server=relay.url)
            async with watching(kubeconfig, watched=specs_of(namespace)) as (sink, source):
                health = source.kinds[f"routespecs in {namespace}"]

                async def gone(_: web.Request) -> web.StreamResponse:
                    return web.Response(status=404)

                relay.answer = gone
                relay.cut()
                await asyncio.to_thread(cluster.undefine, "RouteSpec")
                await asyncio.to_thread(cluster.define, anything("RouteSpec"))
                await asyncio.to_thread(cluster.spec, valid(namespace, "b", 7777))
                await eventually(lambda: health.trouble is Trouble.NOT_FOUND, "it is said")
                relay.answer = None
                await sink.until(
                    lambda: sink.state == "synced" and "7777" in sink.objects[route_ref(namespace, "b")].text
                )
                assert set(sink.objects) == {route_ref(namespace, "a"), route_ref(namespace, "b")}
                assert sink.codes == ["GW0305"]
                assert source.held == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("watched", [True, False], ids=["while-watched", "before-the-watch"])
def test_a_server_that_starts_answers_404_and_removals_count_all_the_same(
    cluster: Kubernetes, namespace: str, kubeconfig: Path, watched: bool
) -> None:
    """Whether a watch is to be resumed or was never there."""

    async def scenario() -> None:
        cluster.spec(valid(namespace, "a"))
        cluster.spec(valid(namespace, "b"))
        async with relayed(cluster) as relay:
            cluster.kubeconfig(kubeconfig, server=relay.url)

            async def unwatched(request: web.Request) -> web.StreamResponse | None:
                return web.Response(status=503) if "watch" in request.query else None

            async def starting(request: web.Request) -> web.StreamResponse:
                return web.Response(status=410 if "watch" in request.query else 404)

            relay.answer = None if watched else unwatched
            async with watching(kubeconfig, watched=specs_of(namespace), ready=watched) as (sink, source):
                await sink.until(lambda: len(sink.objects) == 2)
                health = source.kinds[f"routespecs in {namespace}"]
                await eventually(
                    lambda: health.watches == 1 if watched else health.trouble is not None, "it is watched"
                )
                relay.answer = starting
                relay.cut()
                await asyncio.to_thread(cluster.delete, "RouteSpec", "a", namespace)
                await eventually(lambda: health.trouble is Trouble.NOT_FOUND, "it is said")
                relay.answer = None
                await sink.until(lambda: set(sink.objects) == {route_ref(namespace, "b")})
                assert sink.said == {}

    asyncio.run(scenario())


def test_a_server_that_starts_beside_one_that_is_watched_holds_a_removal_until_both_agree(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    """Behind one address there are often several API servers: a watch on one lives while another says 404."""

    async def scenario() -> None:
        cluster.spec(valid(namespace, "a"))
        cluster.spec(valid(namespace, "b"))
        async with relayed(cluster) as relay:
            cluster.kubeconfig(kubeconfig, server=relay.url)
            async with watching(kubeconfig, watched=specs_of(namespace)) as (sink, source):
                health = source.kinds[f"routespecs in {namespace}"]
                await eventually(lambda: health.watches == 1, "it is watched")

                async def starting(_: web.Request) -> web.StreamResponse:
                    return web.Response(status=404)

                relay.answer = starting
                await asyncio.to_thread(cluster.delete, "RouteSpec", "a", namespace)
                await sink.until(lambda: sink.codes == ["GW0305"])
                assert len(sink.objects) == 2
                relay.answer = None
                await sink.until(lambda: set(sink.objects) == {route_ref(namespace, "b")})
                assert sink.said == {}

    asyncio.run(scenario())


def written(name: str, uid: str, generation: int = 1, *, broken: bool = False, status: str = "") -> msgspec.Raw:
    """`valid`, as an API server tells of it."""
    thing = yaml.safe_load(valid("shop", name))
    thing["metadata"] |= {"uid": uid, "generation": generation, "creationTimestamp": "2026-01-01T00:00:00Z"}
    thing["status"] = {"said": status}
    if broken:
        thing["spec"]["gatway"] = generation
    return msgspec.Raw(json.dumps(thing).encode())


def listed(documents: Documents, *objects: msgspec.Raw) -> None:
    documents.begin()
    for one in objects:
        documents.item(one)
    documents.end(1, rewound=False)


@pytest.mark.parametrize(
    ("there", "left"),
    [
        (("b", "old"), {"b"}),
        (("b", "new"), {"a", "b"}),
        (None, {"a", "b"}),
    ],
    ids=["the-same-object", "a-new-one", "none"],
)
def test_what_is_held_is_judged_by_a_list_that_began_after_the_definition_was_seen(
    there: tuple[str, str] | None, left: set[str]
) -> None:
    sink = Remembering()
    documents = Documents(SOURCE, "RouteSpec", None, {}, sink)
    listed(documents, written("a", "old"), written("b", "old"))
    documents.deleted(written("a", "old"))
    documents.hold()
    listed(documents, written("b", "old"))
    assert len(sink.objects) == 2, "a definition that is going still lists what it has not deleted yet"
    documents.judge()
    listed(documents, *([written(*there)] if there is not None else []))
    assert {ref.name for ref in sink.objects} == left
    documents.release()
    assert {ref.name for ref in sink.objects} == ({there[0]} if there is not None else {"b"})


@pytest.mark.parametrize("how", ["told", "listed"])
def test_what_was_created_after_the_doubt_does_not_vouch_for_the_time_before(how: str) -> None:
    sink = Remembering()
    documents = Documents(SOURCE, "RouteSpec", None, {}, sink)
    listed(documents, written("a", "old"), written("b", "old"))
    if how == "told":
        documents.deleted(written("a", "old"))
        documents.deleted(written("b", "old"))
        documents.hold()
        documents.changed(written("b", "new"))
    else:
        documents.suspicious = True
        listed(documents, written("b", "new"))
    for _ in range(2):
        documents.judge()
        listed(documents, written("b", "new"))
    assert {ref.name for ref in sink.objects} == {"a", "b"}
    documents.release()
    assert {ref.name for ref in sink.objects} == {"b"}


def test_every_generation_and_status_is_noticed_and_nothing_else() -> None:
    """Also one whose errors are those of the one before: whoever writes what became of it would not hear of it."""
    sink, noticed = Remembering(), list[str]()
    documents = Documents(SOURCE, "RouteSpec", None, {}, sink)
    documents.noticed = lambda ref: noticed.append(ref.name)
    listed(documents, written("a", "old", broken=True), written("b", "old"))
    assert noticed == ["a", "b"]
    documents.changed(written("a", "old", 2, broken=True))
    listed(documents, written("a", "old", 3, broken=True), written("b", "old", status="by somebody"))
    documents.changed(written("b", "old", status="by somebody"))
    assert noticed == ["a", "b", "a", "a", "b"]


def test_what_is_seen_is_never_ahead_of_what_is_in_force() -> None:
    """A list may take minutes, or fail: until it ends, nothing of it counts."""
    sink = Remembering()
    documents = Documents(SOURCE, "RouteSpec", None, {}, sink)
    listed(documents, written("a", "old"))
    documents.begin()
    documents.item(written("a", "old", 2, broken=True))
    assert documents.seen[route_ref("shop", "a")].generation == 1
    listed(documents, written("a", "old", 2, broken=True))
    seen = documents.seen[route_ref("shop", "a")]
    assert (seen.generation, seen.good) == (2, 1)
    documents.changed(written("a", "old", 3))
    assert documents.seen[route_ref("shop", "a")].good == 3
    documents.changed(written("a", "new", 1, broken=True))
    assert documents.seen[route_ref("shop", "a")].good == 0, "that one never was"


def test_a_definition_that_goes_while_objects_are_listed_twice_takes_nothing_away() -> None:
    """Lists of a definition that is being removed lack more and more; that no 404 was seen says nothing."""
    sink = Remembering()
    documents = Documents(SOURCE, "RouteSpec", None, {}, sink)
    listed(documents, written("a", "old"), written("b", "old"))
    listed(documents, written("b", "old"))
    listed(documents, written("b", "old"))
    assert documents.doubted == {route_ref("shop", "a")}, "it is asked whether the definition is there to stay"
    documents.hold()
    assert len(sink.objects) == 2


def test_what_was_held_goes_in_the_end(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        cluster.spec(valid(namespace))
        source = KubernetesSource("test", Access(kubeconfig), specs_of(namespace), hold_seconds=0.2)
        async with watching(kubeconfig, source=source) as (sink, _):
            await asyncio.to_thread(cluster.undefine, "RouteSpec")
            await sink.until(lambda: not sink.objects)
            assert sink.said == {}

    asyncio.run(scenario())


def test_what_was_held_stays_while_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the definition is there again is what it was held for."""
    monkeypatch.setattr(definitions, "ASK_SECONDS", 0.01)
    answers = iter([Trouble.UNREACHABLE, Trouble.BUSY, Trouble.NOT_FOUND])
    released: list[list[Trouble]] = []

    async def get(*_: Any) -> bytes:
        raise Refused(next(answers), "")

    documents = SimpleNamespace(held=True, unjudged=True, flush=lambda _: None)
    documents.release = lambda: released.append(list(answers))
    watches = SimpleNamespace(client=SimpleNamespace(get=get), watch=lambda *_, **__: SimpleNamespace(list_again=None))
    watch = SpecWatch("kubernetes/test", cast(Watches, watches), Remembering(), None, {}, 0.0, lambda _: None)
    asyncio.run(watch._release(cast(Documents, documents), "routespecs"))
    assert released == [[]], "after the one that says something"


def test_a_cluster_that_cannot_be_read_at_the_start_serves_what_was_in_force(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    async def scenario() -> None:
        cluster.kubeconfig(kubeconfig, server="https://127.0.0.1:9")
        before = {route_ref(namespace): valid(namespace), route_ref("elsewhere"): valid("elsewhere")}
        source = KubernetesSource("test", Access(kubeconfig), specs_of(namespace), before=Before(before))
        async with watching(kubeconfig, source=source, ready=False) as (sink, _):
            await sink.until(lambda: sink.state == "failed")
            assert source.caught_up
            assert set(sink.objects) == {route_ref(namespace)}
            # It comes back, without the object: two lists agree that it is gone.
            cluster.kubeconfig(kubeconfig)
            await sink.until(lambda: sink.state == "synced")
            await sink.until(lambda: not sink.objects)

    asyncio.run(scenario())


def test_what_a_cluster_lost_with_its_data_while_nobody_looked_is_in_force_for_a_time(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    """Its definitions are there again before its objects are."""

    async def scenario() -> None:
        before = Before({route_ref(namespace): valid(namespace)}, told=2**62)
        source = KubernetesSource("test", Access(kubeconfig), specs_of(namespace), before=before, hold_seconds=4.0)
        async with watching(kubeconfig, source=source) as (sink, _):
            assert set(sink.objects) == {route_ref(namespace)}
            assert sink.codes == ["GW0305"]
            assert source.told == 0
            await sink.until(lambda: not sink.objects)
            assert sink.calls[-1] == f"remove {route_ref(namespace).name}"
            assert not sink.codes

    asyncio.run(scenario())


def test_a_kind_that_fails_at_the_start_is_a_failure_once_the_others_have_answered(
    cluster: Kubernetes, namespace: str, kubeconfig: Path
) -> None:
    """Who waits for this cluster would go on without its specs, or without endpoints that can be read."""

    async def scenario() -> None:
        cluster.spec(valid(namespace))
        cluster.service(namespace, "web", {"http": 80})
        specs, slices = asyncio.Event(), asyncio.Event()

        async def answer(request: web.Request) -> web.StreamResponse | None:
            if "secrets" in request.path:
                return web.Response(status=403)
            await (specs if "routespecs" in request.path else slices if "slices" in request.path else anyway).wait()
            return None

        anyway = asyncio.Event()
        anyway.set()
        async with relayed(cluster) as relay:
            relay.answer = answer
            cluster.kubeconfig(kubeconfig, server=relay.url)
            watched = Watched(specs=True, namespaces=(namespace,), region="here")
            service, pair = ref(namespace, "web"), secret_ref(namespace, "tls")
            source = KubernetesSource("test", Access(kubeconfig), watched)
            async with watching(kubeconfig, [service], [pair], source=source, ready=False) as (sink, _):
                await eventually(
                    lambda: (
                        any(one.trouble is Trouble.DENIED for one in source.kinds.values())
                        and source.kinds[f"services in {namespace}"].listed
                    ),
                    "one kind is denied, another is read",
                )
                assert (sink.state, source.caught_up) == ("starting", False)
                slices.set()
                await sink.until(lambda: service in sink.services)
                assert (sink.state, source.caught_up) == ("starting", False)
                specs.set()
                await sink.until(lambda: sink.state == "failed")
                assert set(sink.objects) == {route_ref(namespace)}
                assert source.caught_up

    asyncio.run(scenario())


def test_a_broken_object_is_what_it_was_before_a_restart(cluster: Kubernetes, namespace: str, kubeconfig: Path) -> None:
    async def scenario() -> None:
        cluster.spec(valid(namespace).replace("gateway:", "gatway:"))
        before = {route_ref(namespace): valid(namespace)}
        source = KubernetesSource("test", Access(kubeconfig), specs_of(namespace), before=Before(before))
        async with watching(kubeconfig, source=source) as (sink, _):
            assert set(sink.objects) == {route_ref(namespace)}
            assert sink.codes

    asyncio.run(scenario())
