"""A regex rewrite that may leave something that is no path is an error: the backend would get a malformed request."""

from __future__ import annotations

import re
from itertools import product

import pytest

from controlplane.spec.match import PathMatch
from controlplane.spec.parse import parse_text
from controlplane.spec.rewrite import RegexReplace
from tests.spec.documents import routes

PATTERNS = (
    "^/a", "/a", "^/a/?", "^/a/(.*)$", "^/(.*)$", "^(.*)/a", "^(/[^/]+)(/.*)$", "^/a(/.*)?$", "(/|b)", "a|(/)", "/+$",
    "/$", "^/$", "/*", "a*", ".+", ".*", "b", "[^/]+", "b$", ".b$", "^/(a)(b)?", "^(.)+$", "^(/.)+$", "(a?)(/)", "^(?:/a)*(/.*)$",
    "^(.*?)a(.*)$", "^(.*)(a*)/b", "(a?)(b?)a", "((a*)b)?(/)", "(?:(a*))b", "(/*)+b", "(/*)+a", "(a*)|b", "(?i)^/A", r"\ba", "^", "^(a|/)b", "^/{2}a", "//a",
)  # fmt: skip
SUBSTITUTIONS = ("", "/", "x", "/x", r"\0", r"\1", r"\1/", r"x\1", r"\1x", r"/\1", r"\2\1", r"\1\2", r"\\/")
MATCHES = (
    {"prefix": "/"}, {"prefix": "/a"}, {"prefix": "/a/"}, {"prefix": "/b"}, {"exact": "/"}, {"exact": "/a"}, {"exact": "/b/a"},
    {"template": "/a/{x}"}, {"template": "/{x}"}, {"regex": "/a.*"}, {"regex": ".*b"},
)  # fmt: skip
PATHS = ["/" + "".join(rest) for size in range(5) for rest in product("ab/", repeat=size)]


def takes(match: dict[str, str], path: str) -> bool:
    (kind, text), *_ = match.items()
    match kind:
        case "exact":
            return path == text
        case "prefix":
            return path.startswith(text) if text.endswith("/") else f"{path}/".startswith(f"{text}/")
        case "template":
            return re.fullmatch(re.sub(r"\{x\}", "[^/]+", text), path) is not None
    return re.fullmatch(text, path) is not None


def replaced(change: RegexReplace, path: str) -> str:
    """What Envoy makes of a path: every place is replaced; a group that takes no part is empty."""

    def text(found: re.Match[str]) -> str:
        return re.sub(r"\\(.)", lambda one: "\\" if one[1] == "\\" else found[int(one[1])] or "", change.substitution)

    return re.sub(change.pattern, text, path)


def test_what_is_accepted_leaves_a_path() -> None:
    """Against all short paths: nothing that is accepted may lose the slash."""
    accepted = refused_in_vain = 0
    taken = [(PathMatch.model_validate(match), [one for one in PATHS if takes(match, one)]) for match in MATCHES]
    for pattern, substitution in product(PATTERNS, SUBSTITUTIONS):
        try:
            change = RegexReplace(pattern=pattern, substitution=substitution)
        except ValueError:
            continue  # no such group
        lost = {path for path in PATHS if not replaced(change, path).startswith("/")}
        for match, paths in taken:
            bad = lost.intersection(paths)
            if change.leaves_a_path(match):
                accepted += 1
                assert not bad, (pattern, substitution, match)
            else:
                refused_in_vain += not bad
    assert accepted > 1000
    assert refused_in_vain < accepted / 5, "the proof is hardly ever needed"


@pytest.mark.parametrize(
    ("pattern", "substitution", "match"),
    [
        ("^/service", "", {"prefix": "/service/"}),
        ("/v[0-9]+", "", {"prefix": "/api"}),
        ("/+$", "", {"prefix": "/api"}),
        (r"\.html$", "", {"prefix": "/"}),
        (r"^(/[^/]+)/v1(/.*)$", r"\1\2", {"prefix": "/"}),
        (r"^(.*)/v1/", r"\1/v2/", {"prefix": "/"}),
        ("^(.*?)one(.*)$", r"\1two\2", {"prefix": "/"}),
        ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", {"prefix": "/service"}),
    ],
)
def test_usual_rewrites_are_accepted(pattern: str, substitution: str, match: dict[str, str]) -> None:
    change = RegexReplace(pattern=pattern, substitution=substitution)
    assert change.leaves_a_path(PathMatch.model_validate(match))


def test_the_error_points_at_the_substitution() -> None:
    change = "transform: {request: {path: {replaceRegex: {pattern: '^/api/(.*)$', substitution: '\\1'}}}}"
    text = routes("a").replace("      public: true\n", f"      {change}\n      public: true\n")
    (diagnostic,) = (one for parsed in parse_text(text, "f.yaml") for one in parsed.diagnostics)
    assert str(diagnostic).startswith(
        "f.yaml:15:89: spec.routes[root].transform.request.path.replaceRegex.substitution: this may leave a path"
    )


@pytest.mark.parametrize("substitution", ["/a b", "/\u00e9", "/a#b", "/a\\n"])
def test_a_substitution_is_made_of_what_paths_are(substitution: str) -> None:
    with pytest.raises(ValueError, match="substitution"):
        RegexReplace(pattern="^/a", substitution=substitution)
