"""What a Consul that misbehaves must not do to the services that were known: nothing. Faults that a real one cannot
be made to show; the others are in test_real_faults.py."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from controlplane.model.endpoint import Health
from controlplane.names import ObjectRef, ServiceRef
from controlplane.sources.consul import client as module
from controlplane.sources.consul import services
from controlplane.sources.consul import source as consul
from controlplane.sources.consul.client import Client, Consistency, Settings
from controlplane.sources.consul.source import ConsulSource
from tests.sources.rig import Remembering, running
from tests.spec.documents import routes
from tests.support.fake_consul import Answer, FakeConsul, cut_off, fake_consul, instance, status
from tests.support.waiting import PATIENCE

WEB = ServiceRef("consul/test", "", "web")
EDGE = """
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec: {fleet: {selector: {matchLabels: {role: edge}}}, listeners: [{name: http, port: 80, protocol: HTTP}]}
"""


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[FakeConsul, ConsulSource, Remembering]]:
    """A source that knows the two instances of `web`."""
    async with fake_consul() as fake:
        await fake.change("web", instance("10.0.0.1"), instance("10.0.0.2"))
        source = ConsulSource(Settings("test", fake.address, **settings), doubt_seconds=0.3)
        source.want([WEB], [])
        async with running(source) as sink:
            assert sink.state == "synced", sink.reason
            assert source.caught_up
            assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
            sink.calls.clear()
            yield fake, source, sink


def addresses(sink: Remembering) -> list[str]:
    return [endpoint.address for endpoint in sink.services[WEB].endpoints]


def put(file: Path, text: str) -> None:
    """As those do who rotate tokens: nobody ever reads half of it."""
    written = file.with_suffix(".new")
    written.write_text(text)
    written.replace(file)


async def held(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


REFUSALS: dict[str, tuple[Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]], str]] = {
    "403": (lambda _: status(403, "ACL not found"), "access denied (403): ACL not found"),
    "401": (lambda _: status(401, "no"), "access denied (401): no"),
    "429": (lambda _: status(429, "rate limit exceeded, try again later"), "answered 429: rate limit exceeded"),
    "500": (lambda _: status(500, "No cluster leader"), "answered 500: No cluster leader"),
    "502": (lambda _: status(502, "<html>\n" + "x" * 9000), "answered 502: <html> xxx"),
    "redirect": (lambda _: status(301, Location="http://127.0.0.1:1/"), "answered 301"),
    "no leader": (
        lambda _: status(200, "[]", **{"X-Consul-Index": "99", "X-Consul-KnownLeader": "false"}),
        "the datacenter has no leader",
    ),
    "404": (lambda _: status(404, "not Consul"), "answered 404: not Consul"),
    "cut off": (cut_off, "payload"),
    "no JSON": (lambda _: status(200, '[{"Node":', **{"X-Consul-Index": "99"}), "cannot be read"),
    "not Consul's": (lambda _: status(200, "[]"), "no X-Consul-Index"),
    "other JSON": (lambda _: status(200, '{"a": 1}', **{"X-Consul-Index": "99"}), "cannot be read"),
}


async def refused(name: str, prefix: str) -> None:
    answer, reason = REFUSALS[name]
    async with serving() as (fake, _, sink):
        fake.instead[prefix] = answer
        await fake.change("web", instance("10.0.0.1", status="critical"))
        await sink.until(lambda: sink.state == "failed")
        assert reason in sink.reason
        assert sink.calls == []
        fake.instead.clear()
        await sink.until(lambda: sink.state == "synced" and addresses(sink) == ["10.0.0.1"])


@pytest.mark.parametrize("prefix", ["/v1/", "/v1/health/service/"])
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_never_an_empty_result(name: str, prefix: str) -> None:
    asyncio.run(refused(name, prefix))


async def lost_from_the_catalog() -> None:
    async with serving() as (fake, _, sink):
        fake.instead["/v1/catalog/services"] = lambda _: status(200, "{}", **{"X-Consul-Index": str(fake.index)})
        fake.index += 1
        await fake.wake()
        await fake.until_asked("/v1/health/service/web")
        await fake.change("web", instance("10.0.0.3"))
        fake.checks["critical"] = [{"Node": "n", "CheckID": "c", "Status": "critical", "ServiceName": "web"}]
        await fake.wake()
        await sink.until(lambda: addresses(sink) == ["10.0.0.3"])
        assert sink.calls == ["put consul/test: web"]


def test_a_service_that_is_missing_in_the_list_is_read_before_it_is_gone() -> None:
    """A token without service:read for it, for example, sees a list without it."""
    asyncio.run(lost_from_the_catalog())


async def partly_refused() -> None:
    async with fake_consul() as fake:
        await fake.change("web", instance("10.0.0.1"))
        keys, reads = asyncio.Event(), asyncio.Event()

        def late(event: asyncio.Event, path: str) -> Answer:
            async def answer(request: web.Request) -> web.StreamResponse:
                await event.wait()
                fake.instead.pop(path, None)
                return await (status(500, "No cluster leader") if event is keys else fake.answer(request))

            return answer

        service = "/v1/health/service/"
        fake.instead["/v1/health/state/critical"] = lambda _: status(500, "rate limit")
        fake.instead |= {"/v1/kv/": late(keys, "/v1/kv/"), service: late(reads, service)}
        document = ObjectRef("consul/test", "GatewaySpec", "platform", "edge")
        source = ConsulSource(Settings("test", fake.address, specs="specs/"), last_good={document: EDGE})
        source.want([WEB], [])
        async with running(source, ready=False) as sink:
            await fake.until_asked("/v1/health/state/critical", 2)
            assert (sink.state, source.caught_up) == ("starting", False)
            keys.set()
            await sink.until(lambda: sink.state == "failed")
            assert set(sink.objects) == {document}
            assert not source.caught_up, "its services can be read, as far as is known"
            reads.set()
            await sink.until(lambda: source.caught_up)
            assert addresses(sink) == ["10.0.0.1"]


def test_a_part_that_fails_at_the_start_is_a_failure_once_the_others_have_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for this source would go on without its specs."""
    monkeypatch.setattr("controlplane.sources.consul.client.READ_SECONDS", PATIENCE)
    asyncio.run(partly_refused())


