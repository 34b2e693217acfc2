"""A real Kubernetes API: etcd and kube-apiserver with RBAC, without kubelets or controllers.

Nothing creates pods, slices or default service accounts here, and nothing deletes what a namespace holds: tests write the
objects themselves, as controllers would. `kubernetes()` is the one that the tests of a process share: give each test a
namespace of its own (`namespace()`); a test that stops or cuts off the server starts it again.
"""

from __future__ import annotations

import atexit
import base64
import http.client
import itertools
import json
import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.certificates import Authority, Pair
from tests.support.children import Child
from tests.support.ports import free_port
from tests.support.tools import needs, tool
from tests.support.waiting import PATIENCE, until

Object = dict[str, Any]

_MERGE = "application/merge-patch+json"
_PATHS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "Service": ("/api/v1", "services", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "Secret": ("/api/v1", "secrets", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases", True),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "GatewaySpec": ("/apis/gatewayspec.dev/v1alpha1", "gatewayspecs", True),
    "RouteSpec": ("/apis/gatewayspec.dev/v1alpha1", "routespecs", True),
}


class ApiError(Exception):
    """The API server refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kubernetes:
    """etcd and kube-apiserver in a folder. Both survive `kill` and `start` with their content."""

    def __init__(self, folder: Path) -> None:
        """Make the PKI; nothing runs before `start`. Skips the test when the programs are missing."""
        needs("etcd", "kube-apiserver")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = Authority("kubernetes")
        self.port = free_port()
        self._etcd_port, self._etcd_peer = free_port(), free_port()
        self._etcd: Child | None = None
        self._server: Child | None = None
        self._numbers = itertools.count(1)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._write("sa.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._write("sa.pub", key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self._write("ca.crt", self.authority.pem)
        self.certify()
        self._admin = self.client_certificate("admin", "system:masters")
        self.context = ssl.create_default_context(cadata=self.authority.pem.decode())
        self._write("admin.pem", self._admin.certificate + self._admin.key)
        self.context.load_cert_chain(folder / "admin.pem")

    # -- processes -----------------------------------------------------------------------------------------------

    def start(self, *flags: str) -> Kubernetes:
        """Start what does not run, and wait until it serves. `flags` are for kube-apiserver."""
        self.launch(*flags)
        return self.wait()

    def launch(self, *flags: str) -> None:
        """Start what does not run.

        From a thread that lives as long as it should run: children end with the thread that started them.
        (prctl(2), PR_SET_PDEATHSIG)
        """
        self._launch_etcd()
        self._launch_server(*flags)

    def wait(self) -> Kubernetes:
        """Wait until both serve."""
        until(self._etcd_answers, "etcd is healthy")
        until(self._server_answers, "kube-apiserver is ready", 2 * PATIENCE, 0.05)
        return self

    def _launch_etcd(self) -> None:
        if self._etcd is None or not self._etcd.running:
            client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._etcd_peer}"
            command = [
                str(tool("etcd")),
                "--name",
                "test",
                "--data-dir",
                str(self.folder / "etcd"),
                "--unsafe-no-fsync",
            ]
            command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
            command += [
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                f"test={peer}",
                "--log-level",
                "warn",
            ]
            self._etcd = Child(command, self.folder / "etcd.log")

    def _launch_server(self, *flags: str) -> None:
        if self._server is None or not self._server.running:
            inside = self.folder
            command = [str(tool("kube-apiserver")), f"--etcd-servers=http://127.0.0.1:{self._etcd_port}"]
            command += [f"--secure-port={self.port}", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"]
            command += [f"--tls-cert-file={inside}/server.crt", f"--tls-private-key-file={inside}/server.key"]
            command += [f"--client-ca-file={inside}/ca.crt", f"--cert-dir={inside}", "--authorization-mode=RBAC"]
            command += ["--service-account-issuer=https://kubernetes.default.svc"]
            command += [
                f"--service-account-key-file={inside}/sa.pub",
                "--service-cluster-ip-range=10.96.0.0/16,fd10:96::/112",
            ]
            command += [f"--service-account-signing-key-file={inside}/sa.key", "--endpoint-reconciler-type=none"]
            command += ["--disable-admission-plugins=ServiceAccount", "--shutdown-delay-duration=0s", *flags]
            self._server = Child(command, inside / "kube-apiserver.log")

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End kube-apiserver, by default without warning."""
        assert self._server is not None
        self._server.stop(number)

    def freeze(self) -> None:
        """Stop kube-apiserver in its tracks: connections stay open and silent."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End both without warning."""
        for child in (self._server, self._etcd):
            if child is not None:
                child.stop(signal.SIGKILL)

    def backup(self) -> Path:
        """A copy of what etcd holds. etcd must not run."""
        return Path(shutil.copytree(self.folder / "etcd", self.folder / f"backup-{next(self._numbers)}"))

    def restore(self, backup: Path) -> None:
        """Put the copy back in place. etcd must not run."""
        shutil.rmtree(self.folder / "etcd")
        shutil.copytree(backup, self.folder / "etcd")

    def wipe(self) -> None:
        """Lose the disk of etcd, which must not run."""
        shutil.rmtree(self.folder / "etcd")

    def compact(self) -> None:
        """Make etcd forget all history: older resource versions are gone (410)."""
        header = self._etcd_call("/v3/kv/range", {"key": base64.b64encode(b"/").decode()})["header"]
        self._etcd_call("/v3/kv/compaction", {"revision": header["revision"], "physical": True})

    def certify(self, pair: Pair | None = None) -> None:
        """Give the server this certificate, by default a new one that is good; it reads the files again within a minute."""
        hosts = ("127.0.0.1", "localhost", "10.96.0.1", "kubernetes.default.svc", "kubernetes.default")
        pair = pair or self.authority.leaf(*hosts)
        self._write("server.crt", pair.certificate)
        self._write("server.key", pair.key)

    def _etcd_answers(self) -> bool:
        assert self._etcd is not None
        self._etcd.check()
        try:
            return bool(self._etcd_call("/v3/maintenance/status", {}))
        except (OSError, http.client.HTTPException, ApiError):
            return False

    def _etcd_call(self, path: str, body: Object) -> Object:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=PATIENCE)
        return _call(connection, "POST", path, body)

    def _server_answers(self) -> bool:
        assert self._server is not None
        self._server.check()
        try:
            self.get("Namespace", "default")
            return self.call("GET", "/readyz") is not None
        except (OSError, http.client.HTTPException, ApiError):
            return False

    def _write(self, name: str, content: bytes) -> None:
        written = self.folder / f".{name}"
        written.write_bytes(content)
        written.chmod(0o600)
        written.rename(self.folder / name)

    # -- who may ask ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"https://127.0.0.1:{self.port}"

    def client_certificate(self, user: str, *groups: str) -> Pair:
        """What makes a client this user."""
        return self.authority.leaf(user, client=True, groups=groups)

    def service_account(self, namespace: str, name: str) -> str:
        """The user name of a new service account."""
        self.apply({"kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
        return f"system:serviceaccount:{namespace}:{name}"

    def token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A token of a service account; it is worth nothing once the account is deleted. At least 600 seconds."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        answer = self.call("POST", path, {**request, "spec": {"expirationSeconds": seconds}})
        return str(answer["status"]["token"])

    def kubeconfig(self, file: Path, user: Mapping[str, Any] | None = None, server: str | None = None) -> Path:
        """A kubeconfig for a user (default: the administrator); `server` is another way to the API."""
        if user is None:
            user = self.certified(self._admin)
        authority = base64.b64encode(self.authority.pem).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": server or self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": "user", "user": dict(user)}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "current-context": "test",
        }
        file.touch(mode=0o600)
        beside = file.with_suffix(".new")
        beside.write_text(yaml.safe_dump(content))
        beside.rename(file)
        return file

    @staticmethod
    def certified(pair: Pair) -> Object:
        """The user of a kubeconfig that shows this certificate."""
        return {
            "client-certificate-data": base64.b64encode(pair.certificate).decode(),
            "client-key-data": base64.b64encode(pair.key).decode(),
        }

    # -- objects -------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Object | None = None, content_type: str = "application/json") -> Any:
        """One request as the administrator. Raises ApiError."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self.context)
        return _call(connection, method, path, body, content_type)

    def asked(self, verb: str, resource: str) -> float:
        """How many requests of a kind, such as `LIST`, the server has answered since it started."""
        counted = [
            line for line in self.call("GET", "/metrics").splitlines() if line.startswith("apiserver_request_total")
        ]
        of_kind = [line for line in counted if f'resource="{resource}"' in line and f'verb="{verb}"' in line]
        return sum(float(line.rpartition(" ")[2]) for line in of_kind)

    def create(self, thing: Object) -> Object:
        """A new object, as the server made it."""
        made: Object = self.call("POST", _path(thing), _whole(thing))
        return made

    def apply(self, thing: Object) -> Object:
        """The object, whether it exists or not; fields that it does not name stay."""
        path = f"{_path(thing)}/{thing['metadata']['name']}?fieldManager=tests&force=true"
        made: Object = self.call("PATCH", path, _whole(thing), "application/apply-patch+yaml")
        return made

    def patch(self, kind: str, name: str, change: Object, namespace: str = "") -> Object:
        """A merge patch."""
        made: Object = self.call("PATCH", f"{_place(kind, namespace)}/{name}", change, _MERGE)
        return made

    def get(self, kind: str, name: str, namespace: str = "") -> Object:
        """An object."""
        found: Object = self.call("GET", f"{_place(kind, namespace)}/{name}")
        return found

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object."""
        self.call("DELETE", f"{_place(kind, namespace)}/{name}")

    def delete_all(self, kind: str, namespace: str) -> None:
        """Delete every object of a kind in a namespace, as the namespace controller does."""
        self.call("DELETE", _place(kind, namespace))

    def namespace(self, prefix: str = "test") -> str:
        """A new namespace."""
        name = f"{prefix}-{os.getpid()}-{next(self._numbers)}"
        self.create({"kind": "Namespace", "metadata": {"name": name}})
        return name

    def service(self, namespace: str, name: str, ports: Mapping[str, int] | None = None, **spec: Any) -> Object:
        """A service with these ports by name (default: `http`: 80)."""
        listed = [{"name": port, "port": number} for port, number in (ports or {"http": 80}).items()]
        body = {"ports": listed, "selector": {"app": name}, **spec}
        return self.apply({"kind": "Service", "metadata": _meta(namespace, name), "spec": body})

    def slice(
        self,
        namespace: str,
        name: str,
        service: str,
        endpoints: Sequence[Object | str],
        ports: Mapping[str, int] | None = None,
        family: str = "IPv4",
    ) -> Object:
        """An EndpointSlice, written anew as a whole; a text is the address of an endpoint that is ready."""
        thing = endpoint_slice(namespace, name, service, endpoints, ports, family)
        try:
            made: Object = self.call("PUT", f"{_path(thing)}/{name}", thing)
        except ApiError as error:
            if error.status != 404:
                raise
            made = self.create(thing)
        return made

    def secret(self, namespace: str, name: str, files: Mapping[str, bytes]) -> Object:
        """A secret."""
        data = {key: base64.b64encode(value).decode() for key, value in files.items()}
        thing = {"kind": "Secret", "metadata": _meta(namespace, name), "data": data}
        return self.apply(thing)

    def spec(self, text: str) -> Object:
        """A GatewaySpec or RouteSpec from its YAML, written anew as a whole."""
        thing: Object = yaml.safe_load(text)
        thing["metadata"].setdefault("namespace", "default")
        try:
            return self.create(thing)
        except ApiError as error:
            if error.status != 409:
                raise
        before = self.get(thing["kind"], thing["metadata"]["name"], thing["metadata"]["namespace"])
        thing["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        made: Object = self.call("PUT", f"{_path(thing)}/{thing['metadata']['name']}", thing)
        return made

    def define(self, *definitions: Object) -> None:
        """Custom resources, until they are served."""
        for definition in definitions or tuple(map(anything, ("GatewaySpec", "RouteSpec"))):
            self.apply(definition)
            spec = definition["spec"]
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            until(lambda path=path: self._is_served(path), f"{path} is served", step=0.05)  # type: ignore[misc]

    def undefine(self, kind: str) -> None:
        """Remove the definition of a custom resource of gatewayspec.dev, and with it every object; wait until it is gone."""
        name = f"{kind.lower()}s.gatewayspec.dev"
        self.delete("CustomResourceDefinition", name)
        until(
            lambda: not self._is_served(f"{_PATHS['CustomResourceDefinition'][0]}/customresourcedefinitions/{name}"),
            "gone",
        )

    def _is_served(self, path: str) -> bool:
        try:
            return bool(self.call("GET", path))
        except ApiError:
            return False


def anything(kind: str) -> Object:
    """The definition of a custom resource of gatewayspec.dev that accepts whatever is written."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.gatewayspec.dev"},
        "spec": {
            "group": "gatewayspec.dev",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{**version, "subresources": {"status": {}}}],
        },
    }


def endpoint_slice(
    namespace: str,
    name: str,
    service: str,
    endpoints: Sequence[Object | str],
    ports: Mapping[str, int] | None = None,
    family: str = "IPv4",
) -> Object:
    """An EndpointSlice; a text is the address of an endpoint that is ready."""
    ready: Object = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**_meta(namespace, name), "labels": {"kubernetes.io/service-name": service}},
        "addressType": family,
        "ports": [{"name": port, "port": number} for port, number in (ports or {"http": 8080}).items()],
        "endpoints": [{"addresses": [one], "conditions": ready} if isinstance(one, str) else one for one in endpoints],
    }


def _meta(namespace: str, name: str) -> Object:
    return {"namespace": namespace, "name": name}


def _whole(thing: Object) -> Object:
    return {"apiVersion": _PATHS[thing["kind"]][0].removeprefix("/apis/").removeprefix("/api/"), **thing}


def _path(thing: Object) -> str:
    return _place(thing["kind"], thing["metadata"].get("namespace", ""))


def _place(kind: str, namespace: str) -> str:
    prefix, plural, namespaced = _PATHS[kind]
    assert bool(namespace) == namespaced, f"{kind}: namespace {namespace!r}"
    return f"{prefix}/namespaces/{namespace}/{plural}" if namespaced else f"{prefix}/{plural}"


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, body: Object | None, content_type: str = ""
) -> Any:
    try:
        headers = {"Content-Type": content_type or "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    if answer.status >= 300:
        raise ApiError(answer.status, text)
    return json.loads(text) if text.startswith(("{", "[")) else text


def kubernetes() -> Kubernetes:
    """The API server that the tests of a process share, with the custom resources defined; started again if need be."""
    return _shared().start()


@cache
def _shared() -> Kubernetes:
    needs("etcd", "kube-apiserver")
    folder = tempfile.mkdtemp(prefix="kubernetes-")
    cluster = Kubernetes(Path(folder))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(cluster.stop)
    cluster.start()
    cluster.define()
    return cluster
