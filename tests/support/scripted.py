"""Sources of services that do what a test says, inside a real control plane.

`ScriptedPlane` is the control plane as users run it, with some sources more: what `kubernetes/aws-eu` or `consul/dc`
know is written by the test. The other half of this module is the program that it runs.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import yaml

from controlplane.names import SecretRef, ServiceRef
from controlplane.sources.base import Sink
from tests.support import services as written
from tests.support.controlplane import ControlPlane
from tests.support.waiting import until

Said = dict[str, Any]


class ScriptedPlane(ControlPlane):
    """A control plane with scripted sources. `world` is by source and service, in the short form of `services`."""

    def __init__(self, folder: Path, world: dict[str, Said], configuration: Said | None = None) -> None:
        super().__init__(folder, insecure=True)
        self.world = world
        self.broken: dict[str, str] = {}
        self._script = folder / "script.json"
        self._socket = str(folder / "script")
        config = folder / "controlplane.yaml"
        config.write_text(yaml.safe_dump(configuration or {}))
        self.config = config
        self.program = [sys.executable, "-m", "tests.support.scripted", str(self._script), self._socket]

    def start(self, *, ready: bool = True) -> Self:
        """Start it with the world as it is now; sources in `broken` fail, or are "silent"."""
        self._script.write_text(json.dumps({"world": self.world, "broken": self.broken}))
        return super().start(ready=ready)

    def tell(self, source: str, **what: Any) -> Any:
        """Say something to a source: `services` (with `sure`), `fail`, `work`, `confirms`; returns what it was asked."""
        for name, service in what.get("services", {}).items():
            self.world[source][name] = service
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(self._socket)
            connection.sendall(json.dumps({"source": source, **what}).encode() + b"\n")
            return json.loads(connection.makefile().readline())

    def source(self, name: str) -> Any:
        """A source as the admin API shows it."""
        return next(one for one in self.json("/v1/sources")["sources"] if one["name"] == name)

    def source_becomes(self, name: str, what: str, **fields: Any) -> None:
        """Wait until the admin API shows these fields of a source."""
        until(lambda: fields.items() <= self.source(name).items(), what)


class ScriptedSource:
    """One source: pushes what is wanted of its world, when it works."""

    def __init__(self, name: str, world: dict[ServiceRef, Said | None], broken: str | None) -> None:
        self.name = name
        self._world = world
        self._broken = broken
        self._confirms = True
        self._confirmed: list[str] = []
        self._wanted: set[ServiceRef] = set()
        self._secrets: set[SecretRef] = set()
        self._caught_up = True
        self._sink: Sink

    held = 0

    @property
    def caught_up(self) -> bool:
        return self._caught_up or self._broken not in {None, "silent"}

    async def run(self, sink: Sink) -> None:
        self._sink = sink
        if self._broken is None:
            sink.synced(self.name)
        elif self._broken != "silent":
            sink.failed(self.name, self._broken)
        sink.flush(time.monotonic())
        await asyncio.Event().wait()

    def want(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        fresh = set(services) - self._wanted
        self._wanted |= set(services)
        self._secrets |= set(secrets)
        self._caught_up = False
        asyncio.get_running_loop().call_soon(self._answer, fresh)

    def forget(self, services: Collection[ServiceRef], secrets: Collection[SecretRef]) -> None:
        self._wanted -= set(services)
        self._secrets -= set(secrets)

    def confirm(self, services: Collection[ServiceRef]) -> None:
        self._confirmed += [ref.name for ref in services]
        if self._confirms:
            asyncio.get_running_loop().call_soon(lambda: self._push(services, sure=True))

    def _answer(self, fresh: Collection[ServiceRef]) -> None:
        if self._broken is None:
            self._caught_up = True
            self._push(fresh)

    def _push(self, refs: Collection[ServiceRef], *, sure: bool = False) -> None:
        if self._broken is not None:
            return
        for ref in sorted(set(refs) & self._wanted):
            said = self._world.get(ref)
            if said is None:
                self._sink.remove_service(ref, sure=sure)
            else:
                self._sink.put_service(ref, written.service(said), sure=sure)
        self._sink.flush(time.monotonic())

    def do(self, said: Said) -> Said:
        """What a test says."""
        self._confirms = said.get("confirms", self._confirms)
        if "fail" in said:
            self._broken = said["fail"]
            namespaces = frozenset(said.get("namespaces", ()))
            endpoints = said.get("endpoints", not namespaces)
            self._sink.failed(self.name, said["fail"], endpoints=endpoints, namespaces=namespaces)
            self._sink.flush(time.monotonic())
        if said.get("work"):
            self._broken, self._caught_up = None, True
            self._sink.synced(self.name)
            self._push(self._wanted, sure=said.get("sure", False))
        changed = {written.ref(self.name, name): one for name, one in said.get("services", {}).items()}
        self._world |= changed
        if changed:
            self._push(changed, sure=said.get("sure", False))
        return {"wanted": sorted(map(str, self._wanted)), "confirmed": self._confirmed}


def main(script: str, address: str, arguments: list[str]) -> int:
    """Run the command line with the sources of a script."""
    from controlplane.app import process
    from controlplane.cli.main import run

    content = json.loads(Path(script).read_text())
    sources = {
        name: ScriptedSource(
            name,
            {written.ref(name, service): said for service, said in world.items()},
            content["broken"].get(name),
        )
        for name, world in content["world"].items()
    }
    Path(address).unlink(missing_ok=True)
    make = process.make_sources

    def with_ours(*arguments: Any) -> list[Any]:
        return [*make(*arguments), *sources.values(), _Listening(sources, address)]

    process.make_sources = with_ours  # type: ignore[attr-defined]
    return run(arguments)


class _Listening:
    """A source that says nothing, and passes on what the test says to the others."""

    name = "script"

    def __init__(self, sources: dict[str, ScriptedSource], address: str) -> None:
        self._sources = sources
        self._address = address

    async def run(self, sink: Sink) -> None:
        server = await asyncio.start_unix_server(self._serve, self._address)
        sink.synced(self.name)
        sink.flush(time.monotonic())
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = json.loads(await reader.readline())
        writer.write(json.dumps(self._sources[said["source"]].do(said)).encode() + b"\n")
        await writer.drain()
        writer.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
