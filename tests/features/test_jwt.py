"""Who may call: JSON Web Tokens on every way in which a request can find its route."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.features.conftest import Backends
from tests.support import tokens
from tests.support.backends import Http2Backend
from tests.support.client import Response
from tests.support.edge import Edge, gateway_text
from tests.support.tokens import ec_key, key_set, rsa_key, token

pytestmark = pytest.mark.envoy

PARTNER = "https://partner.example.com/"

SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity:
    jwt:
      - name: corp
        issuer: https://id.example.com/
        audiences: [shop-api, shop-web]
        jwks: {inline: 'CORP_KEYS'}
        claimsToHeaders: {sub: x-user-id, org.name: x-org, admin: x-admin}
        clockSkew: 5s
      - name: partner
        issuer: https://partner.example.com/
        audiences: [partners]
        jwks: {inline: 'PARTNER_KEYS'}
        from: [{header: x-partner-token}]
        claimsToHeaders: {sub: x-partner, "https://example.com/roles": x-roles, groups: x-groups}
      - name: forwarding
        issuer: https://id.example.com/
        audiences: [shop-api]
        jwks: {inline: 'CORP_KEYS'}
        forward: true
      - name: places
        issuer: https://id.example.com/
        audiences: [shop-api]
        jwks: {inline: 'CORP_KEYS'}
        from: [{header: x-token, prefix: "Token "}, {cookie: session}, {query: jwt}]
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: api, hosts: [shop.example.com], match: [{path: {prefix: /api}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: floating, hosts: [shop.example.com], match: [{path: {regex: "/.*[.]secret"}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: root, hosts: [root.example.com], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: wild, hosts: ["*.wild.example.com"], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: wild-api, hosts: ["*.wild.example.com"], match: [{path: {prefix: /api}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: any-host, hosts: ["*"], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, to: [{backend: one}]}
    - {name: any, hosts: [shop.example.com], match: [{path: {prefix: /any}}], auth: {anyOf: [{jwt: corp}, {jwt: partner}]}, to: [{backend: one}]}
    - {name: all, hosts: [shop.example.com], match: [{path: {prefix: /all}}], auth: {allOf: [{jwt: corp}, {jwt: partner}]}, to: [{backend: one}]}
    - {name: forwarding, hosts: [shop.example.com], match: [{path: {prefix: /forward}}], auth: {anyOf: [{jwt: forwarding}]}, to: [{backend: one}]}
    - {name: places, hosts: [shop.example.com], match: [{path: {prefix: /places}}], auth: {anyOf: [{jwt: places}]}, to: [{backend: one}]}
    - {name: public, hosts: [shop.example.com], match: [{path: {prefix: /public}}], public: true, to: [{backend: one}]}
    - {name: answer, hosts: [shop.example.com], match: [{path: {prefix: /answer}}], auth: {anyOf: [{jwt: corp}]}, respond: {status: 200, body: secret}}
    - {name: away, hosts: [shop.example.com], match: [{path: {prefix: /away}}], auth: {anyOf: [{jwt: corp}]}, redirect: {host: other.example.com}}
    - {name: closed, hosts: [shop.example.com], match: [{path: {prefix: /closed}}], auth: {anyOf: [{jwt: nobody-knows}]}, to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    spec = SPEC.replace("CORP_KEYS", key_set(rsa_key(), ec_key())).replace("PARTNER_KEYS", key_set(rsa_key("partner")))
    with Edge(spec, ports) as running:
        yield running


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


EVERY_WAY = pytest.mark.parametrize(
    ("host", "path"),
    [
        pytest.param("shop.example.com", "/api/x", id="hit"),
        pytest.param("shop.example.com", "/x/y.secret", id="floating, by a miss"),
        pytest.param("shop.example.com", "/api/y.secret", id="floating, in a shard"),
        pytest.param("SHOP.example.com", "/api/x", id="upper case"),
        pytest.param("SHOP.example.com:99", "/x/y.secret", id="upper case, floating"),
        pytest.param("shop.example.com.", "/api/x", id="trailing dot"),
        pytest.param("root.example.com", "/none", id="fallback"),
        pytest.param("ROOT.example.com", "/none", id="upper case, fallback"),
        pytest.param("a.wild.example.com", "/none", id="wildcard"),
        pytest.param("a.wild.example.com", "/api", id="wildcard segment"),
        pytest.param("A.b.WILD.example.com", "/api", id="wildcard, upper case"),
        pytest.param("other.example.org", "/", id="any host"),
        pytest.param("other.example.org", "/deep/er", id="any host, deep"),
    ],
)


@EVERY_WAY
def test_no_token_is_refused(edge: Edge, backends: Backends, host: str, path: str) -> None:
    answer = edge.request(path, host)
    assert (answer.status, answer.backend, answer.body) == (401, None, b"")
    assert backends.one.requests == 0


@EVERY_WAY
def test_good_token_passes(edge: Edge, backends: Backends, host: str, path: str) -> None:
    answer = edge.request(path, host, headers=bearer(token()))
    assert (answer.status, answer.backend, answer.seen("x-user-id")) == (200, "one", "anna")


def _confused(**_: object) -> str:
    return token(tokens.pem(rsa_key()), header={"alg": "HS256"})


def _tampered() -> str:
    head, _, signature = token().split(".")
    _, other, _ = token(sub="root").split(".")
    return f"{head}.{other}.{signature}"


BAD: dict[str, Callable[[], str]] = {
    "not a token": lambda: "abc",
    "issuer": lambda: token(iss="https://evil.example.com/"),
    "no issuer": lambda: token(without=("iss",)),
    "audience": lambda: token(aud="other"),
    "no audience": lambda: token(without=("aud",)),
    "audiences": lambda: token(aud=["other", "another"]),
    "expired": lambda: token(exp=int(time.time()) - 60),
    "no expiry": lambda: token(without=("exp",)),
    "not yet": lambda: token(nbf=int(time.time()) + 120),
    "other key": lambda: token(rsa_key("mallory")),
    "other key, unknown kid": lambda: token(rsa_key("mallory"), header={"kid": "k9"}),
    "alg none": lambda: token(b""),
    "alg none, upper case": lambda: token(b"", header={"alg": "None"}),
    "RS as HS": _confused,
    "ES as RS": lambda: token(ec_key(), header={"alg": "RS256", "kid": "k2"}),
    "key in the header": lambda: token(rsa_key("mallory"), header={"jwk": tokens.jwk(rsa_key("mallory"))}),
    "key by address": lambda: token(rsa_key("mallory"), header={"jku": "https://evil.example.com/jwks.json"}),
    "tampered": _tampered,
    "of the partner": lambda: token(rsa_key("partner"), iss=PARTNER, aud="partners"),
    "no signature": lambda: token().rpartition(".")[0] + ".",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_token_is_refused(edge: Edge, backends: Backends, kind: str) -> None:
    answer = edge.request("/api", headers=bearer(BAD[kind]()))
    assert answer.status in {401, 403}, kind
    assert (answer.body, backends.one.requests) == (b"", 0)


@pytest.mark.parametrize(
    "good",
    [
        lambda: token(ec_key(), header={"kid": "k2"}),
        lambda: token(aud=["other", "shop-web"]),
        lambda: token(exp=int(time.time()) - 1),
        lambda: token(header={"typ": "at+jwt"}),
    ],
    ids=["EC key", "one of several audiences", "expired within the skew", "another type"],
)
def test_other_good_tokens(edge: Edge, backends: Backends, good: Callable[[], str]) -> None:
    assert edge.request("/api", headers=bearer(good())).status == 200


def test_scheme_is_bearer(edge: Edge) -> None:
    assert edge.request("/api", headers={"authorization": f"Basic {token()}"}).status == 401
    assert edge.request("/api", headers={"authorization": token()}).status == 401


def test_any_of(edge: Edge, backends: Backends) -> None:
    partner = {"x-partner-token": token(rsa_key("partner"), iss=PARTNER, aud="partners", sub="paul")}
    assert edge.request("/any").status == 401
    assert edge.request("/any", headers=bearer(token())).seen("x-user-id") == "anna"
    assert edge.request("/any", headers=partner).seen("x-partner") == "paul"
    assert edge.request("/any", headers=bearer(token(iss="x")) | partner).status == 200
    assert edge.request("/any", headers={"x-partner-token": token()}).status in {401, 403}


def test_all_of(edge: Edge, backends: Backends) -> None:
    partner = {"x-partner-token": token(rsa_key("partner"), iss=PARTNER, aud="partners", sub="paul")}
    both = edge.request("/all", headers=bearer(token()) | partner)
    assert (both.status, both.seen("x-user-id"), both.seen("x-partner")) == (200, "anna", "paul")
    assert edge.request("/all", headers=bearer(token())).status == 401
    assert edge.request("/all", headers=partner).status == 401
    assert edge.request("/all", headers=bearer(token(iss="x")) | partner).status in {401, 403}


def test_claims_become_headers(edge: Edge, backends: Backends) -> None:
    answer = edge.request("/api", headers=bearer(token(sub="bea", org={"name": "shop"}, admin=True)))
    assert [answer.seen(name) for name in ("x-user-id", "x-org", "x-admin")] == ["bea", "shop", "true"]


def test_a_claim_that_is_called_by_a_url_is_not_found_and_a_list_is_encoded(edge: Edge, backends: Backends) -> None:
    """Whoever writes such a name is told: nothing else would show that the header never comes."""
    said = {"https://example.com/roles": "boss", "groups": ["a", "b"]}
    partner = {"x-partner-token": token(rsa_key("partner"), iss=PARTNER, aud="partners", **said)}
    answer = edge.request("/any", headers=partner | {"x-roles": "forged"})
    assert (answer.status, answer.seen("x-roles"), answer.seen("x-groups")) == (200, None, "WyJhIiwiYiJd")
    assert any('"x-roles" is never set' in one.message for one in edge.diagnostics if one.code == "GW0215")


@pytest.mark.parametrize("name", ["x-user-id", "X-User-ID", "x-partner", "x-org"])
@pytest.mark.parametrize("path", ["/public", "/api"])
def test_forged_identity_headers_are_removed(edge: Edge, backends: Backends, path: str, name: str) -> None:
    """On every route: what reaches a backend under these names was said by the gateway."""
    forged = [("authorization", f"Bearer {token(without=('sub',))}"), (name, "root"), (name, "root2")]
    answer = edge.request(path, headers=forged)
    assert (answer.status, answer.seen(name.lower())) == (200, None)


@pytest.mark.parametrize("host", ["other.example.org", "A.wild.example.com", "ROOT.example.com"])
def test_forged_identity_headers_are_removed_after_a_second_look(edge: Edge, backends: Backends, host: str) -> None:
    answer = edge.request("/deep", host, headers=bearer(token()) | {"x-org": "evil"})
    assert (answer.status, answer.seen("x-org")) == (200, None)


def test_forged_identity_headers_are_no_trailers_either() -> None:
    """Some servers make headers of trailers."""
    spec = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: "https://id.example.com/", audiences: [a], jwks: {inline: 'KEYS'}, claimsToHeaders: {sub: x-user-id}}]}
  backends: [{name: two, protocol: HTTP2, members: [{static: {address: 127.0.0.1, port: @two@}}]}]
  routes: [{name: r, hosts: ["*"], match: [{path: {prefix: /}}], public: true, to: [{backend: two}]}]
""")
    with Http2Backend() as two, Edge(spec.replace("KEYS", key_set(rsa_key())), {"two": two.port}) as edge:
        with edge.http2() as connection:
            stream = connection.open("/", "shop.example.com", "POST", end=False)
            connection.end(stream, {"x-user-id": "root", "x-real-ip": "10.0.0.1", "x-checksum": "1"})
            assert connection.answer(stream).status == 200
        assert two.trailers == {"x-checksum": "1"}


