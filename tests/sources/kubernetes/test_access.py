"""Who we are to a cluster: every form of a kubeconfig, read again when it changes, with a reason when it cannot be."""

import asyncio
import base64
import json
import os
import stat
import tempfile
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from controlplane.sources.kubernetes import rotated
from controlplane.sources.kubernetes.access import Access
from controlplane.sources.kubernetes.rotated import NoAccess
from tests.support.certificates import authority
from tests.support.waiting import PATIENCE

SERVER = "https://127.0.0.1:6443"


def write(folder: Path, user: dict[str, Any] | None = None, **cluster: Any) -> Path:
    file = folder / "config"
    content = {
        "clusters": [{"name": "c", "cluster": {"server": SERVER} | cluster}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    beside = folder / ".config"
    beside.write_text(yaml.safe_dump(content))
    beside.rename(file)
    return file


def authorization(access: Access) -> str:
    return asyncio.run(access.credentials()).headers.get("Authorization", "")


def plugin(folder: Path, answer: dict[str, Any] | str, code: int = 0) -> dict[str, Any]:
    """An `exec` section whose program counts its runs in a file."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    script = folder / "plugin"
    lines = (
        "#!/bin/sh",
        f"echo run >> {folder}/runs",
        "echo 'no luck' >&2",
        f"cat <<'END'\n{text}\nEND",
        f"exit {code}",
    )
    script.write_text("\n".join(lines))
    script.chmod(stat.S_IRWXU)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "args": []}}


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


def credential(status: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}


@asynccontextmanager
async def lively() -> AsyncIterator[None]:
    """The event loop goes on meanwhile."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    task = asyncio.create_task(tick())
    yield
    task.cancel()
    assert longest < 0.5


@contextmanager
def blocking(path: Path) -> Iterator[None]:
    """Reading this file takes until the end, as on a file system of a server that is gone."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        yield
    finally:
        path.rename(path.with_name("pipe"))
        descriptor = os.open(path.with_name("pipe"), os.O_RDWR)  # who waits to read it sees it opened, and then its end
        time.sleep(0.1)
        os.close(descriptor)


def test_a_file_system_that_does_not_answer_holds_up_nothing_and_what_is_known_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("one")

    async def scenario() -> None:
        access = Access(write(tmp_path, {"tokenFile": "token"}))
        assert (await access.credentials()).headers["Authorization"] == "Bearer one"
        monkeypatch.setattr(access._beside, "_seconds", 0.2)
        with blocking(token):
            async with lively():
                for _ in range(3):
                    assert (await access.credentials()).headers["Authorization"] == "Bearer one"
                    assert "has not answered" in access.stale
        token.with_name("new").write_text("two")
        token.with_name("new").replace(token)
        async with asyncio.timeout(PATIENCE):
            while access.stale:
                await access.credentials()
        assert (await access.credentials()).headers["Authorization"] == "Bearer two"

    asyncio.run(scenario())


def test_a_file_system_that_does_not_answer_at_the_start_is_no_access_and_holds_up_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        access = Access(write(tmp_path, {"tokenFile": "token"}), answer_seconds=1.0)
        with blocking(tmp_path / "token"):
            async with lively():
                with pytest.raises(NoAccess, match="has not answered"):
                    await access.credentials()

    asyncio.run(scenario())


def test_files_that_cannot_be_looked_at_are_read_again_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though they are the same."""
    answers = threading.Event()

    async def scenario() -> None:
        access = Access(write(tmp_path, {"token": "abc"}))
        await access.credentials()
        monkeypatch.setattr(access._beside, "_seconds", 0.05)
        with monkeypatch.context() as patch:
            patch.setattr(rotated, "_signature", lambda _: answers.wait(PATIENCE))
            async with lively():
                await access.credentials()
            assert "has not answered" in access.stale
            answers.set()
        async with asyncio.timeout(PATIENCE):
            while access.stale:
                await access.credentials()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({}, ""),
        ({"token": "abc"}, "Bearer abc"),
        ({"username": "a", "password": "b"}, "Basic " + base64.b64encode(b"a:b").decode()),
    ],
)
def test_what_a_user_shows(tmp_path: Path, user: dict[str, str], header: str) -> None:
    assert authorization(Access(write(tmp_path, user))) == header


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    access = Access(write(tmp_path, {"tokenFile": "token"}))
    assert authorization(access) == "Bearer one"
    (tmp_path / "token").write_text("two and longer")
    assert authorization(access) == "Bearer two and longer"
    (tmp_path / "token").unlink()
    with capture_logs() as logged:
        for _ in range(3):
            assert authorization(access) == "Bearer two and longer"
    assert [(one["log_level"], one["reason"]) for one in logged] == [
        ("warning", f"{tmp_path / 'token'} cannot be read: No such file or directory")
    ], "said once: the API server has not refused it"
    access.refresh(asyncio.run(access.credentials()))
    with pytest.raises(NoAccess, match="token cannot be read: No such file"):
        authorization(access)
    (tmp_path / "token").write_text("three")
    assert authorization(access) == "Bearer three"


