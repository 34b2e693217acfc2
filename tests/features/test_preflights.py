"""The policy of the route that would take a request answers the browser's question about it, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.features.conftest import Backends
from tests.support.client import Response
from tests.support.edge import Edge, gateway_text

pytestmark = pytest.mark.envoy

OURS, WIDE = "https://ours.example.com", "https://wide.example.com"
SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  policies:
    - {name: ours, cors: {origins: ["https://ours.example.com"], methods: [GET, DELETE]}}
    - {name: wide, cors: {origins: ["https://wide.example.com"], methods: [GET, DELETE]}}
    - {name: two, rateLimit: {local: [{requests: 2, per: hour}]}}
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: all, hosts: [a.example.com, "*.w.example.com"], match: [{path: {prefix: /}}], public: true, use: [wide], to: [{backend: one}]}
    - {name: silent, hosts: [a.example.com, "*.w.example.com"], match: [{path: {prefix: /silent}, methods: [DELETE]}], public: true, to: [{backend: one}]}
    - {name: limited, hosts: [a.example.com, "*.w.example.com"], match: [{path: {prefix: /limited}, methods: [DELETE]}], public: true, use: [two], to: [{backend: one}]}
    - {name: silent-template, hosts: [a.example.com], match: [{path: {template: "/{any}/silent"}, methods: [DELETE]}], public: true, to: [{backend: one}]}
    - {name: silent-header, hosts: [a.example.com], match: [{path: {prefix: /header}, headers: [{name: x-version, exact: "2"}]}], public: true, to: [{backend: one}]}
    - {name: own-header, hosts: [a.example.com], match: [{path: {prefix: /own-header}, headers: [{name: x-version, exact: "2"}]}], public: true, use: [ours], to: [{backend: one}]}
    - {name: cookie, hosts: [a.example.com], match: [{path: {prefix: /cookie}, headers: [{name: cookie, contains: beta}]}], public: true, use: [ours], to: [{backend: one}]}
    - {name: method, hosts: [a.example.com], match: [{path: {prefix: /both}, methods: [GET, OPTIONS]}], public: true, use: [ours], to: [{backend: one}]}
    - {name: header, hosts: [a.example.com], match: [{path: {prefix: /both}, headers: [{name: x-version, present: true}]}], public: true, use: [wide], to: [{backend: one}]}
    - {name: own, hosts: [a.example.com], match: [{path: {prefix: /own}}], public: true, to: [{backend: one}]}
    - {name: own-get, hosts: [a.example.com], match: [{path: {prefix: /own}, methods: [GET]}], public: true, to: [{backend: one}]}
    - {name: asked, hosts: [a.example.com], match: [{path: {prefix: /asked}, methods: [OPTIONS]}], public: true, use: [ours], to: [{backend: one}]}
    - {name: listed, hosts: [a.example.com], match: [{path: {template: "/listed/{id}"}, methods: [GET, OPTIONS]}], public: true, to: [{backend: one}]}
    - {name: listed-wide, hosts: [a.example.com], match: [{path: {prefix: /listed}}], public: true, use: [ours], to: [{backend: one}]}
    - {name: asked-get, hosts: [a.example.com], match: [{path: {prefix: /asked}, methods: [GET]}], public: true, to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC, ports) as running:
        assert not running.diagnostics
        yield running


def ask(edge: Edge, path: str, origin: str, method: str, named: str = "", host: str = "a.example.com") -> Response:
    headers = {"origin": origin, "access-control-request-method": method}
    return edge.request(path, host, "OPTIONS", headers | ({"access-control-request-headers": named} if named else {}))


def allowed(answer: Response) -> str | None:
    return answer.header("access-control-allow-origin")


def test_refused_questions_use_up_no_limit_of_the_route(edge: Edge, backends: Backends) -> None:
    """They come before authentication: with them anybody could keep others out."""
    assert [ask(edge, "/limited", WIDE, "DELETE").status for _ in range(4)] == [403] * 4
    answers = [edge.request("/limited", "a.example.com", "DELETE").status for _ in range(3)]
    assert answers == [200, 200, 429]


@pytest.mark.parametrize("host", ["a.example.com", "x.w.example.com", "X.W.example.com"])
def test_a_wide_policy_allows_nothing_on_a_narrow_route_without_one(edge: Edge, backends: Backends, host: str) -> None:
    """A browser would send the request, with all that it does, and only then hide the answer."""
    refused = ask(edge, "/silent/x", WIDE, "DELETE", host=host)
    assert (refused.status, allowed(refused)) == (403, None)
    assert allowed(ask(edge, "/silent/x", WIDE, "GET", host=host)) == WIDE, "which the wide route takes"
    assert allowed(ask(edge, "/other", WIDE, "DELETE", host=host)) == WIDE
    assert backends.one.requests == 0


def test_nor_on_one_without_a_literal_first_segment(edge: Edge) -> None:
    for path in ("/x/silent", "/silent/silent", "/own-header/silent"):
        assert allowed(ask(edge, path, WIDE, "DELETE")) is None
    assert allowed(ask(edge, "/x/other", WIDE, "DELETE")) == WIDE


@pytest.mark.parametrize("named", ["x-version", "a,x-version", "X-Version, b", "a, x-version ,b"])
def test_a_question_that_names_a_header_is_for_the_route_that_needs_it(edge: Edge, named: str) -> None:
    assert allowed(ask(edge, "/own-header", OURS, "GET", named)) == OURS
    assert allowed(ask(edge, "/own-header", WIDE, "GET", named)) is None
    assert ask(edge, "/header", WIDE, "GET", named).status == 403


@pytest.mark.parametrize("named", ["", "x-versions", "ax-version", "x-other"])
def test_one_that_does_not_is_for_the_route_that_needs_none(edge: Edge, named: str) -> None:
    """Else the page of a wide route could not be used from the origins that its policy allows."""
    for path in ("/own-header", "/header"):
        assert allowed(ask(edge, path, WIDE, "GET", named)) == WIDE
    assert allowed(ask(edge, "/own-header", OURS, "GET", named)) is None


def test_a_header_that_the_question_has_itself_counts(edge: Edge) -> None:
    """A proxy on the way says it of the question as of the request."""
    headers = {"origin": OURS, "access-control-request-method": "GET", "x-version": "2"}
    assert allowed(edge.request("/own-header", "a.example.com", "OPTIONS", headers)) == OURS


def test_of_a_header_that_browsers_do_not_name_nothing_is_known(edge: Edge) -> None:
    assert allowed(ask(edge, "/cookie", OURS, "GET")) == OURS


def test_methods_precede_headers_among_questions_too(edge: Edge) -> None:
    """Such a GET is taken by the route for GET, so its policy speaks, though it takes OPTIONS itself."""
    assert edge.request("/both", "a.example.com", headers={"origin": OURS, "x-version": "1"}).status == 200
    assert allowed(ask(edge, "/both", OURS, "GET", "x-version")) == OURS
    assert allowed(ask(edge, "/both", WIDE, "GET", "x-version")) is None
    assert allowed(ask(edge, "/both", WIDE, "DELETE", "x-version")) == WIDE


def test_a_backend_that_answers_for_itself_is_asked(edge: Edge, backends: Backends) -> None:
    assert ask(edge, "/own", WIDE, "GET").backend == "one"


def test_a_route_for_questions_alone_answers_for_its_path(edge: Edge, backends: Backends) -> None:
    assert allowed(ask(edge, "/asked", OURS, "GET")) == OURS


def test_a_route_without_a_policy_that_lists_options_gets_the_questions_of_its_path(
    edge: Edge, backends: Backends
) -> None:
    assert ask(edge, "/listed/x", OURS, "DELETE").backend == "one"
    assert allowed(ask(edge, "/listed/x/y", OURS, "DELETE")) == OURS
