"""What is other than when proxies got what they have is compiled as an edit: they are left what they still use."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from controlplane.compile.compiler import Compiler
from controlplane.compile.xds_types import CLUSTER, EXTENSION, LOAD_ASSIGNMENT, SCOPED_ROUTE
from controlplane.names import GatewayName, ObjectRef
from controlplane.resources import Resource
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import Row, RowKey, rows
from tests.support.tokens import key_set, rsa_key

SPEC = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: @gateway@, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - {name: https, port: 8443, protocol: HTTPS, tls: [{hosts: [tls.test], certificate: {secretRef: @secret@}}]}
  identity:
    jwt: [{name: @provider@, issuer: "https://id.test/", audiences: [shop], jwks: {inline: '@keys@'}}]
  routes:
    - {name: one, hosts: [a.test], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: @provider@}]}, respond: {status: 200}}
    - {name: two, hosts: [tls.test], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}
@more@"""
NEW = "    - {name: new, hosts: [new.test], match: [{path: {prefix: /}}], public: true, respond: {status: 200}}\n"
TO = """\
    - {name: to, hosts: [to.test], match: [{path: {prefix: /}}], public: true, to: [{backend: far}]}
  backends: [{name: far, members: [{static: {address: 192.0.2.1, port: 80}}]}]
"""
KEYS = key_set(rsa_key())

Said = tuple[ObjectRef, Mapping[RowKey, Row]]


def said(gateway: str = "edge", provider: str = "corp", secret: str = "old", more: str = "") -> Said:
    text = SPEC
    names = {"gateway": gateway, "provider": provider, "secret": secret, "keys": KEYS, "more": more}
    for name, value in names.items():
        text = text.replace(f"@{name}@", value)
    (parsed,) = parse_text(text, "spec.yaml", "files")
    assert parsed.ref is not None
    assert parsed.document is not None
    return parsed.ref, rows(parsed.ref, parsed.document)


def resources(compiler: Compiler, gateway: str) -> list[Resource]:
    return compiler.resources((GatewayName(f"platform/{gateway}"),))


def edited(before: Said, now: Said) -> Compiler:
    """A compiler that lived through the edit."""
    compiler = Compiler()
    compiler.put(*before)
    for key in compiler.commit_now().requirements:
        compiler.keep_requirement(key)
    if before[0] != now[0]:
        compiler.remove(before[0])
    compiler.put(*now)
    compiler.commit_now()
    return compiler


@pytest.mark.parametrize(
    "now",
    [{"provider": "partner"}, {"secret": "new"}, {"gateway": "shop"}, {"gateway": "shop", "provider": "partner"}],
    ids="+".join,
)
def test_it_is_as_if_it_had_been_edited_now_and_proxies_can_be_told_so(now: dict[str, str]) -> None:
    before, after, gateway = said(), said(**now), now.get("gateway", "edge")
    compiler = Compiler()
    if before[0] != after[0]:
        list(compiler.succeeding(before[0], [before[1]], None))
        compiler.put(*after)
    else:
        list(compiler.succeeding(before[0], [before[1]], after[1]))
    commit = compiler.commit_now()
    assert resources(compiler, gateway) == resources(edited(before, after), gateway)
    published = [entry for of_part in commit.publication.values() for entry in of_part]
    assert {(url, name) for url, name, one in published if one is not None} >= {
        (one.type_url, one.name) for one in resources(compiler, gateway)
    }

    # What proxies had is in there, and leaves when none needs it any more.
    fresh = Compiler()
    fresh.put(*after)
    fresh.commit_now()
    assert resources(compiler, gateway) != resources(fresh, gateway)
    left = [key for key in commit.requirements if key not in compiler.tables.requirements.rows]
    for key in left:
        compiler.release_requirement(key)
    for chain in list(compiler.tables.kept_chains.rows):
        compiler.release_chain(chain)
    compiler.commit_now()
    assert resources(compiler, gateway) == resources(fresh, gateway)


