"""Who we are to a cluster, and where it is: a kubeconfig or the service account of the pod, read again when they change.

Everything is a file that somebody replaces: tokens are rotated every hour, certificates every few months, a plugin
prints credentials that expire. `Access.credentials` looks at the files before a request, beside the event loop, unless it
did just before; `refresh` reads all of it anew after the API server has refused. Tokens and keys are never logged.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from controlplane.errors import nearest
from controlplane.sources.beside import ANSWER_SECONDS, Beside
from controlplane.sources.kubernetes.rotated import Files, NoAccess

log = structlog.get_logger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_SECONDS = 30.0
"""How long a credential plugin may take."""
PROVIDER_SECONDS = 300.0
"""How long what an `auth-provider` gave is used before it is asked again; a refusal asks at once."""
EARLY_SECONDS = 30.0
"""Credentials that expire sooner than this are renewed."""

_THIS_MACHINE = frozenset(("127.0.0.1", "::1", "localhost"))

_CONFIG_OF_PLUGINS = "client.authentication.k8s.io/exec"
"""The extension of a cluster in a kubeconfig that is meant for its credential plugin."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """How to ask. `expires` is a time of the wall clock, infinite for what a file holds."""

    server: str
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]
    server_name: str | None = None
    proxy: str | None = None
    expires: float = float("inf")


class Access:
    """The way to one cluster. Not to be shared between event loops."""

    def __init__(
        self,
        kubeconfig: Path | None,
        context: str | None = None,
        *,
        service_account: Path = SERVICE_ACCOUNT,
        clock: Callable[[], float] = time.time,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Without a kubeconfig: the pod's own service account. `context` is one of the kubeconfig, not its current one."""
        self.stale = ""
        """Why the credentials in use are not those of the files, "" when they are."""
        self.noticed: Callable[[], None] = lambda: None
        """Called when `stale` has changed."""
        self._kubeconfig = kubeconfig
        self._context = context
        self._service_account = service_account
        self._clock = clock
        self._beside = Beside(answer_seconds)
        self._files = Files(self._beside)
        self._known: Credentials | None = None
        self._reading = asyncio.Lock()

    async def credentials(self) -> Credentials:
        """What holds now; the previous ones while what is there now cannot be used. Raises NoAccess."""
        async with self._reading:
            known = self._known
            try:
                if known is None or known.expires - EARLY_SECONDS <= self._clock() or await self._files.changed():
                    known = self._known = await self._read()
                    self._note_stale("")
            except NoAccess as error:
                if known is None or known.expires <= self._clock():
                    raise
                log.warning("credentials unusable; the previous ones stay", reason=str(error))
                self._note_stale(str(error))
            return known

    def _note_stale(self, why: str) -> None:
        if why != self.stale:
            self.stale = why
            self.noticed()

    def refresh(self, refused: Credentials) -> None:
        """These were refused: the next ones are read anew, unless that has happened meanwhile."""
        if self._known is refused:
            self._known = None

    async def _read(self) -> Credentials:
        files = Files(self._beside)
        try:
            if self._kubeconfig is None:
                return await _in_cluster(self._service_account, files)
            return await _from_kubeconfig(self._kubeconfig, self._context, files)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # A mapping where a text belongs, and so on: people write these files by hand.
            raise NoAccess(f"{self._kubeconfig}: no kubeconfig of the known form ({error})") from None
        finally:
            self._files = files


async def _in_cluster(folder: Path, files: Files) -> Credentials:
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise NoAccess("not in a cluster: KUBERNETES_SERVICE_HOST is not set; name a kubeconfig")
    token = (await files.read(folder / "token")).decode().strip()
    tls = _context(await files.read(folder / "ca.crt"), str(folder / "ca.crt"))
    host = f"[{host}]" if ":" in host else host
    return Credentials(f"https://{host}:{port}", tls, {"Authorization": f"Bearer {token}"})


