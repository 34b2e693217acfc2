"""Which requests a route takes, and where they go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from controlplane.spec.match import PathMatch
from tests.features.conftest import Backends
from tests.support.edge import Edge, gateway_text

pytestmark = pytest.mark.envoy

SPEC = gateway_text("""
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  backends:
    - {name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: two, members: [{static: {address: 127.0.0.1, port: @two@}}]}
    - {name: dns, members: [{dns: {host: localhost, port: @two@}}]}
  routes:
    - {name: exact, hosts: [shop.example.com], match: [{path: {exact: /api/exact}}], public: true, respond: {status: 200, body: exact}}
    - {name: template, hosts: [shop.example.com], match: [{path: {template: "/api/{item}"}}], public: true, respond: {status: 200, body: template}}
    - {name: all-files, hosts: [shop.example.com], match: [{path: {template: "/files/{path=**}"}}], public: true, respond: {status: 200, body: all files}}
    - {name: one-file, hosts: [shop.example.com], match: [{path: {template: "/files/{id}"}}], public: true, respond: {status: 200, body: one file}}
    - {name: regex, hosts: [shop.example.com], match: [{path: {regex: "/api/[0-9]+/x"}}], public: true, respond: {status: 200, body: regex}}
    - {name: long, hosts: [shop.example.com], match: [{path: {prefix: /api/long/er}}], public: true, respond: {status: 200, body: long}}
    - {name: short, hosts: [shop.example.com], match: [{path: {prefix: /api}}], public: true, respond: {status: 200, body: short}}
    - {name: slash, hosts: [shop.example.com], match: [{path: {prefix: /dir/}}], public: true, respond: {status: 200, body: slash}}
    - {name: floating-regex, hosts: [shop.example.com], match: [{path: {regex: ".*/[a-z]+[.]css"}}], public: true, respond: {status: 200, body: floating}}
    - {name: post, hosts: [shop.example.com], match: [{path: {prefix: /form}, methods: [POST, PUT]}], public: true, respond: {status: 200, body: post}}
    - {name: form, hosts: [shop.example.com], match: [{path: {prefix: /form}}], public: true, respond: {status: 200, body: form}}
    - name: headers
      hosts: [shop.example.com]
      match:
        - path: {prefix: /headers}
          headers: [{name: X-Team, exact: red}, {name: x-other, present: false}]
      public: true
      respond: {status: 200, body: both}
    - {name: header, hosts: [shop.example.com], match: [{path: {prefix: /headers}, headers: [{name: x-team, regex: "re.*"}]}], public: true, respond: {status: 200, body: one header}}
    - {name: inverted, hosts: [shop.example.com], match: [{path: {prefix: /inverted}, headers: [{name: x-team, exact: red, invert: true}]}], public: true, respond: {status: 200, body: not red}}
    - {name: query, hosts: [shop.example.com], match: [{path: {prefix: /query}, query: [{name: v, exact: "2"}]}], public: true, respond: {status: 200, body: v2}}
    - {name: query-any, hosts: [shop.example.com], match: [{path: {prefix: /query}, query: [{name: v, present: true}]}], public: true, respond: {status: 200, body: v}}
    - {name: search, hosts: [shop.example.com], match: [{path: {exact: /search}, query: [{name: q, regex: 'a(%20|\\+)b'}]}], public: true, respond: {status: 200}}
    - {name: first, hosts: [shop.example.com], match: [{path: {exact: /first}, query: [{name: v, exact: a}]}], public: true, respond: {status: 200}}
    - {name: both, hosts: [shop.example.com], match: [{path: {exact: /a}}, {path: {exact: /b}}], public: true, respond: {status: 200, body: a or b}}
    - {name: root, hosts: [root.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one}]}
    - {name: wild, hosts: ["*.wild.example.com"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: wild}}
    - {name: wild-segment, hosts: ["*.wild.example.com"], match: [{path: {prefix: /seg}}], public: true, respond: {status: 200, body: wild segment}}
    - {name: narrow, hosts: ["*.deep.wild.example.com"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: deep}}
    - {name: named, hosts: [x.wild.example.com], match: [{path: {prefix: /only}}], public: true, respond: {status: 200, body: named}}
    - {name: any, hosts: ["*"], match: [{path: {exact: /healthz}}], public: true, respond: {status: 200, body: ok}}
    - {name: idna, hosts: ["bücher.example.com"], match: [{path: {prefix: /}}], public: true, respond: {status: 200, body: books}}
    - name: weights
      hosts: [weights.example.com]
      match: [{path: {prefix: /}}]
      public: true
      to: [{backend: one, weight: 80}, {backend: two, weight: 20}]
    - {name: dns, hosts: [dns.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: dns}]}
    - {name: zero, hosts: [zero.example.com], match: [{path: {prefix: /}}], public: true, to: [{backend: one, weight: 0}, {backend: two}]}
    - {name: bad, hosts: [shop.example.com], match: [{path: {prefix: /bad}}], public: true, to: [{backend: nowhere}]}
