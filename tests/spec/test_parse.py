"""Files to documents: division, places, words, identity."""

import pytest

from controlplane.errors import InvalidInput
from controlplane.names import ObjectRef
from controlplane.spec.codes import MEANINGS, Code
from controlplane.spec.gateway import GatewaySpec, RouteSpec
from controlplane.spec.parse import locate, parse_document, parse_text
from controlplane.spec.pieces import decode, split
from tests.spec.documents import GATEWAY, file, routes


def said(text: str, name: str = "shop.yaml") -> list[str]:
    return [f"{d.code} {d}" for parsed in parse_text(text, name) for d in parsed.diagnostics]


def test_valid_documents_have_no_diagnostics() -> None:
    gateway, api = parse_text(file(GATEWAY, routes("api")), "shop.yaml")
    assert gateway.ref == ObjectRef("files", "GatewaySpec", "platform", "edge")
    assert isinstance(gateway.document, GatewaySpec)
    assert isinstance(api.document, RouteSpec)
    assert gateway.diagnostics == api.diagnostics == ()
    assert (gateway.line, api.line) == (1, GATEWAY.count("\n") + 2)
    assert gateway.text == GATEWAY


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_do_not_matter(newline: str) -> None:
    text = file(routes("a"), routes("b")).replace("\n", newline)
    assert [parsed.ref.name for parsed in parse_text(text, "f") if parsed.ref and parsed.document] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a: 1", [("a: 1", 1)]),
        ("---\na: 1\n---\nb: 2\n", [("a: 1\n", 2), ("b: 2\n", 4)]),
        ("# only a comment\n---\n# another\n", []),
        ("a: 1\n...\n# c\n---\nb: 2", [("a: 1\n", 1), ("b: 2", 5)]),
        ("--- # c\na: 1\n--- {b: 2}\n", [("a: 1\n", 2), ("--- {b: 2}\n", 3)]),
        ("%YAML 1.2\n---\na: 1\n---\nb: 2", [("%YAML 1.2\n---\na: 1\n", 1), ("b: 2", 5)]),
        ("a: |\n  x\n  ---\n---\nb: 2", [("a: |\n  x\n  ---\n", 1), ("b: 2", 5)]),
        ("----\na", [("----\na", 1)]),
        ("---", []),
    ],
)
def test_documents_are_divided_at_marks(text: str, pieces: list[tuple[str, int]]) -> None:
    assert [tuple(piece) for piece in split(text, "f")] == pieces


def test_directives_belong_to_the_document_after_them() -> None:
    (parsed,) = parse_text("%YAML 1.2\n---\n" + routes("a"), "f")
    assert parsed.document is not None


@pytest.mark.parametrize("text", ["", "\n\n", " \t\r\n"])
def test_an_empty_file_is_an_error(text: str) -> None:
    """A truncated file must not look like one that declares nothing."""
    assert said(text) == ["GW0014 shop.yaml: the file is empty (delete it if nothing is meant)"]


