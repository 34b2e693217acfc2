"""The authority in the state folder: made once, kept to its owner, issuing, renewed, rotated without an outage."""

from __future__ import annotations

import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from controlplane.errors import ConfigurationError
from controlplane.pki import files, issuing
from controlplane.pki.authority import LOCAL_NAMES, Authority, Issued, ServerMaterial
from controlplane.pki.identity import DEFAULT_TRUST_DOMAIN, Refused, identify
from tests.protocol.keys import locked, of_unknown_curve

START = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return Authority.open(tmp_path / "state", now=clock)


def leaf(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def handshake(folder: Path, server: ServerMaterial, client: Issued, client_trusts: bytes) -> bool:
    """Whether a TLS 1.3 handshake succeeds in memory, where both sides verify each other."""
    (folder / "server.pem").write_bytes(server.key + server.chain)
    (folder / "client.pem").write_bytes(client.key + client.certificate)
    near, far = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context, name, trusts in ((near, "client", client_trusts), (far, "server", server.client_authorities)):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(folder / f"{name}.pem")
        context.load_verify_locations(cadata=trusts.decode())
    to_far, to_near = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [near.wrap_bio(to_near, to_far), far.wrap_bio(to_far, to_near, server_side=True)]
    finished = set()
    for _ in range(6):
        for side in sides:
            try:
                side.do_handshake()
                finished.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return len(finished) == len(sides)


# -- made once, for its owner alone -----------------------------------------------------------------------------------


def test_everything_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "deep" / "state")
    authority.server_certificate(["10.0.0.5"])
    authority.rotate()
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep" / "state").rglob("*")}
    assert {path.name for path in found} >= {"ca", "ca.crt", "ca.key", "cross.crt", "server", "server.pem"}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in found.items()), found
    assert stat.S_IMODE((tmp_path / "deep" / "state").stat().st_mode) == 0o700


def test_the_authority_is_p256_and_lives_ten_years(authority: Authority) -> None:
    certificate = leaf(authority.trust_bundle)
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    assert certificate.not_valid_after_utc - START == issuing.CA_LIFETIME
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert authority.trust_domain == DEFAULT_TRUST_DOMAIN


