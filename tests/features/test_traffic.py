"""What happens when backends fail, are slow, or are asked too often."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from controlplane.filters.local_ratelimit.compile import MAX_VALUE
from tests.features.conftest import Backends
from tests.support.backends import HttpBackend
from tests.support.client import Response
from tests.support.edge import Edge, gateway_text
from tests.support.ports import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.envoy

SPEC = gateway_text("""
  guardrails: {timeouts: {request: 60s}, retry: {attempts: 3}}
  defaults: {retry: {backoff: {base: 1ms}, budget: 100%}}
  listeners:
    - {name: http, port: 8080, protocol: HTTP}
    - {name: guarded, port: 8081, protocol: HTTP, use: [flood]}
    - {name: behind-proxy, port: 8082, protocol: HTTP, clientIP: {trustedHops: 1}}
  policies:
    - {name: flood, rateLimit: {local: [{key: clientIP, requests: 3, per: hour}]}}
    - {name: three, rateLimit: {local: [{requests: 2, per: hour, burst: 3}]}}
    - {name: by-ip, rateLimit: {local: [{key: clientIP, requests: 2, per: hour}]}}
    - {name: by-key, rateLimit: {local: [{key: "header:x-api-key", requests: 2, per: hour}]}}
    - {name: both, rateLimit: {local: [{key: "header:x-api-key", requests: 2, per: hour}, {requests: 3, per: hour}]}}
    - {name: refills, rateLimit: {local: [{requests: 1, per: second}]}}
  backends:
    - {name: one, members: [{static: {address: 127.0.0.1, port: @one@}}]}
    - {name: pair, members: [{static: {address: 127.0.0.1, port: @one@}}, {static: {address: 127.0.0.1, port: @two@}}]}
    - {name: gone, members: [{static: {address: 127.0.0.1, port: @gone@}}]}
    - {name: first-gone, members: [{static: {address: 127.0.0.1, port: @gone@}}, {static: {address: 127.0.0.1, port: @two@}, priority: 1}]}
    - {name: first-gone-too, members: [{static: {address: 127.0.0.1, port: @gone@}}, {static: {address: 127.0.0.1, port: @two@}, priority: 1}]}
    - {name: both-gone, members: [{static: {address: 127.0.0.1, port: @gone@}}, {static: {address: 127.0.0.1, port: @gone2@}}, {static: {address: 127.0.0.1, port: @two@}, priority: 1}]}
    - {name: half-gone, members: [{static: {address: 127.0.0.1, port: @two@}}, {static: {address: 127.0.0.1, port: @gone@}}]}
    - {name: restarted, members: [{static: {address: 127.0.0.1, port: @restarted@}}]}
    - {name: heavy, loadBalancer: {policy: roundRobin}, members: [{static: {address: 127.0.0.1, port: @one@}, weight: 3}, {static: {address: 127.0.0.1, port: @two@}}]}
  routes:
    - {name: plain, hosts: [shop.example.com], match: [{path: {prefix: /plain}}], public: true, to: [{backend: one}]}
    - {name: retry, hosts: [shop.example.com], match: [{path: {prefix: /retry}}], public: true, retry: {attempts: 2, when: [5xx]}, to: [{backend: one}]}
    - {name: reset, hosts: [shop.example.com], match: [{path: {prefix: /reset}}], public: true, retry: {attempts: 1, when: [reset]}, to: [{backend: one}]}
    - {name: status, hosts: [shop.example.com], match: [{path: {prefix: /status}}], public: true, retry: {attempts: 1, when: [connect-failure], statuses: [429]}, to: [{backend: one}]}
    - {name: ten, hosts: [shop.example.com], match: [{path: {prefix: /ten}}], public: true, retry: {attempts: 10, when: [5xx]}, to: [{backend: one}]}
    - {name: safe, hosts: [shop.example.com], match: [{path: {prefix: /safe}}], public: true, retry: {attempts: 2}, to: [{backend: one}]}
    - {name: elsewhere, hosts: [shop.example.com], match: [{path: {prefix: /elsewhere}}], public: true, retry: {attempts: 1, when: [5xx]}, to: [{backend: pair}]}
    - {name: try-slow, hosts: [shop.example.com], match: [{path: {prefix: /try}}], public: true, retry: {attempts: 1, when: [5xx], perTryTimeout: 2s}, to: [{backend: one}]}
    - {name: slow, hosts: [shop.example.com], match: [{path: {prefix: /slow}}], public: true, timeouts: {request: 100ms}, to: [{backend: one}]}
    - {name: idle, hosts: [shop.example.com], match: [{path: {prefix: /idle}}], public: true, timeouts: {idle: 100ms}, to: [{backend: one}]}
    - {name: gone, hosts: [shop.example.com], match: [{path: {prefix: /gone}}], public: true, to: [{backend: gone}]}
    - {name: failover, hosts: [shop.example.com], match: [{path: {prefix: /failover}}], public: true, retry: {attempts: 2}, to: [{backend: first-gone}]}
    - {name: one-retry, hosts: [shop.example.com], match: [{path: {prefix: /one-retry}}], public: true, retry: {attempts: 1}, to: [{backend: first-gone-too}]}
    - {name: no-retry, hosts: [shop.example.com], match: [{path: {prefix: /no-retry}}], public: true, to: [{backend: both-gone}]}
    - {name: half-gone, hosts: [shop.example.com], match: [{path: {prefix: /half-gone}}], public: true, to: [{backend: half-gone}]}
    - {name: restarted, hosts: [shop.example.com], match: [{path: {prefix: /restarted}}], public: true, to: [{backend: restarted}]}
    - {name: heavy, hosts: [shop.example.com], match: [{path: {prefix: /heavy}}], public: true, to: [{backend: heavy}]}
    - {name: three, hosts: [shop.example.com], match: [{path: {prefix: /three}}], public: true, use: [three], to: [{backend: one}]}
    - {name: copies, hosts: [a.example.com, b.example.com], match: [{path: {prefix: /copies}}, {path: {regex: ".*[.]copy"}}], public: true, use: [three], to: [{backend: one}]}
    - {name: two-listeners, hosts: [shop.example.com], listeners: [http, behind-proxy], match: [{path: {prefix: /two-listeners}}], public: true, use: [three], to: [{backend: one}]}
    - {name: by-ip, hosts: ["*"], listeners: [behind-proxy], match: [{path: {prefix: /by-ip}}], public: true, use: [by-ip], to: [{backend: one}]}
    - {name: by-key, hosts: [shop.example.com], match: [{path: {prefix: /by-key}}], public: true, use: [by-key], to: [{backend: one}]}
    - {name: both, hosts: [shop.example.com], match: [{path: {prefix: /both}}], public: true, use: [both], to: [{backend: one}]}
    - {name: answer, hosts: [shop.example.com, other.example.com], match: [{path: {prefix: /answer}}], public: true, use: [three], respond: {status: 200, body: hi}}
    - {name: moved, hosts: [shop.example.com, other.example.com], match: [{path: {prefix: /moved}}], public: true, use: [three], redirect: {host: new.example.com, code: 307}}
    - {name: refills, hosts: [shop.example.com], match: [{path: {prefix: /refills}}], public: true, use: [refills], to: [{backend: one}]}
