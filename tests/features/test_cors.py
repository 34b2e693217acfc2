"""Which other origins a browser may call a route from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.features.conftest import Backends
from tests.support.client import Response
from tests.support.edge import Edge, gateway_text
from tests.support.tokens import key_set, rsa_key, token

pytestmark = pytest.mark.envoy

SHOP, EVIL = "https://shop.example.com", "https://shop.example.com.evil.example.net"

SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: "https://id.example.com/", audiences: [shop-api], jwks: {inline: 'KEYS'}}]}
  policies:
    - name: browser
      cors:
        origins: ["https://shop.example.com", "https://*.example.org"]
        methods: [GET, PUT]
        headers: [content-type, authorization]
        exposeHeaders: [x-from]
        credentials: true
        maxAge: 10m
    - {name: anybody, cors: {origins: ["*"], methods: [POST]}}
    - {name: pattern, cors: {originRegexes: ["https://[a-z]+[.]example[.]com"]}}
    - {name: slow, rateLimit: {local: [{requests: 2, per: hour}]}}
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: api, hosts: [api.example.com], match: [{path: {prefix: /api}}], auth: {anyOf: [{jwt: corp}]}, use: [browser], to: [{backend: one}]}
    - {name: floating, hosts: [api.example.com], match: [{path: {regex: "/.*[.]json"}}], auth: {anyOf: [{jwt: corp}]}, use: [browser], to: [{backend: one}]}
    - {name: get, hosts: [api.example.com], match: [{path: {prefix: /methods}, methods: [GET]}], auth: {anyOf: [{jwt: corp}]}, use: [browser], to: [{backend: one}]}
    - {name: post, hosts: [api.example.com], match: [{path: {prefix: /methods}, methods: [POST]}], public: true, use: [anybody], to: [{backend: one}]}
    - {name: v1, hosts: [api.example.com], match: [{path: {prefix: /query}, query: [{name: v, exact: "1"}]}], public: true, use: [browser], to: [{backend: one}]}
    - {name: v2, hosts: [api.example.com], match: [{path: {prefix: /query}, query: [{name: v, exact: "2"}]}], public: true, use: [anybody], to: [{backend: one}]}
    - {name: header, hosts: [api.example.com], match: [{path: {prefix: /header}, headers: [{name: x-version, exact: "2"}]}], public: true, use: [browser], to: [{backend: one}]}
    - {name: pattern, hosts: [api.example.com], match: [{path: {prefix: /pattern}}], public: true, use: [pattern], to: [{backend: one}]}
    - {name: limited, hosts: [api.example.com], match: [{path: {prefix: /limited}}], public: true, use: [browser, slow], to: [{backend: one}]}
    - {name: own-vary, hosts: [api.example.com], match: [{path: {prefix: /own-vary}}], public: true, use: [browser], transform: {response: {headers: {set: {vary: accept}}}}, to: [{backend: one}]}
    - {name: none, hosts: [api.example.com], match: [{path: {prefix: /none}}], public: true, to: [{backend: one}]}
    - {name: wild, hosts: ["*.example.com"], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, use: [browser], to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC.replace("KEYS", key_set(rsa_key())), ports) as running:
        assert not running.diagnostics
        yield running


def preflight(
    edge: Edge, path: str, origin: str = SHOP, method: str = "GET", host: str = "api.example.com"
) -> Response:
    headers = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "content-type,x-version",
    }
    return edge.request(path, host, "OPTIONS", headers)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("api.example.com", "/api"),
        ("API.example.com", "/api"),
        ("api.example.com", "/x/y.json"),
        ("api.example.com", "/header"),
        ("other.example.com", "/any"),
        ("OTHER.example.com", "/any"),
    ],
)
def test_preflight_of_an_allowed_origin_is_answered(edge: Edge, backends: Backends, host: str, path: str) -> None:
    """Without a token: browsers send none with the question."""
    answer = preflight(edge, path, host=host)
    assert answer.status == 200
    assert answer.header("access-control-allow-origin") == SHOP
    assert answer.header("access-control-allow-credentials") == "true"
    assert set((answer.header("access-control-allow-methods") or "").replace(" ", "").split(",")) == {"GET", "PUT"}
    assert "content-type" in (answer.header("access-control-allow-headers") or "")
    assert answer.header("access-control-max-age") == "600"
    assert backends.one.requests == 0


@pytest.mark.parametrize(
    "origin", [EVIL, "http://shop.example.com", "https://SHOP.example.com", "null", "https://example.org"]
)
@pytest.mark.parametrize("path", ["/api", "/methods", "/header", "/x/y.json"])
def test_preflight_of_another_origin_is_not_allowed(edge: Edge, backends: Backends, path: str, origin: str) -> None:
    answer = preflight(edge, path, origin)
    assert answer.header("access-control-allow-origin") is None
    assert backends.one.requests == 0, "answered, not forwarded"


def test_wildcard_origin_stands_for_its_subdomains(edge: Edge) -> None:
    for origin in ("https://a.example.org", "https://a.b.example.org"):
        assert preflight(edge, "/api", origin).header("access-control-allow-origin") == origin
    for origin in (
        "https://example.org",
        "https://aexample.org",
        "https://a.example.org.evil.net",
        "https://a.example.org:99",
    ):
        assert preflight(edge, "/api", origin).header("access-control-allow-origin") is None


def test_origin_by_pattern_is_matched_whole(edge: Edge) -> None:
    assert preflight(edge, "/pattern", SHOP).header("access-control-allow-origin") == SHOP
    for origin in (EVIL, "https://a.b.example.com", "xhttps://shop.example.com"):
        assert preflight(edge, "/pattern", origin).header("access-control-allow-origin") is None


def test_a_match_restricted_to_methods_answers_preflights_for_them(edge: Edge, backends: Backends) -> None:
    """Each method has the policy of its own route, not that of another one with the same path."""
    assert preflight(edge, "/methods", method="GET").header("access-control-allow-credentials") == "true"
    post = preflight(edge, "/methods", EVIL, "POST")
    assert (post.status, post.header("access-control-allow-origin")) == (200, EVIL)
    assert post.header("access-control-allow-credentials") is None
    assert preflight(edge, "/methods", EVIL, "GET").header("access-control-allow-origin") is None
    assert preflight(edge, "/methods", SHOP, "DELETE").header("access-control-allow-origin") is None
    assert backends.one.requests == 0


def test_a_match_on_the_query_answers_preflights_with_that_query(edge: Edge) -> None:
    assert preflight(edge, "/query?v=1", EVIL).header("access-control-allow-origin") is None
    assert preflight(edge, "/query?v=1", SHOP).header("access-control-allow-origin") == SHOP
    assert preflight(edge, "/query?v=2", EVIL).header("access-control-allow-origin") == EVIL
    assert preflight(edge, "/query?v=3", SHOP).status == 404


def test_a_preflight_is_no_way_around_authentication(edge: Edge, backends: Backends) -> None:
    """Only what looks like a preflight in every part passes without a token, and that never reaches the backend."""
    partly = [
        {"origin": SHOP},
        {"access-control-request-method": "GET"},
        {"origin": SHOP, "access-control-request-methods": "GET"},
    ]
    for headers in partly:
        assert edge.request("/api", "api.example.com", "OPTIONS", headers).status == 401
    full = {"origin": SHOP, "access-control-request-method": "GET"}
    for method in ("GET", "POST", "options"):
        assert edge.request("/api", "api.example.com", method, full).status in {401, 404, 400}
    assert backends.one.requests == 0


@pytest.mark.parametrize("path", ["/api", "/methods", "/x/y.json", "/header"])
@pytest.mark.parametrize(("origin", "method"), [("", "GET"), (SHOP, ""), ("", "")])
def test_an_empty_origin_or_method_makes_no_preflight(
    edge: Edge, backends: Backends, path: str, origin: str, method: str
) -> None:
    """Envoy's filter takes such a request for none, and lets it pass: neither the token nor `methods` may be got round."""
    assert preflight(edge, path, origin, method).status in {401, 404}
    assert backends.one.requests == 0


