"""Structured logs: constant phrases with fields; lines for people on a terminal, JSON elsewhere.

`configure` is called once, by the command that runs the process; every other module only says
`log = structlog.get_logger(__name__)`. Redaction comes as soon as all fields are there: nothing later sees a secret.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TextIO, cast

import structlog
from structlog.typing import Processor

REDACTED = "[redacted]"

_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:secret|secrets|password|passwd|token|tokens|key|keys|authorization|cookie|credential|credentials)$",
    re.IGNORECASE,
)
"""Names of fields whose texts and bytes are never shown, whatever they hold."""
_PRIVATE = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_USER_INFO = re.compile(r"(//[^/\s:@]*):[^/\s@]+@")
"""The password in an address."""
_JSON_WEB_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*")
_LONGEST = 4096
"""Characters of one field: a log is no place for bodies."""


BURST = 1_000
"""Lines of one phrase that may come at once: a fleet that connects. Whoever does something in a loop must not fill a disk."""
PER_SECOND = 50
"""And how many afterwards."""
_PHRASES = 1_000


@dataclass(slots=True)
class _Phrase:
    """How many lines of it may be said at a time, and how many were not said since the last one."""

    may: float
    at: float
    left_out: int = 0


class Gate:
    """Lets so many lines of each phrase through, and says how many it kept back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds."""
        self._clock = clock
        self._phrases: dict[str, _Phrase] = {}

    def left_out(self, phrase: str) -> int | None:
        """How many lines of this phrase were left out since the last that was not; None: this one is left out too."""
        now = self._clock()
        if (known := self._phrases.get(phrase)) is None:
            if len(self._phrases) >= _PHRASES:  # ours are constant, those of libraries need not be
                self._phrases.clear()
            known = self._phrases[phrase] = _Phrase(BURST, now)
        known.may = min(float(BURST), known.may + (now - known.at) * PER_SECOND)
        known.at = now
        if known.may < 1:
            known.left_out += 1
            return None
        known.may -= 1
        left_out, known.left_out = known.left_out, 0
        return left_out

    def process(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Of our own lines: the first after some that were left out says how many."""
        left_out = self.left_out(str(event.get("event", "")))
        if left_out is None:
            raise structlog.DropEvent
        return {**event, "left_out": left_out} if left_out else event


def _clean_text(text: str) -> str:
    return _redacted(f"{text[:_LONGEST]}… ({len(text):,} characters)" if len(text) > _LONGEST else text)


def _redacted(text: str) -> str:
    if "-----BEGIN" in text:
        text = _PRIVATE.sub(REDACTED, text)
    if "eyJ" in text:
        text = _JSON_WEB_TOKEN.sub(REDACTED, text)
    if "@" in text:
        text = _USER_INFO.sub(rf"\1:{REDACTED}@", text)
    return _BEARER.sub(rf"\1 {REDACTED}", text)


def clean(name: str, value: Any) -> Any:
    """The value of a field as it may be shown.

    Bytes are never shown; nor are texts under a name such as `token` or `private_key`. Other objects show their
    `repr`, which types that hold secrets redact themselves.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return REDACTED
    if isinstance(value, str):
        return REDACTED if _SECRET_NAME.search(name) else _clean_text(value)
    if isinstance(value, Mapping):
        return {str(key): clean(str(key), part) for key, part in value.items()}
    if isinstance(value, tuple) and type(value) is not tuple:
        return _clean_text(str(value))  # a named tuple: a reference to something, in its own words
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(name, part) for part in value]
    if isinstance(value, BaseException):
        return _clean_text(f"{type(value).__name__}: {value}")
    return _clean_text(str(value))


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Every field as it may be shown."""
    for name, value in event.items():
        if not name.startswith("_") and name != "exc_info":
            event[name] = _clean_text(value) if name == "event" and isinstance(value, str) else clean(name, value)
    return event


def _redact_traceback(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if isinstance(trace := event.get("exception"), str):
        event["exception"] = _redacted(trace)
    return event


class _Lossy:
    """A stream that loses what cannot be written: whoever logs goes on.

    On a full disk, and into a pipe that nobody reads any more.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(*, verbosity: int = 0, stream: TextIO | None = None, color: bool | None = None) -> None:
    """Send all logs, ours and those of libraries, to `stream` (stderr).

    `verbosity` is -1 for warnings and worse, 0 for what an operator wants to know, 1 and more for debugging. `color`
    None means: as the stream is.
    """
    out = stream or sys.stderr
    lossy = _Lossy(out)
    level = logging.WARNING if verbosity < 0 else logging.INFO if verbosity == 0 else logging.DEBUG
    people = out.isatty()
    gate = Gate() if verbosity <= 0 else None  # who debugs wants all
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        redact,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, _redact_traceback]
    if people:
        plain = structlog.dev.plain_traceback  # rich would be imported for a prettier one
        last.append(structlog.dev.ConsoleRenderer(colors=people if color is None else color, exception_formatter=plain))
    else:
        last += [
            structlog.processors.EventRenamer("message", "_message"),
            structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False),
        ]
    structlog.configure(
        processors=[*([gate.process] if gate else []), *first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, lossy)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(lossy)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *first],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    if gate:
        handler.addFilter(lambda record: gate.left_out(record.name) is not None)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries speak when something is wrong, or when somebody debugs.
    root.setLevel(logging.WARNING if verbosity <= 0 else logging.DEBUG if verbosity > 1 else logging.INFO)
    logging.captureWarnings(True)
