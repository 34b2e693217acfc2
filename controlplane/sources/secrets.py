"""Secrets from a folder: `<namespace>/<name>/<file>`, one folder a secret, as Kubernetes mounts them.

`SecretSource.run` pushes into a sink until it is cancelled; no input ends it. A secret is read whole or not at all: when
its folder has a `..data` symlink, all files come from the one generation that it names. What cannot be read keeps its
previous content. Bytes of secrets never appear in a diagnostic or a log.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import structlog

from controlplane.errors import Diagnostic, InvalidInput, Place
from controlplane.model.secret import Secret
from controlplane.names import SecretRef
from controlplane.sources.base import Sink
from controlplane.sources.beside import ANSWER_SECONDS, LOOKS, Beside
from controlplane.sources.reading import GENERATION, Signature, is_being_written, is_gone, read_regular
from controlplane.sources.watching import VOID, Wake, folder_identity, wakes_and_dues
from controlplane.spec.codes import Code

log = structlog.get_logger(__name__)

MAX_BYTES = 1024 * 1024
"""Bytes of one file."""
MAX_FILES = 256
"""Files of one secret."""
SETTLE_SECONDS = 0.3
"""How long a secret must rest before a file that it lacks, or that became empty, is believed."""
WRITER_SECONDS = 10.0
_LOOK_FOR_WRITER_SECONDS = 0.02
_TRIES = 5
_AT_ONCE = 8
"""Up to so many secrets are read in the event loop's thread; more are read beside it."""


