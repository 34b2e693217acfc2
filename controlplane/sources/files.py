"""GatewaySpecs from a folder of YAML files.

`FileSource.run` pushes into a sink until it is cancelled; no input ends it. It reads only files that changed, parses
only documents whose text changed, and says only what differs. What is in force when something is broken, missing or
declared twice is decided in `declared`; this module reads, and judges how far the content of a file can be believed:

- a file that somebody has open for writing is not read yet;
- a file that was replaced by a rename is whole: everything it says counts at once;
- a file that was written in place may be half of one: what it adds and changes counts at once, what it lacks only
  after it rested for a while.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import structlog
from watchfiles import Change

from controlplane.errors import Diagnostic, InvalidInput, Place
from controlplane.names import ObjectRef
from controlplane.sources.ahead import Ahead
from controlplane.sources.base import Sink
from controlplane.sources.belief import Document, File, believed, known_document, read_document, restored
from controlplane.sources.beside import ANSWER_SECONDS, LOOKS, Beside
from controlplane.sources.declared import Content, Declared
from controlplane.sources.reading import (
    Signature,
    Tree,
    is_being_written,
    is_gone,
    is_spec_file,
    read_regular,
    scan,
    unreadable,
)
from controlplane.sources.watching import VOID, Wake, folder_identity, wakes_and_dues
from controlplane.spec.codes import Code
from controlplane.spec.parse import Load, parse_piece
from controlplane.spec.pieces import MAX_FILE, decode, split
from controlplane.spec.yaml import load

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.3
"""How long a file that was written in place must rest before what it lacks is believed."""
GONE_SECONDS = 0.3
"""How long a file must be missing: editors rename the old one away before they write the new one, and on a busy machine that
takes them some tens of milliseconds. A file that moved, or whose objects are declared elsewhere, need not wait."""
LONGEST_GONE_SECONDS = 1.0
"""How long one waits for others that go missing after it."""
WRITER_SECONDS = 10.0
"""A file that is open for writing but was not written to for so long is read all the same."""
_LOOK_FOR_WRITER_SECONDS = 0.02
_SLICE_SECONDS = 0.005
"""How long work holds the event loop before others have a turn."""
_LARGE = 256 * 1024
"""Characters of a text that is worked on beside the event loop."""
REPLACED_SECONDS = 5.0
"""For how long a folder that took the place of another is not believed to have lost what the other declared."""
_GENERATION_TRIES = 5

_NOW = math.inf
"""Since when a file is missing that this look missed: since the end of the look."""
_NO_CHANGE: frozenset[Change] = frozenset()
_EXISTED = frozenset({Change.added, Change.modified})


class FileSource:
    """Watches a folder of specs."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        name: str = "files",
        last_good: Mapping[ObjectRef, str] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        look_again: float = 1.0,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """`last_good`: texts of objects that were in force before, for what is broken or unreadable at the start."""
        self.name = name
        self._root = os.fspath(root).rstrip("/") or "/"
        self._last_good = dict(last_good or {})
        self._folder: tuple[int, int] | None = None
        self._replaced = -REPLACED_SECONDS
        self._settle_seconds = settle_seconds
        self._look_again = look_again
        self._beside = Beside(LOOKS * answer_seconds)
        self._answer_seconds = answer_seconds
        self._declared = Declared(name, self._last_good)
        self._files: dict[str, File] = {}
        self._tree = Tree()
        self._due: dict[str, tuple[float, frozenset[Change]]] = {}
        self._gone: dict[str, float] = {}
        self._failure: str | None = None
        self._synced = False
        self._folders_said: dict[str, tuple[Diagnostic, ...]] = {}
        self._dirty = False
        self._slice_began = 0.0
        self._looked = 0.0  # when the last look at what changed began

    async def run(self, sink: Sink) -> None:
        """Push everything, then what changes, until cancelled."""
        look = wakes_and_dues(
            self._root, look_again=self._look_again, until_due=self._until_due, answer_seconds=self._answer_seconds
        )
        async with aclosing(look) as stream:
            async for wake in stream:
                try:
                    await self._refresh(wake, sink)
                except Exception:  # no input may end the source (R7); everything is compared again soon
                    log.exception("reading specs failed", root=self._root)
                    for file in self._files.values():
                        file.unread = True

    def _until_due(self) -> float | None:
        if not self._due:
            return None
        return max(0.0, min(at for at, _ in self._due.values()) - time.monotonic())

    async def _refresh(self, wake: Wake, sink: Sink) -> None:
        """Look at what may have changed, and say it."""
        if wake.failure is not None:
            await self._fail(sink, wake.failure, wake.at)
            return
        self._looked = self._slice_began = time.monotonic()
        folder = folder_identity(self._root)
        changed, everything = self._to_read(wake)
        if everything or not self._synced or folder != self._folder:
            found = await self._look_at_everything(sink, wake)
            if found is None:
                return
            changed = found | changed
        paths = {self._path(name): name for name in changed}
        new = {path: known.size for path, name in paths.items() if (known := self._unread(name)) is not None}
        with Ahead(new) as ahead:
            for path in ahead.in_turn(paths):
                name = paths[path]
                await self._read(name, changed[name], patient=self._synced, load=ahead.load)
        await self._settle(sink, wake.at, folder)

    def _unread(self, name: str) -> Signature | None:
        """What is known of a file that was never read."""
        return self._tree.files.get(name) if name not in self._files else None

    def _to_read(self, wake: Wake) -> tuple[dict[str, frozenset[Change]], bool]:
        """The files to read, and whether the tree must be looked at."""
        changed: dict[str, frozenset[Change]] = {}
        everything = wake.everything
        for path, how in wake.paths.items():
            folder, _, name = path.rpartition("/")
            hidden = [part for part in path.split("/") if part.startswith(".")]
            if any(part.startswith("..") for part in hidden) or not path:
                everything = True  # a new generation of a mounted folder, or the folder itself
            elif hidden:
                continue
            elif is_spec_file(name) and folder in self._tree.folders and not self._is_folder(path):
                changed[path] = how
            elif is_spec_file(name) or self._is_folder(path):
                everything = True
        now = time.monotonic()
        for name in [name for name, (at, _) in self._due.items() if at <= now]:
            changed[name] = changed.get(name, _NO_CHANGE) | self._due.pop(name)[1]
        return changed, everything

    def _is_folder(self, path: str) -> bool:
        return path in self._tree.folders or Path(self._path(path)).is_dir()

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    async def _look_at_everything(self, sink: Sink, wake: Wake) -> dict[str, frozenset[Change]] | None:
        """The files that differ from what was read; None when the folder itself cannot be read."""
        try:
            tree = await self._beside.ask(scan, self._root, is_spec_file)
            if not (tree.files or tree.troubles) and folder_identity(self._root) != self._folder:
                self._refuse_void()
        except OSError as error:
            await self._fail(sink, error, wake.at)
            return None
        self._tree = tree
        self._say_folders(sink)
        changed = {
            name: _NO_CHANGE
            for name, signature in tree.files.items()
            if (known := self._files.get(name)) is None or not known.is_as(signature)
        }
        for name in self._files.keys() - tree.files.keys():
            if not any(name.startswith(f"{folder}/") for folder in tree.troubles):
                changed[name] = _NO_CHANGE
        for attempt in range(_GENERATION_TRIES):
            if not tree.generations or attempt == _GENERATION_TRIES - 1:
                break
            for name in changed:
                await self._read(name, _NO_CHANGE, patient=False)
            again = await self._beside.ask(scan, self._root, is_spec_file)
            if again.generations == tree.generations:
                return {}
            self._tree = tree = again
            changed = dict.fromkeys(tree.files.keys() | self._files.keys(), _NO_CHANGE)
        return changed

    def _refuse_void(self) -> None:
        """Raise OSError when something was declared in another folder: this one may be what nothing is mounted on."""
        if self._files or (self._folder is None and self._last_good):
            raise OSError(errno.ENODATA, VOID)

    async def _fail(self, sink: Sink, error: OSError, at: float) -> None:
        reason = f"{self._root}: {error.strerror or error}"
        if reason == self._failure:
            return
        first = self._failure is None
        self._failure = reason
        self._synced = False
        self._tree = Tree()
        if first and not self._files:
            await self._restore(doubt=True)
            self._declared.settle(sink, doubt=True)
        message = f"the folder cannot be read: {error.strerror or error}"
        help = "what was declared in it stays in force"
        if error.strerror == VOID:
            message = f"the folder is not believed: {VOID}"
            help += "; to declare nothing, put a file there that holds a comment alone"
        diagnostic = Diagnostic(Code.ROOT_UNREADABLE, message, help=help, place=Place(self._root))
        sink.problems(self.name, self._root, [diagnostic])
        sink.failed(self.name, reason)
        sink.flush(at)

    async def _settle(self, sink: Sink, at: float, folder: tuple[int, int] | None) -> None:
        """Say what is in force now; `folder` is the one that was looked at."""
        if folder_identity(self._root) is None:
            # Files that were found missing went with the folder, whether or not anybody has looked at that yet.
            await self._fail(sink, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), at)
            return
        self._forget_gone()
        doubt = bool(self._tree.troubles)
        await self._restore(doubt=doubt)
        if folder != self._folder:
            self._replaced = time.monotonic() if self._folder else self._replaced
            self._folder = folder
        same_folder = time.monotonic() - self._replaced > REPLACED_SECONDS
        said = self._declared.settle(sink, doubt=doubt, same_folder=same_folder) or self._dirty
        self._dirty = False
        if not self._synced:
            self._synced = said = True
            if self._failure is not None:
                self._failure = None
                sink.problems(self.name, self._root, ())
            sink.synced(self.name)
        if said:
            sink.flush(at)

    def _forget_gone(self) -> None:
        """Files that are gone declare nothing, unless they come back at once: some editors save by such a detour.

        This look must have found them missing, too: the process may have stood still since the one before.
        All that go together are gone in one step, however long it takes to look at each: one after the other would be
        so many removals that leave something, and never the loss of a folder.
        """
        if not self._gone:
            return
        now = time.monotonic()
        self._gone = {name: min(since, now) for name, since in self._gone.items()}
        together = min(max(self._gone.values()) + GONE_SECONDS, min(self._gone.values()) + LONGEST_GONE_SECONDS)
        for name, since in list(self._gone.items()):
            shown, due = self._path(name), max(together, since + GONE_SECONDS)
            if due <= self._looked or self._declared.all_elsewhere(shown):
                del self._gone[name], self._files[name]
                self._due.pop(name, None)
                self._declared.update(shown, None)
            else:
                self._due[name] = (due, _NO_CHANGE)

    async def _restore(self, *, doubt: bool) -> None:
        for ref in self._declared.needed(doubt=doubt):
            self._declared.restore(ref, restored(ref, self._last_good[ref]))
            await self._breathe()

    def _say_folders(self, sink: Sink) -> None:
        said: dict[str, tuple[Diagnostic, ...]] = {
            self._path(folder): (unreadable(self._path(folder), error),)
            for folder, error in self._tree.troubles.items()
        }
        for folder in said.keys() | self._folders_said.keys():
            if said.get(folder, ()) != self._folders_said.get(folder, ()):
                sink.problems(self.name, folder, said.get(folder, ()))
                self._dirty = True
        self._folders_said = said

    async def _read(self, name: str, how: frozenset[Change], *, patient: bool, load: Load = load) -> None:
        """Read one file and say what it declares now; `patient`: wait for somebody who is writing it."""
        shown = self._path(name)
        known, signature = self._files.get(name), None
        try:
            if patient and is_being_written(shown, WRITER_SECONDS):
                self._due[name] = (time.monotonic() + _LOOK_FOR_WRITER_SECONDS, how)
                return
            data, signature = await self._bytes(shown, large=not patient)
            if self._gone.pop(name, None) is not None:
                how |= {Change.deleted}
            if known is not None and known.is_as(signature):
                if name not in self._due:  # it rested, or nothing happened
                    self._believe(name, known, rested=True)
                return
            documents = await self._documents(decode(data, shown), shown, known.documents if known else [], load)
        except FileNotFoundError as error:
            if not is_gone(shown):  # a symlink to nothing
                self._cannot(name, [unreadable(shown, error)])
            elif known is not None:
                if how & _EXISTED:  # and is gone anew, since the last look
                    self._gone.pop(name, None)
                self._gone.setdefault(name, _NOW)
        except OSError as error:
            self._cannot(name, [unreadable(shown, error)])
        except InvalidInput as error:
            self._cannot(name, error.diagnostics, signature)
        else:
            # One that never could be read may be any file: it is not trusted to be whole.
            replaced = known is None or (known.signature is not None and known.signature.file != signature.file)
            file = File(signature, documents, in_place=known is not None and (not replaced or Change.deleted in how))
            self._files[name] = file
            self._believe(name, file, rested=False)

    async def _bytes(self, shown: str, *, large: bool) -> tuple[bytes, Signature]:
        if large:
            return await asyncio.to_thread(read_regular, shown, shown, MAX_FILE)
        return read_regular(shown, shown, MAX_FILE)

    def _cannot(
        self, name: str, diagnostics: tuple[Diagnostic, ...] | list[Diagnostic], signature: Signature | None = None
    ) -> None:
        """The file cannot be read: what it declared stays. `signature`: of what is none, or the file could not be opened."""
        shown = self._path(name)
        self._gone.pop(name, None)
        known = self._files.setdefault(name, File())
        known.signature, known.unread = signature or known.signature, True
        old = self._declared.content(shown) or Content()
        is_file = all(diagnostic.code != Code.NOT_A_FILE for diagnostic in diagnostics)
        doubt = "it cannot be read" if is_file or old.objects else ""
        self._declared.update(shown, replace(old, doubt=doubt, diagnostics=tuple(diagnostics)))

    async def _documents(self, text: str, shown: str, known: list[Document], load: Load) -> list[Document]:
        """The documents of a file; those whose text was known are not parsed again."""
        pieces = await asyncio.to_thread(split, text, shown) if len(text) > _LARGE else split(text, shown)
        by_text = {document.parsed.text: document for document in known}
        documents = []
        for piece in pieces:
            if (old := known_document(piece, by_text)) is not None:
                documents.append(old)
                continue
            if len(piece.text) > _LARGE:
                parsed = await asyncio.to_thread(parse_piece, piece, shown, self.name, load)
            else:
                parsed = parse_piece(piece, shown, self.name, load)
            documents.append(read_document(parsed, shown))
            await self._breathe()
        return documents

    def _believe(self, name: str, file: File, *, rested: bool) -> None:
        """Say what a file declares, as far as it can be believed; come back when that is less than it says."""
        shown = self._path(name)
        content, wait = believed(shown, file, self._declared.content(shown) or Content(), rested=rested)
        self._declared.update(shown, content)
        self._due.pop(name, None)
        if wait:
            self._due[name] = (time.monotonic() + self._settle_seconds, _NO_CHANGE)

    async def _breathe(self) -> None:
        if time.monotonic() - self._slice_began > _SLICE_SECONDS:
            await asyncio.sleep(0)
            self._slice_began = time.monotonic()
