"""Logs: JSON unless somebody watches, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from controlplane.model import secret
from controlplane.model.secret import Secret
from controlplane.names import SecretRef
from controlplane.telemetry import log

CANARY = "c4n4ry-9f8e7d6c5b4a"


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    out = io.StringIO()
    yield out
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_event_is_one_line_of_json(stream: io.StringIO) -> None:
    log.configure(stream=stream)
    structlog.get_logger().info("pushed", node="edge-1", resources=3)
    (line,) = _lines(stream)
    assert line["message"] == "pushed"
    assert line["level"] == "info"
    assert (line["node"], line["resources"]) == ("edge-1", 3)
    assert line["timestamp"].endswith("Z")


def test_a_log_that_cannot_be_written_ends_nothing(stream: io.StringIO) -> None:
    """A full disk, or a pipe whose reader is gone."""

    class Full(io.StringIO):
        def write(self, _: str = "") -> int:
            raise OSError(28, "No space left on device")

        flush = write  # type: ignore[assignment]

    log.configure(stream=Full())
    structlog.get_logger().info("pushed")
    logging.getLogger("library").error("no room")
    log.configure(stream=stream)
    structlog.get_logger().info("pushed")
    assert len(_lines(stream)) == 1


def test_a_newline_in_a_field_does_not_forge_a_line(stream: io.StringIO) -> None:
    log.configure(stream=stream)
    structlog.get_logger().info("nack", detail='x\n{"message": "forged"}')
    assert len(_lines(stream)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"secret": Secret.of({"tls.key": CANARY.encode()})},
        {"found": {"a": [Secret.of({"tls.key": CANARY.encode()})]}},
        {"body": CANARY.encode()},
        {"body": bytearray(CANARY.encode())},
        {"parts": [CANARY.encode()]},
        {"token": CANARY},
        {"access_token": CANARY},
        {"private_key": CANARY},
        {"password": CANARY},
        {"headers": {"authorization": CANARY, "Cookie": CANARY}},
        {"detail": f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----"},
        {"detail": f"-----BEGIN PRIVATE KEY-----\n{CANARY}"},
        {"detail": f"Authorization: Bearer {CANARY}"},
        {"detail": f"eyJhbGciOiJub25lIn0.eyJ{CANARY.replace('-', '')}.{CANARY.replace('-', '')}"},
    ],
)
def test_secrets_are_not_printed(stream: io.StringIO, fields: dict[str, Any]) -> None:
    log.configure(stream=stream)
    structlog.get_logger().warning("refused", **fields)
    assert CANARY not in stream.getvalue()
    assert CANARY.replace("-", "") not in stream.getvalue()
    assert log.REDACTED in stream.getvalue()


def test_bound_and_contextual_fields_are_redacted_too(stream: io.StringIO) -> None:
    log.configure(stream=stream)
    with structlog.contextvars.bound_contextvars(token=CANARY):
        structlog.get_logger().bind(api_key=CANARY).info("served")
    assert CANARY not in stream.getvalue()


def test_a_reference_to_a_secret_is_printed(stream: io.StringIO) -> None:
    """Its name is what an operator needs to find it."""
    log.configure(stream=stream)
    structlog.get_logger().warning("unreadable", secret=SecretRef("files", "platform", "shop-tls"))
    assert _lines(stream)[0]["secret"] == "platform/shop-tls"


def test_libraries_speak_through_the_same_chain(stream: io.StringIO) -> None:
    log.configure(stream=stream)
    logging.getLogger("grpc").warning("handshake failed: %s", f"Bearer {CANARY}")
    logging.getLogger("grpc").info("chatter")
    (line,) = _lines(stream)
    assert line["logger"] == "grpc"
    assert CANARY not in stream.getvalue()


def test_an_exception_is_one_line_with_its_traceback(stream: io.StringIO) -> None:
    log.configure(stream=stream)
    try:
        raise ValueError(f"-----BEGIN PRIVATE KEY-----{CANARY}")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = _lines(stream)
    assert "Traceback" in line["exception"]
    assert CANARY not in stream.getvalue()


def test_quiet_and_verbose(stream: io.StringIO) -> None:
    log.configure(verbosity=-1, stream=stream)
    structlog.get_logger().info("pushed")
    assert not stream.getvalue()
    log.configure(verbosity=1, stream=stream)
    structlog.get_logger().debug("asked")
    assert _lines(stream)[0]["message"] == "asked"


def test_a_terminal_gets_lines_for_people(stream: io.StringIO) -> None:
    screen = _Screen()
    log.configure(stream=screen, color=False)
    structlog.get_logger().info("pushed", node="edge-1", token=CANARY)
    assert "node=edge-1" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()
    assert CANARY not in screen.getvalue()


def test_a_long_field_is_cut(stream: io.StringIO) -> None:
    log.configure(stream=stream)
    structlog.get_logger().info("nack", detail="x" * 100_000)
    assert len(stream.getvalue()) < 5000


def test_both_redactions_look_alike() -> None:
    assert log.REDACTED == secret.REDACTED


def test_a_phrase_that_comes_in_a_loop_does_not_fill_the_disk(stream: io.StringIO) -> None:
    """One node that reconnects or refuses all the time; what else is said is said."""
    log.configure(stream=stream)
    logger = structlog.get_logger()
    for number in range(3 * log.BURST):
        logger.warning("denied", node="edge-1", number=number)
    logger.info("published", sequence=1)
    lines = _lines(stream)
    assert lines[-1]["message"] == "published"
    assert log.BURST <= len(lines) < 2 * log.BURST


def test_what_was_left_out_is_counted_by_the_next_line() -> None:
    now = 0.0
    gate = log.Gate(lambda: now)
    found = [gate.left_out("denied") for _ in range(log.BURST + 7)]
    assert found == [0] * log.BURST + [None] * 7
    assert gate.left_out("other") == 0
    now = 1.0
    assert gate.left_out("denied") == 7
    assert gate.process(None, "", {"event": "denied"}) == {"event": "denied"}
    assert [gate.left_out("denied") for _ in range(log.PER_SECOND - 1)] == [0] * (log.PER_SECOND - 2) + [None]
    now = 2.0
    assert gate.process(None, "", {"event": "denied"}) == {"event": "denied", "left_out": 1}
    for number in range(5_000):
        gate.left_out(f"library {number}")
    assert len(gate._phrases) <= 1_000


@pytest.mark.parametrize("screen", [False, True], ids=["json", "terminal"])
def test_no_secret_in_a_traceback_or_an_address(screen: bool, stream: io.StringIO) -> None:
    out = _Screen() if screen else stream
    log.configure(stream=out, color=False)
    logger = structlog.get_logger()
    logger.error("source failed", reason=f"https://cp:{CANARY}@consul.example:8501/v1 refused")
    try:
        raise ValueError(f"Authorization: Bearer {CANARY}, https://cp:{CANARY}@consul.example/")
    except ValueError:
        logger.exception("it broke")
        logging.getLogger("library").exception("it broke there")
    said = out.getvalue()
    assert CANARY not in said
    assert said.count("Traceback") == 2
    assert "cp:[redacted]@consul.example:8501" in said
