"""The demo from beginning to end."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType

from controlplane.cli.demo import checks
from controlplane.cli.demo.backends import Backend
from controlplane.cli.demo.checks import Check
from controlplane.cli.demo.children import Child, ControlPlane, Envoy, bootstrap, run, wait
from controlplane.cli.demo.page import Page
from controlplane.cli.demo.scene import LABEL, Port, Scene
from controlplane.cli.exit import Exit
from controlplane.cli.terminal import Terminal

GOOD_EDITS = 5
"""Edits that are timed; the first one finds everything cold."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What is running, and where."""

    scene: Scene
    children: Sequence[Child]
    envoy: str
    """HOST:PORT through which requests go."""
    admin: str
    envoy_admin: str


def tell(terminal: Terminal, binary: Path, *, once: bool) -> Exit:
    """Run the demo; whether every check held. Everything that was started is stopped, whatever happens."""
    page = Page(terminal)
    with ExitStack() as stack:
        _end_on_signals(stack)
        folder = Path(tempfile.mkdtemp(prefix="controlplane-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stage = _begin(page, stack, folder, binary)
        token = stage.scene.issuer.token("alice")
        page.section("requests", f"http://{stage.envoy}")
        for one in checks.requests(stage.envoy, token):
            page.check(one)
        _edit(page, stage)
        _break(page, stage)
        page.verdict()
        if not once:
            # The checks are over: from here on a signal is how it ends, wherever it arrives.
            with suppress(KeyboardInterrupt):
                stage.scene.token_file.write_text(token, encoding="utf-8")
                _invite(page, stage)
                _stay(stage.children)
            page.line()
            page.line("stopping")
    return Exit.OK if page.good else Exit.PROBLEMS


def _begin(page: Page, stack: ExitStack, folder: Path, binary: Path) -> Stage:
    """Start everything in order, and wait until Envoy has acknowledged its configuration."""
    began = time.perf_counter()
    page.section("starting", str(folder))
    stable, canary = stack.enter_context(Backend("stable")), stack.enter_context(Backend("canary"))
    page.step("two backends", f"127.0.0.1:{stable.port}, 127.0.0.1:{canary.port}")
    listener = stack.enter_context(Port())
    scene = Scene(folder, listener, stable.port, canary.port)
    scene.write("1")

    plane = stack.enter_context(ControlPlane(folder, scene.specs, scene.secrets, scene.state))
    xds, admin = wait("the control plane listens", plane.addresses, [plane])
    wait("the control plane is ready", lambda: checks.ask(admin, "GET", "/readyz").status == 200, [plane])
    page.step("control plane", f"xDS on {xds} with mutual TLS, admin on {admin}")

    bootstrap(folder / "envoy.yaml", scene.state, xds, LABEL)
    proxy = stack.enter_context(Envoy(folder, binary, folder / "envoy.yaml"))
    envoy = f"127.0.0.1:{listener}"
    version = wait("Envoy acknowledges", lambda: checks.acknowledged(admin), [plane, proxy])
    wait("Envoy answers", lambda: checks.edition(envoy) == "1", [plane, proxy])
    page.step(f"Envoy {version}", "has acknowledged its configuration")
    page.step("ready", f"after {time.perf_counter() - began:.1f} s")
    envoy_admin = wait("Envoy's admin page", proxy.admin, [proxy])
    return Stage(scene, [plane, proxy], envoy, admin, envoy_admin)


def _edit(page: Page, stage: Stage) -> None:
    page.section("a good edit", f"x-edition in {stage.scene.routes_file.name}, saved {GOOD_EDITS} times")
    took = [_saved(stage, str(number)) for number in range(2, 2 + GOOD_EDITS)]
    times = " ".join("never" if each is None else f"{each:.1f}" for each in took)
    lost = "" if None not in took else "each of them"
    page.check(Check("Envoy answers by it", "save to answer", f"{times} ms", lost))


def _saved(stage: Stage, edition: str) -> float | None:
    """Milliseconds from a save until Envoy answered by it."""
    text = stage.scene.routes(edition)
    saved = time.perf_counter()
    stage.scene.save(text)
    return checks.milliseconds_until(stage.envoy, edition, saved)


def _break(page: Page, stage: Stage) -> None:
    scene, before = stage.scene, checks.edition(stage.envoy)
    page.section("a bad edit", f"a misspelt field in {scene.routes_file.name}")
    scene.save(scene.broken_routes("broken"))
    arguments = ["validate", "specs", "--secrets", "secrets"]
    code, _, errors = run([*arguments, "--color", page.color], scene.folder)
    page.quote(f"controlplane {' '.join(arguments)}", errors)
    page.check(checks.check("it is refused", "exit code", "1", str(code)))
    said = wait("the control plane says what is wrong", lambda: checks.problem(stage.admin), stage.children)
    page.check(checks.check("by serve, too", "GET /v1/problems", "GW0101", said))
    editions = {checks.edition(stage.envoy) for _ in range(10)}
    page.check(checks.check("nothing has changed", "GET /hello x 10", f"as before ({before})", _as(editions, before)))
    elapsed = _saved(stage, "repaired")
    got = "never" if elapsed is None else f"{elapsed:.1f} ms"
    page.check(Check("put right", "save to answer", got, "" if elapsed else "an answer by it"))


def _as(editions: set[str], before: str) -> str:
    return f"as before ({before})" if editions == {before} else f"editions {', '.join(sorted(editions))}"


def _invite(page: Page, stage: Stage) -> None:
    scene, base = stage.scene, f"http://{stage.envoy}"
    page.section("it stays up")
    page.step("through Envoy", f"{base}/hello")
    page.step("control plane", f"http://{stage.admin}/v1/nodes   /v1/gateways   /v1/problems   /metrics")
    page.step("Envoy's own page", f"http://{stage.envoy_admin}/config_dump   /clusters   /stats")
    page.step("logs", f"{scene.folder}/controlplane.log   envoy.log")
    page.section("three things to try")
    page.line("  1. change x-edition, or anything else, save, and ask again:")
    page.line(f"         $EDITOR {scene.routes_file}")
    page.line(f"         curl --include {base}/hello")
    page.line("  2. call the route that wants a token, without and with one:")
    page.line(f"         curl --include {base}/orders")
    page.line(f'         curl --header "authorization: Bearer $(cat {scene.token_file})" {base}/orders')
    page.line("  3. misspell a field, save, and see who says what about it:")
    page.line(f"         {_program()} validate {scene.specs}")
    page.line(f"         curl http://{stage.admin}/v1/problems")
    page.line()
    page.line(f"Ctrl-C ends everything and removes {scene.folder}")


def _program() -> str:
    """How this program was called, so that what is printed can be pasted."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "controlplane" else f"{sys.executable} -m controlplane"


def _stay(children: Sequence[Child]) -> None:
    """Until Ctrl-C (KeyboardInterrupt), or until a child ends (Failure)."""
    never = Event()
    while not never.wait(0.5):
        for child in children:
            child.check()


def _end_on_signals(stack: ExitStack) -> None:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does. Only the first signal counts: tidying up is not interrupted."""
    ending = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        if not ending:
            ending = True
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        stack.callback(signal.signal, number, signal.signal(number, interrupt))