def test_requests_from_an_allowed_origin_are_marked(edge: Edge, backends: Backends) -> None:
    good = {"origin": SHOP, "authorization": f"Bearer {token()}"}
    answer = edge.request("/api", "api.example.com", headers=good)
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, SHOP)
    assert answer.header("access-control-expose-headers") == "x-from"
    other = edge.request("/api", "api.example.com", headers=good | {"origin": EVIL})
    assert (other.status, other.header("access-control-allow-origin")) == (200, None)


@pytest.mark.parametrize(
    ("path", "origin", "allowed", "credentials"),
    [
        ("/query?v=2", EVIL, EVIL, None),  # every site may read what it shows to nobody in particular
        ("/query?v=1", SHOP, SHOP, "true"),
        ("/query?v=1", EVIL, None, None),
        ("/none", EVIL, "https://backend.example.com", "true"),
    ],
)
def test_a_backend_has_no_say_beside_a_policy(
    edge: Edge, backends: Backends, path: str, origin: str, allowed: str | None, credentials: str | None
) -> None:
    """One that allows credentials to few origins, beside a policy for all origins without, would let all act as the user."""
    backends.one.headers = {
        "access-control-allow-origin": "https://backend.example.com",
        "access-control-allow-credentials": "true",
    }
    answer = edge.request(path, "api.example.com", headers={"origin": origin})
    assert answer.header("access-control-allow-origin") == allowed
    assert answer.header("access-control-allow-credentials") == credentials


@pytest.mark.parametrize("path", ["/pattern", "/x/y.json", "/query?v=2", "/own-vary"])
@pytest.mark.parametrize("origin", [SHOP, EVIL, None])
def test_caches_keep_what_is_for_one_origin_from_another(edge: Edge, path: str, origin: str | None) -> None:
    """Also what was asked for without an origin: it lacks what a browser needs to show it to another page."""
    headers = {"authorization": f"Bearer {token()}"} | ({"origin": origin} if origin else {})
    vary = edge.request(path, "api.example.com", headers=headers).header("vary")
    assert (vary or "").replace(" ", "").split(",") == (["accept", "origin"] if path == "/own-vary" else ["origin"])


def test_routes_without_a_policy_depend_on_no_origin(edge: Edge) -> None:
    assert edge.request("/none", "api.example.com", headers={"origin": SHOP}).header("vary") is None


def test_a_refusal_can_be_read_by_the_page(edge: Edge) -> None:
    """A browser hides an answer without these headers, so that the page could not tell 401 from a broken network."""
    answer = edge.request("/api", "api.example.com", headers={"origin": SHOP})
    assert (answer.status, answer.header("access-control-allow-origin")) == (401, SHOP)


def test_preflights_use_up_no_limit(edge: Edge, backends: Backends) -> None:
    assert [preflight(edge, "/limited").status for _ in range(4)] == [200] * 4
    assert [edge.request("/limited", "api.example.com").status for _ in range(3)] == [200, 200, 429]


def test_routes_without_a_policy_stay_as_they_are(edge: Edge, backends: Backends) -> None:
    answer = preflight(edge, "/none")
    assert (answer.backend, answer.header("access-control-allow-origin")) == ("one", None)
