# SPDX-License-Identifier: GPL-2.0-only
"""Workers of pytest-xdist on other hosts: who they are, and how artefacts come home.

    pytest -o testpaths=harness --dist load --tx ssh=HOST//python=VENV/bin/python//chdir=CHECKOUT

Each test leaves its artefacts where it runs. A worker whose files are not those of the process that
was started sends them along with the test's report.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imakexec.project import find_project
from imakexec.suite import artefacts
from imakexec.suite.collector import FOLDER, HOST, PARCEL

if TYPE_CHECKING:
    import execnet
    from xdist.workermanage import WorkerController

_INPUT = "imakexec_home"

_HOME = pytest.StashKey[Path]()
"""In a worker elsewhere: the folder of all artefacts on the host that reports."""

_PARCEL_BYTES = 256 << 20
"""What a report may carry: an execnet message is held in memory, on both hosts, and ends at 2 GiB.
"""

_ASK = """
try:
    from imakexec.project import find_project
    from imakexec.suite.artefacts import project_state
    from imakexec.suite.collector import host_facts
except ImportError as error:
    channel.send([{}, "", str(error)])
else:
    channel.send([host_facts(), project_state(find_project()), ""])
"""


def is_elsewhere(spec: execnet.XSpec) -> bool:
    """Whether a worker may see other files than the process that was started."""
    return not spec.popen or bool(spec.chdir) or bool(spec.via)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[execnet.XSpec]) -> None:
    """Refuse what pytest-xdist cannot send, before it stumbles over that."""
    if not any(map(is_elsewhere, specs)):
        return
    for argument in map(str, config.invocation_params.args):
        if Path(argument.partition("::")[0]).exists():
            raise pytest.UsageError(
                f"{argument!r} is a path here, and pytest-xdist sends none to other hosts: name "
                "tests by -o testpaths=harness and -k, and write --option=PATH in one word"
            )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: execnet.Gateway) -> None:
    """Ask a host what it is; refuse it if it would run other tests than those of this checkout."""
    if not is_elsewhere(gateway.spec):
        return
    asked = gateway.remote_exec(_ASK)
    facts, state, error = asked.receive()
    asked.waitclose()  # the worker that comes next needs the same thread there
    if error:
        raise pytest.UsageError(
            f"{gateway.spec}: {error}: run ./run_qemu.sh in a checkout there, and name the Python "
            "of its virtual environment by //python=CHECKOUT/.venv/bin/python"
        )
    ours = artefacts.project_state(find_project())
    if state and ours and state != ours:
        raise pytest.UsageError(
            f"{gateway.spec}: the checkout there is at {state}, this one at {ours}: check the same "
            "commit out on all hosts"
        )
    setattr(gateway, HOST, facts)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Tell a worker elsewhere where the artefacts are wanted."""
    if is_elsewhere(node.gateway.spec):
        node.workerinput[_INPUT] = str(node.config.stash.get(FOLDER, ""))


def pytest_sessionstart(session: pytest.Session) -> None:
    """In such a worker, put artefacts into a folder of its own until they are sent."""
    config = session.config
    home = getattr(config, "workerinput", {}).get(_INPUT)
    if home:
        config.stash[_HOME] = Path(home)
        factory: pytest.TempPathFactory = getattr(config, "_tmp_path_factory")  # noqa: B009
        config.stash[FOLDER] = factory.mktemp("artefacts")


def at_home(config: pytest.Config, folder: Path) -> Path:
    """Where the artefacts of a test are for who reads the reports.

    Args:
        folder: where they are here.
    """
    home = config.stash.get(_HOME, None)
    return folder if home is None else home / folder.name


def send_home(config: pytest.Config, report: pytest.TestReport, folder: Path) -> None:
    """Put the artefacts of a test into its report, if this is a worker elsewhere.

    Raises:
        OSError: the file system refuses.
    """
    if _HOME not in config.stash:
        return
    parcel = artefacts.packed(folder)
    if len(parcel) > _PARCEL_BYTES:
        report.sections.append(("Artefacts", f"too large to be sent, left in {folder}"))
        return
    setattr(report, PARCEL, parcel)
