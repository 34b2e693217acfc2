"""The secret source on real folders: whole generations, and nothing lost or told."""

import asyncio
import os
from pathlib import Path

import pytest

from controlplane.model.secret import Secret
from controlplane.names import SecretRef
from controlplane.sources.secrets import MAX_BYTES, SecretSource
from tests.sources.rig import Remembering, denied, mount, replace_file, running

TLS = SecretRef("files", "shop", "tls")


def write(root: Path, name: str, files: dict[str, str], namespace: str = "shop") -> Path:
    folder = root / namespace / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder


def value(sink: Remembering, key: str, ref: SecretRef = TLS) -> bytes | None:
    return sink.secrets[ref].get(key)


def test_secrets_are_loaded_and_changes_follow(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "c1", "tls.key": "k1"})
        (folder / ".hidden").write_text("x")
        (folder / "tls.key~").write_text("x")
        (tmp_path / "README").write_text("not a secret")
        async with running(SecretSource(tmp_path)) as sink:
            assert sink.state == "synced"
            assert sink.secrets == {TLS: Secret.of({"tls.crt": b"c1", "tls.key": b"k1"})}
            replace_file(folder / "tls.crt", "c2")
            await sink.until(lambda: value(sink, "tls.crt") == b"c2")
            (folder / "ca.crt").write_text("ca")
            await sink.until(lambda: value(sink, "ca.crt") == b"ca")
            write(tmp_path, "jwks", {"jwks.json": "{}"}, namespace="other")
            await sink.until(lambda: SecretRef("files", "other", "jwks") in sink.secrets)
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            await sink.until(lambda: TLS not in sink.secrets)
            assert sink.said == {}

    asyncio.run(scenario())


def test_generations_are_read_whole(tmp_path: Path) -> None:
    """F43: certificate and key are swapped together two hundred times and never seen apart."""

    async def scenario() -> None:
        folder = tmp_path / "shop" / "tls"
        mount(folder, "g0", {"tls.crt": "0", "tls.key": "0"})
        async with running(SecretSource(tmp_path)) as sink:
            for number in range(1, 201):
                mount(folder, f"g{number}", {"tls.crt": f"{number}", "tls.key": f"{number}"})
                if number % 20 == 0:
                    wanted = f"{number}".encode()
                    await sink.until(lambda wanted=wanted: value(sink, "tls.key") == wanted)  # type: ignore[misc]
                await asyncio.sleep(0)
            assert sink.calls.count("put shop/tls") > 9
            assert not [call for call in sink.calls if call.startswith("remove")]
            for _, secrets in sink.history:
                assert len(set(dict(secrets[TLS].items).values())) == 1
            mount(folder, "less", {"tls.crt": "less"})
            await sink.until(lambda: value(sink, "tls.key") is None)

    asyncio.run(scenario())


def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "old"})
        other = write(tmp_path, "other", {"x": "0"})
        async with running(SecretSource(tmp_path)) as sink:
            with (folder / "tls.crt").open("w") as writer:
                writer.write("ne")
                writer.flush()
                (other / "x").write_text("1")
                await sink.until(lambda: value(sink, "x", TLS._replace(name="other")) == b"1")
                assert value(sink, "tls.crt") == b"old"
                writer.write("w")
            await sink.until(lambda: value(sink, "tls.crt") == b"new")
            assert all(secrets[TLS].get("tls.crt") in (b"old", b"new") for _, secrets in sink.history)

    asyncio.run(scenario())


def test_a_file_that_goes_missing_is_believed_after_a_rest(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "c", "tls.key": "k"})
        async with running(SecretSource(tmp_path, settle_seconds=0.05)) as sink:
            (folder / "tls.key").unlink()
            await sink.until(lambda: value(sink, "tls.key") is None)
            (folder / "tls.crt").unlink()
            await sink.until(lambda: TLS not in sink.secrets)

    asyncio.run(scenario())


def test_a_file_that_is_replaced_slowly_is_never_missing(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "c", "tls.key": "k"})
        other = write(tmp_path, "other", {"x": "0"})
        async with running(SecretSource(tmp_path, settle_seconds=3600)) as sink:
            (folder / "tls.key").unlink()
            (other / "x").write_text("1")
            await sink.until(lambda: value(sink, "x", TLS._replace(name="other")) == b"1")
            assert value(sink, "tls.key") == b"k"
            (folder / "tls.key").write_text("k2")
            await sink.until(lambda: value(sink, "tls.key") == b"k2")

    asyncio.run(scenario())


