"""Content that we accept and a real Envoy refuses: it is held back alone, told by file and line, and put right by an edit.

The Envoys here take regexes of a small size only (`re2.max_program_size`), which only they can know.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.e2e.plane import Plane, answers, ask, gateway, respond
from tests.support.envoy import Envoy
from tests.support.ports import free_port
from tests.support.waiting import until

LARGE = "/(abcdefghij){40}"
"""A regex whose program is larger than what these Envoys take."""


@pytest.fixture
def plane(tmp_path: Any) -> Any:
    with Plane(tmp_path) as plane:
        yield plane


def picky(plane: Plane, node: str) -> Envoy:
    """An Envoy that refuses regexes of more than 100 instructions."""
    bootstrap = yaml.safe_load(plane.bootstrap(node))
    layer = {"name": "small regexes", "static_layer": {"re2.max_program_size.error_level": 100}}
    bootstrap.setdefault("layered_runtime", {}).setdefault("layers", []).append(layer)
    envoy = Envoy(yaml.safe_dump(bootstrap))
    plane._envoys.append(envoy)
    return envoy


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
