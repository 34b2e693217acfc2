"""The YAML of many files, read by a second process while this one does the rest: Python does one thing at a time, and YAML is
a third of what a start with many specs does.

The process begins with the last file, and whoever asks does with the first, so that they meet. What it has read is found by its
text, and a text that it has not read, for whatever reason, is read here: nothing depends on the process, nor on what files
held when it looked. It ends when its work is done or not wanted any more, and with the process that began it.

    python -m controlplane.sources.ahead < NAMES > READ        each name ends in NUL; `_read_all` says what it writes
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from controlplane.errors import InvalidInput
from controlplane.sources.reading import read_regular
from controlplane.spec.pieces import decode, split
from controlplane.spec.yaml import Loaded, load

WORTH_BYTES = 128 * 1024
"""Below this, the second process would hardly have begun."""
LARGEST_BYTES = 8 * 1024 * 1024
"""Of a file: all that is read of it is held until it is told."""
END_SECONDS = 1.0
"""How long the end of the process is waited for; it takes milliseconds."""
_PIPE_BYTES = 1024 * 1024
_LENGTH_BYTES = 4


class Ahead:
    """Documents of files that are being read by another process."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        """Begin with these files, in the order in which they will be asked for. `sizes`: bytes of each."""
        self._buffer = bytearray()
        self._files: deque[str] = deque()  # that have been read, and not asked for
        self._read: dict[str, Any] = {}
        self._process = _begun(list(sizes)) if sum(sizes.values()) >= WORTH_BYTES and _processors() > 1 else None

    def __enter__(self) -> Self:
        """It ends with the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """See `close`."""
        self.close()

    def load(self, text: str) -> Loaded:
        """As `yaml.load`: what has been read is given away, and only once."""
        if self._process is not None and text not in self._read:
            self._take()
        try:
            return Loaded(self._read.pop(text))
        except KeyError:
            return load(text)

    def in_turn(self, files: Collection[str]) -> Iterator[str]:
        """The files in an order in which the least is to be read here: those that have been read come first."""
        left = set(files)
        for file in files:
            while file in left:
                self._take()
                first = self._files.popleft() if self._files else file
                if first in left:
                    left.remove(first)
                    yield first

    def close(self) -> None:
        """Nothing more is wanted."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # a file system that does not answer holds even who is killed
                self._process.wait(END_SECONDS)
            self._process = None
        self._read.clear()

    def _take(self) -> None:
        """What has been written so far."""
        if self._process is None:
            return
        assert self._process.stdout is not None
        with suppress(BlockingIOError):
            while more := os.read(self._process.stdout.fileno(), _PIPE_BYTES):
                self._buffer += more
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES])
            if len(self._buffer) < end:
                return
            file, read = _answers.decode(memoryview(self._buffer)[_LENGTH_BYTES:end])
            del self._buffer[:end]
            self._files.append(file)
            self._read.update(read)


_answers = msgspec.msgpack.Decoder(tuple[str, dict[str, Any]])


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begun(files: Sequence[str]) -> subprocess.Popen[bytes] | None:
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "controlplane.sources.ahead"],  # nothing of the folder that this is called in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what goes wrong there is done here, and what is wrong is said here
            pipesize=_PIPE_BYTES,
        )
    except OSError:  # no room for another process
        return None
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    names = [os.fsencode(file) + b"\0" for file in reversed(files)]
    fits = bisect_right(list(accumulate(map(len, names))), _PIPE_BYTES)  # more would wait for the process to begin
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(b"".join(names[:fits]))
    return process


def _read_all(names: bytes, to: BinaryIO) -> None:
    """For each file: the length of what follows (4 bytes, most significant first), and as MessagePack its name and what each
    text in it says. What is at fault is left out, and what aliases make much larger than it is written; so is a large file, and
    one with a number or a name that MessagePack has not.
    """
    for name in names.split(b"\0")[:-1]:
        file, read = os.fsdecode(name), {}
        with suppress(OSError, InvalidInput, OverflowError, UnicodeEncodeError):
            for piece in split(decode(read_regular(file, file, LARGEST_BYTES)[0], file), file):
                loaded = load(piece.text)
                data = msgspec.msgpack.encode(loaded.data)
                if not loaded.faults and len(data) <= 2 * len(piece.text):
                    read[piece.text] = msgspec.Raw(data)
            answer = msgspec.msgpack.encode((file, read))
            to.write(len(answer).to_bytes(_LENGTH_BYTES) + answer)
            to.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that began this one, which then ends it
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _read_all(sys.stdin.buffer.read(), sys.stdout.buffer)