def test_what_cannot_be_read_keeps_the_previous_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "very-secret-one"})
        async with running(SecretSource(tmp_path)) as sink:
            allow = denied(monkeypatch, folder / "tls.crt")
            replace_file(folder / "tls.crt", "very-secret-two")
            await sink.until(lambda: sink.codes == ["GW0303"])
            assert value(sink, "tls.crt") == b"very-secret-one"
            allow()
            (folder / "tls.crt").touch()
            await sink.until(lambda: value(sink, "tls.crt") == b"very-secret-two")
            (folder / "tls.crt").write_bytes(b"very-secret" * MAX_BYTES)
            await sink.until(lambda: sink.codes == ["GW0002"])
            assert value(sink, "tls.crt") == b"very-secret-two"
            assert "very-secret" not in repr(sink.said)
            (folder / "tls.crt").unlink()
            (folder / "tls.crt").symlink_to("nothing")
            await sink.until(lambda: sink.codes == ["GW0303"])
            assert value(sink, "tls.crt") == b"very-secret-two"

    asyncio.run(scenario())


def test_nothing_but_regular_files_is_opened(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "c"})
        os.mkfifo(folder / "fifo")
        (folder / "device").symlink_to("/dev/zero")
        (folder / "circle").symlink_to(tmp_path)
        async with running(SecretSource(tmp_path)) as sink:
            assert sink.secrets == {TLS: Secret.of({"tls.crt": b"c"})}

    asyncio.run(scenario())


@pytest.mark.parametrize("start", [False, True])
def test_an_empty_folder_in_the_place_of_another_is_a_failure(tmp_path: Path, start: bool) -> None:
    """Nothing is mounted there, perhaps: key sets that go would close their routes."""

    async def scenario() -> None:
        root = tmp_path / "secrets"
        root.mkdir()
        before = Secret.of({"tls.crt": b"c"})
        if not start:
            write(root, "tls", {"tls.crt": "c"})
        last_good = {TLS: before} if start else {}
        async with running(SecretSource(root, last_good=last_good, look_again=0.02)) as sink:
            if not start:
                assert sink.state == "synced"
                root.rename(tmp_path / "away")
                root.mkdir()
                await sink.until(lambda: sink.state != "synced")
            assert "it is empty" in sink.reason
            assert sink.secrets == {TLS: before}
            (root / "shop" / "none").mkdir(parents=True)
            await sink.until(lambda: sink.secrets == {})
            assert sink.state == "synced"

    asyncio.run(scenario())


def test_a_missing_root_is_a_failure_and_keeps_everything(tmp_path: Path) -> None:
    async def scenario() -> None:
        root = tmp_path / "secrets"
        last_good = {TLS: Secret.of({"tls.crt": b"last"})}
        async with running(SecretSource(root, last_good=last_good, look_again=0.02)) as sink:
            assert (sink.state, sink.codes, value(sink, "tls.crt")) == ("failed", ["GW0302"], b"last")
            write(root, "tls", {"tls.crt": "c"})
            await sink.until(lambda: sink.state == "synced" and value(sink, "tls.crt") == b"c")
            root.rename(tmp_path / "away")
            await sink.until(lambda: sink.state == "failed")
            assert value(sink, "tls.crt") == b"c"
            write(root, "other", {"tls.crt": "o"})
            await sink.until(lambda: list(sink.secrets) == [TLS._replace(name="other")])
            assert sink.said == {}

    asyncio.run(scenario())


def test_saving_the_same_content_says_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = write(tmp_path, "tls", {"tls.crt": "c"})
        other = write(tmp_path, "other", {"x": "0"})
        async with running(SecretSource(tmp_path)) as sink:
            flushes = len(sink.history)
            replace_file(folder / "tls.crt", "c")
            replace_file(other / "x", "1")
            await sink.until(lambda: value(sink, "x", TLS._replace(name="other")) == b"1")
            assert len(sink.history) == flushes + 1

    asyncio.run(scenario())