def test_all_errors_of_all_documents_come_at_once_with_their_places() -> None:
    broken = (
        GATEWAY.replace("secretRef", "secretref")
        .replace("port: 443", "port: 443000")
        .replace("methods: [GET]", "methodz: [get]")
        .replace("request: 15s", "request: 15")
    )
    assert said(file(broken, "kind: [a\n", routes("api").replace("public: true", "public: yes"))) == [
        "GW0105 shop.yaml:8:13: spec.listeners[https].port: must be at most 65535",
        'GW0102 shop.yaml:12:11: spec.listeners[https].tls[0].certificate: missing field "secretRef"',
        (
            'GW0101 shop.yaml:12:25: spec.listeners[https].tls[0].certificate: unknown field "secretref" '
            '(did you mean "secretRef"?)'
        ),
        'GW0101 shop.yaml:34:11: spec.routes[web].match[0]: unknown field "methodz" (did you mean "methods"?)',
        'GW0106 shop.yaml:37:27: spec.routes[web].timeouts.request: a duration is a text such as "250ms", "15s", "1h30m"',
        "GW0005 shop.yaml:41:7: what is opened here with [ is not closed",
        'GW0104 shop.yaml:57:15: spec.routes[root].public: "yes" is not possible here (write true)',
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port: 443", "port: '443'", "spec.listeners[https].port: must be a whole number, not a text (without quotes)"),
        (
            "port: 443",
            "port: 0443",
            (
                "spec.listeners[https].port: must be a whole number, not a text "
                "(decimal digits alone, without zeros in front and without _)"
            ),
        ),
        ("port: 443", "port: 1.5", "spec.listeners[https].port: must be a whole number, not 1.5"),
        (
            "port: 443",
            "port:",
            "spec.listeners[https].port: must be a whole number, not nothing (give it a value, or remove the key)",
        ),
        ("name: corp", "name: 12", "spec.identity.jwt[0].name: must be a text, not a number (put it in quotes)"),
        (
            "role: edge",
            "role: true",
            "spec.fleet.selector.matchLabels.role: must be a text, not a boolean (put it in quotes)",
        ),
        (
            "audiences: [shop]",
            "audiences: shop",
            'spec.identity.jwt[corp].audiences: must be a list, not a text (write it as [a, b], or begin each element with "- ")',
        ),
        ("audiences: [shop]", "audiences: []", "spec.identity.jwt[corp].audiences: needs at least 1 entry"),
        (
            "auth: {anyOf: [{jwt: corp}]}",
            "auth: corp",
            "spec.routes[web].auth: must be a mapping, not a text (such as {anyOf: …}; known: allOf, anyOf)",
        ),
        (
            "protocol: HTTPS",
            "protocol: https",
            'spec.listeners[https].protocol: "https" is not possible here (did you mean "HTTPS"?)',
        ),
        (
            "kind: GatewaySpec",
            "kind: GatewySpec",
            'kind: unknown kind "GatewySpec" (did you mean "GatewaySpec"?)',
        ),
        ("kind: GatewaySpec", "sort: x", 'missing field "kind" (known: GatewaySpec, RouteSpec)'),
        (
            "v1alpha1",
            "v2",
            'apiVersion: "gatewayspec.dev/v2" is not possible here (did you mean "gatewayspec.dev/v1alpha1"?)',
        ),
        (
            "auth: {anyOf: [{jwt: corp}]}",
            "websocket: false",
            "spec.routes[web]: say who may call: auth, or public: true for everybody (one of them)",
        ),
        (
            "sub: x-user-id",
            "sub: x-envoy-a",
            'spec.identity.jwt[corp].claimsToHeaders.sub: "x-envoy-a" belongs to the proxy',
        ),
        (
            "sub: x-user-id",
            "sub: Authorization",
            (
                'spec.identity.jwt[corp].claimsToHeaders.sub: "authorization" would be removed from what clients send: '
                'give the claim a header of its own, such as "x-user-id"'
            ),
        ),
        (
            "sub: x-user-id",
            "sub: x-user-id, email: X-User-ID",
            'spec.identity.jwt[corp].claimsToHeaders.email: another claim goes to "x-user-id" too: give each its own',
        ),
        (
            "request: 15s",
            "request: 15s, request: 1s",
            'spec.routes[web].timeouts: the key "request" stands twice in this mapping',
        ),
    ],
)
def test_words_are_those_of_the_document(old: str, new: str, message: str) -> None:
    broken = GATEWAY.replace(old, new, 1)
    assert broken != GATEWAY
    texts = [entry.split(": ", 1)[1] for entry in said(broken)]
    assert message in texts


def test_a_key_that_does_not_fit_is_pointed_at() -> None:
    (entry,) = said(GATEWAY.replace("{role: edge}", '{"a b": edge}'))
    assert entry.startswith("GW0106 shop.yaml:5:36: spec.fleet.selector.matchLabels.a b: must have the form")


