# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 21: a list is carried on every board, wherever the next kernel looks for it.

x86 hands it over in the boot parameters, in a chain of data of which UEFI firmware has a link too.
The others hand it over in the device tree, which a kernel that was booted by ACPI does not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from conftest import Kernels, Subject, chosen_arch
from imakexec import scenario
from imakexec.arch import ARCHES, Arch
from imakexec.scenario import Session
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(21)

HOPS = 2
RECORDS = 5

UEFI_IS_THERE = "[ -d /sys/firmware/efi ]"

FLATTENED_TREE = ("CONFIG_OF=y", "CONFIG_OF_OVERLAY=y")
"""The second selects CONFIG_OF_FLATTREE, for which there is no prompt."""


@dataclass(frozen=True)
class Board:
    """What a kernel boots on.

    Attributes:
        arch: its architecture, known to this harness or not.
        uefi: whether UEFI firmware boots it, and not the board's default.
    """

    arch: str
    uefi: bool = False

    def __str__(self) -> str:
        return f"{self.arch} UEFI" if self.uefi else self.arch

    def require(self, chosen: Arch) -> None:
        """Skip the test on guests of another architecture."""
        if self.arch not in ARCHES:
            pytest.skip(f"needs guests of {self.arch}, which this harness cannot boot")
        if self.arch != chosen.name:
            pytest.skip(f"needs --arch {self.arch}")


BOARDS = (
    *(Board("x86_64"), Board("x86_64", uefi=True)),
    *(Board("arm64"), Board("arm64", uefi=True)),
    *(Board("ppc64le"), Board("riscv64")),
)


def measure(trial: Trial, session: Session, *, loaded: bool) -> tuple[str, ...]:
    """Measure after the load, or before it if the kernel copies then: scenario 1 is about that."""
    if trial.kernel.carries_events_after_load is not loaded:
        return ()
    return scenario.generate_activity(session, RECORDS)


@pytest.mark.parametrize("board", BOARDS, ids=str)
def test_a_list_is_carried_on(
    trial: Trial, subject: Subject, pytestconfig: pytest.Config, board: Board
) -> None:
    arch = chosen_arch(pytestconfig)
    board.require(arch)
    trial.case |= {str(board)}
    kernel = subject.request(symbols=arch.uefi.symbols if board.uefi else ())
    measured: list[str] = []
    shown = []
    with trial.running(kernel=kernel, uefi=board.uefi) as session:
        if board.uefi:
            session.guest.run(["sh", "-c", UEFI_IS_THERE], session.budget())
        for _ in range(HOPS):
            measured += measure(trial, session, loaded=False)
            loaded = trial.load(chain=True)
            measured += measure(trial, session, loaded=True)
            trial.execute(loaded)
            shown.append(scenario.is_handed_a_list(session))

    carried = [name for name in trial.names() if name in measured]
    trial.claim(
        "records carried", carried == measured, f"{len(carried)} of {len(measured)} carried"
    )
    # A property of the device tree is removed when its list has been restored.
    due = [not arch.handover.in_device_tree] * HOPS
    trial.claim("handed over where it belongs", shown == due, f"{arch.handover.path}: {shown}")


def test_a_next_kernel_that_looks_in_the_device_tree(
    trial: Trial, subject: Subject, kernels: Kernels, pytestconfig: pytest.Config
) -> None:
    arch = chosen_arch(pytestconfig)
    if arch.handover.in_device_tree:
        pytest.skip(f"needs x86_64: {arch.name} has a device tree anyway")
    trial.case |= {"flattened tree"}
    looking = kernels.build(subject.request(symbols=FLATTENED_TREE))
    with trial.running(next_kernel=looking.image) as session:
        scenario.generate_activity(session, RECORDS)
        trial.execute(trial.load())
        trial.claim("handed over where it belongs", scenario.is_handed_a_list(session))
