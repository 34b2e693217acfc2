"""How long filter chains that are in no spec any more have routes: as long as proxies drain their connections.

Who refused the listener without such a chain goes on with the one that has it, and takes new connections there. Both
outlive this process, so chains are noted on disk. (ADR 8)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import structlog

from controlplane.app.in_place import InPlace
from controlplane.app.loop import CommitLoop
from controlplane.compile.chains import keep_chain
from controlplane.compile.compiler import Compiler
from controlplane.compile.rows import Chain
from controlplane.names import ElementKey
from controlplane.spec.listener import ListenerRedirect
from controlplane.state.content import Note

log = structlog.get_logger(__name__)

DRAIN_SECONDS = 610.0
"""Envoy closes connections of an old filter chain after `--drain-time-s`, 600 unless told otherwise."""

KIND = "draining chain"
"""Of the notes."""

Key = tuple[ElementKey, str]
"""A listener and the group of a chain that it had."""


class Draining:
    """Told of every commit and asked now and then; gives up what has been kept for long enough."""

    def __init__(
        self, compiler: Compiler, loop: CommitLoop, in_place: InPlace, note: Callable[[Note, bytes | None], None]
    ) -> None:
        """`note` keeps something for the next start; None forgets it."""
        self._tables = compiler.tables
        self._kept = compiler.tables.kept_chains
        self._loop = loop
        self._in_place = in_place
        self._note = note
        self._since: dict[Key, tuple[Chain, float]] = {}

    def restore(self, notes: Mapping[Note, bytes], now: float) -> None:
        """What the process before this one kept. Its time begins anew: a proxy may not have had the edit until now."""
        for note in [note for note in notes if note.kind == KIND]:
            try:
                chain = msgspec.msgpack.decode(notes[note], type=Chain, dec_hook=_written)
            except msgspec.MsgspecError as error:
                log.warning("state", problem=f"a chain that proxies drain is not read, and has no routes: {error}")
                self._note(note, None)
                continue
            keep_chain(self._tables, chain)
            self._since[chain.listener, chain.group] = chain, now

    def look(self, now: float) -> None:
        """Note what is kept since it was looked the last time, and forget what is not any more."""
        for key in self._since.keys() - self._kept.rows.keys():
            del self._since[key]
            self._note(_name(key), None)
        for key, chain in self._kept.rows.items():
            if (known := self._since.get(key)) is None or known[0] != chain:
                self._since[key] = chain, now
                self._note(_name(key), msgspec.msgpack.encode(chain, enc_hook=_plain))

    def tick(self, now: float) -> None:
        """Let go of the chains whose connections have ended."""
        self.look(now)
        look = bool(self._since) and self._in_place.look(now)
        named = self._in_place.named(group for _, group in self._since) if look else ()
        self._since |= {key: (chain, now) for key, (chain, _) in self._since.items() if key[1] in named}
        for key in [key for key, (_, since) in self._since.items() if now - since >= DRAIN_SECONDS]:
            self._loop.edit(("chain", key), partial(Compiler.release_chain, key=key))
            self._loop.flush(now)


def _name(key: Key) -> Note:
    (listener, element), group = key
    return Note(KIND, "\n".join((*listener, element, group)))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True)


def _written(kind: type, value: Any) -> Any:
    return kind.model_validate(value) if issubclass(kind, ListenerRedirect) else value