def test_a_text_that_nearly_has_the_form_is_told_the_one_that_has() -> None:
    (entry,) = said(routes("api").replace("- path: {prefix: /}", "- path: {prefix: /}\n          methods: [get]", 1))
    assert 'must have the form ^[A-Z]{1,32}$ (did you mean "GET"?)' in entry


ROUTE = "spec.routes[root]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # Words of Envoy and of the Gateway API.
        ("hosts:", "hostnames:", f'{ROUTE}: unknown field "hostnames" (did you mean "hosts"?)'),
        ("to:", "backendRefs:", f'{ROUTE}: unknown field "backendRefs" (did you mean "to"?)'),
        ("public:", "filters: []\n      public:", f'{ROUTE}: unknown field "filters" (did you mean "transform"?)'),
        (
            "public:",
            "prefix_rewrite: /\n      public:",
            f'{ROUTE}: unknown field "prefix_rewrite" (did you mean "transform"?)',
        ),
        ("public:", "rateLimit: {}\n      public:", f'{ROUTE}: unknown field "rateLimit" (did you mean "use"?)'),
        ("public: true", "auth: {requires: corp}", f'{ROUTE}.auth: unknown field "requires" (did you mean "anyOf"?)'),
        ("gateway:", "parentRefs:", 'spec: unknown field "parentRefs" (did you mean "gateway"?)'),
        (
            "gateway: platform/edge",
            "gateway: {name: edge, namespace: platform}",
            'spec.gateway: must be a text, not a mapping (write it as "namespace/name")',
        ),
        (
            "backends:",
            "hostnames: [a]\n  backends:",
            'spec: unknown field "hostnames" (did you mean "routes[].hosts"?)',
        ),
        (
            "members:",
            "protocol: http2\n      members:",
            'spec.backends[web].protocol: "http2" is not possible here (did you mean "HTTP2"?)',
        ),
        # One level too high, in one place or in several; and a word that is only mistyped.
        ("path: {prefix: /}", "prefix: /", f'{ROUTE}.match[0]: unknown field "prefix" (did you mean "path.prefix"?)'),
        (
            "public: true",
            "auth: {jwt: corp}",
            f'{ROUTE}.auth: unknown field "jwt" (did you mean "anyOf[].jwt" or "allOf[].jwt"?)',
        ),
        ("public:", "timeout: 5s\n      public:", f'{ROUTE}: unknown field "timeout" (did you mean "timeouts"?)'),
        # Something else where fields belong.
        (
            "path: {prefix: /}",
            "path: /",
            f"{ROUTE}.match[0].path: must be a mapping, not a text (such as {{exact: …}}; known: exact, prefix, regex, template)",
        ),
        (
            "public: true",
            "auth: corp",
            f"{ROUTE}.auth: must be a mapping, not a text (such as {{anyOf: …}}; known: allOf, anyOf)",
        ),
        (
            "public:",
            "transform: {request: {headers: {set: [a]}}}\n      public:",
            f"{ROUTE}.transform.request.headers.set: must be a mapping, not a list (such as {{name: value}})",
        ),
        (
            "public:",
            "use: [{name: limit}]\n      public:",
            f"{ROUTE}.use[limit]: must be a text, not a mapping (write the name alone)",
        ),
        (
            "backend: web",
            "backend: web\n          weight: 50%",
            (
                f"{ROUTE}.to[0].weight: must be a whole number, not a text "
                "(weights count relative to each other: 1 and 3 are a quarter and three quarters)"
            ),
        ),
    ],
)
def test_who_comes_from_elsewhere_is_told_what_it_is_called_here(old: str, new: str, message: str) -> None:
    broken = routes("api").replace(old, new, 1)
    assert broken != routes("api")
    assert message in [entry.split(": ", 1)[1] for entry in said(broken)]


def test_a_document_that_is_no_mapping() -> None:
    assert said("- a") == ["GW0108 shop.yaml:1:1: a document is a mapping with apiVersion, kind, metadata and spec"]


def test_values_are_not_repeated_in_errors() -> None:
    """A diagnostic goes to logs, and people paste keys into wrong fields."""
    assert "hunter2" not in "".join(said(GATEWAY.replace("port: 443", "port: hunter2hunter2")))


