# SPDX-License-Identifier: GPL-2.0-only
"""Runs tests of the suite in a process of their own, and reads what they came to."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from imakexec import process
from imakexec.deadline import Deadline
from imakexec.errors import InfraError, UserError
from imakexec.kernel.build import KernelRequest
from imakexec.machine.accelerator import Accelerator
from imakexec.suite.artefacts import KERNELS, read_runs
from imakexec.suite.catalogue import CATALOGUE, Scenario
from imakexec.suite.result import SuiteRun

_LOG = "pytest.log"
_TAIL = 20

# All passed; some failed; some were in error, and none failed.
_RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, InfraError.exit_code)

_SUBJECT = re.compile(r"(?<=\[)(patched|plain|given|debug)(?=[]-])")


@dataclass(frozen=True)
class Selection:
    """Tests of the suite, whatever kernel they are tried on; without any, the default set.

    Attributes:
        scenarios: of the catalogue: their tests in the default set.
        tests: else pytest's names of single ones, relative to `harness/`.
    """

    scenarios: tuple[Scenario, ...] = ()
    tests: tuple[str, ...] = ()

    @classmethod
    def parse(cls, names: Sequence[str]) -> Selection:
        """Find what a user means.

        Args:
            names: scenarios by number or name ("2", "double load", "double_load"), or tests
                ("test_gap_events.py::test_gap_events[given-5]").

        Raises:
            UserError: there is no such scenario, or there are both.
        """
        tests = tuple(name.removeprefix("harness/") for name in names if "::" in name)
        scenarios = tuple(_scenario(name) for name in names if "::" not in name)
        if tests and scenarios:
            raise UserError(
                "scenarios and single tests cannot be mixed",
                where=f"--scenario {tests[0]}",
                remedy="name scenarios, or else tests",
            )
        return cls(scenarios, tests)

    def arguments(self, subject: str) -> list[str]:
        """pytest's arguments for these tests on one of the kernels, see `subject_of`."""
        if self.tests:
            # A name is that of a test which has failed, on any kernel.
            named = [_SUBJECT.sub(subject, test) for test in self.tests]
            return ["-m", "", *(f"harness/{test}" for test in named)]
        words = " or ".join(scenario.keyword for scenario in self.scenarios)
        return ["-k", f"({words}) and {subject}" if words else subject, "harness"]

    def __str__(self) -> str:
        if not self.scenarios and not self.tests:
            return "the default set"
        return ", ".join([*(scenario.name for scenario in self.scenarios), *self.tests])


def _scenario(name: str) -> Scenario:
    for scenario in CATALOGUE.values():
        if name.strip().lower() in (str(scenario.number), scenario.name.lower(), scenario.keyword):
            return scenario
    raise UserError(
        f"there is no scenario {name!r}",
        where="--scenario",
        remedy="one of: " + ", ".join(f"{number} {it.name}" for number, it in CATALOGUE.items()),
    )


def without_subject(nodeid: str) -> str:
    """The name of a test, whatever kernel it was tried on, relative to `harness/`."""
    return _SUBJECT.sub("*", nodeid.removeprefix("harness/"))


def subject_of(request: KernelRequest) -> str:
    """What the suite calls the requested kernel, which has none of the project's own patches."""
    return "given" if request.kernel_tree or request.further else "plain"


def options_for(request: KernelRequest, accelerator: Accelerator | None) -> list[str]:
    """pytest's options with which the suite has the requested kernel, see `subject_of`.

    Only source and patches count: each test configures it as it needs it.
    """
    options = [f"--base={request.base}", f"--arch={request.arch.name}"]
    if request.kernel_tree is not None:
        options.append(f"--kernel-tree={request.kernel_tree}")
    if accelerator is not None:
        options.append(f"--accel={accelerator}")
    return [*options, *(f"--patch={path}" for path in request.further)]


def run_tests(
    project: Path,
    arguments: Sequence[str],
    folder: Path,
    *,
    deadline: Deadline,
    on_line: Callable[[str], None] | None = None,
    to_the_end: bool = False,
) -> SuiteRun:
    """Run tests, by default one after another until the first that fails or is in error.

    Args:
        project: the checkout.
        arguments: pytest's, see `Selection.arguments` and `options_for`.
        folder: for the artefacts; it does not exist.
        on_line: called with each line that pytest writes.
        to_the_end: run all of them, side by side if the host has room for that.

    Raises:
        UserError: no test is meant by the arguments.
        InfraError: pytest did not get as far as a result, or not by the deadline.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.{_LOG}")
    ran = process.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v"),
            *(() if to_the_end else ("-n0", "-x")),
            *(f"--artefacts={folder}", *arguments),
        ],
        cwd=project,
        log=log,
        deadline=deadline,
        on_line=on_line,
        check=False,
    )
    tail = "\n".join(ran.output.splitlines()[-_TAIL:])
    nothing = (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR)
    if ran.returncode in nothing:
        raise UserError(
            "no test of the suite is meant",
            where=" ".join(arguments),
            remedy="name a scenario or a test that takes any kernel: `pytest harness -m '' "
            "--collect-only -q` lists the tests",
            tail=tail,
        )
    if ran.returncode not in _RAN:
        raise InfraError(
            f"pytest ended with exit status {ran.returncode} before all tests were run",
            where=str(log),
            remedy="see its last lines",
            tail=tail,
        )
    log.replace(folder / _LOG)
    return read_runs(folder)


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel that tests had built: how it differs from others of the same source.

    Attributes:
        base, kernel_tree, patches, further, symbols, extra_memory_kb: see `KernelRequest`.
    """

    base: str
    kernel_tree: str
    patches: int | None
    further: tuple[str, ...]
    symbols: tuple[str, ...]
    extra_memory_kb: int | None

    @classmethod
    def of(cls, request: KernelRequest) -> BuiltKernel:
        """What there is to keep of a request."""
        return cls(
            base=request.base,
            kernel_tree=str(request.kernel_tree or ""),
            patches=request.patches,
            further=tuple(map(str, request.further)),
            symbols=request.symbols,
            extra_memory_kb=request.extra_memory_kb,
        )

    def to_json(self) -> dict[str, object]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> BuiltKernel:
        """Read such an object, which this program has written."""
        lists = {name: tuple(fields[name]) for name in ("further", "symbols")}
        return cls(**{**fields, **lists})


def note_kernel(folder: Path, request: KernelRequest) -> None:
    """Keep beside the artefacts that a test had a kernel built.

    Raises:
        OSError: the file system refuses.
    """
    with (folder / KERNELS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(BuiltKernel.of(request).to_json()) + "\n")


def kernels_of(folder: Path) -> Iterator[BuiltKernel]:
    """The kernels that the tests of a run had built, each once."""
    path = folder / KERNELS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return (BuiltKernel.read(json.loads(line)) for line in dict.fromkeys(lines))
