# SPDX-License-Identifier: GPL-2.0-only
"""Another program, evmctl, finds the same lists good and bad as the verifier does.

That is checked after every test here, see conftest.py; this is whether that check can fail.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import Lab, evidence_of
from imakexec import scenario
from imakexec.attest import MeasurementLog, Reason, Verdict, judge
from imakexec.deadline import Deadline
from imakexec.evidence import Evidence
from imakexec.kernel.build import KernelRequest
from imakexec.oracle import second_opinion
from imakexec.oracle_check import disagreements


def accepted(evidence: Evidence, log: bytes) -> bool:
    """Whether evmctl accepts a list with the last quote of the evidence, in both banks."""
    pcrs = evidence.snapshots[-1].quotes[-1].pcrs
    return second_opinion(log, pcrs, Deadline.after(60)).accepts


def test_a_list_across_a_kexec_is_good_whole_and_in_its_order(
    request: pytest.FixtureRequest, lab: Lab, patched: KernelRequest, tmp_path: Path
) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 5)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    evidence = Evidence.load(lab.folder)
    raw = evidence.snapshots[-1].log
    assert raw is not None
    log = MeasurementLog.parse(raw)
    ends = [log.offset(count) for count in range(len(log) + 1)]
    records = [raw[start:end] for start, end in pairwise(ends)]
    middle = len(records) // 2

    assert lab.folder in evidence_of(request.node, tmp_path)
    assert accepted(evidence, raw)
    assert not accepted(evidence, b"".join(records[:-1]))
    assert not accepted(evidence, b"".join(records[:middle] + records[middle + 1 :]))
    swapped = [records[middle + 1], records[middle]]
    assert not accepted(evidence, b"".join(records[:middle] + swapped + records[middle + 2 :]))
    assert not accepted(evidence, raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:])

    judgement = judge(evidence)
    wrong = replace(judgement, verdict=Verdict.TRUNCATED, reason=Reason.SEGMENT_FULL)
    assert list(disagreements(evidence, judgement, Deadline.after(60))) == []
    assert len(list(disagreements(evidence, wrong, Deadline.after(60)))) == 1
