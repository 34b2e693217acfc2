"""Golden cases: `<area>/<case>.in.yaml` is what users write, `<case>.out.yaml` what Envoy gets, and what is wrong.

A case may begin with a comment that names its secrets: `# secrets: {shop-tls: certificate, id-keys: jwks}`. They are made
at run time; the output names them instead of showing them. All gateways of a case are seen by one node.
Documents of the kind `Services` say what sources know of services, as `tests.support.services` reads them.
What every gateway on port 8080 has, whatever it says, is left out of the output: `gateway/least.out.yaml` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from controlplane.compile.offline import SHORT_NAMES, Compiled, as_dict
from controlplane.resources import Resource
from tests.support.certificates import authority, write_secret
from tests.support.edge import compiled

FOLDER = Path(__file__).parent
LEAST = "gateway/least"

# A public key whose private half was thrown away: golden files cannot hold one that changes with each run.
KEY_SET = (
    '{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","alg":"ES256",'
    '"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'
)


@dataclass(frozen=True, slots=True)
class Case:
    """One pair of files."""

    name: str

    @property
    def given(self) -> Path:
        return FOLDER / f"{self.name}.in.yaml"

    @property
    def expected(self) -> Path:
        return FOLDER / f"{self.name}.out.yaml"

    def compile(self, secrets: Path) -> Compiled:
        """The case compiled; its secrets are written to the folder."""
        text = self.given.read_text()
        for name, kind in _secrets(text).items():
            write_secret(secrets, name, _files(kind, name))
        return compiled(text, secrets)


def cases() -> list[Case]:
    """Every case, sorted."""
    return [Case(str(file.relative_to(FOLDER)).removesuffix(".in.yaml")) for file in sorted(FOLDER.glob("*/*.in.yaml"))]


def _secrets(text: str) -> dict[str, str]:
    first = text.partition("\n")[0]
    found: dict[str, str] = yaml.safe_load(first.removeprefix("# secrets:")) if first.startswith("# secrets:") else {}
    return found


def _files(kind: str, name: str) -> dict[str, bytes]:
    match kind:
        case "certificate":
            pair = authority().leaf(f"{name}.example.com")
            return {"tls.crt": pair.certificate, "tls.key": pair.key}
        case "mismatch":
            one, other = authority().leaf("a.example.com"), authority().leaf("b.example.com")
            return {"tls.crt": one.certificate, "tls.key": other.key}
        case "authority":
            return {"ca.crt": authority().pem}
        case "jwks":
            return {"jwks.json": KEY_SET.encode()}
        case _:
            raise AssertionError(f"no kind of secret {kind!r}")


@cache
def _least(folder: Path) -> frozenset[Resource]:
    return frozenset(resources(Case(LEAST).compile(folder)))


def resources(result: Compiled) -> list[Resource]:
    """What a node that sees every gateway of a case gets."""
    return result.resources(tuple(result.gateways))


def rendered(case: Case, secrets: Path) -> str:
    """The text of the output."""
    result = case.compile(secrets)
    left_out = {(one.type_url, one.name, one.version) for one in _least(secrets)} if case.name != LEAST else set()
    shown: dict[str, Any] = {}
    if result.diagnostics:
        shown["diagnostics"] = [f"{one.code} {one.severity}: {one}" for one in result.diagnostics]
    for short, type_url in SHORT_NAMES.items():
        found = dict(
            sorted(
                (_title(content), _readable(content))
                for one in resources(result)
                if one.type_url == type_url and (one.type_url, one.name, one.version) not in left_out
                for content in [as_dict(one)]
            )
        )
        if found:
            shown[short] = found
    return yaml.dump(shown, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _title(content: dict[str, Any]) -> str:
    """What a resource is called by people: the name of a scope is a hash, that of its routes is not."""
    title: str = content.get("route_configuration", content).get("name") or content["cluster_name"]
    return title


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, equal parts written out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text.strip("\n") else None)


_Dumper.add_representer(str, _text)


def _readable(value: Any) -> Any:
    """Sorted, without the bytes of certificates."""
    if isinstance(value, dict):
        if "inline_bytes" in value:
            return {"inline_bytes": "[made at run time]"}
        return {
            key: _readable(value[key]) for key in sorted(value, key=lambda key: (key != "name", key != "@type", key))
        }
    return [_readable(one) for one in value] if isinstance(value, list) else value


def orphans() -> Iterator[Path]:
    """Outputs without a case."""
    known = {case.expected for case in cases()}
    return (file for file in sorted(FOLDER.glob("*/*.out.yaml")) if file not in known)
