# SPDX-License-Identifier: GPL-2.0-only
"""How many machines are run side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from imakexec.project import find_project
from imakexec.suite import workers


@pytest.mark.parametrize(("cpus", "due"), [(1, 0), (2, 2), (16, 16)])
def test_one_worker_for_each_cpu(monkeypatch: pytest.MonkeyPatch, cpus: int, due: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(workers, "_text_of", lambda _: "")
    assert workers.pytest_xdist_auto_num_workers() == due


@pytest.mark.parametrize(
    ("cpu_max", "gib", "due"),
    [("max 100000", 24, 8), ("250000 100000", 24, 2), ("50000 100000", 24, 1), ("", 5, 3)],
)
def test_no_more_workers_than_the_host_has_time_and_memory_for(
    cpu_max: str, gib: int, due: int
) -> None:
    meminfo = f"MemTotal: 99999999 kB\nMemAvailable:   {gib << 20} kB\n"
    assert workers.workers_for(8, cpu_max=cpu_max, meminfo=meminfo) == due


class Options:
    numprocesses: object = None
    tx: Sequence[str] = ()


class Chosen:
    """As much of pytest's configuration as the choice looks at."""

    workerinput: object

    def __init__(self, args: list[str], numprocesses: object = None) -> None:
        self.args = args
        self.option = Options()
        self.option.numprocesses = numprocesses


HARNESS = str(find_project() / "harness")


@pytest.mark.parametrize(
    ("args", "asked", "chosen"),
    [
        ([HARNESS], None, "auto"),
        ([f"{HARNESS}/test_gap_events.py::test_gap_events"], None, "auto"),
        ([str(find_project() / "tests")], None, None),
        ([HARNESS], 3, 3),
        ([HARNESS], 0, 0),
    ],
)
def test_the_user_chooses_first(args: list[str], asked: object, chosen: object) -> None:
    config = Chosen(args, asked)
    workers._choose_workers(config)  # type: ignore[arg-type]  # it looks at no more
    assert config.option.numprocesses == chosen


def test_hosts_that_the_user_names_are_not_replaced() -> None:
    config = Chosen([HARNESS])
    config.option.tx = ["ssh=host"]
    workers._choose_workers(config)  # type: ignore[arg-type]  # it looks at no more
    assert config.option.numprocesses is None


def test_a_worker_has_no_workers() -> None:
    config = Chosen([HARNESS])
    config.workerinput = {}
    workers._choose_workers(config)  # type: ignore[arg-type]  # it looks at no more
    assert config.option.numprocesses is None


@pytest.mark.parametrize("arguments", [[], ["harness"]])
def test_the_choice_reaches_xdist(arguments: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "-k", "no_such_test"],
        cwd=find_project(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    count = workers.pytest_xdist_auto_num_workers()
    shown = f"created: {count}/{count} workers" in ran.stdout
    assert shown is (count > 1), ran.stdout