async def one_of_two() -> None:
    async with serving() as (fake, source, sink):
        other = WEB._replace(name="other")
        fake.instead["/v1/health/service/other"] = lambda _: status(500, "broken")
        source.want([WEB, other], [])
        await sink.until(lambda: sink.state == "failed")
        for number in (3, 4):
            await fake.change("web", instance(f"10.0.0.{number}"))
            await sink.until(lambda number=number: addresses(sink) == [f"10.0.0.{number}"])
            assert sink.state == "failed"
        fake.instead.clear()
        await sink.until(lambda: sink.state == "synced")


def test_a_service_that_cannot_be_read_is_a_failure_though_another_can() -> None:
    asyncio.run(one_of_two())


async def some_of_it() -> None:
    other = ServiceRef("consul/test", "", "other")
    async with serving(specs="gateways/") as (fake, source, sink):
        fake.instead["/v1/kv/"] = lambda _: status(403, "Permission denied")
        await fake.wake()
        await sink.until(lambda: sink.state == "failed")
        assert (sink.endpoints_fail, sink.specs_fail) == (False, False), "they were read before"
        fake.instead["/v1/health/service/other"] = lambda _: status(
            200, "[]", **{"X-Consul-Index": "9", "X-Consul-Results-Filtered-By-ACLs": "true"}
        )
        source.want([other], [])
        await sink.until(lambda: "rules hide other" in sink.reason)
        assert not sink.endpoints_fail
        fake.instead["/v1/health/service/web"] = lambda _: status(403, "Permission denied")
        source.confirm([WEB])
        await sink.until(lambda: sink.endpoints_fail)
        del fake.instead["/v1/health/service/web"]
        await sink.until(lambda: not sink.endpoints_fail)
        fake.instead["/v1/catalog/services"] = lambda _: status(403, "Permission denied")
        await fake.wake()
        await sink.until(lambda: sink.endpoints_fail)


