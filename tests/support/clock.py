"""A wall clock of a child that is wrong by what a file says; the clock of nobody else is concerned."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

_SHIFTED = """\
import datetime, os, pathlib, time

_file, _time = pathlib.Path(os.environ["SHIFT"]), time.time
time.time = lambda: _time() + float(_file.read_text())


class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=float(_file.read_text()))


datetime.datetime = Shifted
"""


class Clock:
    """Right, until it jumps. Python reads it when it starts with this environment; what is not Python's own does not."""

    def __init__(self, folder: Path) -> None:
        self._shift = folder / "shift"
        self.jump(timedelta())
        path = folder / "clock"
        path.mkdir()
        (path / "sitecustomize.py").write_text(_SHIFTED)
        self.environment = {"PYTHONPATH": str(path), "SHIFT": str(self._shift)}

    def jump(self, ahead: timedelta) -> None:
        """It is wrong by so much from now on."""
        beside = self._shift.with_suffix(".new")
        beside.write_text(str(ahead.total_seconds()))
        beside.rename(self._shift)
