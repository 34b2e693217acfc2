"""A certificate that ends is the outage that everybody has once: it is said in time, with the line that uses it."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from controlplane.compile import tls
from controlplane.compile.expiry import Expiry
from controlplane.compile.secrets import not_after
from controlplane.compile.xds_types import SECRET
from controlplane.model.secret import Secret
from controlplane.resources import Resource
from tests.support.certificates import authority
from tests.support.edge import compiled

SPEC = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {name: edge, namespace: platform}
spec:
  fleet: {selector: {matchLabels: {role: edge}}}
  listeners:
    - {name: https, port: 8443, protocol: HTTPS, tls: [{hosts: [a.test], certificate: {secretRef: own}}]}
  backends:
    - name: orders
      members: [{static: {address: 127.0.0.1, port: 9}}]
      tls: {mode: mutual, sni: orders.test, clientCertificate: {secretRef: client}}
  routes:
    - {name: one, hosts: [a.test], match: [{path: {prefix: /}}], public: true, to: [{backend: orders}]}
"""
DAY = 86400


def expiry(folder: Path, own: timedelta, client: timedelta, delay: timedelta = timedelta()) -> Expiry:
    authority().leaf("a.test", life=own, delay=delay).write(folder, "own")
    authority().leaf("client.test", life=client, client=True).write(folder, "client")
    return Expiry(compiled(SPEC, folder).compiler.tables)


@pytest.mark.parametrize(
    ("life", "days", "said"),
    [
        (90, 0, ""),
        (90, 75, ""),
        (90, 77, "warning: ends soon"),
        (90, 91, "error: has expired"),
        (90, -1, "error: is not valid before"),
        (5, 3, ""),  # it lives for days, and is renewed within days
        (5, 4.5, "warning: ends soon"),
    ],
)
def test_what_is_said_of_a_certificate(tmp_path: Path, life: int, days: float, said: str) -> None:
    looked = expiry(tmp_path, timedelta(days=life), timedelta(days=900))
    found = [one for one in looked.diagnostics(time.time() + days * DAY) if "listeners" in one.path]
    if not said:
        assert not found
        return
    (one,) = found
    severity, _, words = said.partition(": ")
    assert (one.code, one.subject, str(one.severity)) == ("GW0208", "GatewaySpec platform/edge", severity)
    assert one.path == "spec.listeners[https].tls[0].certificate.secretRef"
    assert one.message.startswith('the certificate of secret "platform/own" ')
    assert words in one.message


def test_client_certificates_count_and_the_first_to_end_is_measured(tmp_path: Path) -> None:
    looked = expiry(tmp_path, timedelta(days=900), timedelta(days=3))
    now = time.time()
    assert looked.seconds_left(now) == pytest.approx(3 * DAY, abs=60)
    (one,) = looked.diagnostics(now + 4 * DAY)
    assert one.path == "spec.backends[orders].tls.clientCertificate.secretRef"
    assert looked.seconds_left(now + 4 * DAY) < 0


def test_a_renewed_certificate_is_read_anew(tmp_path: Path) -> None:
    looked = expiry(tmp_path, timedelta(days=3), timedelta(days=900))
    later = time.time() + 4 * DAY
    assert looked.diagnostics(later)
    renewed = expiry(tmp_path, timedelta(days=90), timedelta(days=900))
    looked.tables.secrets.rows.update(renewed.tables.secrets.rows)
    assert not looked.diagnostics(later)


def test_what_is_no_pair_is_left_to_others(tmp_path: Path) -> None:
    """And who uses none has nothing that ends."""
    (tmp_path / "platform" / "own").mkdir(parents=True)
    (tmp_path / "platform" / "own" / "tls.crt").write_text("nonsense")
    looked = Expiry(compiled(SPEC, tmp_path).compiler.tables)
    assert not looked.diagnostics(time.time())
    assert looked.seconds_left(time.time()) == math.inf


def test_when_a_certificate_ends_is_read_from_what_proxies_have() -> None:
    """No problem says so before it is soon."""
    pair, ca = authority().leaf("shop.example.com"), authority().pem
    secret = Secret.of({"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": ca})
    served = [tls.certificate(secret, "a"), tls.trust(secret, "ca.crt", "b")]
    ends = [not_after(Resource(SECRET, one.name, one.SerializeToString())) for one in served]
    leaf = x509.load_pem_x509_certificates(pair.certificate)[0]
    assert ends == [leaf.not_valid_after_utc.isoformat(), None]
