"""Changes under a folder as Linux tells them: at once, without a thread, and at no cost while nothing happens.

`watching` uses it where it exists. It speaks inotify(7) through the C library and knows neither specs nor secrets.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from pathlib import Path

from watchfiles import Change

GATHER_SECONDS = 0.005
"""How long changes that are not complete yet (a file was created, or written to and not closed) wait for the rest."""

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_OVERFLOW, _IGNORED, _ONLY_FOLDERS, _IS_FOLDER = 0x4000, 0x8000, 0x1000000, 0x40000000
_WANTED = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLY_FOLDERS
_COMPLETE = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE
_EVENT = struct.Struct("iIII")

_c = ctypes.CDLL(None, use_errno=True)


async def changes(root: str, longest: float) -> AsyncGenerator[dict[str, frozenset[Change]], None]:
    """How paths under `root` changed, relative to it; nothing after `longest` seconds without a change.

    The first item comes, empty, when the watch is set up. The path "" stands for changes that nobody can name any
    more. Raises OSError when the folder cannot be watched.
    """
    loop = asyncio.get_running_loop()
    with closing(_Watch(root)) as watch:
        await asyncio.to_thread(watch.enter, "")
        loop.add_reader(watch.descriptor, watch.readable, loop)
        try:
            yield {}
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(longest):
                        await watch.due.wait()
                watch.due.clear()
                found, watch.found = watch.found, {}
                yield found
        finally:
            loop.remove_reader(watch.descriptor)


class _Watch:
    """An inotify instance with a watch on every folder of a tree; symlinks are followed, each folder is entered once."""

    def __init__(self, root: str) -> None:
        self.found: dict[str, frozenset[Change]] = {}
        self.due = asyncio.Event()
        self._root = root
        self._folders: dict[int, str] = {}  # by watch descriptor: the folder's path relative to the root
        self.descriptor = _checked(_c.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), root)

    def close(self) -> None:
        os.close(self.descriptor)

    def readable(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take in what the kernel has; wake whoever waits, now or, for what is not complete, a little later."""
        complete = False
        with suppress(BlockingIOError):
            while data := os.read(self.descriptor, 65536):
                offset = 0
                while offset < len(data):
                    watch, mask, _, length = _EVENT.unpack_from(data, offset)
                    offset += _EVENT.size + length
                    name = os.fsdecode(data[offset - length : offset].rstrip(b"\0"))
                    complete |= self._take(watch, mask, name)
        if complete:
            self.due.set()
        elif self.found:
            loop.call_later(GATHER_SECONDS, self.due.set)

    def _take(self, watch: int, mask: int, name: str) -> bool:
        """Note one event; whether it completes a change."""
        if mask & _OVERFLOW:
            self.found[""] = frozenset()
            with suppress(OSError):
                self.enter("")
            return True
        if mask & _IGNORED:
            self._folders.pop(watch, None)
            return False
        if (folder := self._folders.get(watch)) is None:
            return False
        path = f"{folder}/{name}" if folder and name else folder or name
        if mask & _MOVED_FROM and mask & _IS_FOLDER:
            self._leave(path)
        elif mask & (_CREATE | _MOVED_TO) and (mask & _IS_FOLDER or Path(self._root, path).is_symlink()):
            with suppress(OSError):  # whoever is woken finds out what is wrong with it
                self.enter(path)
        if mask & (_CREATE | _MOVED_TO):
            change = Change.added
        elif mask & (_DELETE | _MOVED_FROM):
            change = Change.deleted
        else:
            change = Change.modified
        self.found[path] = self.found.get(path, frozenset()) | {change}
        # A writer's file under a hidden name is about to be renamed.
        return bool(mask & (_COMPLETE | _IS_FOLDER)) and not name.startswith(".")

    def enter(self, folder: str) -> None:
        """Watch a folder and all under it. Raises OSError for the folder itself."""
        real, linked = [folder], list[str]()
        while real or linked:
            entered = real.pop() if real else linked.pop()
            try:
                if not self._watch(entered):
                    continue
                with os.scandir(Path(self._root, entered)) as entries:
                    for entry in entries:
                        # Nothing looks into `.git`; `..data` and what it names are where mounted files live.
                        if entry.name.startswith(".") and not entry.name.startswith(".."):
                            continue
                        with suppress(OSError):  # a symlink to itself
                            if entry.is_dir():
                                path = f"{entered}/{entry.name}" if entered else entry.name
                                (linked if entry.is_symlink() else real).append(path)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                if entered == folder:
                    raise

    def _watch(self, folder: str) -> bool:
        """Watch one folder; False when it is watched already under another path."""
        path = os.fsencode(Path(self._root, folder))
        watch = _checked(_c.inotify_add_watch(self.descriptor, path, _WANTED), folder)
        return self._folders.setdefault(watch, folder) == folder

    def _leave(self, folder: str) -> None:
        inside = f"{folder}/"
        for watch in [watch for watch, path in self._folders.items() if path == folder or path.startswith(inside)]:
            del self._folders[watch]
            _c.inotify_rm_watch(self.descriptor, watch)


def _checked(result: int, path: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result
