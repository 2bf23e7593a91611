# SPDX-License-Identifier: GPL-2.0-only
"""How many machines are run side by side, where the user does not say it: a plugin of pytest."""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from imakexec.project import boots_machines

_MEMINFO = Path("/proc/meminfo")

_MACHINE_MIB = 1536
"""Memory of the host for a machine: the guest's, which is 1 GiB at most, and what is beside it."""


_PR_SET_PDEATHSIG = 1
"""prctl(2), include/uapi/linux/prctl.h."""


def pytest_configure(config: pytest.Config) -> None:
    """Have a worker end at once if the process that shows the results is killed.

    It would go on to the end of its test. What it has started goes with it, see imakexec.process.
    """
    starter = os.getppid()
    if not hasattr(config, "workerinput"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.hookimpl(wrapper=True)  # around pytest-xdist's own, which comes first of the others
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Choose the number of workers where the user has not, for tests that boot machines."""
    _choose_workers(config)
    return (yield)


def _choose_workers(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", 0) is not None:
        return
    if config.option.tx:
        return  # a number of workers would replace the hosts that these are
    if any(boots_machines(Path(argument.partition("::")[0])) for argument in config.args):
        config.option.numprocesses = "auto"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many machines this host runs side by side: one for each CPU, if there is memory for it.

    A guest keeps one busy, by either accelerator, and what drives and judges it runs while others
    wait. 0 is for a single one, in this process.
    """
    cpus = len(os.sched_getaffinity(0))
    workers = workers_for(
        cpus, cpu_max=_text_of(Path("/sys/fs/cgroup/cpu.max")), meminfo=_text_of(_MEMINFO)
    )
    return workers if workers > 1 else 0


def workers_for(cpus: int, *, cpu_max: str, meminfo: str) -> int:
    """The number of workers, at least one.

    Args:
        cpus: that this process may run on.
        cpu_max: the control group's quota and period in microseconds, or "max" for no quota
            (Documentation/admin-guide/cgroup-v2.rst); empty where there is none.
        meminfo: /proc/meminfo; empty where there is none.
    """
    quota = re.match(r"(\d+) (\d+)", cpu_max)
    if quota is not None:
        cpus = min(cpus, round(int(quota[1]) / int(quota[2])))
    available = re.search(r"^MemAvailable: +(\d+) kB", meminfo, re.MULTILINE)
    if available is not None:
        cpus = min(cpus, (int(available[1]) >> 10) // _MACHINE_MIB)
    return max(cpus, 1)


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
