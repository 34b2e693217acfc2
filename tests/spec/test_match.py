"""Conditions that no request can meet are errors, at their line: a route that is never used looks like one that works."""

from __future__ import annotations

import pytest

from controlplane.filters.header_mutation.spec import HeaderChanges
from controlplane.spec.parse import parse_text
from tests.spec.documents import routes

FIELD = "- path: {prefix: /}"


def said(condition: str) -> list[str]:
    text = routes("a").replace(FIELD, condition)
    return [str(diagnostic) for parsed in parse_text(text, "f.yaml") for diagnostic in parsed.diagnostics]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ('{exact: "/a%41b"}', '%41 is decoded before routes are matched; write "A"'),
        ('{prefix: "/a%7eb"}', '%7e is decoded before routes are matched; write "~"'),
        ('{template: "/{id}/a%2Db"}', '%2D is decoded before routes are matched; write "-"'),
        ('{exact: "/{id}"}', '"{" is encoded before routes are matched; write %7B'),
        ('{prefix: "/a|b"}', '"|" is encoded before routes are matched; write %7C'),
        ('{exact: "/a%00b"}', "a request with %00 in its path is refused"),
        ("{regex: 'api/.*'}", "no request matches this regex"),
        ("{regex: '/search\\?q=.*'}", "no request matches this regex"),
        ("{regex: '/caf\u00e9.*'}", "no request matches this regex"),
        ("{regex: '/users/{id}'}", '"/{id}" is a template'),
        ("{regex: 'x*'}", "no request matches this regex"),
    ],
)
def test_paths_that_no_request_has(path: str, words: str) -> None:
    (message,) = said(f"- path: {path}")
    assert words in message
    assert message.startswith("f.yaml:14:")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ('{name: q, exact: "a b"}', r'write "a%20b", or a regex such as "a(%20|\+)b"'),
        ('{name: q, prefix: "caf\u00e9"}', 'write "caf%C3%A9"'),
        ('{name: q, exact: "a&b"}', 'write "a%26b"'),
        ('{name: q, exact: "a#b%20"}', 'write "a%23b%20"'),
        ("{name: q, regex: 'a b'}", "no request matches this regex: queries are compared as clients send them"),
        ("{name: q, regex: '(?:\u00e9)+|[&#]'}", "no request matches this regex"),
        ('{name: "full name", present: true}', 'write "full%20name"'),
        ('{name: "a=b", present: true}', 'write "%3D"'),
    ],
)
def test_queries_that_no_request_has(query: str, words: str) -> None:
    """Envoy compares what was sent, before decoding."""
    (message,) = said(f"- path: {{prefix: /}}\n          query: [{query}]")
    assert words in message
    assert message.startswith("f.yaml:15:")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("{name: x_team, exact: red}", "underscore"),
        ("{name: X-GatewaySpec-Host, present: true}", "belongs to the proxy"),
        ("{name: Connection, present: true}", "removed from every request"),
        ("{name: x-forwarded-client-cert, present: true}", "removed from every request"),
        ('{name: x-team, exact: "red "}', "spaces around the value"),
        ('{name: x-team, prefix: "\\tred"}', "spaces around the value"),
        ('{name: x-team, suffix: "red "}', "spaces around the value"),
        ('{name: x-team, contains: "a\\nb"}', "no control characters"),
        ("{name: x-team, regex: 'a\\nb'}", "no request matches this regex"),
    ],
)
def test_headers_that_no_request_has(header: str, words: str) -> None:
    (message,) = said(f"- path: {{prefix: /}}\n          headers: [{header}]")
    assert words in message
    assert message.startswith("f.yaml:15:")


def test_a_method_that_no_route_sees() -> None:
    (message,) = said("- path: {prefix: /}\n          methods: [GET, CONNECT]")
    assert message.startswith("f.yaml:15:26: spec.routes[root].match[0].methods[1]: a CONNECT request has no path")


@pytest.mark.parametrize(
    "condition",
    [
        "- path: {regex: '/(a| b)'}",
        "- path: {regex: '(?i)[/].*'}",
        "- path: {regex: '/caf%C3%A9[[:punct:]]'}",
        "- path: {regex: '.*[.]css|x y'}",
        "- path: {prefix: '/a%7Bb;c=1,d@e:f!$&()*+=~%20'}",
        "- path: {template: '/{id}/a%20b'}",
        "- path: {prefix: /}\n          query: [{name: 'f[x]', exact: 'a=b+c%20d?e/f'}, {name: q, regex: 'a( |%20)b'}, {name: e, exact: ''}]",
        "- path: {prefix: /}\n          headers: [{name: x-team, prefix: 'red ', invert: true}, {name: host, regex: '\u00e9.'}, {name: x-a, suffix: ' b'}]",
    ],
)
def test_what_a_request_may_have_is_accepted(condition: str) -> None:
    assert said(condition) == []


def test_a_template_is_as_long_as_envoy_takes_it() -> None:
    longest = "/report/{id}/" + "a" * 243
    assert said(f'- path: {{template: "{longest}"}}') == []
    (message,) = said(f'- path: {{template: "{longest}a"}}')
    assert "a template has at most 256 characters" in message


def test_header_values_are_as_long_as_envoy_takes_them() -> None:
    for value in ("\u00e9" * 8192, "%" * 8192):
        HeaderChanges.model_validate({"set": {"x-a": value}})
    with pytest.raises(ValueError, match="at most 16384 bytes"):
        HeaderChanges.model_validate({"set": {"x-a": "\U0001f642" * 4097}})
