"""Content that we accept and a real Envoy refuses: it is held back alone, told by file and line, and put right by an edit.

The Envoys here take regexes of a small size only (`re2.max_program_size`), which only they can know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from controlplane.app.fleet import SETTLE_BOUND
from tests.e2e.plane import Plane, answers, ask, gateway, respond, static
from tests.support.backends import HttpBackend
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.tokens import AUDIENCE, ISSUER, key_set, rsa_key, token
from tests.support.waiting import until

LARGE = "/(abcdefghij){40}"
"""A regex whose program is larger than what these Envoys take."""


@pytest.fixture
def plane(tmp_path: Any) -> Any:
    with Plane(tmp_path) as plane:
        yield plane


@pytest.fixture
def backend() -> Iterator[HttpBackend]:
    with HttpBackend("good") as backend:
        yield backend


def picky(plane: Plane, node: str, variant: str = "DELTA_GRPC") -> Envoy:
    """An Envoy that refuses regexes of more than 100 instructions."""
    bootstrap = yaml.safe_load(plane.bootstrap(node).replace("DELTA_GRPC", variant))
    layer = {"name": "small regexes", "static_layer": {"re2.max_program_size.error_level": 100}}
    bootstrap.setdefault("layered_runtime", {}).setdefault("layers", []).append(layer)
    envoy = Envoy(yaml.safe_dump(bootstrap))
    plane._envoys.append(envoy)
    return envoy


def states(plane: Plane) -> set[str]:
    """How far the proxies have come with each type."""
    return {kind["state"] for one in plane.json("/v1/nodes")["nodes"] for kind in one["types"]}


def by_regex(name: str, regex: str, body: str) -> dict[str, Any]:
    return {**respond(name, "/", body), "match": [{"path": {"regex": regex}}]}


def test_a_regex_that_envoy_refuses_is_held_back_alone_and_new_proxies_get_what_was_good(plane: Plane) -> None:
    port = free_port()

    def write(regex: str, body: str) -> None:
        routes = [by_regex("regex", regex, f"regex {body}"), respond("other", "/other", f"other {body}", ["b.test"])]
        plane.write(gateway(port=port, routes=routes))

    write("/a+", "1")
    plane.start().ready()
    first = picky(plane, "envoy-1").ready()
    until(lambda: answers(port, "regex 1", "/aaa"), "the first regex answers")

    write(LARGE, "2")
    until(lambda: answers(port, "other 2", "/other", host="b.test"), "the other shard moves on")
    assert ask(port, "/aaa").body == b"regex 1"
    (held,) = until(lambda: plane.json("/v1/nodes")["held"], "it is held back")
    (problem,) = held["problems"]
    assert (problem["code"], problem["path"]) == ("GW0217", "spec.routes[regex].match[0].path.regex")
    line = (plane.specs / "gateway.yaml").read_text().splitlines()[problem["line"] - 1]
    assert line[problem["column"] - 1 :] == LARGE
    assert len(plane.said("problem")) == len(plane.said("resource held back")) == 1

    first.stop()
    picky(plane, "envoy-2").ready()
    until(lambda: answers(port, "regex 1", "/aaa"), "a new proxy gets what was good")
    assert answers(port, "other 2", "/other", host="b.test")
    assert len(plane.json("/v1/nodes")["held"][0]["refusedBy"]) == 1  # the new one was spared

    write("/b+", "3")
    until(lambda: answers(port, "regex 3", "/bbb"), "what was put right arrives, with no restart")
    assert plane.json("/v1/nodes")["held"] == plane.problems() == []
    assert plane.metric("controlplane_nacks_total") <= 2  # the whole response, and its one bad resource


def test_a_route_that_is_shown_in_the_place_of_a_refused_one_goes_on_to_take_its_tokens(plane: Plane) -> None:
    """Who takes the edit needs the requirement no more; who refuses it has the former one, and asks for it."""
    port = free_port()

    def write(regex: str, provider: str) -> None:
        jwt = {
            "name": provider,
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "jwks": {"inline": key_set(rsa_key(provider))},
        }
        route = {**by_regex("guarded", regex, provider), "auth": {"anyOf": [{"jwt": provider}]}}
        del route["public"]
        plane.write(gateway(port=port, routes=[route], identity={"jwt": [jwt]}))

    def status(provider: str) -> int:
        return ask(port, "/aaa", authorization=f"Bearer {token(rsa_key(provider))}").status

    write("/a+", "corp")
    plane.start().ready()
    picky(plane, "envoy-1").ready()
    until(lambda: status("corp") == 200, "a token is taken")

    write(LARGE, "partner")
    until(lambda: plane.json("/v1/nodes")["held"], "it is held back")
    end = time.monotonic() + SETTLE_BOUND + 3
    seen: set[int] = set()
    until(lambda: seen.add(status("corp")) or time.monotonic() > end, "the bound is over", SETTLE_BOUND + 10, 0.1)
    assert seen == {200}

    write("/aa*", "partner")
    until(lambda: status("partner") == 200, "what was put right is taken over")
    assert status("corp") == 401


@pytest.mark.parametrize("variant", ["DELTA_GRPC", "GRPC"])
def test_a_new_proxy_gets_what_was_good_after_a_crash(plane: Plane, backend: HttpBackend, variant: str) -> None:
    """Nothing that is in force says it. Killed when the edit was refused and is on disk, again before proxies are back, and
    with what they refuse edited meanwhile; what the good content needs of shared filters comes with it, and its backend."""
    port = free_port()

    def write(regex: str, provider: str, body: str) -> None:
        jwt = {
            "name": provider,
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "jwks": {"inline": key_set(rsa_key(provider))},
        }
        route = {**by_regex("guarded", regex, provider), "auth": {"anyOf": [{"jwt": provider}]}}
        del route["public"]
        backends = [static("first", backend.port)] if provider == "corp" else []
        if backends:
            del route["respond"]
            route["to"] = [{"backend": "first"}]
        other = respond("other", "/other", f"other {body}", ["b.test"])
        plane.write(gateway(port=port, routes=[route, other], identity={"jwt": [jwt]}, backends=backends))

    def answer(provider: str) -> int:
        return ask(port, "/aaa", authorization=f"Bearer {token(rsa_key(provider))}").status

    write("/a+", "corp", "1")
    plane.start().ready()
    picky(plane, "envoy-1", variant).ready()
    until(lambda: answer("corp") == 200, "a token is taken")
    until(lambda: states(plane) == {"synced"}, "all is taken over")
    write(LARGE, "partner", "2")
    until(lambda: plane.json("/v1/nodes")["held"], "it is held back")
    until(lambda: "partner" in plane.kept_text(), "the edit is on disk")
    plane.stop_envoys()
    for body in ("2", "3"):
        plane.kill()
        write(LARGE, "partner", body)
        plane.start().ready()
    picky(plane, "envoy-2", variant).ready()
    until(lambda: answers(port, "other 3", "/other", host="b.test"), "what is not refused")
    until(lambda: answer("corp") == 200, "what was good")
    write("/aa*", "partner", "4")
    until(lambda: answer("partner") == 200, "what was put right")
    plane.kept()
    plane.kill()
    plane.start().ready()
    assert plane.json("/v1/nodes")["held"] == []
    until(lambda: answers(port, "other 4", "/other", host="b.test"), "it goes on")
