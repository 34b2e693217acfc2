"""A sink that remembers, and a source running on a real folder."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from controlplane.errors import Diagnostic
from controlplane.model.endpoint import Service
from controlplane.model.secret import Secret
from controlplane.names import ObjectRef, SecretRef, ServiceRef
from controlplane.sources.base import Sink, SpecObject
from tests.support.waiting import PATIENCE


class Source(Protocol):
    async def run(self, sink: Sink) -> None: ...


class Remembering:
    """What a source has said; `history` has one entry for each flush: what was in force then."""

    def __init__(self) -> None:
        self.objects: dict[ObjectRef, SpecObject] = {}
        self.surely_gone: list[str] = []
        self.secrets: dict[SecretRef, Secret] = {}
        self.services: dict[ServiceRef, Service] = {}
        self.versions: dict[ServiceRef, list[Service]] = {}
        self.said: dict[str, tuple[Diagnostic, ...]] = {}
        self.state = "starting"
        self.reason = ""
        self.endpoints_fail = self.specs_fail = False
        self.lost_namespaces: frozenset[str] = frozenset()
        self.failures = 0
        self.calls: list[str] = []
        self.history: list[tuple[dict[ObjectRef, SpecObject], dict[SecretRef, Secret]]] = []
        self.event_times: list[float] = []
        self._wake: set[asyncio.Future[None]] = set()

    def put(self, spec: SpecObject) -> None:
        self.objects[spec.ref] = spec
        self.calls.append(f"put {spec.ref.name}")

    def remove(self, ref: ObjectRef, *, sure: bool = False) -> None:
        self.objects.pop(ref, None)
        self.calls.append(f"remove {ref.name}")
        if sure:
            self.surely_gone.append(ref.name)

    def put_secret(self, ref: SecretRef, secret: Secret) -> None:
        self.secrets[ref] = secret
        self.calls.append(f"put {ref}")

    def remove_secret(self, ref: SecretRef) -> None:
        self.secrets.pop(ref, None)
        self.calls.append(f"remove {ref}")

    def put_service(self, ref: ServiceRef, service: Service, *, sure: bool = False) -> None:
        self.services[ref] = service
        self.versions.setdefault(ref, []).append(service)
        self.calls.append(f"put {ref}{' surely' if sure else ''}")

    def remove_service(self, ref: ServiceRef, *, sure: bool = False) -> None:
        self.services.pop(ref, None)
        self.calls.append(f"remove {ref}{' surely' if sure else ''}")

    def problems(self, source: str, subject: str, diagnostics: Sequence[Diagnostic]) -> None:
        self.said[subject] = tuple(diagnostics)
        if not diagnostics:
            del self.said[subject]

    def synced(self, source: str) -> None:
        self.state = "synced"

    def failed(
        self,
        source: str,
        reason: str,
        *,
        endpoints: bool = True,
        namespaces: frozenset[str] = frozenset(),
        specs: bool = True,
    ) -> None:
        self.state = "failed"
        self.reason = reason
        self.endpoints_fail = endpoints
        self.lost_namespaces = namespaces
        self.specs_fail = specs
        self.failures += 1

    def flush(self, event_time: float) -> None:
        assert event_time <= time.monotonic()
        self.history.append((dict(self.objects), dict(self.secrets)))
        self.event_times.append(event_time)
        for waiting in self._wake:
            if not waiting.done():
                waiting.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait, flush by flush, until something holds."""
        async with asyncio.timeout(PATIENCE):
            while not (self.history and holds()):
                waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._wake.add(waiting)
                try:
                    await waiting
                finally:
                    self._wake.discard(waiting)

    @property
    def names(self) -> list[str]:
        return sorted(ref.name for ref in self.objects)

    @property
    def codes(self) -> list[str]:
        return sorted(str(diagnostic.code) for one in self.said.values() for diagnostic in one)

    def port(self, name: str) -> int:
        """The port of the backend of `routes(name)`: which version of it is in force."""
        (spec,) = (spec for ref, spec in self.objects.items() if ref.name == name)
        return int(spec.text.split("port: ")[1].split("}")[0])


@asynccontextmanager
async def running(source: Source, *, ready: bool = True) -> AsyncIterator[Remembering]:
    """The source at work; `ready`: after it said that it is synced or failed."""
    sink = Remembering()
    task = asyncio.create_task(source.run(sink))
    try:
        if ready:
            await sink.until(lambda: sink.state != "starting")
        yield sink
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def replace_file(path: Path, text: str) -> None:
    """Write beside and rename, as careful writers do."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.rename(path)


def mount(folder: Path, generation: str, files: dict[str, str]) -> None:
    """Change all files of a folder at once, as the kubelet does it."""
    folder.mkdir(parents=True, exist_ok=True)
    inside = folder / f"..{generation}"
    inside.mkdir()
    for name, text in files.items():
        (inside / name).write_text(text)
    old = (folder / "..data").readlink() if (folder / "..data").is_symlink() else None
    (folder / "..data_tmp").symlink_to(inside.name)
    (folder / "..data_tmp").rename(folder / "..data")
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for link in folder.iterdir():
        if link.is_symlink() and link.name != "..data" and link.name not in files:
            link.unlink()
    if old is not None:
        for file in (folder / old).iterdir():
            file.unlink()
        (folder / old).rmdir()


def denied(monkeypatch: pytest.MonkeyPatch, path: Path) -> Callable[[], None]:
    """Make opening a file or listing a folder fail with EACCES, for root too; the result undoes it."""
    active = True

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def opening(name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
            if active and os.fspath(name) == os.fspath(path):
                raise PermissionError(13, "Permission denied", os.fspath(name))
            return real(name, *args, **kwargs)

        return opening

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(os, "scandir", refusing(os.scandir))

    def undo() -> None:
        nonlocal active
        active = False

    return undo
