# SPDX-License-Identifier: GPL-2.0-only
"""Which runs a prefix takes, and which cell a run that went wrong turns red."""

from __future__ import annotations

from pathlib import Path

import pytest

from imakexec.arch import X86_64
from imakexec.attest import Judgement, Reason, Verdict
from imakexec.errors import GuestFailure, InfraError
from imakexec.job import Workshop
from imakexec.kernel.build import KernelImage
from imakexec.kernel.cache import Cache
from imakexec.progress import SilentProgress
from imakexec.series.boots import BootChecks
from imakexec.series.cells import Cell, Status
from imakexec.series.promises import Seen

_PATCHES = 5
_LOADS = {"carries": 1, "twice": 2, "reload": 2}


class _Machine:
    """Runs in the place of QEMU.

    Attributes:
        ways: the runs.
        lose: the ways that lose the record after the load.
        errors: what a way ends with.
    """

    def __init__(self) -> None:
        self.ways: list[str] = []
        self.lose: set[str] = set()
        self.errors: dict[str, Exception] = {}

    def run(self, way: str) -> Seen:
        self.ways.append(way)
        if way in self.errors:
            raise self.errors[way]
        lost = way in self.lose
        verdict = (Verdict.OUT_OF_SYNC, Reason.NO_MARKERS) if lost else _GOOD
        return Seen(
            loads=_LOADS[way],
            until_load=("early",),
            after_load=("late",),
            names=("early",) if lost else ("early", "late"),
            complaints=(),
            judgement=Judgement(*verdict, sentence="A sentence.", action="Nothing."),
        )


_GOOD = (Verdict.IN_SYNC, Reason.MATCH)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    made = _Machine()
    monkeypatch.setattr(BootChecks, "_kexec", lambda _self, _patches, _kernel, way: made.run(way))
    return made


@pytest.fixture
def checks(tmp_path: Path) -> BootChecks:
    workshop = Workshop(tmp_path, SilentProgress(), Cache(tmp_path / "cache"))
    return BootChecks(workshop, X86_64, None, tmp_path / "logs")


@pytest.fixture
def kernel(tmp_path: Path) -> KernelImage:
    return KernelImage(
        image=tmp_path,
        config=tmp_path,
        system_map=tmp_path,
        log=tmp_path,
        release="6.1",
        banner="Linux",
        base="base",
        patches=(),
        key="key",
        extra_memory_kb=None,
        warnings=(),
    )


def _cells(checks: BootChecks, kernel: KernelImage) -> list[Cell]:
    return [
        *(checks.carries(_PATCHES, kernel, way) for way in _LOADS),
        checks.verdict(_PATCHES, kernel),
    ]


def test_each_way_is_run_once(checks: BootChecks, kernel: KernelImage, machine: _Machine) -> None:
    cells = _cells(checks, kernel)
    assert [cell.text for cell in cells] == ["all", "all", "all", "IN_SYNC (match)"]
    assert machine.ways == ["carries", "twice", "reload"]


@pytest.mark.parametrize("way", ["twice", "reload"])
def test_what_went_wrong_is_told_apart(
    checks: BootChecks, kernel: KernelImage, machine: _Machine, way: str
) -> None:
    machine.lose = {way}
    _, twice, reload, _ = _cells(checks, kernel)
    red, other = (twice, reload) if way == "twice" else (reload, twice)
    assert red.text == "1 of 1 records measured after the load are lost"
    assert red.log is not None
    assert red.log.name == f"{_PATCHES}-{way}"
    assert other.status is Status.OK


def test_a_kernel_that_fails_is_not_tried_again(
    checks: BootChecks, kernel: KernelImage, machine: _Machine
) -> None:
    machine.errors["reload"] = GuestFailure("it panicked")
    for _ in range(2):
        with pytest.raises(GuestFailure, match="panicked"):
            checks.carries(_PATCHES, kernel, "reload")
    assert machine.ways == ["reload"]


def test_trouble_of_the_host_is_not_tried_again(
    checks: BootChecks, kernel: KernelImage, machine: _Machine
) -> None:
    machine.errors["carries"] = InfraError("QEMU does not start")
    with pytest.raises(InfraError):
        checks.carries(_PATCHES, kernel, "carries")
    with pytest.raises(InfraError):
        checks.verdict(_PATCHES, kernel)
    assert machine.ways == ["carries"]


def test_a_verdict_that_is_not_due_is_red(
    checks: BootChecks, kernel: KernelImage, machine: _Machine
) -> None:
    machine.lose = {"carries"}
    cell = checks.verdict(_PATCHES, kernel)
    assert cell.text == "OUT_OF_SYNC (no_markers), IN_SYNC (match) was due"
    assert checks.carries(_PATCHES, kernel, "carries").status is Status.RED


def test_the_control_is_red_if_nothing_is_lost(
    checks: BootChecks, kernel: KernelImage, machine: _Machine
) -> None:
    assert checks.carries(0, kernel, "carries").text == (
        "1 records measured after the load are carried, unexpectedly"
    )
    machine.lose = {"twice"}
    assert checks.carries(0, kernel, "twice").text == "part"
