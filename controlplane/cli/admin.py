"""Asking a running control plane: its admin API over HTTP, and what is said when it does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from controlplane.cli.exit import Exit, Failure

Command = Callable[..., Any]

SECONDS = 10.0
"""For one answer."""


def admin(command: Command) -> Command:
    """`--admin`, the address that `serve --admin` listens on."""
    return click.option(
        "--admin",
        metavar="HOST:PORT",
        default="127.0.0.1:18080",
        show_default=True,
        help="The admin API of the control plane.",
    )(command)


class Unavailable(Failure):
    """Nobody answers there."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            Exit.UNAVAILABLE,
            f"no control plane answers on {address}: {reason}",
            "is `controlplane serve` running, and is this the address of its --admin?",
        )


def ask(address: str, path: str, **query: str) -> dict[str, Any]:
    """One answer of the admin API. Raises Unavailable, and Failure when it refuses."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlencode
    from urllib.request import ProxyHandler, build_opener

    host, _, port = address.rpartition(":")
    if not _is_host(host) or not (port.isdecimal() and int(port) <= 65535):
        raise click.UsageError(f"--admin {address}: an address is HOST:PORT, such as 127.0.0.1:18080")
    opener = build_opener(ProxyHandler({}))  # loopback, never by a proxy
    url = f"http://{address}{path}" + (f"?{urlencode(query)}" if query else "")
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            content = json.load(answer)
            if not isinstance(content, dict) or "formatVersion" not in content:  # every answer of an admin API has it
                raise ValueError
            return content
    except HTTPError as error:
        with error:
            raise Failure(Exit.USAGE if error.code == 400 else Exit.FAILED, _reason(error.read(), error.code)) from None
    except URLError as error:
        raise Unavailable(address, str(getattr(error.reason, "strerror", None) or error.reason)) from None
    except OSError as error:
        raise Unavailable(address, str(error) or type(error).__name__) from None
    except (HTTPException, ValueError):
        raise Failure(Exit.FAILED, f"what answers on {address} is no control plane") from None


def _is_host(text: str) -> bool:
    return bool(text) and "/" not in text and text.startswith("[") == text.endswith("]")


def _reason(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the answer was {status}: is this the address of a control plane's --admin?"
