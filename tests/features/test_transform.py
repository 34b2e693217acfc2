"""What is changed on the way: redirects, rewrites, headers; and what answers without a backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.features.conftest import Backends
from tests.support.edge import Edge, gateway_text

pytestmark = pytest.mark.envoy

SPEC = gateway_text(r"""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends: [{name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}]
  routes:
    - {name: moved, hosts: [shop.example.com], match: [{path: {prefix: /moved}}], public: true, redirect: {scheme: https, host: www.example.com, port: 8443, code: 301}}
    - {name: full, hosts: [shop.example.com], match: [{path: {prefix: /full}}], public: true, redirect: {path: {replaceFull: /new}, code: 307}}
    - {name: strip, hosts: [shop.example.com], match: [{path: {prefix: /strip}}], public: true, redirect: {path: {replaceFull: /new}, stripQuery: true}}
    - {name: r-text, hosts: [shop.example.com], match: [{path: {prefix: /r-text}}], public: true, redirect: {path: {replacePrefix: /new}}}
    - {name: r-root, hosts: [shop.example.com], match: [{path: {prefix: /r-root}}], public: true, redirect: {path: {replacePrefix: /}}}
    - {name: r-slash, hosts: [shop.example.com], match: [{path: {prefix: /r-slash/}}], public: true, redirect: {path: {replacePrefix: /new}}}
    - {name: r-exact, hosts: [shop.example.com], match: [{path: {exact: /r-exact}}], public: true, redirect: {path: {replacePrefix: /new/}}}
    - {name: r-end, hosts: [shop.example.com], match: [{path: {prefix: /r-end}}], public: true, redirect: {path: {replacePrefix: /new/}}}
    - {name: r-all, hosts: [redirected.example.com], match: [{path: {prefix: /}}], public: true, redirect: {path: {replacePrefix: /new}}}
    - {name: text-text, hosts: [shop.example.com], match: [{path: {prefix: /tt}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /v1}}}}
    - {name: text-slash, hosts: [shop.example.com], match: [{path: {prefix: /ts}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /v1/}}}}
    - {name: text-root, hosts: [shop.example.com], match: [{path: {prefix: /tr}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /}}}}
    - {name: slash-text, hosts: [shop.example.com], match: [{path: {prefix: /st/}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /v1}}}}
    - {name: slash-slash, hosts: [shop.example.com], match: [{path: {prefix: /ss/}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /v1/}}}}
    - {name: slash-root, hosts: [shop.example.com], match: [{path: {prefix: /sr/}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /}}}}
    - {name: dotted, hosts: [shop.example.com], match: [{path: {prefix: "/d.t+"}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /}}}}
    - {name: root-text, hosts: [root.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /v1}}}}
    - {name: root-root, hosts: [same.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /}}}}
    - {name: exact-prefix, hosts: [shop.example.com], match: [{path: {exact: /exact}}], public: true, to: [{backend: one}], transform: {request: {path: {replacePrefix: /other}}}}
    - {name: whole, hosts: [shop.example.com], match: [{path: {prefix: /whole}}], public: true, to: [{backend: one}], transform: {request: {path: {replaceFull: /one}}}}
    - {name: regex, hosts: [shop.example.com], match: [{path: {regex: "/regex/.*"}}], public: true, to: [{backend: one}], transform: {request: {path: {replaceRegex: {pattern: "^/regex/([a-z]+)/(.*)$", substitution: '/\2/\1'}}}}}
    - {name: host, hosts: [shop.example.com], match: [{path: {prefix: /host}}], public: true, to: [{backend: one}], transform: {request: {host: inner.example.com}}}
    - name: headers
      hosts: [shop.example.com]
      match: [{path: {prefix: /headers}}]
      public: true
      to: [{backend: one}]
      transform:
        request: {headers: {set: {X-Set: new, x-percent: "100% %REQ(x-other)%"}, add: {x-add: more}, remove: [x-gone]}}
        response: {headers: {set: {x-from: gateway}, add: {x-powered-by: envoy}, remove: [server]}}
    - {name: answer, hosts: [shop.example.com], match: [{path: {prefix: /answer}}], public: true, respond: {status: 418, body: "tea\n"}, transform: {response: {headers: {set: {x-pot: short}}}}}
    - {name: plain, hosts: [shop.example.com], match: [{path: {prefix: /plain}}], public: true, to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC, ports) as running:
        assert not running.diagnostics
        yield running


