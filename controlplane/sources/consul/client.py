"""Asking one Consul agent over HTTP: credentials that rotate, bounds on everything, and what an answer proves.

Whatever cannot be believed is raised as `Failure`, with a reason for people; an answer that is returned is a fact of
the datacenter as of its index. https://developer.hashicorp.com/consul/api-docs/features
"""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import aiohttp
import structlog
from yarl import URL

from controlplane.errors import InvalidInput
from controlplane.model.endpoint import NOWHERE, Locality
from controlplane.sources.beside import ANSWER_SECONDS, Beside
from controlplane.sources.consul.pace import Bucket
from controlplane.sources.reading import Signature, read_regular

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0
"""All of an answer must have arrived by then, beyond what the query itself may wait: a slow agent is a broken one."""
MAX_BODY = 64 * 1024 * 1024
"""Bytes of an answer. 5,000 services with their tags are 0.3 MB; a value in the key-value store has at most 512 kB."""
READERS = 4
"""Reads at a time; the connections of an agent are READERS and one for each blocking query."""
_HELD = 4
_TLS_LEAKS = sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)
"""Connections whose TLS ends badly stay open. https://github.com/python/cpython/pull/118960"""
_MAX_TOKEN = 16 * 1024
_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a datacenter, and what to want of it. Paths are of files that may be replaced at any time.

    `max_stale`: seconds by which a held query may be behind; None asks the leader. `tagged_address` names the address
    of an instance to use instead of its ordinary one (`wan`). `specs` is a prefix of the key-value store.
    """

    name: str
    address: str
    datacenter: str | None = None
    token_file: Path | None = None
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    max_stale: float | None = None
    locality: Locality = NOWHERE
    tagged_address: str | None = None
    requests_per_second: int = 1000
    specs: str | None = None


class Consistency(StrEnum):
    """Who may answer. https://developer.hashicorp.com/consul/api-docs/features/consistency"""

    LEADER = "leader"
    """The default mode, asked for by name: an agent may be configured to make the default stale."""
    CONSISTENT = "consistent"
    """The leader, after it made sure that it still is the leader."""
    STALE = "stale"


class Failure(Exception):
    """No answer, or none that can be believed. `after`: seconds for which Consul asks to be left alone."""

    def __init__(self, reason: str, *, denied: bool = False, after: float = 0.0) -> None:
        super().__init__(reason)
        self.denied = denied
        self.after = after


@dataclass(frozen=True, slots=True)
class Answer:
    """What Consul said. `index` is never below 1. `found` is False for a 404 of the key-value store.

    `hidden`: access rules took something out. `unproven`: nobody knows whether they did, because no token was sent
    and rules deny by default; what such an answer lacks may exist.
    """

    index: int
    body: bytes
    found: bool = True
    hidden: bool = False
    unproven: bool = False