""")


@pytest.fixture(scope="module")
def restarted() -> int:
    """The port of a backend that is not there yet."""
    return free_port()


@pytest.fixture(scope="module")
def edge(ports: dict[str, int], restarted: int) -> Iterator[Edge]:
    with Edge(SPEC, {**ports, "gone": free_port(), "gone2": free_port(), "restarted": restarted}) as running:
        yield running


def test_failures_are_not_retried_unless_said(edge: Edge, backends: Backends) -> None:
    backends.one.then(500)
    assert edge.request("/plain").status == 500
    assert backends.one.requests == 1


def test_retry_until_it_succeeds(edge: Edge, backends: Backends) -> None:
    backends.one.then(503, 500)
    assert edge.request("/retry").status == 200
    assert backends.one.requests == 3


def test_retries_end(edge: Edge, backends: Backends) -> None:
    backends.one.then(500, 500, 501)
    assert edge.request("/retry").status == 501
    assert backends.one.requests == 3


def test_the_guardrail_bounds_retries(edge: Edge, backends: Backends) -> None:
    backends.one.then(*[500] * 9)
    assert edge.request("/ten").status == 500
    assert backends.one.requests == 4


def test_retry_after_a_broken_connection(edge: Edge, backends: Backends) -> None:
    backends.one.then("reset")
    assert edge.request("/reset").status == 200
    backends.one.then("reset")
    assert edge.request("/plain").status == 503


def test_a_body_is_sent_again(edge: Edge, backends: Backends) -> None:
    backends.one.then(500)
    answer = edge.request("/retry", method="POST", body=b"important")
    assert (answer.status, answer.json()["body"]) == (200, "important")


def test_a_body_of_more_than_a_buffer_is_not_sent_again(edge: Edge, backends: Backends) -> None:
    for size, tries in ((30_000, 2), (40_000, 1)):
        backends.one.forget()
        backends.one.then(500)
        edge.request("/retry", method="POST", body=b"x" * size)
        assert backends.one.requests == tries


def test_retry_by_status(edge: Edge, backends: Backends) -> None:
    backends.one.then(429)
    assert edge.request("/status").status == 200
    backends.one.then(500)
    assert edge.request("/status").status == 500


def test_what_may_have_been_acted_on_is_not_retried_by_default(edge: Edge, backends: Backends) -> None:
    for outcome, status in ((500, 500), ("reset", 503)):
        backends.one.forget()
        backends.one.then(outcome)
        assert edge.request("/safe", method="POST").status == status
        assert backends.one.requests == 1


def test_another_attempt_goes_to_another_endpoint(edge: Edge, backends: Backends) -> None:
    for _ in range(10):
        backends.one.then(500)
        assert edge.request("/elsewhere").backend == "two" or backends.one.requests == 0
        backends.one.forget()
    assert backends.two.requests == 10


def test_a_slow_attempt_is_given_up(edge: Edge, backends: Backends) -> None:
    backends.one.then("slow")
    assert edge.request("/try").status == 200
    assert backends.one.requests == 2


def test_clients_cannot_ask_for_retries_or_other_timeouts(edge: Edge, backends: Backends) -> None:
    backends.one.then(500)
    asked = {"x-envoy-retry-on": "5xx", "x-envoy-max-retries": "5", "x-envoy-upstream-rq-timeout-ms": "1"}
    assert edge.request("/plain", headers=asked).status == 500


@pytest.mark.parametrize("path", ["/slow", "/idle"])
def test_timeouts(edge: Edge, backends: Backends, path: str) -> None:
    backends.one.then("slow")
    began = time.monotonic()
    assert edge.request(path).status == 504
    assert time.monotonic() - began < 30, "long before the guardrail"


def test_a_backend_that_is_not_there_answers_503(edge: Edge) -> None:
    assert edge.request("/gone").status == 503


def test_the_next_priority_takes_over(edge: Edge, backends: Backends) -> None:
    """From the first request on, by a retry; soon without one."""
    with edge.connect() as connection:
        assert {connection.request("/failover", "shop.example.com").backend for _ in range(20)} == {"two"}


def test_one_retry_is_enough_for_the_next_priority(edge: Edge, backends: Backends) -> None:
    """Nothing is known of the first priority yet: it is the retry that finds the next one."""
    assert edge.request("/one-retry").backend == "two"


def test_endpoints_that_fail_one_after_the_other_are_left_out_at_once(edge: Edge, backends: Backends) -> None:
    """Envoy would merge the changes of a second: what fails shortly after another one would go on getting requests."""

    def left_out() -> bool:
        answers = [connection.request("/no-retry", "shop.example.com").status for _ in range(2)]
        assert set(answers) <= {200, 503}
        return edge.envoy.stats("both-gone.outlier_detection.ejections_active$").popitem()[1] == 2

    with edge.connect() as connection:
        until(left_out, "both endpoints are left out", step=0)
        assert [connection.request("/no-retry", "shop.example.com").status for _ in range(10)] == [200] * 10


def test_a_member_that_cannot_be_reached_is_left_out(edge: Edge, backends: Backends) -> None:
    """It would get the most requests, for none is quicker: of two members, one of them gone, every other request failed."""

    def left_out() -> bool:
        assert edge.request("/half-gone").status in {200, 503}
        return edge.envoy.stats("half-gone.outlier_detection.ejections_active$").popitem()[1] == 1

    until(left_out, "the member is left out", step=0)
    with edge.connect() as connection:
        assert {connection.request("/half-gone", "shop.example.com").status for _ in range(20)} == {200}


def test_the_only_member_is_never_left_out(edge: Edge, restarted: int) -> None:
    with edge.connect() as connection:
        assert {connection.request("/restarted", "shop.example.com").status for _ in range(20)} == {503}
    with HttpBackend("again", port=restarted):
        assert edge.request("/restarted").backend == "again"


def test_weights_of_endpoints(edge: Edge, backends: Backends) -> None:
    with edge.connect() as connection:
        counted = Counter(connection.request("/heavy", "shop.example.com").backend for _ in range(40))
    assert counted == {"one": 30, "two": 10}


def statuses(answers: list[Response]) -> list[int]:
    return [answer.status for answer in answers]


def test_after_the_burst_429(edge: Edge, backends: Backends) -> None:
    answers = [edge.request("/three") for _ in range(5)]
    assert statuses(answers) == [200, 200, 200, 429, 429]
    assert backends.one.requests == 3
    assert edge.request("/plain").status == 200


def test_copies_of_a_route_share_their_limit(edge: Edge, backends: Backends) -> None:
    """Two hosts, a segment and a floating match: one route, one bucket."""
    places = [("/copies", "a.example.com"), ("/copies", "b.example.com"), ("/x.copy", "A.example.com:99")]
    assert statuses([edge.request(*place) for place in places]) == [200] * 3
    assert statuses([edge.request(*place) for place in places]) == [429] * 3


def test_each_listener_of_a_route_has_buckets_of_its_own(edge: Edge, backends: Backends) -> None:
    for port in (8080, 8082):
        answers = [edge.request("/two-listeners", port=port) for _ in range(4)]
        assert statuses(answers) == [200, 200, 200, 429]


@pytest.mark.parametrize(("path", "status"), [("/answer", 200), ("/moved", 307)])
def test_a_route_that_answers_by_itself_is_limited(edge: Edge, path: str, status: int) -> None:
    """Its copies share the bucket as well."""
    hosts = ["shop.example.com", "other.example.com", "OTHER.example.com", "shop.example.com"]
    assert statuses([edge.request(path, host) for host in hosts]) == [status, status, status, 429]


def test_limit_by_client_address(edge: Edge, backends: Backends) -> None:
    """Behind one trusted proxy the client is whom that proxy names, whatever else the header says."""

    def ask(forwarded: str) -> int:
        return edge.request("/by-ip", "any.example.com", port=8082, headers={"x-forwarded-for": forwarded}).status

    assert [ask("203.0.113.1") for _ in range(3)] == [200, 200, 429]
    assert ask("198.51.100.9, 203.0.113.1") == 429, "what the client itself wrote is not believed"
    assert [ask("203.0.113.2") for _ in range(3)] == [200, 200, 429]


def test_an_ipv6_client_is_counted_by_its_network_of_which_it_has_every_address(edge: Edge, backends: Backends) -> None:
    def ask(forwarded: str) -> int:
        return edge.request("/by-ip", "any.example.com", port=8082, headers={"x-forwarded-for": forwarded}).status

    assert [ask(f"2001:db8::{number}") for number in (1, 2, 3, 1)] == [200, 200, 429, 429]
    assert [ask("2001:db8:0:1::1") for _ in range(3)] == [200, 200, 429], "another network"
    for address in ("192.0.2.1", "192.0.2.2", "::ffff:192.0.2.3", "::ffff:192.0.2.4", "::ffff:c000:205"):
        assert [ask(address) for _ in range(3)] == [200, 200, 429], "each IPv4 address is a client"


def test_limit_by_header(edge: Edge, backends: Backends) -> None:
    def ask(*headers: tuple[str, str]) -> int:
        return edge.request("/by-key", headers=headers).status

    assert [ask(("x-api-key", "a")) for _ in range(3)] == [200, 200, 429]
    assert ask(("X-Api-Key", "a")) == 429
    assert [ask(("x-api-key", "b")) for _ in range(3)] == [200, 200, 429]
    assert [ask() for _ in range(3)] == [200, 200, 429], "leaving the header out must not lift the limit"


def test_an_empty_header_does_not_lift_the_limit(edge: Edge, backends: Backends) -> None:
    assert 429 in [edge.request("/by-key", headers={"x-api-key": ""}).status for _ in range(4)]


def test_long_values_of_a_header_share_a_bucket(edge: Edge, backends: Backends) -> None:
    """Envoy keeps each value as long as its bucket: of long ones a client could send as many as its memory holds."""

    def ask(value: str) -> int:
        return edge.request("/by-key", headers={"x-api-key": value}).status

    assert [ask(letter * MAX_VALUE) for letter in "abc"] == [200, 200, 200]
    assert [ask(letter * (MAX_VALUE + 1)) for letter in "abc"] == [200, 200, 429]


@pytest.mark.parametrize("value", [b"\xff", b"\xe2\x82", b"\xc3\xa9"])
def test_no_byte_in_a_header_lifts_its_limit(edge: Edge, backends: Backends, value: bytes) -> None:
    assert 429 in [edge.request("/by-key", headers={"x-api-key": value.decode("latin-1")}).status for _ in range(4)]


def test_all_limits_of_a_policy_hold(edge: Edge, backends: Backends) -> None:
    asked = [edge.request("/both", headers={"x-api-key": key}).status for key in ("a", "a", "a", "b", "c")]
    assert asked[:3] == [200, 200, 429]
    assert asked[-1] == 429, "the limit without a key counts all of them"


def test_limit_of_a_listener(edge: Edge, backends: Backends) -> None:
    """It holds for everything that comes in there, routes or not."""
    assert [edge.request("/plain", port=8081).status for _ in range(2)] == [200, 200]
    assert edge.request("/nothing", port=8081).status == 404
    assert [edge.request(path, port=8081).status for path in ("/plain", "/nothing")] == [429, 429]
    assert edge.request("/plain").status == 200


def test_buckets_fill_again(edge: Edge, backends: Backends) -> None:
    with edge.connect() as connection:

        def ask() -> bool:
            return connection.request("/refills", "shop.example.com").status == 200

        until(lambda: not ask(), "the bucket is empty", step=0)
        until(ask, "the bucket has filled again")
