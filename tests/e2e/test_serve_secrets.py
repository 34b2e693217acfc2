"""Certificates and keys come, rotate, break and go while a real Envoy serves; their bytes go nowhere else."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.commands import controlplane
from tests.e2e.plane import Plane, answers, ask, gateway, respond
from tests.support.certificates import Pair, authority, write_secret
from tests.support.client import dial, trusting
from tests.support.ports import free_port
from tests.support.tokens import AUDIENCE, ISSUER, key_set, rsa_key, token
from tests.support.waiting import until

pytestmark = pytest.mark.envoy


def shown(port: int, sni: str) -> int | None:
    """The serial number of the certificate that a client gets, or None."""
    try:
        with dial(port, trusting(None), sni) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"").serial_number
    except OSError:
        return None


def https(port: int, *names: str) -> dict[str, object]:
    """An HTTPS listener with one certificate per host."""
    entries = [{"hosts": [f"{name}.example"], "certificate": {"secretRef": name}} for name in names]
    return {"name": "https", "port": port, "protocol": "HTTPS", "tls": entries}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path) as plane:
        yield plane


def test_a_certificate_arrives_rotates_breaks_and_is_deleted(plane: Plane) -> None:
    """A host without a certificate is left out alone; after that nothing that happens to files takes one away."""
    port = free_port()
    plane.write(gateway(listeners=[https(port, "a", "b")]))
    first, second, other = authority().leaf("a.example"), authority().leaf("a.example"), authority().leaf("b.example")
    first.write(plane.secrets, "a")
    plane.start().ready().envoy().ready()
    until(lambda: shown(port, "a.example") == first.serial, "the one certificate is shown")
    assert shown(port, "b.example") is None
    assert [one["code"] for one in plane.problems()] == ["GW0206"]

    other.write(plane.secrets, "b")
    until(lambda: shown(port, "b.example") == other.serial, "the late one is shown too")
    assert plane.problems() == []

    folder = plane.secrets / "platform" / "a"
    shutil.rmtree(folder)
    plane.problem(lambda one: one["code"] == "GW0218", "its end is reported")
    _generation(folder, "..1", second)
    until(lambda: shown(port, "a.example") == second.serial, "a mounted secret is shown")
    _generation(folder, "..2", authority().leaf("a.example", life=timedelta(hours=-1)))
    plane.problem(lambda one: "has expired" in one["message"], "the pair that is over is reported")
    _generation(folder, "..3", Pair(first.certificate, other.key))
    plane.problem(lambda one: "does not belong" in one["message"], "the mismatch is reported")
    plane.barrier()
    assert shown(port, "a.example") == second.serial
    assert plane.metric("controlplane_nacks") == 0

    plane.stop()
    plane.start().ready()  # while the pair on disk does not match, and then is gone
    assert shown(plane_port_of_new_envoy(plane, port), "a.example") == second.serial
    shutil.rmtree(folder)
    plane.problem(lambda one: one["code"] == "GW0218", "its end is reported")
    plane.kept()
    plane.kill()
    plane.start().ready()
    assert shown(plane_port_of_new_envoy(plane, port), "a.example") == second.serial

    plane.write(gateway(listeners=[https(port, "b")]))
    until(lambda: plane.problems() == [], "what nobody refers to may go")
    until(lambda: shown(port, "a.example") is None, "the host has no certificate")
    assert shown(port, "b.example") == other.serial


def test_a_certificate_that_has_expired_is_told(plane: Plane) -> None:
    """It is shown all the same, for nothing better is there: whoever looks for the reason finds the line."""
    port = free_port()
    file = plane.write(gateway(listeners=[https(port, "a")]))
    authority().leaf("a.example", life=timedelta(hours=-1)).write(plane.secrets, "a")
    plane.start().ready()
    problem = plane.problem(lambda one: one["code"] == "GW0208", "it has expired")
    assert (problem["severity"], problem["file"]) == ("error", str(file))
    assert file.read_text().splitlines()[problem["line"] - 1].strip() == "secretRef: a"
    assert plane.metric("controlplane_gateway_certificate_seconds") < 0
    offline = controlplane("validate", str(plane.specs), "--secrets", str(plane.secrets))
    assert offline.returncode == 1
    assert "error[GW0208]" in offline.stderr
    authority().leaf("a.example").write(plane.secrets, "a")
    until(lambda: not plane.problems(), "the new one is within its time")
    assert plane.metric("controlplane_gateway_certificate_seconds") > 0


def plane_port_of_new_envoy(plane: Plane, port: int) -> int:
    """The same port, once a proxy that has nothing to remember serves there."""
    plane.stop_envoys()
    plane.envoy().ready()
    return port


def _generation(folder: Path, name: str, pair: Pair) -> None:
    """A new generation of a secret as Kubernetes mounts it: both files change at once."""
    (folder / name).mkdir(parents=True)
    (folder / name / "tls.crt").write_bytes(pair.certificate)
    (folder / name / "tls.key").write_bytes(pair.key)
    (folder / "..data_tmp").symlink_to(name)
    (folder / "..data_tmp").rename(folder / "..data")
    for file in ("tls.crt", "tls.key"):
        if not (folder / file).is_symlink():
            (folder / file).symlink_to(f"..data/{file}")


def test_a_deleted_key_set_closes_its_routes_until_it_is_back(plane: Plane) -> None:
    port = free_port()
    provider = {"name": "staff", "issuer": ISSUER, "audiences": [AUDIENCE], "jwks": {"secretRef": "jwks"}}
    private = respond("private", "/private", "for you")
    del private["public"]
    private["auth"] = {"anyOf": [{"jwt": "staff"}]}
    spec = gateway(port=port, identity={"jwt": [provider]}, routes=[respond("main", "/", "for all"), private])
    plane.write(spec)
    write_secret(plane.secrets, "jwks", {"jwks.json": key_set(rsa_key()).encode()})
    plane.start().ready().envoy().ready()
    good = {"authorization": f"Bearer {token()}"}
    until(lambda: ask(port, "/private", **good).status == 200, "the token is accepted")
    assert ask(port, "/private").status == 401

    plane.remove_secret("jwks")
    until(lambda: ask(port, "/private", **good).status == 503, "the route is closed")
    assert ask(port, "/private").status in {401, 503}
    assert answers(port, "for all")

    plane.kept()
    plane.kill()
    plane.start().ready()
    assert ask(port, "/private", **good).status == 503

    write_secret(plane.secrets, "jwks", {"jwks.json": key_set(rsa_key()).encode()})
    until(lambda: ask(port, "/private", **good).status == 200, "the token is accepted again")
    assert plane.metric("controlplane_nacks") == 0


def test_secret_bytes_appear_nowhere(plane: Plane) -> None:
    """Not in the log, the state, the metrics, any answer, or what `compile` prints."""
    pair = authority().leaf("a.example")
    pair.write(plane.secrets, "a")
    canary = b"canary-4f1c-of-a-token"
    write_secret(plane.secrets, "unused", {"token": canary, "tls.key": canary, "tls.crt": canary, "jwks.json": canary})
    plane.write(gateway(listeners=[https(free_port(), "a", "unused")]))
    plane.start().ready().envoy().ready()
    until(lambda: plane.metric("controlplane_acks"), "something is acknowledged")
    texts = [plane.get(path)[1] for path in ("/metrics", "/v1/gateways", "/v1/nodes", "/v1/sources", "/v1/problems")]
    texts.append(plane.get("/v1/gateways/platform/edge/snapshot?bodies=1")[1])
    assert "[redacted]" in texts[-1]
    for arguments in (["compile"], ["compile", "-o", "json"], ["compile", "--static"], ["validate", "-o", "json"]):
        done = controlplane(*arguments, str(plane.specs), "--secrets", str(plane.secrets))
        texts += [done.stdout, done.stderr]
    plane.stop()
    texts.append(plane.output())
    files = [one for one in plane.state.rglob("*") if one.is_file()]
    contents = [text.encode() for text in texts] + [one.read_bytes() for one in files]
    key = pair.key.splitlines()
    for secret in (canary, *key[1:-1]):
        assert not any(secret in content for content in contents)
    assert all(one.stat().st_mode & 0o077 == 0 for one in [plane.state, *plane.state.rglob("*")])
