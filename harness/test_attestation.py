# SPDX-License-Identifier: GPL-2.0-only
"""The verifier as an attestation server uses it: file by file, and from one poll to the next."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from conftest import Lab
from imakexec import scenario
from imakexec.attest import Checkpoint, Judgement, Reason, Verdict, judge, next_checkpoint
from imakexec.attest.checkpoint import ContinuityState
from imakexec.evidence import Evidence
from imakexec.kernel.build import KernelRequest


def poll(evidence: Evidence, snapshot: str, before: Checkpoint | None) -> Judgement:
    """Judge one snapshot alone, as a server does that asks a machine from time to time."""
    [item] = [each for each in evidence.snapshots if each.name == snapshot]
    boots = evidence.boots[: item.epoch + 1]
    return judge(dataclasses.replace(evidence, snapshots=(item,), boots=boots), checkpoint=before)


def left(judgement: Judgement, *, reanchor: bool = False) -> Checkpoint:
    """What a poll leaves for the next one."""
    checkpoint = next_checkpoint(judgement, reanchor=reanchor)
    assert checkpoint is not None
    return checkpoint


def outcome(judgement: Judgement) -> tuple[Verdict, Reason, ContinuityState]:
    """The verdict, the reason, and how history goes on."""
    assert judgement.continuity is not None
    return judgement.verdict, judgement.reason, judgement.continuity.state


def test_polls_over_a_loss_to_a_cold_boot(lab: Lab, tight: KernelRequest) -> None:
    with lab.session(tight) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "boot", quote_after=True)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 100)
        scenario.take_snapshot(session, "before-execute", quote_after=True)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after-kexec", quote_after=True)
        scenario.generate_activity(session, 10)
        scenario.take_snapshot(session, "later", quote_after=True)
        scenario.cold_reset(session)
        scenario.take_snapshot(session, "after-reset", quote_after=True)
    evidence = Evidence.load(lab.folder)

    checkpoint = left(poll(evidence, "boot", None))
    judgement = poll(evidence, "before-execute", checkpoint)
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.MATCH, ContinuityState.CONTINUES)
    before = left(judgement)

    lost = poll(evidence, "after-kexec", before)
    assert outcome(lost) == (Verdict.TRUNCATED, Reason.SEGMENT_FULL, ContinuityState.LOSS)
    assert lost.continuity is not None
    assert lost.continuity.surviving == lost.first_divergence
    assert lost.continuity.surviving < lost.continuity.checkpoint_records == before.records
    assert next_checkpoint(lost) is None
    assert poll(evidence, "later", before).verdict is Verdict.TRUNCATED

    anchored = left(lost, reanchor=True)
    judgement = poll(evidence, "later", anchored)
    assert outcome(judgement) == (Verdict.IN_SYNC, Reason.REANCHORED, ContinuityState.CONTINUES)
    reset = poll(evidence, "after-reset", left(judgement))
    assert outcome(reset) == (Verdict.IN_SYNC, Reason.MATCH, ContinuityState.NEW_POWER_CYCLE)
    # What the machine had before the reset does not pass for what it has now.
    [old] = [each for each in evidence.snapshots if each.name == "before-execute"]
    [new] = [each for each in evidence.snapshots if each.name == "after-reset"]
    stale = dataclasses.replace(
        evidence, snapshots=(dataclasses.replace(new, log=old.log),), boots=evidence.boots
    )
    assert judge(stale, checkpoint=before).reason is Reason.STALE_LIST


def test_list_and_quotes_in_files(lab: Lab, patched: KernelRequest, tmp_path: Path) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, 10)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
    [place] = (lab.folder / "snapshots").iterdir()
    evidence = Evidence.load(lab.folder)
    nonces = [quote.nonce.hex() for quote in evidence.snapshots[0].quotes]
    quotes = [
        *("-m", place / "attest", "-s", place / "signature", "-o", place / "pcrs.json"),
        *("-m", place / "attest-after", "-s", place / "signature-after"),
        *("-o", place / "pcrs-after.json", "-q", nonces[0], "-q", nonces[1]),
    ]

    def verify(*options: object) -> tuple[int, str]:
        log = place / "binary_runtime_measurements"
        done = subprocess.run(
            [sys.executable, "-m", "imakexec", "verify", log, *map(str, options)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout

    state = tmp_path / "checkpoint"
    code, said = verify(*quotes, "-u", lab.folder / "ak.pub", "--checkpoint", state)
    assert (code, "IN_SYNC (match)" in said, "kexec" in said) == (0, True, True)
    assert Checkpoint.load(state) is not None
    code, said = verify(*quotes, "-u", lab.folder / "ak.pem")
    assert (code, "ak_unchecked" in said) == (0, True)
    values = evidence.snapshots[0].quotes[-1].pcrs
    bare = [
        option for bank in values for option in ("--pcr", f"{bank}:10={values[bank][10].hex()}")
    ]
    code, said = verify(*bare)
    assert (code, "Nothing was authenticated" in said) == (0, True)
    code, said = verify("--pcr", f"sha256:10={'00' * 32}")
    assert (code, "NO MATCH" in said) == (11, True)
