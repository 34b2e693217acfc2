"""Rewrites: how the path is changed on its way to the backend, and the proof that it is still one.

Envoy sends what a substitution leaves, be it no path at all: the backend would answer 400, or take it for something
else. So a rewrite is refused unless it certainly leaves a `/` at the beginning of every path that its route takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from controlplane.model import regex
from controlplane.model.characters import characters
from controlplane.model.regex import Part
from controlplane.model.written import Choice, OneOf, Regex, Written
from controlplane.spec.match import IN_PATHS, LiteralPath, PathMatch


class RegexReplace(Written):
    r"""RE2 pattern and substitution (`\1` is the first group); every place that the pattern matches is replaced."""

    pattern: Regex
    substitution: Annotated[str, Field(max_length=1024)]

    @model_validator(mode="after")
    def _groups_exist(self) -> RegexReplace:
        groups = regex.check(self.pattern)
        if re.search(r"[^\x21-\x7e]|#", self.substitution):
            raise ValueError('a substitution has printable ASCII characters and no "#"; encode others as "%20"')
        for reference in re.findall(r"\\(.?)", self.substitution):
            if not (reference == "\\" or (reference.isascii() and reference.isdigit())):
                raise ValueError(f'"\\{reference}" in a substitution is neither a group such as "\\1" nor "\\\\"')
            if reference.isdigit() and int(reference) > groups:
                raise ValueError(f"\\{reference} is not a group of the pattern, which has {groups}")
        return self

    def leaves_a_path(self, match: PathMatch) -> bool:
        """Whether what is left of every path that the match takes certainly begins with a slash."""
        whole, groups = regex.read(self.pattern, IN_PATHS)
        if not (whole.empty or whole.first & _SLASH) or not self._reaches_the_beginning(match):
            return True
        for item in self._items():
            if isinstance(item, str):
                return item == "/"
            part = groups.parts[item] if item else whole
            if item and item not in groups.leading and part.first & ~_SLASH:
                return False
            follows = groups.follows.get(item, Part(0))
            # A leading group is not empty where what follows it cannot begin as a path does.
            leads = item in groups.leading and not (follows.empty or follows.first & _SLASH)
            filled = leads or not part.empty
            if filled and item not in groups.optional:
                return True
        # Nothing takes the place of the beginning: what follows it is the path.
        literal, alone = regex.literal(self.pattern)
        anchored = self.pattern.startswith("^") and not self.pattern.endswith("$")
        return alone and anchored and _beginning(match).startswith(f"{literal}/")

    def _reaches_the_beginning(self, match: PathMatch) -> bool:
        """Whether the pattern may match at the beginning of a path, as far as its and the path's literal texts say."""
        begins, (literal, _) = _beginning(match), regex.literal(self.pattern)
        if re.fullmatch(r"\^?/[+*?]?\$", self.pattern):  # trailing slashes
            return begins == "/"
        return begins.startswith(literal) or (match.exact is None and literal.startswith(begins))

    def _items(self) -> Iterator[str | int]:
        """The characters and the groups of the substitution."""
        for reference, character in re.findall(r"\\(.)|(.)", self.substitution):
            yield int(reference) if reference.isdigit() else reference or character


_SLASH = characters("/")


def _beginning(match: PathMatch) -> str:
    """The text that every path of a match begins with."""
    if match.regex is not None:
        return regex.literal(match.regex)[0] or "/"
    if match.template is not None:
        return re.split(r"[*{]", match.template, maxsplit=1)[0]
    return match.exact or match.prefix or "/"


class PathChange(OneOf):
    """How the path is rewritten."""

    choices = (Choice(("replace_prefix", "replace_full", "replace_regex")),)

    replace_prefix: LiteralPath | None = None
    replace_full: LiteralPath | None = None
    replace_regex: RegexReplace | None = None