def test_the_next_process_finds_the_same_authority(tmp_path: Path, authority: Authority) -> None:
    assert Authority.open(tmp_path / "state").trust_bundle == authority.trust_bundle


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Two first starts (serve and bootstrap) must not leave the key of one with the certificate of the other."""
    code = (
        "import sys; from pathlib import Path; from controlplane.pki.authority import Authority\n"
        "sys.stdin.read(1)\n"
        "sys.stdout.write(Authority.open(Path(sys.argv[1])).trust_bundle.decode())"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "state")]
    processes = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("x")
        process.stdin.flush()
    bundles = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 3
    assert len(bundles) == 1
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["ca"], "no half-made folder is left"


def test_threads_that_start_together_agree(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(8), []

    def start() -> None:
        barrier.wait(10)
        found.append(Authority.open(tmp_path / "state").issue_node("n", "c", {}).certificate)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    authority = Authority.open(tmp_path / "state")
    assert len(found) == 8
    assert all(authority.trusts(certificate) for certificate in found)


def test_a_folder_that_exists_is_never_replaced(tmp_path: Path) -> None:
    assert files.create_folder(tmp_path / "ca", {"a": b"1"})
    assert not files.create_folder(tmp_path / "ca", {"a": b"2"})
    assert (tmp_path / "ca" / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


def test_the_trust_domain_is_chosen_once(tmp_path: Path) -> None:
    assert Authority.open(tmp_path, "td.test").trust_domain == "td.test"
    assert Authority.open(tmp_path).trust_domain == "td.test"
    with pytest.raises(ConfigurationError, match=r"of trust domain 'td.test', not 'other'"):
        Authority.open(tmp_path, "other")
    with pytest.raises(ConfigurationError, match="no trust domain"):
        Authority.open(tmp_path / "new", "Not A Domain")


@pytest.mark.parametrize("name", ["ca.crt", "ca.key", "trust-domain"])
def test_a_damaged_authority_is_an_error_and_never_replaced(tmp_path: Path, authority: Authority, name: str) -> None:
    """A new authority in its place would cut off every proxy."""
    key = (tmp_path / "state" / "ca" / "ca.key").read_bytes()
    (tmp_path / "state" / "ca" / name).write_bytes(b"?")
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        Authority.open(tmp_path / "state")
    (tmp_path / "state" / "ca" / name).unlink()
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        Authority.open(tmp_path / "state")
    assert name == "ca.key" or (tmp_path / "state" / "ca" / "ca.key").read_bytes() == key


def test_a_running_server_outlives_damage_to_its_files(authority: Authority) -> None:
    before = authority.server_certificate(["a.test"])
    good = (authority.folder / "ca.crt").read_bytes()
    files.replace(authority.folder / "ca.crt", b"?")
    assert authority.server_credentials_material() == before
    assert "cannot be read" in authority.problem
    files.replace(authority.folder / "ca.crt", good)
    assert authority.server_credentials_material() == before
    assert authority.problem == ""


@pytest.mark.parametrize("make", [locked, of_unknown_curve])
def test_a_key_that_cannot_be_loaded_leaves_the_last_one(
    tmp_path: Path, authority: Authority, make: Callable[[bytes], bytes]
) -> None:
    before, file = authority.server_certificate(["a.test"]), authority.folder / "ca.key"
    files.replace(file, make(file.read_bytes()))
    assert authority.server_credentials_material() == before
    assert "cannot be read" in authority.problem
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Authority.open(tmp_path / "state")


def test_a_key_of_another_authority_is_an_error(tmp_path: Path, authority: Authority) -> None:
    other = Authority.open(tmp_path / "other")
    files.replace(authority.folder / "ca.key", (other.folder / "ca.key").read_bytes())
    with pytest.raises(ConfigurationError, match=r"belongs to no certificate in ca\.crt"):
        Authority.open(tmp_path / "state")


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path, authority: Authority) -> None:
    (authority.folder / "ca.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="readable by others"):
        Authority.open(tmp_path / "state")


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="not accessible"):
        Authority.open(tmp_path / "file" / "state")


# -- nodes ------------------------------------------------------------------------------------------------------------


def test_a_node_gets_a_client_certificate_of_ninety_days_at_most(authority: Authority) -> None:
    pair = authority.issue_node("edge-1", "edge", {"role": "edge"})
    certificate = leaf(pair.certificate)
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == 90 * DAY
    assert purposes(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    key = serialization.load_pem_private_key(pair.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert issuing.same_key(certificate, key)
    found = identify(pair.certificate, authority.trust_domain, START)
    assert (found.id, found.cluster, dict(found.labels)) == ("edge-1", "edge", {"role": "edge"})
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"spiffe://{DEFAULT_TRUST_DOMAIN}/node/edge-1"]


def test_a_shorter_life_is_kept(authority: Authority) -> None:
    pair = authority.issue_node("edge-1", "edge", {}, timedelta(hours=1))
    assert leaf(pair.certificate).not_valid_after_utc == START + timedelta(hours=1)


@pytest.mark.parametrize("lifetime", [timedelta(0), -DAY, 91 * DAY])
def test_other_lives_are_refused(authority: Authority, lifetime: timedelta) -> None:
    with pytest.raises(ConfigurationError, match="up to 90 days"):
        authority.issue_node("edge-1", "edge", {}, lifetime)


@pytest.mark.parametrize("node_id", ["", ".", "..", "a/b", "a b", "é", "a\0", "%41", "a" * 256])
def test_ids_that_are_no_path_segment_are_refused(authority: Authority, node_id: str) -> None:
    with pytest.raises(ConfigurationError, match="is no node id"):
        authority.issue_node(node_id, "edge", {})


def test_what_a_node_serves_with_is_for_servers_alone(authority: Authority) -> None:
    """It says who the node is to its callers, and opens no stream: nor does it pass for a control plane."""
    certificate = leaf(authority.issue_serving("pay-1", 30 * DAY).certificate)
    assert purposes(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"spiffe://{DEFAULT_TRUST_DOMAIN}/node/pay-1"]
    assert certificate.not_valid_after_utc <= START + 30 * DAY
    with pytest.raises(Refused, match="client authentication alone"):
        identify(certificate.public_bytes(serialization.Encoding.PEM), DEFAULT_TRUST_DOMAIN, START)
    for node_id, lifetime in (("a/b", DAY), ("pay-1", 91 * DAY)):
        with pytest.raises(ConfigurationError):
            authority.issue_serving(node_id, lifetime)


def test_only_its_own_certificates_are_trusted(tmp_path: Path, authority: Authority, clock: Clock) -> None:
    other = Authority.open(tmp_path / "other", now=clock)
    mine, theirs = (a.issue_node("edge-1", "edge", {}).certificate for a in (authority, other))
    assert authority.trusts(mine)
    assert not authority.trusts(theirs)
    assert not authority.trusts(b"garbage")


# -- the server -------------------------------------------------------------------------------------------------------


def test_the_servers_certificate_covers_its_names_and_this_machine(authority: Authority) -> None:
    certificate = leaf(authority.server_certificate(["xds.example.com", "10.0.0.5", "2001:db8::5"]).chain)
    assert issuing.hosts(certificate) == {"xds.example.com", "10.0.0.5", "2001:db8::5", *LOCAL_NAMES}
    assert purposes(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_the_servers_certificate_is_kept_until_a_third_is_left(
    tmp_path: Path, authority: Authority, clock: Clock
) -> None:
    first = authority.server_certificate(["a.test"])
    clock.now += 59 * DAY
    assert authority.server_credentials_material() is first
    assert Authority.open(tmp_path / "state", now=clock).server_certificate(["a.test"]) == first
    clock.now += 2 * DAY
    second = authority.server_credentials_material()
    assert second != first
    assert leaf(second.chain).not_valid_after_utc > clock.now + 89 * DAY
    assert issuing.hosts(leaf(second.chain)) >= {"a.test"}


def test_another_name_needs_another_certificate_and_fewer_do_not(authority: Authority) -> None:
    first = authority.server_certificate(["a.test", "b.test"])
    assert authority.server_certificate(["b.test"]) == first
    assert authority.server_certificate(["c.test"]) != first


def test_a_host_name_that_no_certificate_can_hold_is_left_out(authority: Authority) -> None:
    assert issuing.hosts(leaf(authority.server_certificate(["büro", "", "a_b"]).chain)) == {"a_b", *LOCAL_NAMES}


def test_a_clock_set_back_needs_another_certificate(authority: Authority, clock: Clock) -> None:
    first = authority.server_certificate([])
    clock.now -= DAY
    assert authority.server_credentials_material() != first


def test_a_damaged_server_certificate_is_replaced(tmp_path: Path, authority: Authority, clock: Clock) -> None:
    first = authority.server_certificate(["a.test"])
    file = tmp_path / "state" / "server" / "server.pem"
    files.replace(file, b"?")
    assert authority.server_credentials_material() != first
    file.unlink()
    again = authority.server_credentials_material()
    assert Authority.open(tmp_path / "state", now=clock).server_certificate(["a.test"]) == again
    files.replace(file, locked(again.key) + again.chain)
    assert authority.server_credentials_material() != again


def test_what_cannot_be_written_is_used_from_memory(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "state" / "server").write_text("a file in the way of the folder")
    first = authority.server_certificate(["a.test"])
    assert "cannot be written" in authority.problem
    assert authority.server_credentials_material() == first
    (tmp_path / "state" / "server").unlink()
    authority.server_certificate(["b.test"])
    assert authority.problem == ""


# -- rotation ---------------------------------------------------------------------------------------------------------


def test_rotation_cuts_nobody_off(tmp_path: Path) -> None:
    """Old proxies have an old certificate and trust only the old authority: their bootstrap says so inline."""
    authority = Authority.open(tmp_path / "state")
    old_server, old_node, old_trust = authority.server_certificate([]), authority.issue_node("a", "", {}), b""
    old_trust = authority.trust_bundle
    assert handshake(tmp_path, old_server, old_node, old_trust)
    for _ in range(2):
        authority.rotate()
        server, node, trust = (
            authority.server_credentials_material(), authority.issue_node("b", "", {}), authority.trust_bundle,
        )  # fmt: skip
        assert server.chain.split(b"-----END")[0] != old_server.chain.split(b"-----END")[0], "issued anew"
        assert handshake(tmp_path, server, old_node, old_trust), "an old proxy reconnects"
        assert handshake(tmp_path, server, node, trust), "a new proxy connects"
        assert handshake(tmp_path, server, node, old_trust), "a renewed certificate in an old bootstrap"


def test_an_authority_that_is_distrusted_is_worth_nothing(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "state")
    old_node, old_trust = authority.issue_node("a", "", {}), authority.trust_bundle
    old = authority.rotate()
    node = authority.issue_node("b", "", {})
    assert authority.trusts(old_node.certificate)
    authority.distrust(old)
    server = authority.server_credentials_material()
    assert not authority.trusts(old_node.certificate)
    assert not handshake(tmp_path, server, old_node, authority.trust_bundle)
    assert not handshake(tmp_path, server, node, old_trust), "the old signature on the new authority is gone as well"
    assert handshake(tmp_path, server, node, authority.trust_bundle)


def test_the_issuing_authority_cannot_be_distrusted(authority: Authority) -> None:
    (issuing_one, *_) = authority.certificates()
    with pytest.raises(ConfigurationError, match="rotate first"):
        authority.distrust(issuing_one.fingerprint)
    with pytest.raises(ConfigurationError, match="no trusted authority has the fingerprint"):
        authority.distrust("00")


def test_a_running_server_sees_a_rotation_of_another_process(
    tmp_path: Path, authority: Authority, clock: Clock
) -> None:
    before = authority.server_certificate(["a.test"])
    Authority.open(tmp_path / "state", now=clock).rotate()
    after = authority.server_credentials_material()
    assert after != before
    assert issuing.hosts(leaf(after.chain)) >= {"a.test"}, "the other process kept the names"
    assert after.client_authorities.count(b"BEGIN") == 2


def test_every_step_of_a_rotation_is_a_working_authority(
    tmp_path: Path, authority: Authority, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two files, or read at that moment: key and certificate still belong together."""
    replace, steps = files.replace, []

    def observed(file: Path, content: bytes) -> None:
        replace(file, content)
        reader = Authority.open(tmp_path / "state", now=clock)
        steps.append((file.name, authority.trusts(reader.issue_node("n", "", {}).certificate)))

    monkeypatch.setattr(files, "replace", observed)
    Authority.open(tmp_path / "state", now=clock).rotate()
    assert steps[:3] == [("cross.crt", True), ("ca.crt", True), ("ca.key", True)]