async def _from_kubeconfig(file: Path, context_name: str | None, files: Files) -> Credentials:
    """https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/"""
    content = await _load(file, files)
    chosen = context_name or content.get("current-context")
    if not chosen:
        raise NoAccess(f"{file}: no current-context; name one of its contexts")
    context = _entry(content, file, "contexts", "context", chosen)
    cluster = _entry(content, file, "clusters", "cluster", context.get("cluster"))
    user = _entry(content, file, "users", "user", context["user"]) if context.get("user") else {}
    server = _text(cluster, "server", file) or ""
    if urlsplit(server).scheme not in {"https", "http"}:
        raise NoAccess(f"{file}: the cluster of context {chosen!r} has no server")
    proxy, name = _text(cluster, "proxy-url", file), _text(cluster, "tls-server-name", file)
    if proxy and urlsplit(proxy).scheme not in {"https", "http"}:
        raise NoAccess(f"{file}: proxy-url: {proxy.partition('@')[2] or proxy} is no http:// or https:// proxy")
    if unsupported := [name for name in ("as", "as-groups") if name in user]:
        raise NoAccess(f"{file}: {unsupported[0]} is not supported; use a token, a certificate or exec")
    headers: dict[str, str] = {}
    expires = float("inf")
    certificate = await _material(user, "client-certificate", file, files)
    key = await _material(user, "client-key", file, files)
    authorities = await _material(cluster, "certificate-authority", file, files)
    if "exec" in user:
        status = await _run(user["exec"], cluster, authorities, file)
        expires = _expiry(status)
        if token := status.get("token"):
            headers["Authorization"] = f"Bearer {token}"
        if status.get("clientCertificateData"):
            certificate = status["clientCertificateData"].encode()
            key = str(status.get("clientKeyData", "")).encode()
    elif "auth-provider" in user:
        headers["Authorization"] = await asyncio.to_thread(_by_provider, file, str(chosen))
        expires = time.time() + PROVIDER_SECONDS
    elif user.get("tokenFile"):
        headers["Authorization"] = f"Bearer {(await files.read(file.parent / str(user['tokenFile']))).decode().strip()}"
    elif user.get("token"):
        headers["Authorization"] = f"Bearer {user['token']}"
    elif user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    if bool(certificate) != bool(key):
        raise NoAccess(f"{file}: a client certificate needs its key, and a key its certificate")
    tls = None
    if urlsplit(server).scheme == "https":
        tls = _context(authorities, str(file), certificate, key)
        if _is_insecure(cluster, file):
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
    elif headers and urlsplit(server).hostname not in _THIS_MACHINE:
        raise NoAccess(f"{file}: credentials are sent over https only, or to this machine; not to {server}")
    return Credentials(server.rstrip("/"), tls, headers, name, proxy, expires)


