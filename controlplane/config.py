"""The process's own configuration: one YAML file, overridden by the flags of `serve`.

Made by the command line, read by `app`. Every field has a default; `controlplane serve --specs DIR` alone works.
Relative paths in the file are relative to the file, those of flags to the working directory. An unknown field is an
error with its position, as in a GatewaySpec; nothing is accepted that nothing obeys.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from controlplane.errors import ConfigurationError, Diagnostic, InvalidInput, Place
from controlplane.model.conduct import Coalesce, Guards, Shutdown, Startup
from controlplane.model.written import Flag, Name, PositiveDuration, ServerName, Written
from controlplane.spec.codes import Code
from controlplane.spec.explain import explain, faults
from controlplane.spec.pieces import Piece, decode, split
from controlplane.spec.yaml import load

_ADDRESS = 'an address is HOST:PORT such as "127.0.0.1:18000", "[::1]:18000" or "cp.example.com:18000"'


class Endpoint(NamedTuple):
    """Where to listen, or what to connect to. Port 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: object) -> Endpoint:
        """`127.0.0.1:18000`, `[::1]:18000`, `localhost:0`, `cp.example.com:18000`. Raises ValueError."""
        if isinstance(text, Endpoint):
            return text
        match = re.fullmatch(
            r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})", text if isinstance(text, str) else ""
        )
        if match is None or int(match[3]) > 65535:
            raise ValueError(_ADDRESS)
        if match[1] is None:
            return cls(match[2], int(match[3]))
        try:
            return cls(str(ipaddress.IPv6Address(match[1])), int(match[3]))
        except ValueError:
            raise ValueError(f"{_ADDRESS}; only an IPv6 address stands in brackets") from None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        """`HOST:PORT`, as it was written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError('a path is a text such as "./specs"')
    base: Path = (info.context or {}).get("base", Path())
    try:
        return base / Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"{value.partition('/')[0]} has no home folder on this machine; say the whole path") from None


Location = Annotated[Path, BeforeValidator(_path), WithJsonSchema({"type": "string", "examples": ["./specs"]})]
Address = Annotated[
    Endpoint,
    BeforeValidator(Endpoint.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:18000"]}),
]


class ProcessIdentity(Written):
    """Who this control plane is, in what it says to proxies, and the trust domain of the certificates it issues.

    The trust domain is chosen when the authority in the state folder is made; later it must be the same or absent.
    """

    cluster: Name = "controlplane"
    replica: Annotated[str, Field(min_length=1, max_length=253)] = "auto"
    trust_domain: Name | None = None


class FilesSource(Written):
    """A folder of specs."""

    path: Location


class KubernetesCluster(Written):
    """A cluster that is watched: for gateway specs, for endpoints of the backends that refer to it, or for both.

    Without `kubeconfig` it is the one that this process runs in. `region` is where its endpoints are when its nodes need
    not be asked. `secrets: namespaces` watches all secrets of the namespaces that refer to any, instead of each by name.
    `status`: what becomes of specs is written into their status, by the replica that holds a Lease in `leaseNamespace`.
    """

    name: Annotated[Name, Field(max_length=63)]
    kubeconfig: Location | None = None
    context: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    specs: Flag = False
    endpoints: Flag = True
    namespaces: Literal["all"] | Annotated[tuple[Name, ...], Field(min_length=1, max_length=1000)] = "all"
    secrets: Literal["named", "namespaces"] = "named"
    region: Annotated[str, Field(max_length=63)] = ""
    status: Flag = True
    lease_namespace: Name = "controlplane"

    @model_validator(mode="after")
    def _makes_sense(self) -> KubernetesCluster:
        if self.context is not None and self.kubeconfig is None:
            raise ValueError("context is one of a kubeconfig: name that too")
        if not self.specs and not self.endpoints:
            raise ValueError("specs and endpoints are both false: nothing of this cluster would be used")
        if self.namespaces != "all" and len(set(self.namespaces)) != len(self.namespaces):
            raise ValueError("a namespace stands twice")
        return self


class SourceLocality(Written):
    """Where the endpoints of a source are, as far as it does not say so itself."""

    region: Annotated[str, Field(max_length=253)] = ""
    zone: Annotated[str, Field(max_length=253)] = ""


def _http_url(text: object) -> str:
    parts = urlsplit(text if isinstance(text, str) else "")
    try:
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # the port is none
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise ValueError('an address of Consul is a URL such as "https://consul.example.com:8501"')
    return str(text).rstrip("/")


def _key_prefix(text: str) -> str:
    if not text or text.startswith("/") or len(text) > 512 or not text.isprintable():
        raise ValueError('a prefix of keys is a text such as "gateways/"; keys of Consul do not begin with "/"')
    return text


KeyPrefix = Annotated[str, AfterValidator(_key_prefix), WithJsonSchema({"type": "string", "examples": ["gateways/"]})]


class ConsulSource(Written):
    """A Consul datacenter, to which members of backends refer by its `name`. `specs`: a prefix of keys with gateway specs."""

    name: Name
    address: Annotated[
        str, BeforeValidator(_http_url), WithJsonSchema({"type": "string", "examples": ["https://127.0.0.1:8501"]})
    ]
    datacenter: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    token_file: Location | None = None
    ca: Location | None = None
    client_certificate: Location | None = None
    client_key: Location | None = None
    max_stale: PositiveDuration | None = None
    locality: SourceLocality = SourceLocality()
    tagged_address: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    max_requests_per_second: Annotated[int, Field(strict=True, ge=10, le=10_000)] = 1000
    specs: KeyPrefix | None = None

    @model_validator(mode="after")
    def _credentials_are_safe(self) -> ConsulSource:
        host = urlsplit(self.address).hostname or ""
        secure = self.address.startswith("https:")
        if self.token_file is not None and not secure and not Endpoint(host, 0).is_loopback:
            raise ValueError(f"a token is sent over https only, or to this machine; not to {self.address}")
        if not secure and (self.ca or self.client_certificate or self.client_key):
            raise ValueError(f"ca, clientCertificate and clientKey need an https address, not {self.address}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("clientCertificate and clientKey belong together")
        return self


Named = TypeVar("Named", KubernetesCluster, ConsulSource)


def _once(sources: tuple[Named, ...]) -> tuple[Named, ...]:
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f'the name "{twice[0]}" stands twice; specs refer to sources by name')
    return sources


class Sources(Written):
    """Where gateway specs and endpoints come from."""

    files: Annotated[tuple[FilesSource, ...], Field(max_length=1)] = ()
    kubernetes: Annotated[tuple[KubernetesCluster, ...], Field(max_length=100), AfterValidator(_once)] = ()
    consul: Annotated[tuple[ConsulSource, ...], Field(max_length=100), AfterValidator(_once)] = ()

    @property
    def have_specs(self) -> bool:
        """Whether gateway specs come from any of them."""
        return bool(self.files) or any(one.specs for one in self.kubernetes) or any(one.specs for one in self.consul)


class SecretsFolder(Written):
    """A folder with one folder per secret: `<namespace>/<name>/tls.crt`, as Kubernetes mounts them."""

    path: Location


class XdsTls(Written):
    """Certificates of the xDS server from elsewhere; without them the state folder's own authority issues them."""

    certificate: Location
    key: Location
    client_ca: Annotated[Location, Field(alias="clientCA")]