def test_endpoints_are_out_of_reach_only_when_nothing_tells_of_them() -> None:
    """`onSourceLost` counts from then: keys or one service that may not be read make no endpoint older."""
    asyncio.run(some_of_it())


async def hidden(answer: dict[str, str]) -> None:
    async with serving() as (fake, _, sink):
        fake.headers = answer
        await fake.change("web")
        await sink.until(lambda: sink.state == "failed")
        assert "access denied: rules hide web (needed: service:read" in sink.reason
        assert sink.calls == []


@pytest.mark.parametrize(
    "answer", [{"X-Consul-Results-Filtered-By-ACLs": "true"}, {"X-Consul-Default-ACL-Policy": "deny"}]
)
def test_an_empty_list_of_one_who_may_not_see_is_no_truth(answer: dict[str, str]) -> None:
    """Consul says so when a token is shown; without one it hides in silence."""
    asyncio.run(hidden(answer))


async def quietly_hidden() -> None:
    async with serving() as (fake, _, sink):
        fake.index += 1
        await fake.wake()
        await fake.until(lambda: "filter" in fake.queries[-1])  # what there was to read has been
        index = {"X-Consul-Index": str(fake.indexes["web"]), "X-Consul-Results-Filtered-By-ACLs": "true"}
        fake.instead["/v1/health/service/"] = lambda _: status(200, "[]", **index)
        fake.index += 1
        await fake.wake()
        await sink.until(lambda: "rules hide web" in sink.reason)
        assert sink.calls == []


def test_a_rule_that_hides_a_node_is_said_before_anything_changes() -> None:
    """The list of services is the same, and no index moves: what cannot be seen would not be missed."""
    asyncio.run(quietly_hidden())


async def went_back() -> None:
    async with serving() as (fake, source, sink):
        fake.index = 2
        fake.indexes.clear()
        fake.instances["web"] = [instance("10.0.0.2", status="critical"), instance("10.0.0.3")]
        await fake.wake()
        await sink.until(lambda: sink.state == "failed")
        assert "its data went back" in sink.reason
        await sink.until(lambda: len(addresses(sink)) == 3)
        assert [one.health for one in sink.services[WEB].endpoints] == [
            Health.HEALTHY,
            Health.UNHEALTHY,
            Health.HEALTHY,
        ]
        source.confirm([WEB])  # the guard against mass removal asks; as long as there is doubt, nobody can know
        await sink.until(lambda: sink.state == "synced" and addresses(sink) == ["10.0.0.2", "10.0.0.3"])
        assert sink.calls[-1] == "put consul/test: web surely"
        assert not any("remove" in call for call in sink.calls)


def test_after_an_index_went_back_nothing_is_gone_until_agents_had_time_to_register_again() -> None:
    asyncio.run(went_back())


@asynccontextmanager
async def two_keys(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[FakeConsul, Remembering]]:
    """A source that knows `web` and two documents, and that a third was deleted at index 900."""
    monkeypatch.setattr(consul, "WAIT_SECONDS", 0.2)  # an index that went back ends no held query
    async with fake_consul() as fake:
        await fake.change("web", instance("10.0.0.1"), instance("10.0.0.2"))
        fake.keys = {f"specs/{name}": (500 + number, routes(name)) for number, name in enumerate("abc")}
        source = ConsulSource(Settings("test", fake.address, specs="specs/"), doubt_seconds=10 * PATIENCE)
        source.want([WEB], [])
        async with running(source) as sink:
            assert sink.names == ["a", "b", "c"]
            del fake.keys["specs/c"]
            fake.deleted = 900
            await fake.wake()
            await sink.until(lambda: sink.names == ["a", "b"])
            yield fake, sink


