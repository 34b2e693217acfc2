"""Regexes that RE2 refuses, or of which it makes a large program, are errors before an Envoy sees them."""

from __future__ import annotations

import pytest

from controlplane.model import regex


@pytest.mark.parametrize(
    "pattern",
    [
        "/x(?=a)", "/x(?!a)", "/x(?<=a)", "/x(?<!a)", r"/x(a)\1", "/xa++", "/x(?>a)", "/x(?P<n>a)(?P=n)", "/x(?#hi)",
        "/x(a)?(?(1)b|c)", "/x(?x: a b)", "/x(?a:b)", "(?u)/x", "(?L)/x", r"/x\Z", r"/x\u00e9", r"/x\N{BULLET}",
        r"/x\U0001F600", r"/x\p{L}", r"/x\Qa\E", r"/x\C", "/x[z-a]", "/x[[:alfa:]]", "/x[a", "/x(a", "/x)", "*a", "+",
        "{2}", "a**", "a{2}{3}", "(?i)*", "/x(?P<a>b)(?P<a>c)", "/xa{2,1}", "/x\\", r"/x\x{110000}", "",
        r"/x\x{100}", r"€|\x{20AC}", r"[\x{100}-\x{200}]", r"/x\x{}", r"/x\x4", r"/x\x{41", "/x\\x{\uff14\uff11}",
        "(" * 60 + ")" * 60,
    ],
)  # fmt: skip
def test_what_re2_does_not_understand_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"regex|large"):
        regex.check(pattern)


@pytest.mark.parametrize("pattern", ["/xa{1001}", "/xa{1000}", "/x([a-z]{40}){30}", "/x" + "[a-z0-9]{200}" * 4])
def test_large_programs_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"too large|repetition of more"):
        regex.check(pattern)


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        ("/x", 0), ("/(a)(?:b)(?P<name>c)(?<other>d)", 3), ("(?i)/x", 0), ("/x(?i-s:a)", 0), (r"/x\.\-\x41\x{00e9}\z", 0),
        ("/x[^/]+", 0), ("/x[]a]", 0), ("/x[[:alpha:]_-]*?", 0), ("/(?:é){2,5}", 0), ("/{id}", 0), (r"/x\++", 0), (r"/x\\1", 0),
        (r"^/v[0-9]+/(\w+)$", 1), ("/x(a{30}){30}", 1), ("/a|/b|", 0), ("/x{,3}", 0),
        ("/(?:é|[a-z])", 0), ("/é", 0), (r"[\x80-\xff]+", 0),
    ],
)  # fmt: skip
def test_what_re2_understands_is_accepted(pattern: str, groups: int) -> None:
    assert regex.check(pattern) == groups


def test_the_place_in_the_regex_is_named() -> None:
    with pytest.raises(ValueError, match=r"look-around.*at character 3"):
        regex.check("/x(?=a)")


@pytest.mark.parametrize("pattern", ["[€]", "[^é]", "[a-é]", "/x€+", "€?", "(?:a|€*)", "é{2}", "é{0,1}?", "(?i)[é]"])
def test_characters_beyond_ascii_are_not_taken_apart(pattern: str) -> None:
    """Envoy compares bytes: `€+` would repeat the last of three, and `[€]` be one of them."""
    with pytest.raises(ValueError, match=r"Envoy compares bytes: .*\(\?:€"):
        regex.check(pattern)