def test_token_stays_here_unless_said(edge: Edge, backends: Backends) -> None:
    assert edge.request("/api", headers=bearer(token())).seen("authorization") is None
    assert (
        edge.request("/any", headers={"x-partner-token": token(rsa_key("partner"), iss=PARTNER, aud="partners")}).seen(
            "x-partner-token"
        )
        is None
    )
    kept = token()
    assert edge.request("/forward", headers=bearer(kept)).seen("authorization") == f"Bearer {kept}"


def test_places_of_a_token(edge: Edge, backends: Backends) -> None:
    good = token()
    assert edge.request("/places", headers={"x-token": f"Token {good}"}).status == 200
    assert edge.request("/places", headers={"x-token": f"Token {good}"}).seen("x-token") is None
    in_cookie = edge.request("/places", headers={"cookie": f"a=b; session={good}"})
    assert (in_cookie.status, in_cookie.seen("cookie")) == (200, f"a=b; session={good}"), "Envoy removes no cookies"
    assert any("forward: true" in one.help for one in edge.diagnostics if one.code == "GW0215")
    in_query = edge.request(f"/places?a=1&jwt={good}")
    assert in_query.status == 200
    assert "jwt" not in in_query.seen_path, "a token in a query would be logged by the backend"
    assert edge.request("/places", headers=bearer(good)).status == 401
    assert edge.request("/places", headers={"x-token": good}).status == 401
    assert edge.request(f"/api?access_token={good}").status == 200


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("z=1%262&a=%20b&{}", "?z=1%262&a=%20b"),  # neither another parameter nor a space
        ("{}&z=%3Fx&a=%23&z=%C3%A9+", "?z=%3Fx&a=%23&z=%C3%A9+"),
        ("flag&{}&{}&empty=&&=x", "?flag&empty=&=x"),
        ("{}", ""),
    ],
)
@pytest.mark.parametrize(("path", "name"), [("/places", "jwt"), ("/api/x", "access_token"), ("/any", "access%5Ftoken")])
def test_the_rest_of_a_query_is_left_as_it_was(
    edge: Edge, backends: Backends, path: str, name: str, sent: str, seen: str
) -> None:
    """Envoy's filter writes the query anew where it takes a token out of it: sorted, and decoded."""
    answer = edge.request(f"{path}?{sent.replace('{}', f'{name}={token()}')}")
    assert (answer.status, answer.seen_path) == (200, path + seen)


