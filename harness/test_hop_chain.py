# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 9: a list that is handed on from kernel to kernel grows and loses nothing.

Each kernel measures after its load, and nothing is left behind by those before it: no session in
the TPM, no memory that is still reserved for a list that was restored long ago.
"""

from __future__ import annotations

import pytest

from conftest import ENOUGH_KB, Kernels, Subject, chosen_arch, meminfo_kib
from imakexec import scenario
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(9)

HOPS = 5
RECORDS = 10
LONG_LIST = 1_000_000
"""Bytes of records, which a next kernel must not keep reserved once it has restored them.

They are more than the 640 KiB of low memory, which x86 counts only if they are given back.
"""
NOISE_KIB = 64
"""By how much boots of the same kernel differ in what they leave of the memory."""


@pytest.mark.under_debug
@pytest.mark.parametrize(
    "uefi", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["default", "UEFI"]
)
def test_chain(trial: Trial, subject: Subject, pytestconfig: pytest.Config, uefi: bool) -> None:
    symbols = chosen_arch(pytestconfig).uefi.symbols if uefi else ()
    measured: list[str] = []
    memory = []
    with trial.running(kernel=subject.request(symbols=symbols), uefi=uefi) as session:
        for hop in range(HOPS):
            if hop == 1:
                scenario.measure_bytes(session, LONG_LIST, longest=scenario.LONG_PATHS)
            loaded = trial.load(chain=True)
            measured += scenario.generate_activity(session, RECORDS)
            trial.execute(loaded)
            memory.append(meminfo_kib(session, "MemTotal"))

    names = trial.names()
    carried = [name for name in names if name in measured]
    trial.claim(
        "records carried", carried == measured, f"{len(carried)} of {len(measured)} carried"
    )
    left = {reading.snapshot: reading.sessions for reading in trial.readings if reading.sessions}
    trial.claim("no session left", not left, left)
    given_back = min(memory) >= memory[0] - NOISE_KIB
    trial.claim("memory given back", given_back, f"{memory} KiB, the first with a short list")
    if trial.kernel.has_markers:
        assert names.count("kexec_execute") == HOPS


@pytest.mark.kernels("patched")
def test_chain_through_the_base(trial: Trial, kernels: Kernels) -> None:
    """The base takes the list over and hands it on; it measures nothing after its own load."""
    if trial.kernel.finds_leaks:
        pytest.skip("with --debug-kernel the base reports itself: C6, see scenario 18")
    images = {
        "base": kernels.build(kernels.request(patches=0, extra_memory_kb=None)).image,
        "series": kernels.build(kernels.series(extra_memory_kb=ENOUGH_KB)).image,
    }
    with trial.running(next_kernel=images["base"]) as session:
        loaded = trial.load(chain=True)
        measured = scenario.generate_activity(session, RECORDS)
        trial.execute(loaded)
        scenario.put_next_kernel(session, images["series"])
        of_base = scenario.generate_activity(session, RECORDS)
        trial.execute(trial.load(chain=True))
        loaded = trial.load(chain=True)
        at_last = scenario.generate_activity(session, RECORDS)
        trial.execute(loaded)

    names = trial.names()
    in_order = [*measured, *of_base, *at_last]
    assert [name for name in names if name in in_order] == in_order
    # The base announces nothing, and keeps what it was handed of announcements.
    assert names.count("kexec_load") == names.count("kexec_execute") == 2
