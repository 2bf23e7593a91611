# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 20: a list is carried in contiguous memory as in any other.

Since 6.17 the kernel puts segments where they will be needed, if it can, into memory that is kept
for devices (CMA). Such a segment has no source pages to map. The load must take it from there, or
nothing is proven.
"""

from __future__ import annotations

import pytest

from conftest import Subject, mappings, meminfo_kib
from imakexec import scenario
from imakexec.suite.trial import Trial

pytestmark = [pytest.mark.scenario(20), pytest.mark.symbols("DMA_CMA")]

RECORDS = 15
LEAST_KIB = 1024
"""Less holds no kernel."""

ALIGNED = ("CONFIG_CMA_ALIGNMENT=9",)
"""Contiguous memory can begin on any 2 MiB, as an x86 kernel must."""


@pytest.mark.parametrize("symbols", [(), ALIGNED], ids=["default alignment", "2 MiB alignment"])
def test_segments_in_contiguous_memory(
    trial: Trial, subject: Subject, symbols: tuple[str, ...]
) -> None:
    if not trial.kernel.places_in_cma:
        pytest.skip("kexec does not place segments in CMA before 6.17")
    trial.case |= {"aligned" if symbols else "default"}
    with trial.running(kernel=subject.request(symbols=symbols), cmdline="cma=128M") as session:
        before = meminfo_kib(session, "CmaFree")
        loaded = trial.load()
        taken = before - meminfo_kib(session, "CmaFree")
        if taken < LEAST_KIB:
            pytest.skip(f"the load took {taken} KiB of CMA: its segments are elsewhere")
        assert not mappings(session), "the segment of the list has pages of its own"
        measured = scenario.generate_activity(session, RECORDS)
        trial.execute(loaded)

    assert [name for name in trial.names() if name in measured] == [*measured]
