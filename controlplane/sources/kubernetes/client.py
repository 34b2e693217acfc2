"""One request to an API server: bytes of a list, lines of a watch, or a reason in words why there are none.

Used by the reflectors. Every request has a deadline as a whole, so that neither a silent nor a slow server holds
anything. It keeps nothing but connections, and makes new ones when the credentials change.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from enum import StrEnum
from typing import Any
from weakref import WeakSet

import aiohttp
import msgspec

from controlplane.errors import ControlPlaneError
from controlplane.sources.kubernetes.access import Access, Credentials
from controlplane.sources.kubernetes.objects import Status
from controlplane.sources.kubernetes.rotated import NoAccess

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""How long one answer, or one page of a list, may take as a whole."""
WATCH_SLACK_SECONDS = 10.0
"""How much longer than it was asked to a watch may last: after that nobody is there."""
MAX_BYTES = 256 * 1024 * 1024
"""Bytes of one answer."""
MAX_LINE = 32 * 1024 * 1024
"""Bytes of one event; etcd keeps objects of up to 1.5 MB."""
_CHUNK = 64 * 1024
_AGENT = "controlplane"
_GOODBYE_TURNS = 3
"""Connections close in later turns of the event loop."""

Parameters = Mapping[str, str]


class Trouble(StrEnum):
    """Why a cluster does not answer, as people look for it."""

    UNREACHABLE = "Unreachable"
    AUTH_FAILED = "AuthFailed"
    """It does not know us: token or certificate are wrong or expired (401), or cannot be read."""
    DENIED = "Denied"
    """It knows us, and we may not (403)."""
    NOT_FOUND = "NotFound"
    CONFLICT = "Conflict"
    """Somebody else wrote meanwhile (409)."""
    BUSY = "Busy"
    """It wants us to come later (429, 503)."""
    GONE = "Gone"
    """The history that we ask for is compacted (410): list again."""
    BROKEN = "Broken"
    """What it answers makes no sense."""