@pytest.mark.parametrize(
    ("host", "path", "status", "location"),
    [
        ("shop.example.com", "/moved/x?q=1", 301, "https://www.example.com:8443/moved/x?q=1"),
        ("shop.example.com", "/full/x?q=1", 307, "http://shop.example.com/new?q=1"),
        ("shop.example.com", "/strip/x?q=1", 302, "http://shop.example.com/new"),
        ("shop.example.com", "/r-text/x/y?q", 302, "http://shop.example.com/new/x/y?q"),
        ("shop.example.com", "/r-text", 302, "http://shop.example.com/new"),
        ("shop.example.com", "/r-root/x", 302, "http://shop.example.com/x"),
        ("shop.example.com", "/r-root", 302, "http://shop.example.com/"),
        ("shop.example.com", "/r-root/", 302, "http://shop.example.com/"),
        ("shop.example.com", "/r-slash/x", 302, "http://shop.example.com/new/x"),
        ("shop.example.com", "/r-exact?q", 302, "http://shop.example.com/new/?q"),
        ("shop.example.com", "/r-end?q", 302, "http://shop.example.com/new/?q"),
        ("shop.example.com", "/r-end/x", 302, "http://shop.example.com/new/x"),
        ("redirected.example.com", "/x", 302, "http://redirected.example.com/new/x"),
        ("redirected.example.com", "/", 302, "http://redirected.example.com/new/"),
    ],
)
def test_redirects(edge: Edge, host: str, path: str, status: int, location: str) -> None:
    answer = edge.request(path, host)
    assert (answer.status, answer.header("location")) == (status, location)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/tt", "/v1"),
        ("/tt/", "/v1/"),
        ("/tt/x?q=/tt", "/v1/x?q=/tt"),
        ("/ts", "/v1/"),
        ("/ts/", "/v1/"),
        ("/ts?q", "/v1/?q"),
        ("/ts/x", "/v1/x"),
        ("/tr", "/"),
        ("/tr/", "/"),
        ("/tr/x", "/x"),
        ("/tr?q=1", "/?q=1"),
        ("/tr/tr/x", "/tr/x"),
        ("/st/x", "/v1/x"),
        ("/st/", "/v1/"),
        ("/ss/x", "/v1/x"),
        ("/sr/x", "/x"),
        ("/sr/", "/"),
        ("/d.t+/x", "/x"),
        ("/exact?q", "/other?q"),
        ("/whole/x?q=1", "/one?q=1"),
        ("/regex/ab/c/d?q", "/c/d/ab?q"),
        ("/plain/a%20b?q=%2F", "/plain/a%20b?q=%2F"),
    ],
)
def test_rewrites(edge: Edge, backends: Backends, path: str, seen: str) -> None:
    assert edge.request(path).seen_path == seen


@pytest.mark.parametrize(
    ("host", "path", "seen"),
    [
        ("root.example.com", "/x", "/v1/x"),
        ("root.example.com", "/", "/v1/"),
        ("same.example.com", "/x", "/x"),
        ("same.example.com", "/", "/"),
    ],
)
def test_rewrites_of_everything(edge: Edge, backends: Backends, host: str, path: str, seen: str) -> None:
    assert edge.request(path, host).seen_path == seen


def test_host_rewrite(edge: Edge, backends: Backends) -> None:
    assert edge.request("/host").seen("host") == "inner.example.com"
    assert edge.request("/plain").seen("host") == "shop.example.com"


def test_request_headers(edge: Edge, backends: Backends) -> None:
    sent = [("x-set", "old"), ("x-set", "older"), ("x-add", "first"), ("x-gone", "1"), ("x-other", "2")]
    answer = edge.request("/headers", headers=sent)
    assert answer.seen("x-set") == "new"
    assert answer.seen("x-add") in {"first, more", "first,more"}
    assert answer.seen("x-gone") is None
    assert answer.seen("x-percent") == "100% %REQ(x-other)%", "texts of a spec are literal"


def test_response_headers(edge: Edge, backends: Backends) -> None:
    answer = edge.request("/headers")
    assert (answer.header("server"), answer.header("x-from")) == (None, "gateway")
    assert answer.header("x-powered-by") == "tests, envoy"


def test_direct_answer(edge: Edge) -> None:
    answer = edge.request("/answer")
    assert (answer.status, answer.body, answer.header("x-pot")) == (418, b"tea\n", "short")


def test_nothing_of_the_inside_is_told(edge: Edge, backends: Backends) -> None:
    """No internal header goes to the backend, none of Envoy's to the client."""
    answer = edge.request("/plain", headers={"x-gatewayspec-host": "a", "x-gatewayspec-path": "b"})
    seen = {name for name, _ in answer.json()["headers"]}
    assert not {name for name in seen if name.startswith("x-gatewayspec")}
    assert not {name for name, _ in answer.headers if name.startswith("x-envoy")}
    assert answer.header("server") == "backend"


def test_what_only_proxies_may_say_is_removed(edge: Edge, backends: Backends) -> None:
    forged = {
        "x-forwarded-client-cert": "Subject=root",
        "x-envoy-internal": "true",
        "x-envoy-external-address": "10.0.0.1",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-max-retries": "9",
        "x-envoy-retry-on": "5xx",
        "x-envoy-original-path": "/other",
        "x-envoy-decorator-operation": "x",
        "x-request-id": "11111111-1111-1111-1111-111111111111",
        "x-real-ip": "10.0.0.1",
        "x-forwarded-proto": "https",
        "forwarded": "for=10.0.0.1;host=evil.example.net",
        "x-forwarded-host": "evil.example.net",
        "x-forwarded-port": "444",
        "x-forwarded-prefix": "/evil",
        "x-original-url": "/admin",
    }
    answer = edge.request("/plain", headers=forged)
    left = {name: answer.seen(name) for name in forged if answer.seen(name) == forged[name]}
    assert answer.status == 200
    assert not left