def _by_provider(file: Path, context: str) -> str:
    """What to say of a user with an `auth-provider` (OpenID Connect and older ones), by the client library of Kubernetes.

    It knows how each of them renews its token. It is loaded for these alone: it takes 100 MB.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import ConfigException, load_kube_config

    configuration = Configuration()
    try:
        load_kube_config(str(file), context, configuration, persist_config=False)
    except (ConfigException, LookupError, OSError, TypeError, ValueError) as error:
        raise NoAccess(f"{file}: auth-provider: {error}") from None
    said = configuration.api_key.get("BearerToken")
    if not said:
        raise NoAccess(f"{file}: auth-provider gave no token; use a token, a certificate or exec")
    return str(said)


async def _load(file: Path, files: Files) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(await files.read(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise NoAccess(f"{file}{where}: not YAML") from None
    except RecursionError:
        raise NoAccess(f"{file}: nested too deeply for a kubeconfig") from None
    if not isinstance(content, dict):
        raise NoAccess(f"{file}: no kubeconfig")
    return content


def _entry(content: Mapping[str, Any], file: Path, kinds: str, kind: str, name: object) -> dict[str, Any]:
    """One named entry of a kubeconfig."""
    entries = content.get(kinds)
    listed = [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    for one in listed:
        if one.get("name") == name:
            found = one.get(kind) or {}
            if not isinstance(found, dict):
                raise NoAccess(f"{file}: the {kind} {str(name)!r} is no mapping")
            return found
    known = nearest(str(name), [str(one.get("name")) for one in listed])
    raise NoAccess(f"{file}: no {kind} {str(name)!r} ({known})")


def _text(holder: Mapping[str, Any], name: str, file: Path) -> str | None:
    value = holder.get(name)
    if value is not None and not isinstance(value, str):
        raise NoAccess(f"{file}: {name} is no text")
    return value


def _is_insecure(cluster: Mapping[str, Any], file: Path) -> bool:
    """Whether nothing is to be verified: only who says so without doubt is believed, and `"false"` is a text that is true."""
    value = cluster.get("insecure-skip-tls-verify")
    if value is not None and not isinstance(value, bool):
        raise NoAccess(f"{file}: insecure-skip-tls-verify is true or false, without quotes")
    return bool(value)


async def _material(holder: Mapping[str, Any], name: str, file: Path, files: Files) -> bytes | None:
    """Inline data, or the content of a file relative to the kubeconfig."""
    if data := holder.get(f"{name}-data"):
        try:
            return base64.b64decode("".join(data.split()), validate=True)  # `base64` breaks its lines
        except (AttributeError, binascii.Error, ValueError):
            raise NoAccess(f"{file}: {name}-data is not base64") from None
    if path := holder.get(name):
        return await files.read(file.parent / str(path))
    return None


def _context(
    authorities: bytes | None, where: str, certificate: bytes | None = None, key: bytes | None = None
) -> ssl.SSLContext:
    try:
        # What stands beside certificates, in whatever language, is a comment.
        context = ssl.create_default_context(cadata=authorities.decode("ascii", "ignore") if authorities else None)
    except (ssl.SSLError, ValueError):
        raise NoAccess(f"{where}: the certificate authority is not PEM") from None
    if certificate and key:
        try:
            _load_pair(context, certificate + b"\n" + key)
        except ssl.SSLError as error:
            raise NoAccess(f"{where}: the client certificate and its key cannot be used: {error.reason}") from None
    return context


def _load_pair(context: ssl.SSLContext, pem: bytes) -> None:
    """The ssl module takes files only; where the system can, the key stays in memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pair")
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)


async def _run(
    plugin: dict[str, Any], cluster: Mapping[str, Any], authorities: bytes | None, file: Path
) -> dict[str, Any]:
    """What a credential plugin prints. https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins"""
    command, version = str(plugin.get("command", "")), str(plugin.get("apiVersion", ""))
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        known = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
        told = spec["cluster"] = {name: cluster[name] for name in known if name in cluster}
        if authorities:
            told["certificate-authority-data"] = base64.b64encode(authorities).decode()
        for one in cluster.get("extensions") or ():
            if one["name"] == _CONFIG_OF_PLUGINS:
                told["config"] = one["extension"]
    asked = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    for variable in plugin.get("env") or ():
        environment[str(variable["name"])] = str(variable["value"])
    if "/" in command:
        command = str(file.parent / command)
    arguments = [str(argument) for argument in plugin.get("args") or ()]
    try:
        child = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        hint = f" ({plugin['installHint']})" if plugin.get("installHint") else ""
        raise NoAccess(f"{file}: the plugin {command} cannot be started: {error.strerror}{hint}") from None
    try:
        output, errors = await asyncio.wait_for(child.communicate(), EXEC_SECONDS)
    except TimeoutError:
        raise NoAccess(f"{file}: the plugin {command} did not end within {EXEC_SECONDS:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        said = errors.decode(errors="replace").strip()[-400:]
        raise NoAccess(f"{file}: the plugin {command} ended with {child.returncode}: {said}")
    try:
        answer = json.loads(output)
        status = answer["status"]
        assert isinstance(status, dict)
        assert answer["apiVersion"] == version
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise NoAccess(f"{file}: the plugin {command} printed no ExecCredential of {version}") from None
    if not (status.get("token") or status.get("clientCertificateData")):
        raise NoAccess(f"{file}: the plugin {command} printed neither token nor certificate")
    return status


def _expiry(status: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(status["expirationTimestamp"]).replace("Z", "+00:00")).timestamp()
    except (KeyError, ValueError):
        return float("inf")
