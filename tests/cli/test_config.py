"""The process's own configuration: every field has a default, nothing is accepted that nothing obeys."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.config import Configuration, Endpoint, Flags, read, with_flags
from controlplane.errors import ConfigurationError, InvalidInput

EVERYTHING = """\
identity: {cluster: edge-control, replica: cp-1, trustDomain: example.internal}
sources:
  files: [{path: ./specs}]
secrets: {path: /run/secrets}
startup: {deadline: 10s, onDeadline: wait}
xds:
  listen: "0.0.0.0:18000"
  tls: {certificate: server.pem, key: server.key, clientCA: fleet.pem}
  denyList: denied
  maxStreamAge: 1h
shutdown: {within: 25s}
admin: {listen: "[::1]:18080"}
metrics: {listen: "0.0.0.0:9100"}
state: {path: ./state, key: ~/key}
coalesce: {quiet: 5ms, max: 100ms}
"""


def _write(folder: Path, text: str) -> Path:
    file = folder / "controlplane.yaml"
    file.write_text(text)
    return file


def _problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        read(_write(folder, text))
    return [str(diagnostic) for diagnostic in caught.value.diagnostics]


def test_paths_of_the_file_are_relative_to_it(tmp_path: Path) -> None:
    found = read(_write(tmp_path, EVERYTHING))
    assert [source.path for source in found.sources.files] == [tmp_path / "specs"]
    assert found.secrets is not None
    assert found.secrets.path == Path("/run/secrets")
    assert found.xds.tls is not None
    assert found.xds.tls.certificate == tmp_path / "server.pem"
    assert found.state.key == Path("~/key").expanduser()
    assert (found.xds.listen, found.admin.listen) == (Endpoint("0.0.0.0", 18000), Endpoint("::1", 18080))
    assert found.startup.deadline == timedelta(seconds=10)
    assert found.xds.deny_list == tmp_path / "denied"
    assert (found.xds.max_stream_age, found.shutdown.within) == (timedelta(hours=1), timedelta(seconds=25))
    assert with_flags(found, Flags(xds="0.0.0.0:1")).xds.deny_list == tmp_path / "denied"


CONSUL = """\
sources:
  consul:
    - name: gcp-dc2
      address: https://consul.example:8501/
      datacenter: dc2
      tokenFile: token
      ca: ca.pem
      clientCertificate: client.pem
      clientKey: client.key
      maxStale: 5s
      locality: {region: europe-west1, zone: b}
      taggedAddress: wan
      maxRequestsPerSecond: 50
      specs: gateways/
    - {name: local, address: "http://127.0.0.1:8500", tokenFile: token}
