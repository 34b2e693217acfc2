"""How the demo looks: sections of aligned lines on stdout, colours on a terminal only, no animation."""

from __future__ import annotations

import sys

from controlplane.cli.demo.checks import Check
from controlplane.cli.terminal import Paint, Terminal, has_color

NAME, REQUEST = 20, 18
"""Widths of the columns."""


class Page:
    """Prints the story as it happens, and remembers whether every check held. With `-q` only what failed is printed."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._begun = False
        self.good = True

    def _paint(self, text: str, paint: Paint) -> str:
        return self._terminal.paint(text, paint, sys.stdout)

    def line(self, text: str = "") -> None:
        """A line as it is."""
        if self._terminal.verbosity >= 0:
            self._terminal.data(text + "\n")

    def section(self, title: str, detail: str = "") -> None:
        """A new section, apart from the one before."""
        if self._begun:
            self.line()
        self._begun = True
        self.line(self._paint(title, Paint.STRONG) + (f"  {self._paint(detail, Paint.FAINT)}" if detail else ""))
        self.line()

    def step(self, name: str, detail: str) -> None:
        """Something that was done."""
        self.line(f"      {name:<{NAME}} {self._paint(detail, Paint.FAINT)}")

    def check(self, check: Check) -> None:
        """One line of a table."""
        if check.holds:
            mark, paint, wanted = "ok  ", Paint.GOOD, ""
        else:
            mark, paint, wanted = "FAIL", Paint.ERROR, f"  {self._paint(f'(expected: {check.expected})', Paint.ERROR)}"
            self.good = False
        text = f"{self._paint(mark, paint)}  {check.name:<{NAME}} {check.request:<{REQUEST}}  {check.got}{wanted}"
        if check.holds:
            self.line(text)
        else:
            self._terminal.data(text)

    def quote(self, command: str, output: str) -> None:
        """A command and what it printed."""
        self.line(self._paint(f"      $ {command}", Paint.FAINT))
        for line in output.rstrip().splitlines():
            self.line(f"      {line}".rstrip())
        self.line()

    def verdict(self) -> None:
        """Whether every check held."""
        self.line()
        if self.good:
            self.line(self._paint("every check held", Paint.GOOD))
        else:
            self._terminal.data(self._paint("some checks failed", Paint.ERROR))

    @property
    def color(self) -> str:
        """What commands whose output is quoted are told: `always` or `never`."""
        return "always" if has_color(sys.stdout, self._terminal.color) else "never"