async def reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_keys(monkeypatch) as (fake, sink):
        fake.deleted = 0
        await fake.wake()
        await fake.until_asked("/v1/kv/specs/", 2)
        fake.keys["specs/a"] = (950, routes("a2"))
        await fake.wake()
        await sink.until(lambda: sink.names == ["a2", "b"])
        await fake.change("web", instance("10.0.0.1"))
        await sink.until(lambda: addresses(sink) == ["10.0.0.1"])
        assert (sink.state, sink.failures) == ("synced", 0), sink.reason


def test_consul_forgets_deletions_of_keys_and_its_data_has_not_gone_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their list has the index of the newest key or deletion; the latter is forgotten after 15 minutes."""
    asyncio.run(reaped(monkeypatch))


async def older_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_keys(monkeypatch) as (fake, sink):
        fake.deleted = 0
        del fake.keys["specs/b"]
        await fake.wake()
        await sink.until(lambda: "its data went back" in sink.reason)
        await fake.until_asked("/v1/kv/specs/", 2)
        assert sink.names == ["a", "b"]


def test_keys_of_an_older_time_are_no_deletions(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(older_keys(monkeypatch))


async def other_trouble(prefix: str) -> None:
    async with serving(specs="specs/") as (fake, source, sink):
        source.want([WEB._replace(name="other")], [])
        fake.instead[prefix] = lambda _: status(403, "Permission denied")
        await fake.wake()
        await sink.until(lambda: "Permission denied" in sink.reason)
        await fake.change("web", instance("10.0.0.1"), instance("10.0.0.2"), instance("10.0.0.3"))
        await sink.until(lambda: addresses(sink)[-1] == "10.0.0.3")
        fake.index = 2  # what is read of `web` now is older, and begins a doubt
        fake.indexes.clear()
        fake.instances["web"] = [instance("10.0.0.2")]
        await fake.wake()
        await sink.until(lambda: addresses(sink) == ["10.0.0.2"])


@pytest.mark.parametrize("prefix", ["/v1/kv/", "/v1/health/service/other"])
def test_doubt_ends_though_something_else_is_in_trouble(prefix: str) -> None:
    asyncio.run(other_trouble(prefix))


async def zero() -> None:
    async with fake_consul() as fake:
        fake.instances["web"] = [instance("10.0.0.1")]
        fake.headers = {"X-Consul-Index": "0"}
        source = ConsulSource(Settings("test", fake.address))
        source.want([WEB], [])
        async with running(source) as sink:
            assert addresses(sink) == ["10.0.0.1"]
            began, asked = time.monotonic(), fake.asked.total()
            for _ in range(20):
                await fake.wake()
                await asyncio.sleep(0.02)
            assert (fake.asked.total() - asked) / (time.monotonic() - began) < 250
            assert not any("index=0" in query for query in fake.queries)


def test_an_index_of_zero_is_no_busy_loop() -> None:
    asyncio.run(zero())


async def flapping() -> None:
    async with serving() as (fake, _, sink):
        ill = {"Node": "node-10.0.0.1", "CheckID": "check:a", "Status": "critical", "ServiceName": "web"}
        began = time.monotonic()
        for number in range(15):
            state = "critical" if number % 2 == 0 else "passing"
            fake.checks["critical"] = [ill] if state == "critical" else []
            await fake.change("web", instance("10.0.0.1", status=state), instance("10.0.0.2"))
            await asyncio.sleep(0.2)
            assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]
        seconds = time.monotonic() - began
        await sink.until(lambda: sink.services[WEB].endpoints[0].health is Health.UNHEALTHY)
        assert 2 <= len(sink.calls) <= seconds * 2 + 2


def test_a_service_that_flaps_costs_two_pushes_a_second_and_settles() -> None:
    asyncio.run(flapping())


async def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "PUSH_SECONDS", 10 * PATIENCE)
    async with serving() as (fake, _, sink):
        fake.checks["critical"] = [
            {"Node": "node-10.0.0.1", "CheckID": "serfHealth", "Status": "critical", "ServiceName": ""}
        ]
        await fake.change("web", instance("10.0.0.1", status="critical"), instance("10.0.0.2"))
        await sink.until(lambda: sink.services[WEB].endpoints[0].health is Health.UNHEALTHY)


def test_a_node_that_fails_is_a_failure_of_the_services_on_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(at_once(monkeypatch))


async def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (fake, _, sink):
        monkeypatch.setattr("controlplane.sources.consul.client.READ_SECONDS", 0.2)
        fake.instead["/v1/health/service/"] = held
        await fake.change("web", instance("10.0.0.3"))
        await sink.until(lambda: sink.state == "failed")
        assert "no answer within" in sink.reason
        assert addresses(sink) == ["10.0.0.1", "10.0.0.2"]


def test_an_answer_that_does_not_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(silent(monkeypatch))


async def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (fake, _, sink):
        monkeypatch.setattr("controlplane.sources.consul.client.MAX_BODY", 10_000)
        fake.instead["/v1/health/service/"] = lambda _: status(200, "[" + " " * 20_000, **{"X-Consul-Index": "99"})
        await fake.change("web", instance("10.0.0.3"))
        await sink.until(lambda: sink.state == "failed")
        assert "MiB" in sink.reason


def test_an_answer_without_bound_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(too_large(monkeypatch))


async def rotated(folder: Path) -> None:
    file = folder / "token"
    file.write_text("first\n")
    async with serving(token_file=file) as (fake, _, sink):
        assert fake.tokens == {"first"}

        async def second_only(request: web.Request) -> web.StreamResponse:
            if request.headers["X-Consul-Token"] == "second":
                fake.instead.clear()
                return await fake.answer(request)
            put(file, "second\n")  # whoever revokes the old one has written the new one
            return web.Response(status=403, text="ACL not found")

        fake.instead["/v1/"] = second_only
        await fake.change("web", instance("10.0.0.3"))
        await sink.until(lambda: addresses(sink) == ["10.0.0.3"])
        assert sink.state == "synced"
        file.write_text("\n")
        await fake.change("web", instance("10.0.0.4"))
        await sink.until(lambda: addresses(sink) == ["10.0.0.4"])
        assert fake.tokens == {"first", "second"}
        assert [str(one.code) for one in sink.said["token"]] == ["GW0315"]


def test_a_rotated_token_is_no_failure_and_an_empty_file_no_token(tmp_path: Path) -> None:
    asyncio.run(rotated(tmp_path))


def test_a_file_system_that_does_not_answer_holds_up_nothing_and_the_token_that_is_known_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, answers = tmp_path / "token", threading.Event()
    file.write_text("first\n")

    async def scenario() -> None:
        async with fake_consul() as fake:
            client = Client(Settings("test", fake.address, token_file=file))
            said: list[str | None] = []
            client.complained = lambda _, why: said.append(why)
            for _ in range(2):
                await client.read("/v1/catalog/services", {}, consistency=Consistency.LEADER)
                with monkeypatch.context() as patch:
                    patch.setattr(module, "_newer_token", lambda *_: answers.wait(PATIENCE) and None)
                    patch.setattr(client._beside, "_seconds", 0.1)
                    reading = asyncio.create_task(
                        client.read("/v1/catalog/services", {}, consistency=Consistency.LEADER)
                    )
                    began = time.monotonic()
                    await asyncio.sleep(0)
                    await asyncio.sleep(0.01)
                    assert time.monotonic() - began < PATIENCE / 2
                    await reading
                    assert "has not answered" in (said[-1] or "")
                    answers.set()
                async with asyncio.timeout(PATIENCE):
                    while said[-1] is not None:  # the thread has yet to come back with its answer
                        await client.read("/v1/catalog/services", {}, consistency=Consistency.LEADER)
                answers.clear()
            await client.close()
            assert fake.tokens == {"first"}

    asyncio.run(scenario())


async def stale() -> None:
    async with serving(max_stale=2.0) as (fake, _, sink):
        lists = [query for query in fake.queries if "catalog" in query]
        assert all(("stale=" in query) == ("index=" in query) for query in lists)
        assert all("leader=" in query for query in fake.queries if "/service/" in query)
        fake.queries.clear()
        fake.headers = {"X-Consul-LastContact": "2500"}
        await fake.change("web", instance("10.0.0.3"))
        await sink.until(lambda: addresses(sink) == ["10.0.0.3"])
        await fake.until(lambda: any("leader=" in query for query in fake.queries if "catalog" in query))
        # A follower that lags behind is not a datacenter that lost its data.
        fake.headers = {}
        behind = {"X-Consul-Index": str(fake.index - 1)}

        async def lagging(request: web.Request) -> web.StreamResponse:
            if "stale" in request.query:
                return web.json_response({}, headers=behind)
            return web.json_response({"web": []}, headers={"X-Consul-Index": str(fake.index)})

        fake.instead["/v1/catalog/services"] = lagging
        fake.index += 1
        await fake.wake()
        await fake.until_asked("/v1/catalog/services", 4)
        assert sink.state == "synced", sink.reason
        assert addresses(sink) == ["10.0.0.3"]


def test_stale_answers_are_bounded_and_never_of_the_past() -> None:
    asyncio.run(stale())


async def reading_again() -> None:
    async with serving() as (fake, _, sink):
        reasons: list[str] = []
        behind = {"X-Consul-Index": "1", "X-Consul-KnownLeader": "true"}
        refused = 0

        async def starting(request: web.Request) -> web.StreamResponse:
            nonlocal refused
            reasons.append(sink.reason if sink.state == "failed" else "")
            if "consistent" not in request.query:
                return web.json_response({} if "catalog" in request.path else [], headers=behind)
            refused += 1
            if refused < 4:
                return web.Response(status=500, text="Not ready to serve consistent reads")
            fake.instead.clear()
            return await fake.answer(request)

        fake.instead["/v1/"] = starting
        await fake.wake()
        await fake.change("web", instance("10.0.0.3"), instance("10.0.0.4"))
        await sink.until(lambda: addresses(sink) == ["10.0.0.3", "10.0.0.4"] and sink.state == "synced")
        assert refused >= 4
        assert not any("went back" in reason for reason in reasons)
        assert not any(call.startswith("remove") for call in sink.calls)


def test_a_leader_that_has_not_read_again_all_that_it_wrote_is_no_datacenter_that_lost_its_data() -> None:
    """It is one before that, and answers with the indexes that it has come to."""
    asyncio.run(reading_again())


async def behind_at_the_start() -> None:
    async with fake_consul() as fake:
        young = EDGE.replace("name: edge", "name: young")
        fake.keys = {"gateways/edge": (19, EDGE), "gateways/young": (20, young)}

        async def follower(request: web.Request) -> web.StreamResponse:
            now = fake.keys
            if "stale" in request.query:
                fake.keys = {"gateways/edge": now["gateways/edge"]}
            del fake.instead["/v1/kv/"]
            answer = await fake.answer(request)
            fake.keys = now
            return answer

        fake.instead["/v1/kv/"] = follower
        refs = [ObjectRef("consul/test", "GatewaySpec", "platform", name) for name in ("edge", "young")]
        settings = Settings("test", fake.address, max_stale=2.0, specs="gateways/")
        source = ConsulSource(settings, last_good=dict(zip(refs, (EDGE, young), strict=True)))
        async with running(source) as sink:
            await sink.until(lambda: sink.names == ["edge", "young"])
            assert "remove young" not in sink.calls


def test_a_follower_that_lags_behind_at_the_start_takes_no_keys_away() -> None:
    """There is no index yet by which it could be told, and its contact with the leader says nothing of how far it is."""
    asyncio.run(behind_at_the_start())


async def dropped() -> None:
    async with serving() as (fake, source, sink):
        source.forget([WEB], [])
        await fake.change("web", instance("10.0.0.3"))
        await asyncio.sleep(0.2)
        assert sink.calls == []
        other = WEB._replace(name="none such")
        source.want([other], [])
        assert not source.caught_up
        await sink.until(lambda: bool(sink.calls))
        assert source.caught_up
        assert sink.calls == [f"remove {other}"]
        assert "/v1/health/service/none such" in fake.asked


def test_only_what_is_wanted_is_read_and_what_does_not_exist_is_said() -> None:
    asyncio.run(dropped())


async def there_and_back(first: str, second: str) -> None:
    """What nobody tells, but somebody read in between: `web` is `first`, then `second`, then `first` again."""

    async def catalog(request: web.Request) -> web.StreamResponse:
        if "index" in request.query:  # registrations alone move it
            return await held(request)
        return web.json_response({"web": []}, headers={"X-Consul-Index": "10", "X-Consul-KnownLeader": "true"})

    async with fake_consul() as fake:
        fake.instead["/v1/catalog/services"] = catalog
        if first == "critical":
            fake.checks["critical"] = instance("10.0.0.1", status=first)["Checks"]
        await fake.change("web", instance("10.0.0.1", status=first))
        source = ConsulSource(Settings("test", fake.address))
        source.want([WEB], [])
        async with running(source) as sink:

            def health() -> Health:
                return sink.services[WEB].endpoints[0].health

            source.confirm([WEB])
            await sink.until(lambda: sink.calls[-1] == f"put {WEB} surely")  # now nothing else is to be asked
            before = health()
            fake.indexes["web"] = fake.index + 1
            fake.instances["web"] = [instance("10.0.0.1", status=second)]
            source.confirm([WEB])
            await sink.until(lambda: health() is not before)
            fake.index += 1
            await fake.change("web", instance("10.0.0.1", status=first))
            await sink.until(lambda: health() is before)


@pytest.mark.parametrize(("first", "second"), [("critical", "passing"), ("passing", "critical")])
def test_a_check_that_was_otherwise_for_a_moment(first: str, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of checks is the same before and after: a read in between must not count until everything is looked at."""
    monkeypatch.setattr(consul, "EVERYTHING_SECONDS", float("inf"))
    asyncio.run(there_and_back(first, second))


