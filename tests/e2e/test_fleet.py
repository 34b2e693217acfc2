"""`controlplane fleet` against a running control plane and real Envoys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from tests.e2e.commands import controlplane
from tests.e2e.plane import Plane, answers, forward, gateway, respond, static
from tests.support.ports import free_port
from tests.support.waiting import until


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


def fleet(plane: Plane, *arguments: str) -> CompletedProcess[str]:
    return controlplane("fleet", *arguments, "--admin", plane.admin)


def rows(plane: Plane, *arguments: str) -> list[dict[str, Any]]:
    result = fleet(plane, "status", "-o", "json", *arguments)
    assert result.returncode == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


def version(plane: Plane) -> str:
    return str(plane.json("/v1/gateways")["gateways"][0]["version"])


def test_status_get_and_wait(plane: Plane) -> None:
    port, other = free_port(), free_port()
    good = {"name": "good", "port": port, "protocol": "HTTP"}
    bad = {"name": "bad", "port": other, "protocol": "HTTP", "address": "192.0.2.1"}
    routes = [forward("web", "/", "web")]
    plane.write(gateway(listeners=[good], backends=[static("web", free_port())], routes=routes))
    plane.start().ready()
    nobody = fleet(plane, "wait", version(plane), "--timeout", "100ms")
    assert (nobody.returncode, nobody.stdout) == (75, "")
    assert "is connected" in nobody.stderr

    plane.envoy("envoy-1").ready()
    second = plane.envoy("envoy-2").ready()
    assert fleet(plane, "wait", version(plane), "--timeout", "90s").returncode == 0
    assert fleet(plane, "wait", version(plane)[:8], "-o", "json").returncode == 0
    found = rows(plane)
    assert {(row["node"], row["type"]) for row in found if row["state"] == "synced"} >= {
        (node, kind) for node in ("envoy-1", "envoy-2") for kind in ("cds", "eds", "lds", "srds", "ecds")
    }
    assert {row["state"] for row in found} <= {"synced", "ignored"}
    table = fleet(plane, "status", "--node", "*-1", "--type", "cds,lds")
    assert [line.split()[:3] for line in table.stdout.splitlines()] == [
        ["NODE", "TYPE", "STATE"],
        ["envoy-1", "cds", "synced"],
        ["envoy-1", "lds", "synced"],
    ]
    got = yaml.safe_load(fleet(plane, "get", "envoy-1", "cds", "--bodies", "-o", "yaml").stdout)
    (cluster,) = got["resources"]
    assert (cluster["name"], cluster["state"]) == ("gatewayspec/platform/edge/web", "synced")
    assert cluster["body"]["name"] == cluster["title"] == cluster["name"]
    assert cluster["from"] == ["GatewaySpec platform/edge spec.backends[web]"]
    assert 0 < cluster["sequence"] <= plane.json("/v1/nodes/status")["sequence"]
    shards = json.loads(fleet(plane, "get", "envoy-1", "srds", "-o", "json").stdout)["resources"]
    assert any(shard["from"] == ["GatewaySpec platform/edge spec.routes[web]"] for shard in shards)
    assert {shard["title"].split("|")[0] for shard in shards} == {f"0.0.0.0:{port}"}
    assert all(shard["ageSeconds"] is not None for shard in shards)
    unknown = fleet(plane, "get", "envoy-9", "cds")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert 'no node "envoy-9"' in unknown.stderr

    second.stop()
    until(lambda: [row["node"] for row in rows(plane, "--state", "gone")] == ["envoy-2"], "it is gone")

    before = version(plane)
    plane.write(gateway(listeners=[good, bad], backends=[static("web", free_port())], routes=routes))
    until(lambda: rows(plane, "--state", "nack"), "the listener is refused")
    (row,) = rows(plane, "--state", "nack")
    assert (row["node"], row["type"]) == ("envoy-1", "lds")
    assert row["at"][0].startswith(str(plane.specs / "gateway.yaml") + ":")
    assert "cannot bind" in row["detail"]
    assert "gateway.yaml:" in fleet(plane, "status").stdout
    refused = fleet(plane, "wait", version(plane), "--timeout", "90s", "-o", "json")
    assert refused.returncode == 79, refused.stderr
    assert json.loads(refused.stdout)["refusedBy"] == ["envoy-1"]
    assert version(plane) != before

    plane.envoy("envoy-3").ready()
    until(lambda: rows(plane, "--state", "held"), "the listener is held back from who comes later")
    (spared,) = rows(plane, "--state", "held")
    assert (spared["node"], spared["type"], spared["at"]) == ("envoy-3", "lds", row["at"])
    assert "cannot bind" in spared["detail"]
    lacking = fleet(plane, "wait", version(plane), "--percent", "50", "--timeout", "90s", "-o", "json")
    assert lacking.returncode == 79, "nobody serves the listener, whoever refused it"
    assert json.loads(lacking.stdout)["refusedBy"] == ["envoy-1", "envoy-3"]

    plane.write(gateway(listeners=[good], backends=[static("web", free_port())], routes=[respond("web", "/", "fixed")]))
    until(lambda: answers(port, "fixed"), "the edit arrives")
    sequence = plane.json("/v1/nodes/status")["sequence"]
    assert fleet(plane, "wait", str(sequence), "--percent", "50").returncode == 0
    assert fleet(plane, "wait", str(sequence + 1), "--timeout", "100ms").returncode == 75
    assert fleet(plane, "wait", "no-such-version", "--timeout", "100ms").returncode == 75


def test_a_silent_proxy_is_stale(plane: Plane) -> None:
    """Stopped in the middle: it has neither acknowledged nor left."""
    port = free_port()
    plane.write(gateway(port=port))
    envoy = plane.start().ready().envoy().ready()
    assert fleet(plane, "wait", version(plane)).returncode == 0
    with envoy.paused():
        plane.write(gateway(port=port, routes=[respond("main", "/", "edited")]))
        until(lambda: rows(plane, "--state", "pending"), "a response lacks its ACK")
        late = fleet(plane, "wait", version(plane), "--timeout", "200ms")
        assert late.returncode == 75
        assert "envoy-1" in late.stderr
        until(lambda: rows(plane, "--state", "stale"), "it is stale")
    assert fleet(plane, "wait", version(plane)).returncode == 0


def test_a_proxy_that_no_gateway_selects_is_said_to_be_so_and_waited_for_by_nobody(plane: Plane) -> None:
    """It was `stale` after five seconds, as one that hangs, and a sequence number was never acknowledged by all."""
    plane.write(gateway(port=free_port()))
    plane.start().ready().envoy().ready()
    plane.envoy("stray", role="nothing")
    (row,) = until(lambda: rows(plane, "--node", "stray"), "it is connected")
    assert (row["state"], row["gateways"], row["detail"]) == ("pending", [], "no gateway selects it")
    waited = fleet(plane, "wait", str(plane.json("/v1/nodes/status")["sequence"]), "--timeout", "90s", "-o", "json")
    assert (waited.returncode, json.loads(waited.stdout)["nodes"]) == (0, 1)


def test_what_was_refused_says_nothing_of_routes_that_arrive(plane: Plane) -> None:
    """A listener that moves and cannot be bound keeps the earlier one, and what leads there: edits of routes go on."""
    port = free_port()
    listener = {"name": "main", "port": port, "protocol": "HTTP", "address": "127.0.0.1"}
    plane.write(gateway(listeners=[listener], routes=[respond("main", "/", "one")]))
    plane.start().ready().envoy().ready()
    moved = {**listener, "address": "192.0.2.1"}
    plane.write(gateway(listeners=[moved], routes=[respond("main", "/", "one")]))
    until(lambda: rows(plane, "--state", "nack"), "the listener is refused")
    plane.write(gateway(listeners=[moved], routes=[respond("main", "/", "two")]))
    until(lambda: answers(port, "two"), "the route is served where it was")
    until(lambda: explained(plane)["main"]["proxies"]["synced"]["count"] == 1, "and is said to be there")
    (scopes,) = rows(plane, "--type", "srds")
    assert (scopes["state"], scopes["detail"]) == ("pending", "waits for something that was refused")
    (refused,) = [
        one
        for one in json.loads(fleet(plane, "get", "envoy-1", "lds", "-o", "json").stdout)["resources"]
        if one["state"] == "held"
    ]
    assert (refused["version"], refused["from"]) == (None, ["GatewaySpec platform/edge spec.listeners[main]"])


def explained(plane: Plane, *arguments: str) -> dict[str, dict[str, Any]]:
    """What `fleet routes` says of each route, by name."""
    result = fleet(plane, "routes", *arguments, "-o", "json")
    assert result.returncode == 0, result.stderr
    return {one["route"]: one for one in json.loads(result.stdout)["routes"]}


def test_a_route_is_explained(plane: Plane) -> None:
    """From a name in the access log to the line, how long it has been so, and who has it."""
    port = free_port()
    file = plane.write(gateway(port=port, routes=[respond("main", "/main", "one"), respond("other", "/other", "two")]))
    plane.start().ready()
    assert explained(plane, "main")["main"]["proxies"]["synced"] == {"count": 0, "nodes": []}
    envoy = plane.envoy().ready()
    assert fleet(plane, "wait", version(plane)).returncode == 0
    both = explained(plane, "--spec", "GatewaySpec platform/edge")
    assert both.keys() == explained(plane, "*", "--spec", "platform/*").keys() == {"main", "other"}
    assert not explained(plane, "main", "--spec", "platform/no*")
    main = both["main"]
    assert (main["spec"], main["file"], main["hosts"]) == ("GatewaySpec platform/edge", str(file), ["*"])
    assert file.read_text().splitlines()[main["line"] - 1][main["column"] - 1 :].startswith(("- ", "hosts"))
    assert main["proxies"]["synced"] == {"count": 1, "nodes": ["envoy-1"]}
    assert not main["problems"]

    with envoy.paused():
        plane.write(gateway(port=port, routes=[respond("main", "/main", "edited"), respond("other", "/other", "two")]))
        until(
            lambda: explained(plane, "main")["main"]["proxies"]["pending"]["nodes"] == ["envoy-1"], "it is on its way"
        )
    until(lambda: explained(plane, "main")["main"]["proxies"]["synced"]["count"], "it has arrived")
    changed = explained(plane)
    assert changed["main"]["shards"] != main["shards"]
    same = [{**one, "ageSeconds": 0} for of in (both, changed) for one in of["other"]["shards"]]
    assert same[0] == same[1], "another route's edit says nothing of this one"

    plane.write(gateway(port=port, routes=[forward("main", "/main", "nowhere"), respond("other", "/other", "two")]))
    until(lambda: explained(plane, "main")["main"]["problems"], "something is wrong with it")
    (problem,) = explained(plane, "main")["main"]["problems"]
    assert (problem["code"], problem["file"]) == ("GW0202", str(file))
    assert not explained(plane, "other")["other"]["problems"]
    (_, row) = fleet(plane, "routes", "main").stdout.splitlines()
    assert row.split()[:3] == ["main", "platform/edge", "synced"]
    assert f"{file}:{main['line']}:" in row
    assert f"GW0202: {file}:{problem['line']}:{problem['column']}: " in row


def test_what_a_route_leads_to_explains_it(plane: Plane) -> None:
    """A 503 for want of the authorities of its backend: the route said that nothing was wrong."""
    broken = static("web", free_port(), tls={"sni": "web", "ca": {"secretRef": "nosuch"}})
    routes = [forward("main", "/main", "web"), respond("other", "/other", "two")]
    plane.write(gateway(port=free_port(), backends=[broken], routes=routes))
    plane.start().ready()
    found = explained(plane)
    assert [problem["path"] for problem in found["main"]["problems"]] == ["spec.backends[web].tls.ca.secretRef"]
    assert not found["other"]["problems"]


def test_an_edit_is_followed_to_what_came_of_it(plane: Plane) -> None:
    """Saved, refused, without effect, removed: each is told, with the number that says whether proxies have it."""
    port = free_port()
    file = plane.write(gateway(port=port, routes=[respond("main", "/main", "one")]))
    plane.start().ready().envoy().ready()

    def changes(*arguments: str) -> list[dict[str, Any]]:
        result = controlplane("changes", *arguments, "--admin", plane.admin, "-o", "json")
        assert result.returncode == 0, result.stderr
        found: list[dict[str, Any]] = json.loads(result.stdout)["changes"]
        return found

    assert any("GatewaySpec platform/edge" in one["edited"] for one in changes("platform/edge"))
    plane.write(gateway(port=port, routes=[respond("main", "/main", "two")]))
    until(lambda: answers(port, "two", "/main"), "the edit is served")
    newest = changes()[0]
    assert (newest["edited"], newest["resources"]) == (["GatewaySpec platform/edge"], {"srds": 1})
    assert fleet(plane, "wait", str(newest["sequence"])).returncode == 0

    good = file.read_text()
    file.write_text(good + "# nothing else\n")
    until(lambda: len(changes()) > 0 and changes()[0]["sequence"] is None, "a comment is taken, and changes nothing")
    file.write_text(good + "  wrong: field\n")
    until(lambda: changes()[0]["problems"], "the mistake is told")
    assert changes()[0]["problems"][0]["file"] == str(file)
    table = controlplane("changes", "--last", "2", "--admin", plane.admin).stdout.splitlines()
    assert [row.split()[2:4] for row in table[1:]] == [["no", "effect"], ["problem", "-"]]
    assert not changes("nobody/else")
