"""What a gateway may say that would not do what it seems to is an error, at the field."""

from __future__ import annotations

import pytest

from controlplane.spec.backend import BackendTls
from controlplane.spec.parse import parse_text
from tests.spec.documents import GATEWAY


def said(old: str, new: str) -> list[str]:
    text = GATEWAY.replace(old, new)
    assert text != GATEWAY
    return [str(diagnostic) for parsed in parse_text(text, "f.yaml") for diagnostic in parsed.diagnostics]


def test_only_a_plain_listener_redirects_everything() -> None:
    (message,) = said("      protocol: HTTPS\n", "      protocol: HTTPS\n      redirect: {port: 443}\n")
    assert message.startswith("f.yaml:10:7: spec.listeners[https].redirect: only an HTTP listener redirects everything")


ORIGINS = '{origins: ["https://shop.example.com"], maxAge: 10m}'


@pytest.mark.parametrize(
    "origins",
    [
        'origins: ["https://*.com"]',
        'origins: ["null"]',
        "originRegexes: ['https://a[.]test|null']",
        'origins: ["https://a.test", "null"]',
        *(
            f"originRegexes: ['{pattern}']"
            for pattern in (
                ".*",
                "https://.*",
                "^https?://[^/]+$",
                r"https://([a-z0-9-]+\.)+[a-z]+(:\d+)?",
                r"https://.*\.com",
                "(?i)HTTPS://.+[.]com",
                r"https://a\.test|h.*",
                "(https://shop[.]test)?.*",
            )
        ),
    ],
)
def test_no_site_that_is_not_named_acts_as_the_user(origins: str) -> None:
    (message,) = said(ORIGINS, f"{{{origins}, credentials: true}}")
    assert ": spec.policies[web-cors].cors.origin" in message
    assert said(ORIGINS, f"{{{origins}}}") == []


@pytest.mark.parametrize(
    "pattern",
    [
        "https://[a-z]+[.]example[.]com",
        r"https?://(www|m)\.shop\.com",
        r"https?://localhost(:\d+)?",
        r"http://192\.168\.\d+\.\d+",
        r"https://.*\.internal",
        "(https://a[.]test)?",
    ],
)
def test_a_regex_that_names_a_host_may_go_with_credentials(pattern: str) -> None:
    assert said(ORIGINS, f"{{originRegexes: ['{pattern}'], credentials: true}}") == []


def test_a_wildcard_of_a_host_may_go_with_credentials() -> None:
    assert said(ORIGINS, '{origins: ["https://*.example.com", "https://*.internal"], credentials: true}') == []


@pytest.mark.parametrize(
    ("cors", "words"),
    [
        ('{origins: ["https://a.test:443"]}', 'cors.origins[0]: browsers leave out the port that a scheme has by itself: write "https://a.test"'),
        ('{origins: ["http://*.a.test:80"]}', 'write "http://*.a.test"'),
        ('{origins: ["https://a.test"], maxAge: 1s500ms}', "cors.maxAge: maxAge is in whole seconds"),
    ],
)  # fmt: skip
def test_what_browsers_never_say_or_understand(cors: str, words: str) -> None:
    (message,) = said(ORIGINS, cors)
    assert words in message


def test_an_origin_on_another_port_than_that_of_its_scheme() -> None:
    assert (
        said(ORIGINS, '{origins: ["https://a.test:80", "http://a.test:443", "https://a.test:8443"], maxAge: 0s}') == []
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("X-Real-IP", "removed from every request"),
        ("X-Forwarded-For", "begun by clients"),
        ("X-Request-Id", "made anew for every request"),
    ],
)
def test_nobody_is_counted_by_a_header_that_says_nothing_of_a_client(name: str, why: str) -> None:
    (message,) = said("key: clientIP", f'key: "header:{name}"')
    assert f'.local[0].key: "{name.lower()}" is {why}' in message
    assert "clientIP" in message


@pytest.mark.parametrize(
    "name", ["*", "a b", "*.*.internal", "a.*.internal", "orders.internal:443", "user@internal", ""]
)
def test_a_name_that_no_certificate_has(name: str) -> None:
    (message,) = said("port: 8080}}]\n", f'port: 8080}}}}]\n      tls: {{sni: web.internal, sanMatch: ["{name}"]}}\n')
    assert ": spec.backends[web].tls.sanMatch[0]: a name is that of a host" in message


def test_names_of_certificates_are_written_as_envoy_reads_them() -> None:
    names = ("spiffe://cluster.local/ns/Shop", "*.Internal", "a_b.internal", "2001:DB8:0::1", "192.0.2.1")
    wanted = ("spiffe://cluster.local/ns/Shop", "*.internal", "a_b.internal", "2001:db8::1", "192.0.2.1")
    assert BackendTls.model_validate({"sanMatch": names}).san_match == wanted


def test_only_discovered_members_are_near_or_far() -> None:
    (message,) = said("port: 8080}}]\n", "port: 8080}}]\n      failover: {within: [zone]}\n")
    assert ": spec.backends[web].failover.within: only kubernetes and consul members have a zone" in message


def test_a_backend_is_asked_for_by_one_name() -> None:
    (message,) = said("port: 8080}}]\n", 'port: 8080}}]\n      tls: {sni: "*.internal"}\n')
    assert ": spec.backends[web].tls.sni: one host is needed here" in message