async def thousands() -> None:
    """The bound of the rate holds for probes, and a change that was noticed does not wait behind them."""
    async with fake_consul() as fake:
        wanted = [ServiceRef("consul/test", "", f"s{number:04}") for number in range(900)]
        for ref in wanted:
            fake.indexes[ref.name] = 5
            fake.instances[ref.name] = [instance("10.0.0.1")]
        source = ConsulSource(Settings("test", fake.address, requests_per_second=300))
        source.want(wanted, [])
        began = time.monotonic()
        async with running(source) as sink:
            assert len(sink.services) == 900
            assert time.monotonic() - began > 1.8
            asked = fake.asked.total()
            fake.index += 1
            await fake.wake()  # something was registered somewhere: all are probed
            await fake.until(lambda: any("filter=" in query for query in fake.queries[-100:]))
            fake.checks["critical"] = [{"Node": "n", "CheckID": "c", "Status": "critical", "ServiceName": "s0899"}]
            await fake.change("s0899", instance("10.0.0.1", status="critical"))
            await sink.until(lambda: sink.services[wanted[-1]].endpoints[0].health is Health.UNHEALTHY)
            assert fake.asked.total() - asked < 900


def test_what_is_known_to_have_changed_does_not_wait_behind_what_may_have() -> None:
    asyncio.run(thousands())
