"""A real Consul server, one for each datacenter, with ACLs that deny by default; and what tests do to it.

`consul()` is the one that the tests of a process share: give each test services of its own names. A test that stops,
freezes or empties a server makes one for itself (`Consul(folder)`).
"""

from __future__ import annotations

import atexit
import http.client
import itertools
import json
import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.support.certificates import Authority
from tests.support.children import Child
from tests.support.ports import free_port
from tests.support.tools import needs, tool
from tests.support.waiting import PATIENCE, until

MANAGEMENT = "11111111-2222-3333-4444-555555555555"
"""The token of whoever may do everything; it exists on the loopback addresses of tests only."""

READ_ALL = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } key_prefix "" { policy = "read" }'
"""The least that the source needs when it may refer to every service."""


class ConsulError(Exception):
    """Consul refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Consul:
    """One server of a datacenter in a folder. It survives `kill` and `start` with its data."""

    def __init__(self, folder: Path, datacenter: str = "dc1", *, tls: Authority | None = None, **settings: Any) -> None:
        """Nothing runs before `start`. Skips the test when the program is missing."""
        needs("consul")
        self.folder = folder
        self.datacenter = datacenter
        self.port, self.server_port = free_port(), free_port()
        self.tls = tls
        self.client: tuple[Path, Path] | None = None
        self._child: Child | None = None
        self._names = itertools.count(1)
        ports = {"server": self.server_port, "serf_lan": free_port(), "serf_wan": free_port()}
        ports |= {"http": -1, "https": self.port} if tls else {"http": self.port, "https": -1}
        folder.mkdir(parents=True, exist_ok=True)
        self.serf_port = ports["serf_lan"]
        self._configuration = {
            "datacenter": datacenter,
            "primary_datacenter": datacenter,
            "node_name": f"{datacenter}-{self.port}",
            "server": True,
            "bootstrap_expect": 1,
            "data_dir": str(folder / "data"),
            "bind_addr": "127.0.0.1",
            "advertise_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {"dns": -1, "grpc": -1, "grpc_tls": -1, **ports},
            "acl": {
                "enabled": True,
                "default_policy": "deny",
                "tokens": {"initial_management": MANAGEMENT, "agent": MANAGEMENT},
            },
            "connect": {"enabled": True},
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "log_level": "warn",
            **settings,
        }

    @property
    def address(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = True) -> Consul:
        """Run it, with the data that it has, until it leads."""
        if self.tls is not None and "tls" not in self._configuration:
            self.present(self.tls)
        file = self.folder / "consul.json"
        file.write_text(json.dumps(self._configuration))
        program = tool("consul")
        assert program is not None
        self._child = Child([str(program), "agent", f"-config-file={file}"], self.folder / "consul.log")
        if ready:
            self.until_ready()
        return self

    def until_ready(self) -> None:
        """Wait until there is a leader that knows the management token."""
        until(self._leads, f"{self.datacenter} leads", step=0.05)

    def configure(self, **settings: Any) -> None:
        """Other settings for the next start."""
        self._configuration |= settings

    def present(self, authority: Authority, *, ask_clients: bool = False, life: timedelta = timedelta(days=1)) -> None:
        """Serve HTTPS with a certificate of this authority; of a running server, after `reload`."""
        pair = authority.leaf("127.0.0.1", "localhost", life=life)
        files = {"ca.pem": authority.pem, "server.pem": pair.certificate, "server.key": pair.key}
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        paths = {"ca_file": "ca.pem", "cert_file": "server.pem", "key_file": "server.key"}
        https: dict[str, Any] = {key: str(self.folder / name) for key, name in paths.items()}
        self._configuration["tls"] = {"https": {**https, "verify_incoming": ask_clients}}
        if ask_clients:
            pair = authority.leaf("tests", client=True)
            self.client = (self.folder / "client.pem", self.folder / "client.key")
            for path, content in zip(self.client, (pair.certificate, pair.key), strict=True):
                path.write_bytes(content)

    def _leads(self) -> bool:
        assert self._child is not None
        self._child.check()
        try:
            # Until the first leader has written it, the management token does not work.
            return bool(self.get("/v1/status/leader")) and "Config" in self.get("/v1/agent/self")
        except (OSError, http.client.HTTPException, ConsulError):
            return False

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """As a crash ends it."""
        assert self._child is not None
        self._child.stop(signal.SIGKILL)

    def wipe(self) -> None:
        """Throw away its data; it must not run."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    # -- its API -----------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        token: str = MANAGEMENT,
    ) -> Any:
        """The answer as JSON, or its text. Raises ConsulError."""
        context = None
        if self.tls is not None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if self.client is not None:
                context.load_cert_chain(*self.client)
        connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)
            if context
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        )
        try:
            content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
            target = path + (f"?{urlencode(query)}" if query else "")
            connection.request(method, target, content, {"X-Consul-Token": token})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ConsulError(response.status, answer.decode(errors="replace"))
        try:
            return json.loads(answer)
        except ValueError:
            return answer.decode(errors="replace")

    def get(self, path: str, **query: str) -> Any:
        return self.call("GET", path, query=query)

    def put(self, path: str, body: object = None, **query: str) -> Any:
        return self.call("PUT", path, body, query)

    def register(
        self,
        service: str,
        address: str,
        port: int = 80,
        *,
        status: str | None = "passing",
        node: str | None = None,
        name: str | None = None,
        **fields: Any,
    ) -> str:
        """An instance on a node of its own that no agent keeps; `status` of its check, None for none. Returns the node."""
        node = node or f"{service}-{address}"
        name = name or service
        instance = {"ID": name, "Service": service, "Address": address, "Port": port, **fields}
        body: dict[str, Any] = {"Node": node, "Address": "10.9.9.9", "Service": instance}
        if status is not None:
            body["Check"] = self._check(node, name, status)
        self.put("/v1/catalog/register", body)
        return node

    def register_many(self, service: str, addresses: Sequence[str], port: int, status: str = "passing") -> None:
        """An instance at each of these addresses, on a node for each 32 of them."""
        for start in range(0, len(addresses), 32):
            node = f"{service}-{start}"
            found: list[dict[str, Any]] = [{"Node": {"Verb": "set", "Node": {"Node": node, "Address": "10.9.9.9"}}}]
            for address in addresses[start : start + 32]:
                name = f"{service}-{address}"
                instance = {"ID": name, "Service": service, "Address": address, "Port": port}
                found.append({"Service": {"Verb": "set", "Node": node, "Service": instance}})
                found.append({"Check": {"Verb": "set", "Check": self._check(node, name, status)}})
            self.put("/v1/txn", found)

    def check(self, service: str, node: str, status: str, *, name: str | None = None) -> None:
        """The check of an instance, as an agent would report it."""
        check = self._check(node, name or service, status)
        self.put("/v1/catalog/register", {"Node": node, "SkipNodeUpdate": True, "Check": check})

    def check_node(self, node: str, status: str, check: str = "serfHealth") -> None:
        """A check of a whole node."""
        body = {"Node": node, "CheckID": check, "Name": check, "Status": status}
        self.put("/v1/catalog/register", {"Node": node, "SkipNodeUpdate": True, "Check": body})

    @staticmethod
    def _check(node: str, name: str, status: str) -> dict[str, str]:
        return {"Node": node, "CheckID": f"check:{name}", "Name": "health", "Status": status, "ServiceID": name}

    def deregister(self, node: str, service: str | None = None) -> None:
        """A node with all that is on it, or an instance alone."""
        self.put("/v1/catalog/deregister", {"Node": node} | ({"ServiceID": service} if service else {}))

    def token(self, rules: str = READ_ALL) -> str:
        """A new token with these rules."""
        name = f"policy-{next(self._names)}"
        self.put("/v1/acl/policy", {"Name": name, "Rules": rules})
        made = self.put("/v1/acl/token", {"Policies": [{"Name": name}]})
        return str(made["SecretID"])

    def revoke(self, secret: str) -> None:
        """The token is gone."""
        accessor = self.call("GET", "/v1/acl/token/self", token=secret)["AccessorID"]
        self.call("DELETE", f"/v1/acl/token/{accessor}")

    def write(self, key: str, value: str) -> None:
        """A key of the key-value store."""
        self.put(f"/v1/kv/{quote(key)}", value.encode())

    def delete(self, key: str, *, below: bool = False) -> None:
        """A key, or all keys that begin so."""
        self.call("DELETE", f"/v1/kv/{quote(key)}", query={"recurse": ""} if below else {})


@cache
def consul(datacenter: str = "dc1") -> Consul:
    """The server of this datacenter that the tests of the process share."""
    needs("consul")
    folder = Path(tempfile.mkdtemp(prefix=f"consul-{datacenter}-"))
    server = Consul(folder, datacenter).start()

    def end() -> None:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return server
