"""What a gateway may say that would not do what it seems to is an error, at the field."""

from __future__ import annotations

from controlplane.spec.parse import parse_text
from tests.spec.documents import GATEWAY


def said(old: str, new: str) -> list[str]:
    text = GATEWAY.replace(old, new)
    assert text != GATEWAY
    return [str(diagnostic) for parsed in parse_text(text, "f.yaml") for diagnostic in parsed.diagnostics]


def test_only_a_plain_listener_redirects_everything() -> None:
    (message,) = said("      protocol: HTTPS\n", "      protocol: HTTPS\n      redirect: {port: 443}\n")
    assert message.startswith("f.yaml:10:7: spec.listeners[https].redirect: only an HTTP listener redirects everything")