@pytest.mark.parametrize(
    ("host", "path"), [("shop.example.com", "/x.secret"), ("SHOP.example.com", "/api/x"), ("a.wild.example.com", "/x")]
)
def test_a_token_in_the_query_of_a_route_that_is_found_late(
    edge: Edge, backends: Backends, host: str, path: str
) -> None:
    """It lets in, and is taken out as well."""
    answer = edge.request(f"{path}?a=1&access_token={token()}", host)
    assert (answer.status, answer.seen_path) == (200, f"{path}?a=1")


def test_answers_and_redirects_are_protected_too(edge: Edge) -> None:
    assert [edge.request(path).status for path in ("/answer", "/away")] == [401, 401]
    assert edge.request("/answer", headers=bearer(token())).body == b"secret"
    away = edge.request("/away", headers=bearer(token()))
    assert (away.status, away.header("location")) == (302, "http://other.example.com/away")


def test_unknown_provider_closes_the_route(edge: Edge, backends: Backends) -> None:
    assert [diagnostic.code for diagnostic in edge.diagnostics if diagnostic.severity == "error"] == ["GW0204"]
    assert edge.request("/closed", headers=bearer(token())).status == 503
    assert backends.one.requests == 0


def test_public_route_needs_no_token_and_minds_no_bad_one(edge: Edge, backends: Backends) -> None:
    assert edge.request("/public", headers=bearer("nonsense")).status == 200