def test_expired_authorities_are_dropped(authority: Authority, clock: Clock) -> None:
    authority.rotate()
    assert authority.trust_bundle.count(b"BEGIN") == 2
    clock.now += issuing.CA_LIFETIME - DAY
    authority.rotate()
    assert authority.trust_bundle.count(b"BEGIN") == 3
    clock.now += 2 * DAY
    assert authority.trust_bundle.count(b"BEGIN") == 1
    assert authority.server_credentials_material().client_authorities == authority.trust_bundle


def test_an_authority_near_its_end_is_succeeded_at_the_next_start(
    tmp_path: Path, authority: Authority, clock: Clock
) -> None:
    node = authority.issue_node("edge-1", "", {})
    clock.now += issuing.CA_LIFETIME - 179 * DAY
    again = Authority.open(tmp_path / "state", now=clock)
    assert again.trust_bundle.count(b"BEGIN") == 2
    assert again.trusts(node.certificate)
    assert Authority.open(tmp_path / "state", now=clock).trust_bundle == again.trust_bundle, "once"


def test_a_certificate_never_outlives_its_authority(tmp_path: Path, authority: Authority, clock: Clock) -> None:
    clock.now += issuing.CA_LIFETIME - DAY
    assert leaf(authority.issue_node("n", "", {}).certificate).not_valid_after_utc == START + issuing.CA_LIFETIME


# -- what `pki show` shows --------------------------------------------------------------------------------------------


def test_certificates_with_their_time_left(authority: Authority, clock: Clock) -> None:
    authority.server_certificate(["a.test"])
    authority.rotate()
    shown = authority.certificates()
    assert [status.role for status in shown] == ["issuing", "trusted", "server"]
    assert shown[2].names == tuple(sorted(["a.test", *LOCAL_NAMES]))
    assert not any(status.expired for status in shown)
    clock.now += 100 * DAY
    assert authority.certificates()[2].expired
    assert "PRIVATE" not in str(shown)


def test_any_certificate_can_be_looked_at(authority: Authority, clock: Clock) -> None:
    pair = authority.issue_node("edge-1", "edge", {}, 30 * DAY)
    assert authority.inspect(pair.certificate).remaining == 30 * DAY
    clock.now += 31 * DAY
    assert authority.inspect(pair.certificate).expired