class Xds(Written):
    """Where proxies connect to.

    `names` are host names and addresses, beside that of `listen`, by which they do: an Envoy knows the control plane by
    its SPIFFE ID, but gRPC without a proxy wants the name that it connects to in the certificate.
    `denyList` is a file of those who may not, beside the one in the state folder that `controlplane pki revoke` writes.
    `maxStreamAge` (10 % more or less) spreads proxies anew over replicas behind a balancer; without it streams stay.
    """

    listen: Address = Endpoint("127.0.0.1", 18000)
    names: tuple[ServerName, ...] = ()
    tls: XdsTls | None = None
    deny_list: Location | None = None
    max_stream_age: PositiveDuration | None = None
    insecure: Flag = False

    @model_validator(mode="after")
    def _agrees(self) -> Xds:
        return self.checked()

    def checked(self) -> Xds:
        """Itself. Raises ValueError when its fields contradict each other."""
        if self.insecure and not self.listen.is_loopback:
            raise ValueError(f"insecure works on a loopback address only, not on {self.listen}")
        if self.insecure and self.tls is not None:
            raise ValueError("insecure and tls contradict each other")
        if self.names and self.tls is not None:
            raise ValueError("names are for certificates of the built-in authority; tls brings its own")
        return self


class Admin(Written):
    """The admin API, health and metrics; without authentication, therefore on loopback."""

    listen: Address = Endpoint("127.0.0.1", 18080)

    @model_validator(mode="after")
    def _stays_here(self) -> Admin:
        if not self.listen.is_loopback:
            raise ValueError(
                f"the admin API has no authentication yet: a loopback address is needed, not {self.listen}"
            )
        return self


