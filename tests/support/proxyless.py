"""Real gRPC without a proxy, for tests: clients and servers with a bootstrap of the control plane, and what they call."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from tests.support.children import LEASHED, Child
from tests.support.tools import needs, tool
from tests.support.waiting import PATIENCE

GO = "grpc-go-xds"
"""The client and server of tests/tools/grpc; all else is grpcio, which is the C core of gRPC."""


def _program(module: str, *, go: bool) -> list[str]:
    if not go:
        return [sys.executable, "-m", module]
    needs(GO)
    return [str(tool(GO))]


@dataclass(frozen=True)
class Answer:
    """How one call ended."""

    code: str
    text: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.code == "OK"


class Client:
    """A process with one xDS client; a context manager that ends it."""

    def __init__(self, bootstrap: Path | None = None, *, go: bool = False) -> None:
        """`bootstrap` None: calls say it."""
        variables = {"PATH": "/usr/bin:/bin", **({"GRPC_XDS_BOOTSTRAP": str(bootstrap)} if bootstrap else {})}
        command = _program("tests.support.grpc_client", go=go)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LEASHED, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
            cwd=Path(__file__).parents[2],
            text=True,
        )

    def calls(
        self,
        target: str,
        method: str = "/a.A/B",
        count: int = 1,
        *,
        timeout: float = PATIENCE,
        metadata: Iterable[tuple[str, str]] = (),
        options: Iterable[tuple[str, str]] = (),
        bootstrap: str = "",
    ) -> list[Answer]:
        """Several calls, one after the other."""
        told = {
            "target": f"xds:///{target}",
            "method": method,
            "count": count,
            "timeout": timeout,
            "metadata": list(metadata),
            "options": list(options),
            "bootstrap": bootstrap,
        }
        return self._tell(told)

    def close(self) -> None:
        """End all its streams."""
        self._tell({"close": True})

    def _tell(self, told: dict[str, Any]) -> list[Answer]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client has ended"
        return [Answer(**one) for one in json.loads(line)]

    def call(self, target: str, method: str = "/a.A/B", **more: Any) -> Answer:
        """One call."""
        return self.calls(target, method, **more)[0]

    def count(self, target: str, count: int, method: str = "/a.A/B") -> Counter[str]:
        """How many of these calls were answered by whom; all must be."""
        answers = self.calls(target, method, count)
        assert {one.code for one in answers} == {"OK"}, answers
        return Counter(one.text for one in answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def server(bootstrap: Path, address: str, log: Path, *, go: bool = False) -> Child:
    """An xDS-enabled server on this address."""
    command = _program("tests.support.grpc_server", go=go)
    return Child([*command, address], log, GRPC_XDS_BOOTSTRAP=str(bootstrap))


class Backend:
    """A gRPC server that answers with its name; methods that end with `/Slow` when it is released."""

    def __init__(self, name: str, credentials: Any = None) -> None:
        self._released = threading.Event()
        methods = _Methods(name, self._released)
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8), handlers=[methods])
        self.calls = methods.calls
        self.port: int = (
            self._server.add_insecure_port("127.0.0.1:0")
            if credentials is None
            else self._server.add_secure_port("127.0.0.1:0", credentials)
        )
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._released.set()
        self._server.stop(0).wait(PATIENCE)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    def __init__(self, name: str, released: threading.Event) -> None:
        self._name = name
        self._released = released
        self.calls: Counter[str] = Counter()

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda _message, context: self._answer(details.method, context))

    def _answer(self, method: str, context: Any) -> bytes:
        self.calls[method] += 1
        if method.endswith("/Slow"):
            self._released.wait(PATIENCE)
        if method.endswith("/Busy") and self.calls[method] % 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy twice of three times")
        if method.endswith("/Who"):
            names = context.auth_context().get("x509_subject_alternative_name", [b"nobody"])
            return b",".join(names)
        return self._name.encode()