def test_of_several_steps_each_leaves_what_it_leaves_and_the_first_is_what_was_good() -> None:
    """An edit that nobody had taken over yet, and another one while no control plane was there."""
    ref, good = said()
    _, doubted = said(provider="partner")
    _, now = said(provider="partner", secret="new")
    compiler, lived = Compiler(), edited((ref, good), (ref, doubted))
    lived.keep_requirement((GatewayName("platform/edge"), "platform/edge|any:partner"))
    lived.put(ref, now)
    lived.commit_now()
    list(compiler.succeeding(ref, [good, doubted], now))
    commit = compiler.commit_now()
    assert resources(compiler, "edge") == resources(lived, "edge")
    alone = Compiler()
    alone.put(ref, good)
    alone.commit_now()
    assert commit.former is not None
    first = {(key.type_url, key.name): one for key, one in commit.former.items()}
    here = {(one.type_url, one.name): one for one in resources(compiler, "edge")}
    were = {(one.type_url, one.name): one for one in resources(alone, "edge")}
    routes = {key for key, one in were.items() if b"corp" in one.body and key[0] == SCOPED_ROUTE}
    assert routes
    assert all(first[key] == were[key] != here[key] for key in routes)
    assert alone.commit_now().former is None


def test_endpoints_that_went_with_their_backend_stood_there_too() -> None:
    """A route that is shown in the place of a refused one leads to them."""
    ref, good = said(more=TO)
    _, doubted = said()
    compiler = Compiler()
    list(compiler.succeeding(ref, [good], doubted))
    commit = compiler.commit_now()
    alone = Compiler()
    alone.put(ref, good)
    alone.commit_now()
    assert commit.former is not None
    for url in (CLUSTER, LOAD_ASSIGNMENT):
        (stood,) = [one for key, one in commit.former.items() if key.type_url == url]
        assert stood in resources(alone, "edge")
        assert not [one for one in resources(compiler, "edge") if one.type_url == url]
        published = [one for of_part in commit.publication.values() for one in of_part if one[0] == url]
        assert [one[2] for one in published] == [None]


def test_what_was_never_taken_over_stood_nowhere() -> None:
    """The step between: what is new in it, and what it says other than the one before it, were refused or seen by nobody."""
    ref, good = said()
    _, doubted = said(provider="partner", more=NEW)
    compiler = Compiler()
    list(compiler.succeeding(ref, [good, doubted], good))
    former = compiler.commit_now().former
    assert former is not None
    here = {(one.type_url, one.name): one for one in resources(compiler, "edge")}
    stood = {(key.type_url, key.name): one for key, one in former.items() if key.type_url == SCOPED_ROUTE}
    assert stood
    assert all(one is None or one == here[key] for key, one in stood.items())
    assert None in stood.values()


def test_what_an_object_said_before_is_no_problem_now() -> None:
    """A document that could not be served as a whole, and was put right while nobody looked."""
    ref, before = said(provider="corp")
    broken = {key: row for key, row in before.items() if "corp" not in str(key)}
    assert len(broken) == len(before) - 1
    alone, compiler = Compiler(), Compiler()
    alone.put(ref, broken)
    list(compiler.succeeding(ref, [broken], before))
    problems = [
        [one.message for found in each.commit_now().issues.values() for one in found if "corp" in one.message]
        for each in (alone, compiler)
    ]
    assert problems[0]
    assert not problems[1]


def test_a_token_of_the_provider_before_is_still_taken_while_its_routes_may_be_on_proxies() -> None:
    ref, before = said()
    compiler = Compiler()
    list(compiler.succeeding(ref, [before], said(provider="partner")[1]))
    compiler.commit_now()
    (filter_,) = [one for one in resources(compiler, "edge") if one.type_url == EXTENSION and b"partner" in one.body]
    for name in (b"platform/edge|any:corp", b"platform/edge|any:partner"):
        assert name in filter_.body