def test_credentials_are_the_same_until_something_changes(tmp_path: Path) -> None:
    async def scenario() -> None:
        access = Access(write(tmp_path, {"token": "a"}))
        first = await access.credentials()
        assert await access.credentials() is first
        access.refresh(first)
        second = await access.credentials()
        assert second is not first
        access.refresh(first)
        assert await access.credentials() is second, "a late refusal of old ones changes nothing"

    asyncio.run(scenario())


def test_what_cannot_be_read_any_more_is_told_while_what_was_there_is_used(tmp_path: Path) -> None:
    async def scenario() -> None:
        access, told = Access(write(tmp_path, {"token": "a"})), list[str]()
        access.noticed = lambda: told.append(access.stale)
        first = await access.credentials()
        write(tmp_path, {"token": "a"}).write_text("[]")
        assert await access.credentials() is first
        write(tmp_path, {"token": "b"})
        assert (await access.credentials()).headers == {"Authorization": "Bearer b"}
        assert len(told) == 2
        assert "no kubeconfig" in told[0]
        assert told[1] == ""

    asyncio.run(scenario())


def test_certificates_are_inline_or_files(tmp_path: Path) -> None:
    pair = authority().leaf("user", client=True)
    for name, content in (("crt", pair.certificate), ("key", pair.key), ("ca", authority().pem)):
        (tmp_path / name).write_bytes(content)
    files = {"client-certificate": "crt", "client-key": "key"}
    inline = {
        "client-certificate-data": base64.b64encode(pair.certificate).decode(),
        "client-key-data": base64.b64encode(pair.key).decode(),
    }
    before = set(Path(tempfile.gettempdir()).glob("tmp*"))
    for user in (files, inline):
        credentials = asyncio.run(Access(write(tmp_path, user, **{"certificate-authority": "ca"})).credentials())
        assert credentials.tls is not None
        assert len(credentials.tls.get_ca_certs()) == 1
    assert set(Path(tempfile.gettempdir()).glob("tmp*")) <= before, "no key lies about"


def test_authorities_as_people_write_them(tmp_path: Path) -> None:
    """`base64` breaks its lines, and bundles of authorities say in many languages whose they are."""
    lines = base64.encodebytes(authority().pem).decode()
    access = Access(write(tmp_path, server=SERVER.replace("https", "HTTPS"), **{"certificate-authority-data": lines}))
    found = asyncio.run(access.credentials()).tls
    assert found is not None
    assert len(found.get_ca_certs()) == 1
    (tmp_path / "ca").write_bytes("# Autoridad de Certificación\n".encode() + authority().pem)
    found = asyncio.run(Access(write(tmp_path, **{"certificate-authority": "ca"})).credentials()).tls
    assert found is not None
    assert len(found.get_ca_certs()) == 1


def test_a_plugin_is_told_of_its_cluster(tmp_path: Path) -> None:
    """Wherever the kubeconfig has the authority. https://kubernetes.io/docs/reference/config-api/client-authentication.v1/"""
    (tmp_path / "ca").write_bytes(authority().pem)
    user = plugin(tmp_path, credential({"token": "one"}))
    user["exec"]["provideClusterInfo"] = True
    script = tmp_path / "plugin"
    script.write_text(script.read_text().replace("\n", f'\necho "$KUBERNETES_EXEC_INFO" > {tmp_path}/told\n', 1))
    more = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "prod"}}
    file = write(tmp_path, user, extensions=[{"name": "other"}, more], **{"certificate-authority": "ca"})
    assert authorization(Access(file)) == "Bearer one"
    assert json.loads((tmp_path / "told").read_text())["spec"]["cluster"] == {
        "server": SERVER,
        "certificate-authority-data": base64.b64encode(authority().pem).decode(),
        "config": {"audience": "prod"},
    }


def test_a_plugin_runs_again_before_what_it_gave_expires(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    later = (now + timedelta(minutes=10)).isoformat().replace("+00:00", "Z")
    time = now.timestamp()
    status = {"token": "t", "expirationTimestamp": later}
    access = Access(write(tmp_path, plugin(tmp_path, credential(status))), clock=lambda: time)
    for _ in range(3):
        assert authorization(access) == "Bearer t"
    assert runs(tmp_path) == 1
    time += 9 * 60 + 40
    authorization(access)
    assert runs(tmp_path) == 2


def test_a_plugin_may_give_a_certificate(tmp_path: Path) -> None:
    pair = authority().leaf("user", client=True)
    status = {"clientCertificateData": pair.certificate.decode(), "clientKeyData": pair.key.decode()}
    credentials = asyncio.run(Access(write(tmp_path, plugin(tmp_path, credential(status)))).credentials())
    assert (credentials.tls is not None, dict(credentials.headers)) == (True, {})


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        ("{}", 1, "ended with 1: no luck"),
        ("nonsense", 0, "printed no ExecCredential of client.authentication.k8s.io/v1"),
        (json.dumps({"apiVersion": "v0", "kind": "ExecCredential", "status": {"token": "t"}}), 0, "no ExecCredential"),
        (json.dumps(credential({})), 0, "neither token nor certificate"),
    ],
)
def test_a_plugin_that_fails_is_named(tmp_path: Path, answer: str, code: int, reason: str) -> None:
    with pytest.raises(NoAccess, match=reason):
        authorization(Access(write(tmp_path, plugin(tmp_path, answer, code))))


