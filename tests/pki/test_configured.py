"""Configured certificates: what is in force is always a pair that fits, whatever lies on the disk meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from controlplane.errors import ConfigurationError
from controlplane.pki.configured import ConfiguredKeys
from tests.protocol.keys import Authority, Pair, locked, of_unknown_curve

NODE = "spiffe://example.test/node/n"


class Disk:
    """The three files, as somebody replaces them one by one."""

    def __init__(self, folder: Path, pair: Pair, authority: bytes) -> None:
        self.certificate, self.key, self.client_ca = folder / "tls.crt", folder / "tls.key", folder / "ca.crt"
        self.put(self.certificate, pair.certificate)
        self.put(self.key, pair.key)
        self.put(self.client_ca, authority)

    @staticmethod
    def put(file: Path, content: bytes) -> None:
        beside = file.with_suffix(".new")
        beside.write_bytes(content)
        beside.rename(file)

    def keys(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> ConfiguredKeys:
        return ConfiguredKeys(self.certificate, self.key, self.client_ca, now)


def test_a_pair_is_taken_when_it_fits_and_not_before(tmp_path: Path) -> None:
    authority = Authority()
    old, new = authority.issue(), authority.issue()
    disk = Disk(tmp_path, old, authority.certificate)
    keys = disk.keys()
    before = keys.server_credentials_material()
    assert keys.server_credentials_material() is before
    disk.put(disk.certificate, new.certificate)
    assert keys.server_credentials_material() is before
    assert "not the key of the certificate" in keys.problem
    disk.put(disk.key, new.key)
    assert keys.server_credentials_material() == (new.certificate, new.key, authority.certificate)
    assert keys.problem == ""
    disk.put(disk.key, old.key)  # the wrong order too
    assert keys.server_credentials_material().key == new.key
    disk.put(disk.certificate, old.certificate)
    assert keys.server_credentials_material() == before


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
@pytest.mark.parametrize("which", ["certificate", "key", "client_ca"])
def test_what_cannot_be_used_is_not(tmp_path: Path, which: str, content: bytes) -> None:
    authority = Authority()
    disk = Disk(tmp_path, authority.issue(), authority.certificate)
    keys = disk.keys()
    file = getattr(disk, which)
    before = file.read_bytes()
    disk.put(file, content)
    assert keys.server_credentials_material().client_authorities == authority.certificate
    assert str(file) in keys.problem
    with pytest.raises(ConfigurationError, match=str(file)):
        disk.keys()
    file.unlink()
    keys.server_credentials_material()
    assert str(file) in keys.problem
    disk.put(file, before)
    keys.server_credentials_material()
    assert not keys.problem


@pytest.mark.parametrize("make", [locked, of_unknown_curve])
def test_a_key_that_cannot_be_loaded_leaves_the_last_one(tmp_path: Path, make: Callable[[bytes], bytes]) -> None:
    authority = Authority()
    pair = authority.issue()
    disk = Disk(tmp_path, pair, authority.certificate)
    keys = disk.keys()
    disk.put(disk.key, make(pair.key))
    assert keys.server_credentials_material().key == pair.key
    assert keys.problem.startswith(f"{disk.key}: no unencrypted private key in PEM")
    with pytest.raises(ConfigurationError, match=str(disk.key)):
        disk.keys()


def test_trust_follows_the_file_and_the_chain_of_the_peer(tmp_path: Path) -> None:
    root, other = Authority("root"), Authority("other")
    between = root.subordinate("between")
    disk = Disk(tmp_path, root.issue(), root.certificate)
    keys = disk.keys()
    near, far = root.issue(NODE).certificate, between.issue(NODE).certificate
    assert keys.trusts(near)
    assert not keys.trusts(far)
    assert keys.trusts(far, between.certificate)
    assert not keys.trusts(other.issue(NODE).certificate, between.certificate)
    assert not keys.trusts(b"garbage")
    disk.put(disk.client_ca, other.certificate + root.certificate)  # both, while the fleet moves
    assert keys.trusts(near)
    disk.put(disk.client_ca, other.certificate)
    assert not keys.trusts(near)
    assert not keys.trusts(far, between.certificate)


def usage(*, signs: bool) -> x509.KeyUsage:
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = dict.fromkeys((*names, "crl_sign", "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not signs, key_cert_sign=signs, **others)


CA = x509.BasicConstraints(ca=True, path_length=None)


@pytest.mark.parametrize(
    ("extensions", "trusted"),
    [
        ((CA,), True),
        ((CA, usage(signs=True)), True),
        ((x509.BasicConstraints(ca=True, path_length=0),), True),
        ((x509.BasicConstraints(ca=False, path_length=None),), False),
        ((usage(signs=True),), False),
        ((CA, usage(signs=False)), False),
    ],
)
def test_only_authorities_lead_to_one_that_is_trusted(
    tmp_path: Path, extensions: tuple[x509.ExtensionType, ...], trusted: bool
) -> None:
    """Who has a node's key, and that of an authority which is trusted no more, could sign for any node."""
    root, stolen, between = Authority("root"), Authority("stolen"), Authority("between")
    keys = Disk(tmp_path, root.issue(), root.certificate).keys()
    leaf, bridge = between.issue(NODE).certificate, stolen.certify(between)
    chain = leaf + root.certify(between, *extensions) + bridge
    assert keys.trusts(leaf, chain) is trusted
    assert not keys.trusts(leaf, leaf + bridge)


