"""The unit of systemd starts the process as it can be started, and gives it the time it takes to end."""

from __future__ import annotations

import re
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

import yaml

from controlplane.cli.exit import Exit
from controlplane.config import Configuration
from tests.docs.pages import ROOT
from tests.support.children import Child
from tests.support.waiting import until

UNIT = ConfigParser(interpolation=None)
UNIT.read(ROOT / "manifests" / "systemd" / "controlplane.service")


def started(folder: Path, configuration: str) -> Child:
    """The command of the unit, in a folder instead of the machine's own."""
    program, *words = shlex.split(UNIT["Service"]["ExecStart"])
    assert program == "/opt/controlplane/bin/controlplane"
    (folder / "controlplane.yaml").write_text(configuration)
    (folder / "specs").mkdir()
    places = {"/etc/controlplane/controlplane.yaml": "controlplane.yaml", "/var/lib/controlplane": "state"}
    words = [str(folder / places[word]) if word in places else word for word in words]
    return Child([sys.executable, "-m", "controlplane", *words], folder / "log")


def test_the_command_and_the_configuration_of_the_documentation_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploying.md").read_text()
    (block,) = re.findall(r"^```yaml\n# /etc/controlplane/controlplane.yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    configuration = yaml.safe_load(block)
    for section in ("xds", "metrics"):
        configuration[section]["listen"] = "127.0.0.1:0"
    configuration["admin"] = {"listen": "127.0.0.1:0"}
    with started(tmp_path, yaml.safe_dump(configuration)) as child:
        until(lambda: child.check() or '"ready"' in child.said(), "it is ready")
        assert (tmp_path / "state" / "ca").is_dir()
        assert child.stop() == Exit.OK
    assert int(UNIT["Service"]["TimeoutStopSec"]) > Configuration().shutdown.within.total_seconds()


def test_what_would_be_wrong_again_is_not_tried_again(tmp_path: Path) -> None:
    with started(tmp_path, "nonsense: 1\n") as child:
        code = until(lambda: None if child.running else [child.stop()], "it has ended")[0]
    final = {int(word) for word in UNIT["Service"]["RestartPreventExitStatus"].split()}
    assert final == {code, Exit.USAGE}
