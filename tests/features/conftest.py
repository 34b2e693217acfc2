"""What feature tests share: the backends of one worker, and folders of secrets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.backends import GrpcBackend, HttpBackend


@dataclass(frozen=True)
class Backends:
    """The backends that run throughout; in specs `@one@` is the port of `one`."""

    one: HttpBackend
    two: HttpBackend
    grpc: GrpcBackend

    @property
    def ports(self) -> dict[str, int]:
        return {"one": self.one.port, "two": self.two.port, "grpc": self.grpc.port}


@pytest.fixture(scope="session")
def all_backends() -> Iterator[Backends]:
    with HttpBackend("one") as one, HttpBackend("two") as two, GrpcBackend() as grpc:
        yield Backends(one, two, grpc)


@pytest.fixture
def backends(all_backends: Backends) -> Backends:
    """The backends, with their counters at zero."""
    all_backends.one.forget()
    all_backends.two.forget()
    return all_backends


@pytest.fixture(scope="session")
def ports(all_backends: Backends) -> dict[str, int]:
    return all_backends.ports
