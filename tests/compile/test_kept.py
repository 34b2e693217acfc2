"""What routes on proxies name of a gateway that is in no spec any more stays in the filters that its proxies have."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2

from controlplane.compile.compiler import Compiler
from controlplane.filters import chain
from controlplane.names import GatewayName, ObjectRef
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import Row, RowKey, rows
from tests.e2e.plane import gateway, respond

POLICY = {"name": "few", "rateLimit": {"local": [{"requests": 1, "per": "minute"}]}}


def _said(name: str, role: str = "edge") -> tuple[ObjectRef, Mapping[RowKey, Row]]:
    """A gateway with a limit whose bucket is in the filter, for its route stands in two shards."""
    route = respond("main", "/", "x", ["a.test", "b.test"], use=["few"])
    text = yaml.safe_dump(gateway(name, role=role, routes=[route], policies=[POLICY]))
    (parsed,) = parse_text(text, "spec.yaml", "files")
    assert parsed.ref is not None
    assert parsed.document is not None
    return parsed.ref, rows(parsed.ref, parsed.document)


def _limits(compiler: Compiler, *gateways: str) -> set[str]:
    """The gateways of the limits that the filter knows, of those who see these gateways."""
    view = tuple(GatewayName(f"platform/{name}") for name in gateways)
    (body,) = (one.body for one in compiler.resources(view) if one.name == chain.ROUTE_LIMITS)
    message = local_rate_limit_pb2.LocalRateLimit()
    assert extension_pb2.TypedExtensionConfig.FromString(body).typed_config.Unpack(message)
    named = {entry.value for one in message.descriptors for entry in one.entries if entry.key == "limit"}
    return {one.split("/")[2] for one in named}


def _committed(*said: tuple[ObjectRef, Mapping[RowKey, Row]]) -> Compiler:
    compiler = Compiler()
    for one in said:
        compiler.put(*one)
    compiler.commit_now()
    return compiler


def test_a_limit_stays_when_its_gateway_gets_another_name_until_no_proxy_names_it() -> None:
    """A route whose limit the filter does not know is not limited at all."""
    compiler = _committed(_said("edge"))
    compiler.remove(_said("edge")[0])
    compiler.put(*_said("shop"))
    limits = compiler.commit_now().limits
    assert _limits(compiler, "shop") == {"edge", "shop"}
    for key in limits - compiler.tables.limits.rows.keys():
        compiler.release_limit(key)
    compiler.commit_now()
    assert _limits(compiler, "shop") == {"shop"}
    assert not compiler.tables.kept_gateways.rows


def test_a_limit_stays_when_its_gateway_goes_from_proxies_that_have_others() -> None:
    compiler = _committed(_said("edge"), _said("shop"))
    compiler.remove(_said("edge")[0])
    compiler.commit_now()
    assert _limits(compiler, "shop") == {"edge", "shop"}


def test_a_limit_of_a_gateway_that_is_gone_is_not_in_the_filters_of_other_fleets() -> None:
    compiler = _committed(_said("edge"), _said("shop", role="other"))
    compiler.remove(_said("edge")[0])
    compiler.commit_now()
    assert _limits(compiler, "shop") == {"shop"}


def test_a_gateway_that_comes_back_has_its_limits_and_nothing_is_kept() -> None:
    compiler = _committed(_said("edge"))
    compiler.remove(_said("edge")[0])
    compiler.commit_now()
    compiler.put(*_said("edge"))
    compiler.commit_now()
    assert _limits(compiler, "edge") == {"edge"}
    assert not compiler.tables.kept_limits.rows
    assert not compiler.tables.kept_gateways.rows
