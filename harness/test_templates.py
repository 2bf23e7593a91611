# SPDX-License-Identifier: GPL-2.0-only
"""The segment is sized by what is written to it, whatever the template."""

from __future__ import annotations

import pytest

from conftest import Lab, buffer_of, positions, records_of
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.attest.handover import HEADER_SIZE
from imakexec.kernel.build import KernelRequest

RECORDS = 600
"""With 4 bytes too few each, the half page to spare is used up."""

TEMPLATES = [
    "",
    "ima_template=ima",
    "ima_template=ima-sig",
    "ima_template=ima-ngv2",
    "ima_template=ima-sigv2",
    "ima_template=evm-sig",
    "ima_template_fmt=d-ng|n-ng|sig",
    "ima_template_fmt=d|n",
    "ima_template_fmt=n-ng|d-ng|n-ng|d-ng",
]


@pytest.mark.parametrize("parameter", TEMPLATES)
def test_the_whole_list_is_handed_over(lab: Lab, tight: KernelRequest, parameter: str) -> None:
    with lab.session(tight, cmdline=parameter) as session:
        scenario.boot(session)
        scenario.generate_activity(session, RECORDS)
        loaded = scenario.kexec_load(session, append=scenario.KEEPS_BUFFER)
        before = session.guest.read_file(scenario.MEASUREMENTS, session.budget())
        scenario.kexec_execute(session, loaded)
        buffer = buffer_of(scenario.read_handover_buffer(session))
    assert loaded.complaints == ()
    carried = records_of(buffer.log)

    assert buffer.log.startswith(before)
    assert len(carried) == buffer.count == len(records_of(before)) + 1
    for marker in (record for record in carried if record.name.startswith("kexec_")):
        values = dict(field.split(b"=") for field in (marker.buf or b"").rstrip(b";").split(b";"))
        assert int(values[b"kexec_segment_size"]) == buffer.size + len(buffer.rest)
        assert int(values[b"ima_runtime_measurements_count"]) == marker.index
        assert int(values[b"ima_binary_runtime_size"]) == HEADER_SIZE + marker.offset


def test_a_custom_format_survives_two_kexecs(lab: Lab, tight: KernelRequest) -> None:
    with lab.session(tight, cmdline="ima_template_fmt=d-ng|n-ng|sig") as session:
        scenario.boot(session)
        measured = scenario.generate_activity(session, RECORDS)
        loaded = scenario.kexec_load(session, chain=True)
        scenario.kexec_execute(session, loaded)
        # Restored records must be sized like those that were measured here.
        loaded = scenario.kexec_load(session)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
        complaints = loaded.complaints + scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert complaints == ()
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    names = run.names("after")
    assert set(measured) <= set(names)
    assert len(positions(names, "kexec_execute")) == 2
