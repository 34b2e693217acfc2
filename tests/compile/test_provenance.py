"""From what a proxy refused back to the documents: every resource that is compiled says what it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.compile.compiler import Compiler
from controlplane.compile.offline import SHORT_NAMES
from controlplane.compile.provenance import Made, elements, title
from controlplane.names import GatewayName
from tests.compile import worlds
from tests.e2e.plane import gateway
from tests.golden.cases import Case, cases

VIEW = (GatewayName("platform/edge"),)


def compiled(**said: object) -> Compiler:
    compiler = Compiler()
    document = gateway(**said)
    compiler.put(worlds.ref(document), worlds.split(document))
    compiler.commit_now()
    return compiler


def route(name: str, body: str, path: str) -> dict[str, object]:
    match = [{"path": {"prefix": path}}]
    return {"name": name, "hosts": ["*"], "match": match, "public": True, "respond": {"status": 200, "body": body}}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_everything_was_made_of_something(case: Case, tmp_path: Path) -> None:
    result = case.compile(tmp_path)
    for name in result.gateways:
        for resource in result.resources((name,)):
            found = elements(resource)
            assert title(resource)
            assert found or resource.type_url == SHORT_NAMES["srds"], resource.name  # a shard may say "not found" alone
            assert all(one.subject for one in found)


def test_of_a_shard_the_routes_that_changed_are_named() -> None:
    def shard(body: str) -> object:
        routes = [route("one", "1", "/a/one"), route("two", body, "/a/two")]
        found = compiled(routes=routes).resources(VIEW)
        return next(one for one in found if one.type_url == SHORT_NAMES["srds"] and len(elements(one)) == 2)

    before, after = shard("2"), shard("3")
    assert elements(after, before) == (Made("GatewaySpec platform/edge", "spec.routes[two]"),)
    assert {made.path for made in elements(after)} == {"spec.routes[one]", "spec.routes[two]"}
