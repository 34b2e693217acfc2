"""YAML that Envoy reads as it was meant: texts that yaml-cpp takes for something else are quoted.

Used by whatever prints YAML. PyYAML quotes what it would misread itself, by the rules of YAML 1.1; yaml-cpp has its own.
"""

from __future__ import annotations

import re

import yaml

_BOOLEAN = re.compile(r"[yYnN]\Z")
"""Beside the longer words. https://github.com/jbeder/yaml-cpp/blob/0.8.0/src/convert.cpp"""
_NUMBER = re.compile(r"[-+]?(?:0X[0-9a-fA-F]+|0[oO][0-7]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+)\Z")
"""Hexadecimal with a capital X, which yaml-cpp reads as C does, and the numbers of YAML 1.2 that 1.1 does not know."""


def quote_texts(dumper: type[yaml.CSafeDumper | yaml.SafeDumper]) -> None:
    """Let a dumper quote such texts, as it quotes `true` and `12`."""
    dumper.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOLEAN, list("yYnN"))
    dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