class Metrics(Written):
    """A second place for /metrics, /healthz and /readyz, which a scraper on another machine can reach."""

    listen: Address | None = None


class State(Written):
    """The folder that survives a restart: authority, keys, last known good."""

    path: Location = Path("state")
    key: Location | None = None


class Configuration(Written):
    """All of it."""

    identity: ProcessIdentity = ProcessIdentity()
    sources: Sources = Sources()
    secrets: SecretsFolder | None = None
    startup: Startup = Startup()
    shutdown: Shutdown = Shutdown()
    xds: Xds = Xds()
    admin: Admin = Admin()
    metrics: Metrics = Metrics()
    state: State = State()
    coalesce: Coalesce = Coalesce()
    guards: Guards = Guards()


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says; None leaves the file's word."""

    specs: tuple[Path, ...] = ()
    secrets: Path | None = None
    state: Path | None = None
    xds: str | None = None
    admin: str | None = None
    insecure: bool = False


def read(file: Path) -> Configuration:
    """The configuration in a file. Raises InvalidInput with every error and its position, and OSError."""
    name = str(file)
    text = decode(file.read_bytes(), name)
    first, *others = (split(text, name) if text.strip() else []) or [Piece(text, 1)]
    if others:
        message = "a second document; a configuration is one, which a line --- or ... ends"
        raise InvalidInput([Diagnostic(Code.SYNTAX, message, place=Place(name, others[0].line))])
    text, line = first
    loaded = load(text)
    found = faults(loaded.faults, loaded.data, name, line, "configuration")
    if not found and loaded.data is None:
        return _validated({}, file.parent)
    if not found and not isinstance(loaded.data, dict):
        found = [Diagnostic(Code.WRONG_TYPE, "the configuration is a mapping", place=Place(name, line, 1))]
    if found:
        raise InvalidInput(found)
    try:
        return _validated(loaded.data, file.parent)
    except ValidationError as error:
        raise InvalidInput(explain(Configuration, error, text, loaded.data, name, line, "configuration")) from None


def _validated(data: Any, base: Path) -> Configuration:
    configuration = Configuration.model_validate(data, context={"base": base})
    if configuration.state.path == State().path and base != Path():
        # A default is not validated: beside the file, like any other relative path of it.
        state = configuration.state.model_copy(update={"path": base / configuration.state.path})
        configuration = configuration.model_copy(update={"state": state})
    return configuration


def _flag(flag: str, text: str) -> Endpoint:
    """The address that a flag was given. Raises ValueError, which names the flag."""
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise ValueError(f"{flag} {text}: {error}") from None


def with_flags(configuration: Configuration, flags: Flags) -> Configuration:
    """The configuration as the flags change it. Raises ConfigurationError."""
    update: dict[str, Any] = {}
    try:
        if flags.specs:
            files = Sources(files=tuple(FilesSource(path=path) for path in flags.specs)).files
            update["sources"] = configuration.sources.model_copy(update={"files": files})
        if flags.secrets is not None:
            update["secrets"] = SecretsFolder(path=flags.secrets)
        if flags.state is not None:
            update["state"] = configuration.state.model_copy(update={"path": flags.state})
        if flags.xds is not None or flags.insecure:
            listen = _flag("--xds", flags.xds) if flags.xds is not None else configuration.xds.listen
            insecure = flags.insecure or configuration.xds.insecure
            tls = None if flags.insecure else configuration.xds.tls
            changed = {"listen": listen, "tls": tls, "insecure": insecure}
            update["xds"] = configuration.xds.model_copy(update=changed).checked()
        if flags.admin is not None:
            update["admin"] = Admin(listen=_flag("--admin", flags.admin))
    except ValidationError as error:
        reasons = "; ".join(str(detail["msg"]).removeprefix("Value error, ") for detail in error.errors())
        raise ConfigurationError(reasons) from None
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return configuration.model_copy(update=update)