@dataclass(frozen=True, slots=True)
class _State:
    """What a secret folder looks like: `generation` is what `..data` names, or None; files are name, path, signature."""

    generation: str | None
    files: tuple[tuple[str, str, Signature], ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """A secret and the state of its folder when it was read; None when the folder could not be read since."""

    state: _State | None
    secret: Secret


class SecretSource:
    """Watches a folder of secrets."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        name: str = "secrets",
        source: str = "files",
        last_good: Mapping[SecretRef, Secret] | None = None,
        settle_seconds: float = SETTLE_SECONDS,
        look_again: float = 1.0,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """`source` is the one whose objects may refer to these secrets; `last_good` is for what cannot be read."""
        self.name = name
        self._source = source
        self._root = os.fspath(root).rstrip("/") or "/"
        self._last_good = dict(last_good or {})
        self._settle_seconds = settle_seconds
        self._look_again = look_again
        self._beside = Beside(LOOKS * answer_seconds)
        self._answer_seconds = answer_seconds
        self._folder_read: tuple[int, int] | None = None
        self._known: dict[SecretRef, _Read] = {}
        self._due: dict[SecretRef, tuple[float, bool]] = {}  # when, and whether it has rested by then
        self._said: dict[str, tuple[Diagnostic, ...]] = {}
        self._failure: str | None = None
        self._synced = False
        self._dirty = False

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
                    log.exception("reading secrets failed", root=self._root)
                    self._known = {ref: _Read(None, read.secret) for ref, read in self._known.items()}

    def _until_due(self) -> float | None:
        return max(0.0, min(self._due.values())[0] - time.monotonic()) if self._due else None

    async def _refresh(self, wake: Wake, sink: Sink) -> None:
        """Look at what may have changed, and say it."""
        if wake.failure is not None:
            self._fail(sink, wake.failure, wake.at)
            return
        now = time.monotonic()
        changed = {ref for ref, (at, _) in self._due.items() if at <= now}
        rested = {ref for ref in changed if self._due.pop(ref)[1]}
        everything = wake.everything or not self._synced
        for path in wake.paths:
            match path.split("/"):
                case [namespace, name, _, *_] if not namespace.startswith(".") and not name.startswith("."):
                    changed.add(SecretRef(self._source, namespace, name))
                case _:
                    everything = True
        if everything:
            folder = folder_identity(self._root)
            try:
                listed, troubles = await self._beside.ask(self._list)
                if not (listed or troubles) and folder != self._folder_read:
                    self._refuse_void()
            except OSError as error:
                self._fail(sink, error, wake.at)
                return
            self._folder_read = folder
            self._say_troubles(sink, troubles)
            unlisted = {ref for ref in self._known if ref.namespace not in troubles}
            changed |= listed | unlisted | {ref for ref in self._last_good if ref.namespace in troubles}
        await self._read_all(sorted(changed), rested, sink)
        self._finish(sink, wake.at)

    def _list(self) -> tuple[set[SecretRef], dict[str, OSError]]:
        """Every secret folder, and the namespaces that cannot be read. Raises OSError for the root."""
        listed: set[SecretRef] = set()
        troubles: dict[str, OSError] = {}
        for namespace in _folders(self._root):
            try:
                names = _folders(f"{self._root}/{namespace}")
            except FileNotFoundError:
                continue
            except OSError as error:
                troubles[namespace] = error
                continue
            listed.update(SecretRef(self._source, namespace, name) for name in names)
        return listed, troubles

    def _refuse_void(self) -> None:
        """Raise OSError when there were secrets in another folder: this one may be what nothing is mounted on."""
        if self._known or (self._folder_read is None and self._last_good):
            raise OSError(errno.ENODATA, VOID)

    async def _read_all(self, refs: list[SecretRef], rested: set[SecretRef], sink: Sink) -> None:
        beside = len(refs) > _AT_ONCE
        for ref in refs:
            known = self._known.get(ref)
            folder = self._folder(ref)
            try:
                state = _state(folder)
                if known is not None and known.state == state and ref not in rested:
                    self._problem(sink, folder, ())
                    continue
                if self._synced and _being_written(state):
                    self._due[ref] = (time.monotonic() + _LOOK_FOR_WRITER_SECONDS, False)
                    continue
                read = await asyncio.to_thread(_read, folder) if beside else _read(folder)
            except FileNotFoundError as error:
                if is_gone(folder):
                    self._remove(ref, sink)
                    self._problem(sink, folder, ())
                else:
                    self._cannot(ref, sink, [_unreadable(folder, error)])
            except OSError as error:
                self._cannot(ref, sink, [_unreadable(folder, error)])
            except InvalidInput as error:
                self._cannot(ref, sink, error.diagnostics)
            else:
                self._problem(sink, folder, ())
                self._take(ref, read, known, sink, rested=ref in rested)

    def _take(self, ref: SecretRef, read: _Read, known: _Read | None, sink: Sink, *, rested: bool) -> None:
        """Push what was read, unless it lacks something that a moment ago was there."""
        before = known.secret if known else None
        if (
            before is not None
            and not rested
            and _lacks(read.secret, before)
            and not (read.state and read.state.generation)
        ):
            self._due[ref] = (time.monotonic() + self._settle_seconds, True)
            return
        self._due.pop(ref, None)
        if not read.secret.items:
            self._remove(ref, sink)
            return
        self._known[ref] = read
        if read.secret != before:
            self._dirty = True
            sink.put_secret(ref, read.secret)

    def _remove(self, ref: SecretRef, sink: Sink) -> None:
        self._due.pop(ref, None)
        if self._known.pop(ref, None) is not None:
            self._dirty = True
            sink.remove_secret(ref)

    def _cannot(self, ref: SecretRef, sink: Sink, diagnostics: Iterable[Diagnostic]) -> None:
        """The secret cannot be read: its previous content stays."""
        self._problem(sink, self._folder(ref), tuple(diagnostics))
        known = self._known.get(ref)
        if known is not None:
            self._known[ref] = _Read(None, known.secret)
        elif (last := self._last_good.get(ref)) is not None:
            self._known[ref] = _Read(None, last)
            self._dirty = True
            sink.put_secret(ref, last)

    def _say_troubles(self, sink: Sink, troubles: dict[str, OSError]) -> None:
        for namespace, error in troubles.items():
            self._problem(sink, f"{self._root}/{namespace}", (_unreadable(f"{self._root}/{namespace}", error),))
        for subject in list(self._said):
            namespace = subject.removeprefix(f"{self._root}/")
            if "/" not in namespace and namespace not in troubles:
                self._problem(sink, subject, ())

    def _problem(self, sink: Sink, subject: str, diagnostics: tuple[Diagnostic, ...]) -> None:
        if diagnostics != self._said.get(subject, ()):
            self._dirty = True
            sink.problems(self.name, subject, diagnostics)
            self._said[subject] = diagnostics
            if not diagnostics:
                del self._said[subject]

    def _fail(self, sink: Sink, error: OSError, at: float) -> None:
        reason = f"{self._root}: {error.strerror or error}"
        if reason == self._failure:
            return
        self._failure = reason
        self._synced = False
        if not self._known:
            for ref, secret in sorted(self._last_good.items()):
                self._known[ref] = _Read(None, secret)
                sink.put_secret(ref, secret)
        message = f"the folder cannot be read: {error.strerror or error}"
        help = "the secrets that were in it stay in force"
        if error.strerror == VOID:
            message = f"the folder is not believed: {VOID}"
            help += "; to have none, put an empty folder of a namespace and a secret there"
        self._problem(
            sink, self._root, (Diagnostic(Code.ROOT_UNREADABLE, message, help=help, place=Place(self._root)),)
        )
        sink.failed(self.name, reason)
        sink.flush(at)
        self._dirty = False

    def _finish(self, sink: Sink, at: float) -> None:
        if not self._synced:
            self._synced = self._dirty = True
            self._failure = None
            self._problem(sink, self._root, ())
            sink.synced(self.name)
        if self._dirty:
            self._dirty = False
            sink.flush(at)

    def _folder(self, ref: SecretRef) -> str:
        return f"{self._root.rstrip('/')}/{ref.namespace}/{ref.name}"


def _folders(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _unreadable(folder: str, error: OSError) -> Diagnostic:
    message = f"the secret cannot be read: {error.strerror or error}"
    return Diagnostic(Code.SECRET_UNREADABLE, message, help="its previous content stays", place=Place(folder))


def _lacks(now: Secret, before: Secret) -> bool:
    """Whether a file is missing or empty that was there."""
    return any(value and not now.get(key) for key, value in before.items)


def _generation(folder: str) -> str | None:
    """What `..data` names; None when the folder has none."""
    link = f"{folder}/{GENERATION}"
    return str(Path(link).readlink()) if Path(link).is_symlink() else None


def _state(folder: str) -> _State:
    """How the folder looks now. Raises OSError."""
    generation = _generation(folder)
    inside = folder if generation is None else os.path.join(folder, generation)  # noqa: PTH118  absolute targets too
    files = []
    with os.scandir(inside) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith("~"):
                continue
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                files.append((entry.name, f"{inside}/{entry.name}", Signature.of(status)))
    if len(files) > MAX_FILES:
        raise OSError(errno.EFBIG, f"more than {MAX_FILES} files")
    return _State(generation, tuple(sorted(files)))


def _read(folder: str) -> _Read:
    """All files of one generation. Raises OSError and InvalidInput."""
    for _ in range(_TRIES):
        try:
            state = _state(folder)
            files = {name: read_regular(path, f"{folder}/{name}", MAX_BYTES)[0] for name, path, _ in state.files}
            if _state(folder) == state:
                return _Read(state, Secret.of(files))
        except FileNotFoundError:
            if is_gone(folder):
                raise
    raise OSError(errno.EAGAIN, "it changes while it is read, or a file of it is a symlink to nothing")


def _being_written(state: _State) -> bool:
    return any(is_being_written(path, WRITER_SECONDS) for _, path, _ in state.files)
