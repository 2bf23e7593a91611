# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 8: the next kernel is told to use less memory than there is.

Where the list lies beyond that, the next kernel must see it, say so, and start a list of its own,
and the verifier must notice. A list that lies below is carried.
"""

from __future__ import annotations

import pytest

from conftest import chosen_arch
from imakexec import scenario
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(8)

MEMORY_MIB = 1024
USED_MIB = 256
SIZES = {"8 KiB": 8 << 10, "1 MiB": 1 << 20}
REJECTED = ("lies outside available memory", "beyond memory")
"""What a kernel says since 7.0, or one with a device tree before."""


@pytest.mark.parametrize("size", SIZES)
def test_less_memory(trial: Trial, size: str, pytestconfig: pytest.Config) -> None:
    arch = chosen_arch(pytestconfig)
    trial.case |= {size}
    with trial.running(memory_mib=MEMORY_MIB) as session:
        scenario.measure_bytes(session, SIZES[size], longest=scenario.LONG_PATHS)
        trial.execute(trial.load(append=f"mem={USED_MIB}M"))
        place = scenario.find_handover_buffer(session.guest, arch, session.budget())
        # Of a list that was restored a device tree shows nothing any more.
        assert place or arch.handover.in_device_tree, "the next kernel was handed no list"
        is_beyond = place is not None and sum(place) > USED_MIB << 20
        assert is_beyond or size != "1 MiB", f"the list lies at {place}"
        if is_beyond:
            trial.allow(*REJECTED)
            trial.expect_loss("there is no memory where the list is", of_all=True)

    said = any(text in trial.console for text in REJECTED)
    trial.claim("rejected if out of memory", said == is_beyond, f"at {place}, said: {said}")
    boots = trial.names().count("boot_aggregate")
    trial.claim("a list of its own if rejected", boots == 2 - is_beyond, f"{boots} boots")