def test_authorities_are_worth_nothing_before_and_after_their_time(tmp_path: Path) -> None:
    root, between = Authority("root"), Authority("between")
    now = datetime.now(UTC)
    keys = Disk(tmp_path, root.issue(), root.certificate).keys(lambda: now)
    near, far = root.issue(NODE).certificate, between.issue(NODE).certificate
    short = root.certify(between, lifetime=timedelta(hours=1))
    assert keys.trusts(far, far + short)
    now += timedelta(hours=2)
    assert not keys.trusts(far, far + short)
    assert keys.trusts(near)
    now += timedelta(days=2)
    assert not keys.trusts(near)
    now -= timedelta(days=9)
    assert not keys.trusts(near)


def test_the_length_of_a_path_is_kept(tmp_path: Path) -> None:
    root, upper, lower = Authority("root"), Authority("upper"), Authority("lower")
    keys = Disk(tmp_path, root.issue(), root.certificate).keys()
    leaf = lower.issue(NODE).certificate
    for length, trusted in ((0, False), (1, True)):
        upper_pem = root.certify(upper, x509.BasicConstraints(ca=True, path_length=length))
        assert keys.trusts(leaf, leaf + upper.certify(lower) + upper_pem) is trusted


@pytest.mark.parametrize("order", [1, -1])
def test_every_way_is_tried_to_an_authority_that_is_trusted(tmp_path: Path, order: int) -> None:
    """As the handshake does: an authority may be signed by the old root and by the new one."""
    old, new, between = Authority("old"), Authority("new"), Authority("between")
    keys = Disk(tmp_path, new.issue(), new.certificate).keys()
    leaf = between.issue(NODE).certificate
    chain = [old.certify(between), new.certify(between)][::order]
    assert keys.trusts(leaf, leaf + b"".join(chain))


def test_a_pair_out_of_its_time_does_not_replace_one_that_is_within(tmp_path: Path) -> None:
    """A renewal that put the former pair in place again would lock out every proxy."""
    authority = Authority()
    good, ended = authority.issue(lifetime=timedelta(hours=2)), authority.issue(lifetime=timedelta(hours=-1))
    disk = Disk(tmp_path, good, authority.certificate)
    now = datetime.now(UTC)
    keys = disk.keys(lambda: now)
    disk.put(disk.key, ended.key)
    disk.put(disk.certificate, ended.certificate)
    assert keys.server_credentials_material().chain == good.certificate
    assert f"{disk.certificate}: not within its time" in keys.problem
    now += timedelta(hours=3)
    assert keys.server_credentials_material().chain == ended.certificate, "the one in force is no better any more"