def test_thousands_of_errors_are_cut_short() -> None:
    text = routes("a").split("  routes:")[0] + "  routes: [" + "a," * 50_000 + "]\n"
    entries = said(text)
    assert len(entries) <= 101
    assert "more errors in this document" in entries[-1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (routes("a").replace("port: 8080", "port: x"), "a"),
        (routes("a").replace("    - name: root", "   - name: root"), "a"),
        (routes("a") + "  more: [", "a"),
        (routes("a").replace("namespace: shop", "namespace: [shop]"), None),
        (routes("a").replace("name: a,", "name: A,"), None),
        (routes("a").replace("kind: RouteSpec", "kind: Routespec"), None),
        ("apiVersion: x\nkind: RouteSpec\nmetadata:\n  name: a\n  namesp", None),
        ("a: [", None),
    ],
)
def test_a_broken_document_keeps_its_identity_when_that_is_certain(text: str, name: str | None) -> None:
    (parsed,) = parse_text(text, "f")
    assert parsed.document is None
    assert parsed.diagnostics
    assert (parsed.ref.name if parsed.ref else None) == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a".encode("utf-16"), "GW0003 f:1:1: the file is UTF-16 or UTF-32 or binary (save it as UTF-8)"),
        ("a".encode("utf-16-be"), "GW0003 f:1:1: the file is UTF-16 or UTF-32 or binary (save it as UTF-8)"),
        (b"a: 1\nb: \xc3\xa9\xff", "GW0003 f:2:5: the byte 0xff is not UTF-8 (save the file as UTF-8)"),
        (b"abc\n\0", "GW0004 f:2:1: a NUL character (the file is binary, or was cut by a crash)"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(data, "f")
    assert [f"{d.code} {d}" for d in caught.value.diagnostics] == [message]


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decode(b"\xef\xbb\xbfa: 1", "f") == "a: 1"


def test_parse_document_raises_with_everything() -> None:
    assert isinstance(parse_document(routes("a"), "f"), RouteSpec)
    with pytest.raises(InvalidInput) as caught:
        parse_document(routes("a").replace("port: 8080", "port: 0").replace("/}", "x}"), "f", first_line=10)
    assert [str(d.place) for d in caught.value.diagnostics] == ["f:18:46", "f:23:26"]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("spec.routes[web].to[0].backend", "f:110:22"),
        ("spec.routes[web].match[0]", "f:104:11"),
        ("spec.routes[web].nothing.here", "f:101:7"),
        ("spec.routes[other]", "f:100:3"),
        ("spec.listeners[1]", "f:84:7"),
        ("metadata.name", "f:74:18"),
        ("", "f:72:1"),
        ("]]nonsense[[", "f:72:1"),
    ],
)
def test_paths_are_found_again(path: str, place: str) -> None:
    assert str(locate(GATEWAY, "f", 72, path)) == place


def test_every_code_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Code)


@pytest.mark.parametrize(
    ("new", "help"),
    [
        ("public: 'true'", "without quotes"),
        ("public: on", "write true"),
        ("public: true\n      websocket: yes", "write true"),
        ("public: true\n      websocket: OFF", "write false"),
        ("public: true\n      websocket: 'false'", "without quotes"),
        ("public: true\n      websocket: maybe", "write true or false"),
    ],
)
def test_texts_that_yaml_1_1_reads_as_booleans_get_advice_that_works(new: str, help: str) -> None:
    (found,) = said(file(routes("api").replace("public: true", new)))
    assert f"({help})" in found


def test_a_duration_of_any_length_is_too_long() -> None:
    """Python refuses to read thousands of digits, in words that help nobody."""
    timeouts = f"public: true\n      timeouts: {{request: {'9' * 5000}s}}"
    (found,) = said(file(routes("api").replace("public: true", timeouts)))
    assert "a duration is at most 8784h (a year)" in found
    assert not said(file(routes("api").replace("public: true", timeouts.replace("9" * 5000, "0" * 5000 + "9"))))
