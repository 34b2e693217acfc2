"""Configured certificates: what is in force is always a pair that fits, whatever lies on the disk meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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

    def keys(self) -> ConfiguredKeys:
        return ConfiguredKeys(self.certificate, self.key, self.client_ca)


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