"""


def test_consul_datacenters(tmp_path: Path) -> None:
    first, second = with_flags(read(_write(tmp_path, CONSUL)), Flags(specs=(Path("a"),))).sources.consul
    assert (first.name, first.address, first.datacenter) == ("gcp-dc2", "https://consul.example:8501", "dc2")
    assert (first.token_file, first.client_key) == (tmp_path / "token", tmp_path / "client.key")
    assert (first.max_stale, first.locality.zone, first.specs) == (timedelta(seconds=5), "b", "gateways/")
    assert (second.datacenter, second.max_stale, second.specs) == (None, None, None)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ('{name: a, address: "consul:8500"}', ":3:24: sources.consul[a].address: an address of Consul is a URL"),
        ('{name: a, address: "http://x:y"}', "an address of Consul is a URL"),
        ('{name: a, address: "https://me:secret@x"}', "an address of Consul is a URL"),
        ('{name: a, address: "http://x:8500", tokenFile: t}', "a token is sent over https only"),
        ('{name: a, address: "http://x:8500", ca: c}', "need an https address"),
        ('{name: a, address: "https://x:8500", clientKey: c}', "belong together"),
        ('{name: a, address: "https://x", specs: /a}', "sources.consul[a].specs"),
        ('{name: a, address: "https://x", maxRequestsPerSecond: 1}', "sources.consul[a].maxRequestsPerSecond"),
        (
            '{name: a, address: "https://x"}\n  - {name: a, address: "https://y"}',
            'the name "a" stands twice',
        ),
    ],
)
def test_a_consul_that_cannot_be_used_is_an_error(tmp_path: Path, written: str, problem: str) -> None:
    (found,) = _problems(tmp_path, f"sources:\n  consul:\n  - {written}\n")
    assert problem in found


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    found = read(_write(tmp_path, "# nothing yet\n"))
    assert found.xds == Configuration().xds
    assert found.state.path == tmp_path / "state"


def test_flags_override_the_file(tmp_path: Path) -> None:
    flags = Flags((Path("a"),), Path("b"), Path("c"), "127.0.0.1:0", "localhost:1", insecure=True)
    found = with_flags(read(_write(tmp_path, EVERYTHING)), flags)
    assert [source.path for source in found.sources.files] == [Path("a")]
    assert found.state.path == Path("c")
    assert found.state.key == Path("~/key").expanduser()
    assert (found.xds.listen.port, found.xds.tls, found.xds.insecure) == (0, None, True)
    assert found.admin.listen == Endpoint("localhost", 1)
    assert found.coalesce.max == timedelta(milliseconds=100)


def test_no_flag_changes_nothing(tmp_path: Path) -> None:
    found = read(_write(tmp_path, EVERYTHING))
    assert with_flags(found, Flags()) == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("admin: {}\n---\nxds: {}\n", "controlplane.yaml:3: a second document; a configuration is one"),
        ("# first\n---\n\nxds: {lisen: 1}\n", 'controlplane.yaml:4:7: xds: unknown field "lisen"'),
        ("secrets: {path: ~nosuchuser/x}\n", "~nosuchuser has no home folder on this machine; say the whole path"),
        ('xds: {listen: "[1.2.3.4]:80"}\n', "only an IPv6 address stands in brackets"),
        (
            "sources:\n  kubernetes: [{name: eu, namespaces: shop}]\n",
            'controlplane.yaml:2:39: sources.kubernetes[eu].namespaces: "shop" is not possible here (known: all; or a list: [a, b])',
        ),
        (
            "sources:\n  kubernetes: [{name: eu, namespaces: ['*']}]\n",
            (
                "controlplane.yaml:2:40: sources.kubernetes[eu].namespaces[0]: a name has lower-case letters, digits, '-' and '.', "
                "and begins and ends with one of the former"
            ),
        ),
        ("xds:\n  lisen: 127.0.0.1:1\n", 'controlplane.yaml:2:3: xds: unknown field "lisen" (did you mean "listen"?)'),
        ("sources: {nomad: []}\n", 'unknown field "nomad"'),
        ("sources: {kubernetes: [{}]}\n", 'sources.kubernetes[0]: missing field "name"'),
        ("sources: {kubernetes: [{name: a, context: b}]}\n", "context is one of a kubeconfig"),
        ("sources: {kubernetes: [{name: a, endpoints: false}]}\n", "specs and endpoints are both false"),
        ("sources: {kubernetes: [{name: a}, {name: a}]}\n", 'the name "a" stands twice'),
        ("sources: {kubernetes: [{name: a, namespaces: [x, x]}]}\n", "a namespace stands twice"),
        ('xds: {names: ["*.a.test"]}\n', "a wildcard is none"),
        ("xds: {names: [a.test], tls: {certificate: a, key: b, clientCA: c}}\n", "tls brings its own"),
        ("sources: {kubernetes: [{name: a, namespaces: some}]}\n", "sources.kubernetes[a].namespaces"),
        ("xds: {listen: nowhere}\n", "controlplane.yaml:1:15: xds.listen: an address is HOST:PORT"),
        ("xds: {listen: '127.0.0.1:99999'}\n", "xds.listen"),
        ("xds: {listen: '0.0.0.0:1', insecure: true}\n", "insecure works on a loopback address only"),
        ("admin: {listen: '0.0.0.0:1'}\n", "a loopback address is needed"),
        ("coalesce: {quiet: 5}\n", "coalesce.quiet"),
        ("coalesce: {quiet: 2s, max: 1s}\n", "max must be at least quiet"),
        ("state: {path: 7}\n", "state.path: a path is a text"),
        ("- a\n", "the configuration is a mapping"),
        ("a: 1\na: 2\n", "a"),
        ("a: [\n", "controlplane.yaml:"),
    ],
)
def test_what_is_wrong_has_its_place(tmp_path: Path, text: str, problem: str) -> None:
    found = "\n".join(_problems(tmp_path, text))
    assert str(tmp_path / "controlplane.yaml") in found
    assert problem in found


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    assert len(_problems(tmp_path, "xds: {lisen: x}\nadmin: {listen: x}\nstat: {}\n")) == 3


@pytest.mark.parametrize(
    "flags",
    [
        Flags(xds="nowhere"),
        Flags(xds="0.0.0.0:1", insecure=True),
        Flags(admin="0.0.0.0:1"),
        Flags(admin="127.0.0.1:70000"),
    ],
)
def test_flags_are_checked_like_the_file(flags: Flags) -> None:
    with pytest.raises(ConfigurationError):
        with_flags(Configuration(), flags)


@pytest.mark.parametrize(
    ("text", "endpoint", "is_loopback"),
    [
        ("127.0.0.1:18000", Endpoint("127.0.0.1", 18000), True),
        ("127.8.8.8:1", Endpoint("127.8.8.8", 1), True),
        ("[::1]:0", Endpoint("::1", 0), True),
        ("[2001:DB8::1]:5", Endpoint("2001:db8::1", 5), False),
        ("localhost:1", Endpoint("localhost", 1), True),
        ("cp.example.com:18000", Endpoint("cp.example.com", 18000), False),
        ("0.0.0.0:1", Endpoint("0.0.0.0", 1), False),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint, is_loopback: bool) -> None:
    found = Endpoint.parse(text)
    assert found == endpoint
    assert found.is_loopback == is_loopback
    assert Endpoint.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", ":1", "host", "host:", "::1:80", "[::1]", "[127.0.0.1]:1", "a b:1", "h:123456", 7, None]
)
def test_no_endpoints(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the message is for people
        Endpoint.parse(text)