def test_tokens_are_not_logged(edge: Edge) -> None:
    marked = token(sub="in-the-log")
    edge.request(f"/places?jwt={marked}", headers=bearer(marked))
    edge.request(f"/api?access_token={marked}")
    assert marked not in edge.envoy.log()


def test_many_tokens_in_one_header(edge: Edge, backends: Backends) -> None:
    """Two headers, one good: whichever Envoy believes, no claim of the bad one reaches the backend."""
    bad = token(rsa_key("mallory"), sub="root")
    for first, second in ((bad, token()), (token(), bad)):
        answer: Response = edge.request("/api", headers=[*bearer(first).items(), *bearer(second).items()])
        assert answer.status in {400, 401, 403} or answer.seen("x-user-id") == "anna"


def test_the_key_sets_of_this_file_are_what_it_thinks() -> None:
    assert [key["kty"] for key in json.loads(key_set(rsa_key(), ec_key()))["keys"]] == ["RSA", "EC"]


def test_of_several_tokens_of_a_provider_all_must_be_good(edge: Edge, backends: Backends) -> None:
    """A backend may read the one that nobody has verified."""
    good, other, bad = token(), token(sub="bob"), token(rsa_key("stranger"))
    for header, query in ((good, bad), (bad, good)):
        assert edge.request(f"/api/x?access_token={query}", headers=bearer(header)).status == 401
    answer = edge.request(f"/api/x?access_token={other}", headers=bearer(good))
    assert sorted((answer.seen("x-user-id") or "").replace(" ", "").split(",")) == ["anna", "bob"]
    assert (answer.seen("authorization"), answer.seen_path) == (None, "/api/x")
