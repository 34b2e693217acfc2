"""The demo from beginning to end."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from types import FrameType

from controlplane.cli.demo import checks, stage
from controlplane.cli.demo.backends import Backend
from controlplane.cli.demo.scene import Ports, Scene, free_ports
from controlplane.cli.exit import Exit
from controlplane.cli.terminal import Paint, Terminal

UNKNOWN_FIELD = "      public: true\n      use: [browser]\n"
BROKEN = "      public: true\n      retires: 3\n      use: [browser]\n"


def tell(terminal: Terminal, binary: Path, *, once: bool) -> Exit:
    """Run the demo; whether every check held. Everything that was started is stopped, whatever happens."""
    began = time.perf_counter()
    with ExitStack() as stack:
        _end_on_signals(stack)
        folder = Path(tempfile.mkdtemp(prefix="controlplane-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        hello, orders = stack.enter_context(Backend("hello")), stack.enter_context(Backend("orders"))
        listener, xds, admin, envoy_admin = free_ports(4)
        ports = Ports(listener, xds, admin, envoy_admin, hello.port, orders.port)
        scene = Scene(folder, ports)
        scene.write()

        terminal.say(f"starting a control plane and {binary}, in {folder}")
        plane = stack.enter_context(
            stage.control_plane(folder, scene.specs, scene.secrets, scene.state, ports.xds, ports.admin)
        )
        stage.wait("the control plane is ready", lambda: checks.ask(admin, "GET", "/readyz").status == 200, [plane])
        bootstrap = folder / "envoy.yaml"
        stage.write_bootstrap(bootstrap, scene.state, ports.xds, ports.envoy_admin, "role=demo")
        proxy = stack.enter_context(stage.envoy(folder, binary, bootstrap))
        # The listener exists as soon as Envoy has acknowledged it; the header comes with the acknowledged route.
        stage.wait("Envoy serves", lambda: checks.edition(listener) == "1", [plane, proxy])
        terminal.say(
            f"ready after {time.perf_counter() - began:.1f} s; through Envoy at http://127.0.0.1:{listener}:\n"
        )

        token = scene.signer.token("alice")
        found = checks.run(listener, token)
        terminal.data(checks.table(found, terminal))
        good = all(one.holds for one in found)
        good &= _edit(terminal, scene)
        good &= _break(terminal, scene)
        terminal.data("\n")
        verdict = "every check held" if good else "some checks failed"
        terminal.data(terminal.paint(verdict, Paint.GOOD if good else Paint.ERROR))
        if not once:
            _invite(terminal, scene, token)
            _stay([plane, proxy])
    return Exit.OK if good else Exit.PROBLEMS


def _edit(terminal: Terminal, scene: Scene) -> bool:
    text = scene.routes("2")
    saved = time.perf_counter()
    scene.save(text)
    elapsed = checks.milliseconds_until(scene.ports.listener, "2", saved)
    if elapsed is None:
        terminal.data("\nedited a spec: Envoy did not answer by it")
        return False
    terminal.data(f"\nedited {scene.routes_file.name}: Envoy answered by it {elapsed:.1f} ms after it was saved")
    return True


def _break(terminal: Terminal, scene: Scene) -> bool:
    from controlplane.cli import render
    from controlplane.cli.documents import read
    from controlplane.cli.offline import compiled

    scene.save(scene.routes("3").replace(UNKNOWN_FIELD, BROKEN))
    found = read([str(scene.specs)])
    _, diagnostics = compiled(found, scene.secrets)
    terminal.data("\nbroke it on purpose; the control plane refuses it, as `controlplane validate` does:\n")
    texts = render.Texts(found.texts)
    for diagnostic in diagnostics:
        terminal.data("\n".join(f"  {line}" for line in render.text(diagnostic, texts, terminal).splitlines()))
    # Long enough for a control plane that took it over after all; a good edit takes a twentieth of it.
    wrongly = checks.milliseconds_until(scene.ports.listener, "3", time.perf_counter(), seconds=0.5)
    same = wrongly is None and checks.edition(scene.ports.listener) == "2"
    terminal.data("\nEnvoy still answers as before" if same else "\nEnvoy does not answer as before")
    repaired = time.perf_counter()
    scene.save(scene.routes("4"))
    elapsed = checks.milliseconds_until(scene.ports.listener, "4", repaired)
    terminal.data("put it right: not served" if elapsed is None else f"put it right: served after {elapsed:.1f} ms")
    return same and bool(diagnostics) and elapsed is not None


def _invite(terminal: Terminal, scene: Scene, token: str) -> None:
    base = f"http://127.0.0.1:{scene.ports.listener}"
    admin = f"http://127.0.0.1:{scene.ports.admin}"
    terminal.data(
        f"""
it stays up:
  through Envoy         {base}/hello
  control plane         {admin}/v1/nodes  {admin}/v1/gateways  {admin}/metrics
  Envoy's admin page    http://127.0.0.1:{scene.ports.envoy_admin}/config_dump
  specs                 {scene.specs}

three things to try:
  1. curl --include {base}/hello, then edit x-edition in {scene.routes_file} and curl again
  2. curl --header "authorization: Bearer {token}" {base}/orders
  3. misspell a field in {scene.routes_file} and look at
     {scene.folder / "controlplane.log"}

Ctrl-C ends everything and removes {scene.folder}"""
    )


def _stay(processes: list[stage.Process]) -> None:
    """Until Ctrl-C, or until a process ends."""
    never = Event()
    try:
        while not never.wait(0.5):
            for process in processes:
                process.check()
    except KeyboardInterrupt:
        return


def _end_on_signals(stack: ExitStack) -> None:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that no child outlives it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        stack.callback(signal.signal, number, signal.signal(number, interrupt))