class Client:
    """A few connections to one agent."""

    def __init__(self, settings: Settings, answer_seconds: float = ANSWER_SECONDS) -> None:
        """`answer_seconds`: how long the file system of the token and the certificates may take."""
        self.complained: Callable[[str, str | None], None] = lambda what, why: None
        """Called when files (the token, the certificates) cannot be used any more, and why not, and when they can again."""
        self._settings = settings
        self._base = settings.address.rstrip("/")
        self._loopback = urlsplit(self._base).hostname in {"127.0.0.1", "::1", "localhost"}
        self._session: aiohttp.ClientSession | None = None
        self._bucket = Bucket(settings.requests_per_second)
        self._token = ""
        self._token_signature: Signature | None = None
        self._beside = Beside(answer_seconds)
        self._looking = asyncio.Lock()
        self._complaints: dict[str, str | None] = {}
        self._tls: ssl.SSLContext | None = None
        self._tls_signature: tuple[Signature, ...] = ()

    async def close(self) -> None:
        """Let go of all connections."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0.05)  # what was told to close does so in the next turns of the loop
            self._session = None

    async def held(
        self, path: str, query: Mapping[str, str], *, index: int, wait: float, consistency: Consistency
    ) -> Answer:
        """A blocking query: answered when something is newer than `index`, at the latest after `wait` seconds.

        An `index` of 0 is answered at once.
        """
        if index:
            return await self._ask(
                path, {**query, "index": str(index), "wait": f"{round(wait * 1000)}ms"}, wait, consistency
            )
        return await self._ask(path, query, 0.0, consistency)

    async def read(self, path: str, query: Mapping[str, str], *, consistency: Consistency, share: int = 1) -> Answer:
        """A plain read, within the bound of the rate; it counts as `share` requests."""
        await self._bucket.take(share)
        return await self._ask(path, query, 0.0, consistency)

    async def _ask(self, path: str, query: Mapping[str, str], wait: float, consistency: Consistency) -> Answer:
        answer = await self._ask_once(path, query, wait, consistency)
        if answer is None:  # too stale: the leader knows better
            answer = await self._ask_once(path, query, wait, Consistency.LEADER)
        assert answer is not None
        return answer

    async def _ask_once(
        self, path: str, query: Mapping[str, str], wait: float, consistency: Consistency
    ) -> Answer | None:
        used = await self._read_token()
        try:
            return await self._request(path, query, wait, consistency, used)
        except Failure as failure:
            if not failure.denied or await self._read_token() == used:
                raise
        return await self._request(path, query, wait, consistency, self._token)  # it was rotated in the meantime

    async def _request(
        self, path: str, query: Mapping[str, str], wait: float, consistency: Consistency, token: str
    ) -> Answer | None:
        parameters = {**query, consistency.value: ""}
        if self._settings.datacenter:
            parameters["dc"] = self._settings.datacenter
        url = URL(f"{self._base}{path}?{urlencode(parameters)}", encoded=True)
        # Consul adds up to a sixteenth to the time that a query may wait.
        timeout = aiohttp.ClientTimeout(total=wait * 17 / 16 + READ_SECONDS, sock_connect=CONNECT_SECONDS)
        tls = await self._tls_context() if url.scheme == "https" else True
        try:
            async with self._http().get(
                url,
                headers={"X-Consul-Token": token} if token else {},
                timeout=timeout,
                ssl=tls,
                allow_redirects=False,
            ) as response:
                body = await _body(response)
                return self._judge(response, body, consistency, token)
        except TimeoutError:
            raise Failure(f"no answer within {timeout.total:.0f} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise Failure(f"its certificate is not trusted: {_short(error.certificate_error)}") from None
        except aiohttp.ClientConnectorError as error:
            why = os.strerror(error.errno) if error.errno is not None else error.strerror
            raise Failure(f"cannot connect to {url.host}:{url.port}: {_short(why)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Failure(_short(error)) from None

    def _judge(
        self, response: aiohttp.ClientResponse, body: bytes, consistency: Consistency, token: str
    ) -> Answer | None:
        """What the answer proves; None when it is too stale. Raises Failure."""
        headers, status = response.headers, response.status
        text = _short(body.decode(errors="replace"))
        if status in {401, 403}:
            raise Failure(f"access denied ({status}): {text}", denied=True)
        if status == 404 and "X-Consul-Index" in headers:
            body = b"[]"
        elif status != 200:
            raise Failure(f"answered {status}: {text}", after=_seconds(headers.get("Retry-After")))
        if "X-Consul-Index" not in headers:
            raise Failure(f"its answer has no X-Consul-Index, so it is not Consul's: {text}")
        if headers.get("X-Consul-KnownLeader", "true") != "true":
            raise Failure("the datacenter has no leader")
        if consistency is Consistency.STALE and self._settings.max_stale is not None:
            behind = _number(headers.get("X-Consul-LastContact")) / 1000
            if behind > self._settings.max_stale:
                return None
        return Answer(
            # An index of 0 would make the next query return at once, for ever.
            index=max(_number(headers.get("X-Consul-Index")), 1),
            body=body,
            found=status == 200,
            hidden=headers.get("X-Consul-Results-Filtered-By-ACLs") == "true",
            # Consul does not say what it hides from those who show no token.
            unproven=not token and headers.get("X-Consul-Default-ACL-Policy") == "deny",
        )

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=READERS + _HELD, keepalive_timeout=60.0, enable_cleanup_closed=_TLS_LEAKS
                ),
                # Compression costs more than it saves on the own machine, and is worth it between clouds.
                headers={"Accept-Encoding": "identity" if self._loopback else "gzip", "User-Agent": "controlplane"},
                trust_env=False,
            )
        return self._session

    async def _read_token(self) -> str:
        """The token as its file has it now; the previous one while the file cannot be read. Raises Failure."""
        path = self._settings.token_file
        if path is None:
            return ""
        try:
            async with self._looking:
                if (found := await self._beside.ask(_newer_token, path, self._token_signature)) is not None:
                    self._token, self._token_signature = found
        except (OSError, ValueError, InvalidInput) as error:
            if not self._token:
                raise Failure(f"the token cannot be read: {path}: {_reason(error)}", denied=True) from None
            self._complain("token", f"{path}: {_reason(error)}")
        else:
            self._complain("token", None)
        return self._token

    async def _tls_context(self) -> ssl.SSLContext:
        """Trust and client certificate as their files are now; the previous ones while those do not fit. Raises Failure."""
        settings = self._settings
        paths = [path for path in (settings.ca, settings.client_certificate, settings.client_key) if path is not None]
        try:
            async with self._looking:
                known = self._tls_signature if self._tls is not None else None
                if (found := await self._beside.ask(_newer_context, settings, paths, known)) is not None:
                    self._tls, self._tls_signature = found
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = f"{', '.join(map(str, paths))}: {_reason(error)}"
            if self._tls is None:
                raise Failure(f"the certificates cannot be used: {reason}") from None
            self._complain("certificates", reason)
        else:
            self._complain("certificates", None)
        assert self._tls is not None
        return self._tls

    def _complain(self, what: str, why: str | None) -> None:
        """Say once that a file cannot be used."""
        if self._complaints.get(what) == why:
            return
        self._complaints[what] = why
        if why is not None:
            log.warning(
                "credentials unusable; the previous ones stay", source=self._settings.name, what=what, reason=why
            )
        self.complained(what, why)


def _newer_token(path: Path, known: Signature | None) -> tuple[str, Signature] | None:
    """The token in a file, unless that is the one that is known. Raises OSError, ValueError, InvalidInput."""
    if Signature.of(path.stat()) == known:
        return None
    data, signature = read_regular(str(path), str(path), _MAX_TOKEN)
    token = data.decode("ascii").strip()
    if not token or not token.isprintable() or " " in token:
        raise ValueError("it holds no token")
    return token, signature


def _newer_context(
    settings: Settings, paths: Iterable[Path], known: tuple[Signature, ...] | None
) -> tuple[ssl.SSLContext, tuple[Signature, ...]] | None:
    """What the files say, unless they are those that are known. Raises OSError, ValueError."""
    signature = tuple(Signature.of(path.stat()) for path in paths)
    if signature == known:
        return None
    context = ssl.create_default_context(cafile=settings.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_certificate is not None:
        context.load_cert_chain(settings.client_certificate, settings.client_key)
    return context, signature


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BODY:
            raise Failure(f"the answer has more than {MAX_BODY // (1024 * 1024)} MiB")
        parts.append(part)
    return b"".join(parts)


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else 0


def _seconds(text: str | None) -> float:
    """How long to be silent; an hour because somebody says so is too much."""
    return float(min(_number(text), 30))


def _short(value: object) -> str:
    text = " ".join(str(value).split()) or type(value).__name__
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidInput):
        return error.diagnostics[0].message
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