class Refused(ControlPlaneError):
    """A request failed; `retry_after` is in seconds, 0 when nothing was said."""

    def __init__(self, trouble: Trouble, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{trouble}: {reason}")
        self.trouble = trouble
        self.retry_after = retry_after


class Client:
    """Requests to one cluster. A context manager that closes its connections."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._sessions: dict[int, tuple[Credentials, aiohttp.ClientSession]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._transports: WeakSet[asyncio.Transport] = WeakSet()

    async def get(self, path: str, parameters: Parameters, accept: str = "application/json") -> bytes:
        """The whole body of an answer. Raises Refused."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._ask(path, parameters, accept) as answer:
                return await _whole(answer, path, MAX_BYTES)
        except TimeoutError:
            raise Refused(Trouble.UNREACHABLE, f"no whole answer within {ANSWER_SECONDS:g} s") from None

    async def send(self, method: str, path: str, body: bytes, content_type: str, parameters: Parameters) -> bytes:
        """Write something; the body of the answer. Raises Refused."""
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                self._ask(path, parameters, method=method, body=body, content_type=content_type) as answer,
            ):
                return await _whole(answer, path, MAX_LINE)  # the object as it is now
        except TimeoutError:
            raise Refused(Trouble.UNREACHABLE, f"no answer within {ANSWER_SECONDS:g} s") from None

    async def watch(
        self, path: str, parameters: Parameters, seconds: int, accept: str = "application/json"
    ) -> AsyncGenerator[list[bytes], None]:
        """The lines of a watch, as many at a time as have arrived, for about `seconds`. Raises Refused.

        The first list is empty: the server has agreed to the watch. It ends by itself when the server ends it in time, which says that everything until then has been told.
        """
        asked = {**parameters, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        now = asyncio.get_running_loop().time()
        rest = bytearray()
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(now + ANSWER_SECONDS):
                    answer = await stack.enter_async_context(self._ask(path, asked, accept, encoding="identity"))
                yield []
                while True:
                    async with asyncio.timeout_at(now + seconds + WATCH_SLACK_SECONDS):
                        part = await answer.content.readany()
                    if not part:
                        break
                    rest += part
                    if len(rest) > MAX_LINE:
                        raise Refused(Trouble.BROKEN, f"an event has more than {MAX_LINE >> 20} MiB")
                    if b"\n" in part:
                        *lines, left = bytes(rest).split(b"\n")
                        rest = bytearray(left)
                        yield [line for line in lines if line]
        except TimeoutError:
            raise Refused(Trouble.UNREACHABLE, "the watch fell silent") from None
        if rest:
            raise Refused(Trouble.BROKEN, "the watch broke off inside an event")

    async def server(self) -> str:
        """Where requests go now. Raises Refused."""
        return (await self._credentials()).server

    async def _credentials(self) -> Credentials:
        try:
            return await self._access.credentials()
        except NoAccess as error:
            raise Refused(Trouble.AUTH_FAILED, str(error)) from None

    @asynccontextmanager
    async def _ask(
        self,
        path: str,
        parameters: Parameters,
        accept: str = "application/json",
        encoding: str = "gzip",
        *,
        method: str = "GET",
        body: bytes | None = None,
        content_type: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        credentials = await self._credentials()
        session = self._session(credentials)
        headers = {**credentials.headers, "Accept": accept, "Accept-Encoding": encoding, "User-Agent": _AGENT}
        if content_type is not None:
            headers["Content-Type"] = content_type
        try:
            async with session.request(
                method,
                credentials.server + path,
                data=body,
                params=parameters,
                headers=headers,
                proxy=credentials.proxy,
                server_hostname=credentials.server_name,
                allow_redirects=False,
            ) as answer:
                with _cut_off(answer):
                    if answer.status not in {200, 201}:
                        raise await self._refusal(answer, credentials)
                    yield answer
        except aiohttp.ClientConnectorCertificateError as error:
            raise Refused(Trouble.UNREACHABLE, f"its certificate is refused: {_certificate(error)}") from None
        except aiohttp.ClientConnectorSSLError as error:
            raise Refused(Trouble.AUTH_FAILED, f"TLS: {error.os_error}") from None
        except ssl.SSLError as error:
            # A client certificate that the server does not accept shows only when its answer is read. (RFC 8446, 4.4.2.4)
            raise Refused(Trouble.AUTH_FAILED, f"TLS: {error.reason}") from None
        except aiohttp.ClientConnectorError as error:
            raise Refused(Trouble.UNREACHABLE, error.os_error.strerror or str(error.os_error)) from None
        except aiohttp.ServerTimeoutError:
            raise Refused(Trouble.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s") from None
        except TimeoutError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Refused(Trouble.UNREACHABLE, str(error) or type(error).__name__) from None

    async def _refusal(self, answer: aiohttp.ClientResponse, credentials: Credentials) -> Refused:
        try:
            body = await answer.content.read(_CHUNK)
            message = msgspec.json.decode(body, type=Status).message
        except (msgspec.MsgspecError, aiohttp.ClientError):
            message = ""
        message = message or answer.reason or "refused"
        match answer.status:
            case 401:
                self._access.refresh(credentials)
                return Refused(Trouble.AUTH_FAILED, f"the credentials are refused ({message})")
            case 403:
                return Refused(Trouble.DENIED, message)
            case 404:
                return Refused(Trouble.NOT_FOUND, message)
            case 409:
                return Refused(Trouble.CONFLICT, message)
            case 410:
                return Refused(Trouble.GONE, message)
            case 429 | 503 | 504:
                return Refused(Trouble.BUSY, f"{answer.status} {message}", _retry_after(answer))
            case status:
                return Refused(Trouble.BROKEN, f"{status} {message}", _retry_after(answer))

    def _session(self, credentials: Credentials) -> aiohttp.ClientSession:
        """Connections of these credentials; those of others end when their watches do."""
        known = self._sessions.get(id(credentials))
        if known is not None:
            return known[1]
        for key in list(self._sessions):
            old = self._sessions.pop(key)[1]
            closing = asyncio.create_task(_close_later(old))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        # No limit: there is one connection a watch, and a watch that waits for another is a watch that is not there.
        connector = Connector(self._transports, limit=0, ssl=credentials.tls or True, keepalive_timeout=15)
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            read_bufsize=4 * _CHUNK,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._sessions[id(credentials)] = (credentials, session)
        return session

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *raised: object) -> None:
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        for _, session in self._sessions.values():
            await session.close()
        self._sessions.clear()
        for transport in list(self._transports):
            transport.abort()
        for _ in range(_GOODBYE_TURNS):
            await asyncio.sleep(0)


class Connector(aiohttp.TCPConnector):
    """Notes its connections: that of a request which is given up says goodbye by TLS, and nobody waits for the answer."""

    def __init__(self, transports: WeakSet[asyncio.Transport], **settings: Any) -> None:
        super().__init__(**settings)
        self._noted = transports

    async def _wrap_create_connection(self, *asked: Any, **more: Any) -> Any:
        make, *rest = asked
        made: list[Any] = []

        def noted() -> Any:
            made.append(make())
            return made[-1]

        try:
            transport, protocol = await super()._wrap_create_connection(noted, *rest, **more)
        except BaseException:
            for one in made:  # given up in the moment in which it was there
                if one.transport is not None:
                    one.transport.abort()
            raise
        self._noted.add(transport)
        return transport, protocol


async def _whole(answer: aiohttp.ClientResponse, path: str, most: int) -> bytes:
    """The body, of at most so many bytes. Raises Refused."""
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most:
            raise Refused(Trouble.BROKEN, f"{path} answers with more than {most >> 20} MiB")
    return b"".join(parts)


@contextmanager
def _cut_off(answer: aiohttp.ClientResponse) -> Iterator[None]:
    """A watch that is left is not said goodbye to: TLS would wait for an answer."""
    try:
        yield
    except BaseException:
        if answer.connection is not None and answer.connection.transport is not None:
            answer.connection.transport.abort()
        raise


async def _close_later(session: aiohttp.ClientSession) -> None:
    """Watches that run on old credentials may end by themselves."""
    try:
        await asyncio.sleep(ANSWER_SECONDS + 2 * WATCH_SLACK_SECONDS)
    finally:
        await session.close()


def _certificate(error: aiohttp.ClientConnectorCertificateError) -> str:
    reason = error.certificate_error
    return str(getattr(reason, "verify_message", "") or reason)


def _retry_after(answer: aiohttp.ClientResponse) -> float:
    """https://www.rfc-editor.org/rfc/rfc9110#field.retry-after; a date is not what API servers send."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
