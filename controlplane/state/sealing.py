"""Encryption at rest: the key of the state folder (or a given one) and the sealing of secrets with it.

Used by `store` alone. AES-256-GCM; the row's name is authenticated with the content, so that sealed bytes moved to
another row are refused. A nonce is random: safe for 2^32 writes with one key, some centuries of rotation.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controlplane.errors import ConfigurationError, ControlPlaneError
from controlplane.model.secret import Secret
from controlplane.names import SecretRef
from controlplane.state.content import Note

KEY_BYTES = 32
_ID_BYTES = 8
_NONCE_BYTES = 12
_CONTEXT = b"controlplane state secret 1"
_NOTE_CONTEXT = b"controlplane state history 1"


class Unsealable(ControlPlaneError):
    """Sealed bytes that this key does not open; `other_key` when they were sealed with a different one."""

    def __init__(self, reason: str, *, other_key: bool) -> None:
        """Keep both."""
        super().__init__(reason)
        self.other_key = other_key


class Sealer:
    """Seals and opens secrets and notes with one key."""

    __slots__ = ("_cipher", "_id")

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes."""
        self._cipher = AESGCM(key)
        # Tells "another key" from "damaged"; a hash does not give the key away.
        self._id = hashlib.blake2b(key, digest_size=_ID_BYTES, person=b"state key id").digest()

    def seal(self, ref: SecretRef, secret: Secret) -> bytes:
        """Key id, nonce, ciphertext."""
        return self._seal(msgspec.msgpack.encode(secret.items), _bound_to(_CONTEXT, ref))

    def open(self, ref: SecretRef, sealed: bytes) -> Secret:
        """The secret that was sealed for this name; raises Unsealable."""
        try:
            clear = self._open(sealed, _bound_to(_CONTEXT, ref))
            return Secret(msgspec.msgpack.decode(clear, type=tuple[tuple[str, bytes], ...]))
        except (ValueError, msgspec.MsgspecError):
            raise Unsealable("its encrypted bytes are damaged", other_key=False) from None

    def seal_note(self, note: Note, content: bytes) -> bytes:
        """The same of a note."""
        return self._seal(content, _bound_to(_NOTE_CONTEXT, note))

    def open_note(self, note: Note, sealed: bytes) -> bytes:
        """The content that was sealed for this note; raises Unsealable."""
        return self._open(sealed, _bound_to(_NOTE_CONTEXT, note))

    def _seal(self, clear: bytes, bound_to: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return self._id + nonce + self._cipher.encrypt(nonce, clear, bound_to)

    def _open(self, sealed: bytes, bound_to: bytes) -> bytes:
        if sealed[:_ID_BYTES] != self._id:
            raise Unsealable("it was encrypted with another key", other_key=True)
        nonce, body = sealed[_ID_BYTES : _ID_BYTES + _NONCE_BYTES], sealed[_ID_BYTES + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, bound_to)
        except (InvalidTag, ValueError):
            raise Unsealable("its encrypted bytes are damaged", other_key=False) from None


def given_key(file: Path) -> bytes:
    """A key that somebody else keeps: a file of 32 bytes, or of their 64 hexadecimal digits."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: the key of the state cannot be read: {error.strerror}") from error
    key = _key_in(content)
    if key is None:
        raise ConfigurationError(f"{file}: not a key: {KEY_BYTES} bytes, or {2 * KEY_BYTES} hexadecimal digits")
    return key


def own_key(file: Path) -> bytes:
    """The key of the state folder (0600), made on first use; of two processes, one makes it. Raises OSError."""
    if not file.exists():
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(os.urandom(KEY_BYTES))
                out.flush()
                os.fsync(out.fileno())
            # A link appears whole or not at all, and never replaces a key that is there already.
            os.link(name, file)
        except FileExistsError:
            pass
        finally:
            Path(name).unlink(missing_ok=True)
    key = _key_in(file.read_bytes())
    if key is None:
        raise OSError(f"{file} is not a key of {KEY_BYTES} bytes; remove it to start with a new one")
    return key


def _key_in(content: bytes) -> bytes | None:
    if len(content) == KEY_BYTES:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        return None
    return key if len(key) == KEY_BYTES else None


def _bound_to(context: bytes, name: tuple[str, ...]) -> bytes:
    return msgspec.msgpack.encode((context, *name))
