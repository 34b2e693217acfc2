"""What a route may say that no client or backend could make sense of is an error, at the field."""

from __future__ import annotations

import json

import pytest

from controlplane.spec.parse import parse_text
from tests.spec.documents import routes

TO = "      to:\n        - backend: web\n"


def said(action: str) -> list[str]:
    text = routes("a").replace(TO, f"      {action}\n")
    return [str(diagnostic) for parsed in parse_text(text, "f.yaml") for diagnostic in parsed.diagnostics]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            "respond: {status: 204, body: hi}",
            "16:36: spec.routes[root].respond.body: an answer with status 204 has no body",
        ),
        (
            "respond: {status: 302}",
            "16:25: spec.routes[root].respond.status: a client that gets 302 would ask for the same again: use redirect",
        ),
        (
            'redirect: {host: "*.example.com"}',
            "16:24: spec.routes[root].redirect.host: one host is needed here, a wildcard is none",
        ),
        (
            'to: [{backend: web}]\n      transform: {request: {host: "*"}}',
            "17:35: spec.routes[root].transform.request.host: one host is needed here, a wildcard is none",
        ),
        *(
            (
                f"{action}\n      {field}: {{{setting}}}",
                f"17:7: spec.routes[root].{field}: retry and timeouts are for a backend (to); remove them, or name one",
            )
            for action in ("respond: {status: 200}", "redirect: {host: a.test}")
            for field, setting in (("retry", "attempts: 3"), ("timeouts", "idle: 7s"))
        ),
    ],
)
def test_the_field_is_named(action: str, message: str) -> None:
    assert said(action) == [f"f.yaml:{message}"]


@pytest.mark.parametrize("status", [200, 201, 204, 304, 404, 599])
def test_an_answer_without_a_body_may_have_any_other_status(status: int) -> None:
    assert said(f"respond: {{status: {status}}}") == []


def test_a_web_socket_begins_with_a_get() -> None:
    def of(match: str) -> list[str]:
        text = routes("a").replace("- path: {prefix: /}", match).replace(TO, f"      websocket: true\n{TO}")
        return [str(diagnostic) for parsed in parse_text(text, "f.yaml") for diagnostic in parsed.diagnostics]

    post, get = "{path: {prefix: /}, methods: [POST]}", "{path: {prefix: /ws}, methods: [GET]}"
    assert of(f"- {get}\n        - {post}") == []
    (message,) = of(f"- {post}")
    assert "spec.routes[root].websocket: a WebSocket begins with a GET" in message


def test_a_name_that_stands_twice_is_shown_where_it_does() -> None:
    text = routes("a").replace(
        "  routes:\n", '    - {name: web, members: [{static: {address: "::1", port: 1}}]}\n  routes:\n'
    )
    (diagnostic,) = (one for parsed in parse_text(text, "f.yaml") for one in parsed.diagnostics)
    message = 'f.yaml:10:14: spec.backends[web].name: the name "web" stands twice; names are identity'
    assert str(diagnostic) == message


@pytest.mark.parametrize(
    ("direction", "kind"), [("request", "set"), ("request", "add"), ("response", "set"), ("response", "add")]
)
def test_a_header_in_other_letters_is_the_same_one(direction: str, kind: str) -> None:
    (message,) = said(
        f'to: [{{backend: web}}]\n      transform: {{{direction}: {{headers: {{{kind}: {{X-A: "1", x-a: "2"}}}}}}}}'
    )
    assert f'transform.{direction}.headers.{kind}.x-a: "x-a" stands here twice' in message


@pytest.mark.parametrize("field", ["listeners", "auth", "transform", "redirect", "respond"])
def test_a_field_with_nothing_behind_it_is_not_one_that_is_left_out(field: str) -> None:
    assert (
        f"spec.routes[root].{field}: has no value (give it a value, or remove the key)"
        in said(f"to: [{{backend: web}}]\n      {field}:")[0]
    )


@pytest.mark.parametrize(("hosts", "taken"), [(200, True), (256, False)])
def test_a_few_lines_cannot_come_to_gigabytes(hosts: int, taken: bool) -> None:
    """Each host has a copy of each match with all that the route says: who is granted a wildcard could end the process."""
    heavy = {"name": "heavy", "public": True, "hosts": [f"h{number}.example.com" for number in range(hosts)]}
    heavy["match"] = [{"path": {"prefix": f"/p{number}"}} for number in range(64)]
    heavy |= {"transform": {"response": {"headers": {"set": {"x": "a" * 4000}}}}, "respond": {"status": 200}}
    light = {
        "name": "light",
        "public": True,
        "hosts": ["a.example.com"],
        "match": heavy["match"][:1],
        "respond": {"status": 200},
    }
    document = {
        "apiVersion": "gatewayspec.dev/v1alpha1",
        "kind": "RouteSpec",
        "metadata": {"name": "r"},
        "spec": {"gateway": "platform/shop", "routes": [light, heavy]},
    }
    (parsed,) = parse_text(json.dumps(document), "f.yaml")
    assert (parsed.document is not None) == taken
    if not taken:
        (diagnostic,) = parsed.diagnostics
        assert diagnostic.path == "spec.routes[heavy]"
        assert "come to at most 64 MiB" in diagnostic.message
