"""A key set that is replaced by one that cannot be used closes the routes of its provider, by whatever it is unusable."""

from __future__ import annotations

import pytest

from controlplane.compile.compiler import Compiler
from controlplane.model.secret import Secret
from controlplane.names import GatewayName, SecretRef
from controlplane.resources import Resource
from controlplane.spec.parse import parse_text
from controlplane.spec.rows import rows
from tests.support.edge import compiled
from tests.support.tokens import ec_key, key_set, rsa_key

SPEC = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners: [{name: http, port: 8080, protocol: HTTP}]
  identity: {jwt: [{name: corp, issuer: "https://id.test/", audiences: [shop], jwks: {secretRef: keys}}]}
  routes:
    - {name: one, hosts: [a.test], match: [{path: {prefix: /}}], auth: {anyOf: [{jwt: corp}]}, respond: {status: 200}}
"""
KEYS = SecretRef("files", "platform", "keys")
GOOD = key_set(ec_key())


def after(*versions: bytes) -> tuple[list[Resource], list[str]]:
    """What a proxy has after these versions of the secret, and the codes of what is wrong."""
    compiler = Compiler()
    (parsed,) = parse_text(SPEC, "spec.yaml", "files")
    assert parsed.ref is not None
    assert parsed.document is not None
    compiler.put(parsed.ref, rows(parsed.ref, parsed.document))
    codes: list[str] = []
    for version in versions:
        compiler.put_secret(KEYS, Secret.of({"jwks.json": version}))
        codes = [issue.code for issues in compiler.commit_now().issues.values() for issue in issues]
    return compiler.resources((GatewayName("platform/edge"),)), codes


@pytest.mark.parametrize(
    "lost",
    [
        GOOD.encode("utf-16"), GOOD.encode("utf-8-sig"), GOOD.encode("utf-16-be"), b"\xff" + GOOD.encode(), b"", b"\0" * 512,
        GOOD.encode()[:-1], b"[" * 100_000,
    ],
    ids=lambda lost: repr(lost[:8]),
)  # fmt: skip
def test_a_lost_key_set_closes_its_routes(lost: bytes) -> None:
    """Also when something was in force before, which must not stay."""
    before, codes = after(GOOD.encode())
    assert not codes
    closed, codes = after(GOOD.encode(), lost)
    assert set(codes) == {"GW0207"}
    assert closed == after(lost)[0] != before
    route = next(resource.body for resource in closed if b"a.test" in resource.body)
    assert b"this route is not configured correctly" in route, "it answers 503"
    assert after(GOOD.encode(), lost, GOOD.encode()) == (before, [])


def test_only_what_counts_is_sent() -> None:
    """An edit of anything else in the file changes nothing on any proxy."""
    other = key_set(ec_key())[:-1] + ', "note": "\\ud800"}'
    assert after(other.encode())[0] == after(GOOD.encode())[0] != after(key_set(rsa_key()).encode())[0]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://id.test/keys", ["GW0227"]),
        ("http://192.0.2.1/keys", ["GW0227"]),
        ("http://169.254.169.254/keys", ["GW0227"]),
        ("https://id.test/keys", []),
        ("http://localhost:1/keys", []),
        ("http://127.0.0.1:1/keys", []),
        ("http://[::1]:1/keys", []),
    ],
)
def test_keys_that_cross_a_network_in_clear_are_a_warning(uri: str, said: list[str]) -> None:
    spec = SPEC.replace("secretRef: keys", f'uri: "{uri}"')
    assert [one.code for one in compiled(spec).diagnostics] == said
