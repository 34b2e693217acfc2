"""The specs that benches run on: N RouteSpecs of one route each, 100 documents a file, and edits of single documents.

Even routes answer directly and are the ones that get edited; odd ones lead to a backend and are watched by the
bystander. `Shape` says whether routes differ by host or by the first segment of their path.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

PER_FILE = 100
LABELS: Mapping[str, str] = {"role": "bench"}

_GATEWAY = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: GatewaySpec
metadata: {{name: bench, namespace: bench}}
spec:
  fleet: {{selector: {{matchLabels: {{role: bench}}}}}}
  listeners: [{{name: http, port: {listener_port}, protocol: HTTP}}]
  backends: [{{name: app, members: [{{static: {{address: 127.0.0.1, port: {backend_port}}}}}]}}]
"""
_ROUTE = """\
apiVersion: gatewayspec.dev/v1alpha1
kind: RouteSpec
metadata: {{name: route-{index}, namespace: bench}}
spec:
  gateway: bench/bench
  routes:
    - name: only
      hosts: [{host}]
      match: [{{path: {path}}}]
      public: true
      {action}
"""


class Shape(StrEnum):
    """By what the routes of a workload differ."""

    HOSTS = "hosts"
    SEGMENTS = "segments"


@dataclass(slots=True)
class Specs:
    """A folder of specs, and what its documents say now."""

    folder: Path
    shape: Shape
    count: int
    listener_port: int
    backend_port: int
    _documents: dict[int, str] = field(default_factory=dict)

    def write(self) -> None:
        """Every file."""
        self.folder.mkdir(parents=True)
        (self.folder / "gateway.yaml").write_text(self.gateway())
        self._documents = {index: self.document(index) for index in range(self.count)}
        for number in range(-(-self.count // PER_FILE)):
            self._file(number).write_text(self._content(number))

    def host(self, index: int) -> str:
        """The host of a route."""
        return f"h{index}.example.com" if self.shape is Shape.HOSTS else "one.example.com"

    def path(self, index: int, extra: str = "") -> str:
        """A path that a route takes; `extra` is the one that an edit added."""
        return (f"/s{index}" if self.shape is Shape.SEGMENTS else "/") if not extra else f"/{extra}"

    def save(self, index: int, body: str, extra: str | None = None) -> tuple[float, float]:
        """Write one document differently, with its file replaced by a rename: time.monotonic() around the rename."""
        self._documents[index] = self.document(index, body, extra)
        number = index // PER_FILE
        file = self._file(number)
        written = file.with_name(f".{file.name}.new")
        written.write_text(self._content(number))
        before = time.monotonic()
        written.replace(file)
        return before, time.monotonic()

    def _file(self, number: int) -> Path:
        return self.folder / f"routes-{number:04d}.yaml"

    def _content(self, number: int) -> str:
        indexes = range(number * PER_FILE, min(self.count, (number + 1) * PER_FILE))
        return "---\n".join(self._documents[index] for index in indexes)

    def gateway(self) -> str:
        """The gateway's own document."""
        return _GATEWAY.format(listener_port=self.listener_port, backend_port=self.backend_port)

    def document(self, index: int, body: str = "start", extra: str | None = None) -> str:
        """One route; with `extra`, it takes that path alone."""
        path = f"{{exact: /{extra}}}" if extra else f"{{prefix: {self.path(index)}}}"
        action = "to: [{backend: app}]" if index % 2 else f"respond: {{status: 200, body: {body}}}"
        return _ROUTE.format(index=index, host=self.host(index), path=path, action=action)