def test_a_plugin_that_is_missing_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"apiVersion": "v1", "command": "./none", "installHint": "install it"}
    with pytest.raises(NoAccess, match=r"cannot be started: .*install it"):
        authorization(Access(write(tmp_path, {"exec": missing})))
    monkeypatch.setattr("controlplane.sources.kubernetes.access.EXEC_SECONDS", 0.2)
    hangs = plugin(tmp_path, "")
    (tmp_path / "plugin").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(NoAccess, match="did not end within"):
        authorization(Access(write(tmp_path, hangs)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("[", r"config:\d+:\d+: not YAML"),
        ("7", "no kubeconfig"),
        ("{}", "no current-context"),
        ("current-context: y\ncontexts: [{name: x}]", "no context 'y' .known: x."),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: d}}]\nclusters: [{name: c}]", "no cluster 'd'"),
        ("current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: [{name: c}]", "has no server"),
        ("current-context: x\ncontexts: [{name: x, context: 7}]", "the context 'x' is no mapping"),
        ("current-context: x\ncontexts: 7", "no context 'x'"),
    ],
)
def test_a_kubeconfig_that_makes_no_sense(tmp_path: Path, change: str, reason: str) -> None:
    file = tmp_path / "config"
    file.write_text(textwrap.dedent(change))
    with pytest.raises(NoAccess, match=reason):
        authorization(Access(file))


@pytest.mark.parametrize(
    ("user", "cluster", "reason"),
    [
        ({"client-certificate-data": "%"}, {}, "client-certificate-data is not base64"),
        ({"client-certificate-data": "YQ==", "client-key-data": "YQ=="}, {}, "cannot be used"),
        ({}, {"certificate-authority-data": "YQ=="}, "certificate authority is not PEM"),
        ({"auth-provider": {"name": "oidc", "config": {"id-token": "a.b"}}}, {}, "auth-provider gave no token"),
        ({"auth-provider": {"name": "unheard of"}}, {}, "auth-provider gave no token"),
        ({"as": "somebody"}, {}, "as is not supported"),
        ({"tokenFile": 7}, {}, "7 cannot be read"),
        ({"exec": 7}, {}, "no kubeconfig of the known form"),
        ({"exec": {"command": "./x", "env": [7]}}, {}, "no kubeconfig of the known form"),
        ({"client-certificate-data": "YQ=="}, {}, "a client certificate needs its key"),
        ({"client-key-data": "YQ=="}, {}, "a key its certificate"),
        (
            {"token": "t"},
            {"server": "http://10.0.0.1:8080"},
            "over https only, or to this machine; not to http://10.0.0.1",
        ),
        ({}, {"insecure-skip-tls-verify": "false"}, "true or false, without quotes"),
        ({}, {"insecure-skip-tls-verify": 1}, "true or false, without quotes"),
        ({}, {"tls-server-name": 7}, "tls-server-name is no text"),
        ({}, {"proxy-url": 7}, "proxy-url is no text"),
        (
            {},
            {"proxy-url": "socks5://me:pw@127.0.0.1:1080"},
            "proxy-url: 127.0.0.1:1080 is no http:// or https:// proxy",
        ),
        ({}, {"proxy-url": "127.0.0.1:3128"}, "proxy-url: 127.0.0.1:3128 is no http"),
    ],
)
def test_credentials_that_make_no_sense(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NoAccess, match=reason):
        authorization(Access(write(tmp_path, user, **cluster)))


def test_an_openid_connect_provider_of_a_kubeconfig(tmp_path: Path) -> None:
    """Read by the client library of Kubernetes, which renews such tokens; one that is still good is used as it is."""

    def part(content: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()

    soon = (datetime.now(UTC) + timedelta(hours=1)).timestamp()
    token = ".".join((part({"alg": "RS256"}), part({"exp": int(soon)}), "c2ln"))
    user = {"auth-provider": {"name": "oidc", "config": {"id-token": token}}}
    assert authorization(Access(write(tmp_path, user))) == f"Bearer {token}"


def test_the_pod_s_own_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NoAccess, match="not in a cluster"):
        authorization(Access(None, service_account=tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(NoAccess, match="token cannot be read"):
        authorization(Access(None, service_account=tmp_path))
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_bytes(authority().pem)
    access = Access(None, service_account=tmp_path)
    assert asyncio.run(access.credentials()).server == "https://[fd00::1]:443"
    (tmp_path / "token").write_text("rotated")
    assert authorization(access) == "Bearer rotated"