""")


@pytest.fixture(scope="module")
def edge(ports: dict[str, int]) -> Iterator[Edge]:
    with Edge(SPEC, ports) as running:
        yield running


def test_public_route_reaches_its_backend(edge: Edge, backends: Backends) -> None:
    answer = edge.request("/any/where?q=1", "root.example.com", "POST", body=b"hello")
    assert (answer.status, answer.backend, answer.seen_path) == (200, "one", "/any/where?q=1")
    assert (answer.json()["method"], answer.json()["body"]) == ("POST", "hello")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/exact", "exact"),
        ("/api/exact?x=/api/long", "exact"),
        ("/api/other", "template"),
        ("/api/12/x", "regex"),
        ("/api/12/x/y", "short"),
        ("/api/long/er", "long"),
        ("/api/long/er/still", "long"),
        ("/api/long/error", "short"),
        ("/api", "short"),
        ("/api/", "short"),
        ("/api?x", "short"),
        ("/dir/", "slash"),
        ("/dir/x", "slash"),
        ("/style/main.css", "floating"),
        # exact > template > regex > prefix, and across shards: a floating regex is before the longest prefix
        ("/api/long/er/main.css", "floating"),
        ("/api/main.css", "template"),
        ("/api/x[1]", "template"),  # Envoy's own matcher of templates takes no brackets
        ("/files/x", "one file"),  # though the other one is the first by name
        ("/files/x/y", "all files"),
        ("/a", "a or b"),
        ("/b", "a or b"),
    ],
)
def test_precedence_of_paths(edge: Edge, path: str, body: str) -> None:
    assert edge.request(path).body.decode() == body


@pytest.mark.parametrize("path", ["/apix", "/API", "/dir", "/a/", "/nothing", "/", "/?/api", "/?", "/%3f", "/formx"])
def test_what_no_route_takes_is_not_found(edge: Edge, path: str) -> None:
    answer = edge.request(path)
    assert (answer.status, answer.body) == (404, b"")


def test_methods(edge: Edge) -> None:
    assert [edge.request("/form", method=one).body for one in ("POST", "PUT", "GET", "DELETE")] == [
        b"post",
        b"post",
        b"form",
        b"form",
    ]


def test_headers(edge: Edge) -> None:
    assert edge.request("/headers", headers={"X-TEAM": "red"}).body == b"both"
    assert edge.request("/headers", headers={"x-team": "red", "x-other": "1"}).body == b"one header"
    assert edge.request("/headers", headers={"x-team": "reddish"}).body == b"one header"
    assert edge.request("/headers", headers={"x-team": "infrared"}).status == 404
    assert edge.request("/headers").status == 404


def test_inverted_header_condition_takes_requests_without_the_header(edge: Edge) -> None:
    assert edge.request("/inverted", headers={"x-team": "red"}).status == 404
    assert edge.request("/inverted", headers={"x-team": "blue"}).body == b"not red"
    assert edge.request("/inverted").body == b"not red"


@pytest.mark.parametrize("values", [("red", "blue"), ("blue", "red")])
def test_each_of_several_headers_of_one_name_is_looked_at(edge: Edge, values: tuple[str, str]) -> None:
    """Backends may take the first or the last of them: neither gets past an inverted condition."""
    headers = [("x-team", value) for value in values]
    assert edge.request("/headers", headers=headers).body == b"both"
    assert edge.request("/inverted", headers=headers).status == 404


def test_query(edge: Edge) -> None:
    found = [edge.request(f"/query{query}").status for query in ("?v=2", "?v=3", "?v", "?w=2", "")]
    assert found == [200, 200, 200, 404, 404]
    assert edge.request("/query?a=b&v=2").body == b"v2"
    assert edge.request("/query?v=22").body == b"v"


@pytest.mark.parametrize(
    ("host", "path", "body"),
    [
        ("a.wild.example.com", "/", "wild"),
        ("a.wild.example.com", "/seg/x", "wild segment"),
        ("a.b.wild.example.com", "/", "wild"),
        ("a.deep.wild.example.com", "/seg", "deep"),
        ("deep.wild.example.com", "/seg", "wild segment"),
        ("x.wild.example.com", "/only", "named"),
        ("other.example.org", "/healthz", "ok"),
        ("203.0.113.7", "/healthz", "ok"),
        ("[2001:db8::1]:80", "/healthz", "ok"),
        ("xn--bcher-kva.example.com", "/", "books"),
    ],
)
def test_hosts(edge: Edge, host: str, path: str, body: str) -> None:
    assert edge.request(path, host).body.decode() == body


@pytest.mark.parametrize("host", ["wild.example.com", "x.wild.example.com", "other.example.org", "awild.example.com"])
def test_a_host_keeps_what_it_declares(edge: Edge, host: str) -> None:
    """A miss inside a known host never falls through to a wildcard host."""
    assert edge.request("/", host).status == 404


@pytest.mark.parametrize(
    "host", ["SHOP.Example.COM", "shop.example.com.", "shop.example.com:8080", "Shop.example.com.:99"]
)
@pytest.mark.parametrize(
    ("path", "body"), [("/api/long/er", b"long"), ("/x/main.css", b"floating"), ("/form", b"form")]
)
def test_other_spellings_of_a_host(edge: Edge, host: str, path: str, body: bytes) -> None:
    assert edge.request(path, host).body == body


def test_wildcard_host_in_another_spelling(edge: Edge) -> None:
    assert edge.request("/seg", "A.WILD.example.com.:1").body == b"wild segment"
    assert edge.request("/else", "A.WILD.example.com").body == b"wild"


def test_weights(edge: Edge, backends: Backends) -> None:
    with edge.connect() as connection:
        counted = Counter(connection.request("/", "weights.example.com").backend for _ in range(500))
    assert 340 <= (counted["one"] or 0) <= 455, counted
    assert counted["one"] + counted["two"] == 500


def test_weight_zero_gets_nothing(edge: Edge, backends: Backends) -> None:
    with edge.connect() as connection:
        assert {connection.request("/", "zero.example.com").backend for _ in range(30)} == {"two"}


def test_backend_by_name(edge: Edge) -> None:
    assert edge.request("/", "dns.example.com").backend == "two"


def test_one_bad_route_answers_503_and_the_others_work(edge: Edge) -> None:
    assert [diagnostic.path for diagnostic in edge.diagnostics] == ["spec.routes[bad].to[0].backend"]
    answer = edge.request("/bad/x")
    assert (answer.status, answer.backend) == (503, None)
    assert edge.request("/api/exact").status == 200


def test_many_requests_on_one_http2_connection(edge: Edge) -> None:
    with edge.http2() as connection:
        found = [connection.request(path, "shop.example.com").body for path in ("/a", "/api", "/x/y.css", "/none")]
    assert found == [b"a or b", b"short", b"floating", b""]


LETTERS = "".join(map(chr, range(0x21, 0x7F)))


def accepted(path: str) -> bool:
    try:
        PathMatch(exact=path)
    except ValueError:
        return False
    return True


def test_a_literal_path_that_is_accepted_is_one_that_requests_have(ports: dict[str, int]) -> None:
    """Envoy encodes and decodes some characters before it compares: a route that could never match is no document."""
    every = [f"/a{one}b" for one in (*LETTERS, *(f"%{code:02X}" for code in range(256)))]
    routes = [
        {"name": f"r{number}", "hosts": ["shop.example.com"], "match": [{"path": {"exact": path}}], "public": True}
        | {"respond": {"status": 200, "body": path}}
        for number, path in enumerate(every)
        if accepted(path)
    ]
    rest = {"name": "rest", "hosts": ["rest.example.com"], "match": [{"path": {"prefix": "/"}}], "public": True}
    routes.append(rest | {"to": [{"backend": "one"}]})
    document, _, _ = SPEC.partition("  routes:\n")
    with Edge(f"{document}  routes: {json.dumps(routes)}\n", ports) as edge, edge.connect() as connection:
        for path in every:
            if accepted(path):
                assert connection.request(path, "shop.example.com").body == path.encode()
            elif path not in {"/a#b", "/a?b", "/a%00b", "/a%2Fb", "/a%5Cb"}:
                assert connection.request(path, "rest.example.com").seen_path != path, "it could have been accepted"


@pytest.mark.parametrize(("sent", "status"), [("a%20b", 200), ("a+b", 200), ("a%2520b", 404), ("ab", 404)])
def test_a_query_is_compared_as_it_was_sent(edge: Edge, sent: str, status: int) -> None:
    """A regex is how to say both forms of a space."""
    assert edge.request(f"/search?q={sent}").status == status


def test_only_the_first_of_equal_parameters_counts(edge: Edge) -> None:
    assert [edge.request(f"/first?{query}").status for query in ("v=a&v=b", "v=b&v=a")] == [200, 404]


EUROS = {
    "€": ["€"],
    "(?:€)+": ["€", "€€"],
    "(?:€|[a-z])": ["€", "x"],
    "(?:€){2}": ["€€"],
    r"\xe2\x82\xac": ["€"],
    r"\x{E2}\x{82}\x{AC}": ["€"],
    r"[\x80-\xff]+": ["€", "€€", "é", "É"],
    "...": ["€"],
    "(?i)é": ["é"],
}


def test_regexes_know_characters_beyond_ascii_as_bytes() -> None:
    """The forms that errors offer do what they say."""
    match = [
        {"path": {"exact": f"/{number}"}, "headers": [{"name": "x-a", "regex": one}]}
        for number, one in enumerate(EUROS)
    ]
    route = {"name": "all", "hosts": ["shop.example.com"], "match": match, "public": True, "respond": {"status": 200}}
    document, _, _ = SPEC.partition("  routes:\n")
    with (
        Edge(f"{document}  routes: {json.dumps([route])}\n", {"one": 1, "two": 2}) as edge,
        edge.connect() as connection,
    ):
        for number, (pattern, wanted) in enumerate(EUROS.items()):
            found = []
            for text in ("€", "€€", "x", "é", "É"):
                headers = [("x-a", text.encode().decode("latin-1"))]
                if connection.request(f"/{number}", "shop.example.com", headers=headers).status == 200:
                    found.append(text)
            assert found == wanted, pattern
