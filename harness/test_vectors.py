# SPDX-License-Identifier: GPL-2.0-only
"""The genuine evidence in tests/vectors: each is taken again, and judged like the one in the tree.

    pytest harness/test_vectors.py -m nightly                           # still what we take?
    pytest harness/test_vectors.py -m nightly --vectors tests/vectors   # take them all anew

What is kept of a run is what the verifier judges. The rest (console, command lines, the host's
versions) tells of the computer that it was taken on, and stays there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conftest import Lab
from imakexec import scenario
from imakexec.attest import Flag, Judgement, judge_folder
from imakexec.evidence import Evidence, EvidenceWriter
from imakexec.job import JobOptions, run_main_job
from imakexec.kernel.build import KernelRequest
from imakexec.project import find_project

COMMAND = "pytest harness/test_vectors.py -m nightly --vectors tests/vectors"

KEPT_METADATA = ("harness", "machine", "kernel")
"""What the evidence says about its run and about no host."""

FILES = 3
OVERFLOW = 80
"""More records than fit into the segment that a list of the guest gets with half a page to spare:
6 KB are left of two pages, and a record of /t/xxxxxx/fN takes 99 bytes."""

VIOLATIONS = """
set -e
mkdir /v
echo measured >/v/tomtou
exec 3</v/tomtou
exec 4>/v/tomtou
exec 3<&- 4>&-
exec 4>/v/writers
read -r line </v/writers || :
"""
"""A file that is opened for writing while it is read, then one that is read while it is written."""


@dataclass(frozen=True)
class Asked:
    """What a vector is taken with.

    Attributes:
        lab: makes the machine.
        patched: the kernel with the whole series.
        tight: the same with half a page for late records.
        plain: the base.
    """

    lab: Lab
    patched: KernelRequest
    tight: KernelRequest
    plain: KernelRequest


def main_job(asked: Asked) -> None:
    _run(asked.lab, JobOptions(asked.patched, files=FILES))


def truncated(asked: Asked) -> None:
    _run(asked.lab, JobOptions(asked.tight, files=OVERFLOW))


def plain_base(asked: Asked) -> None:
    _run(asked.lab, JobOptions(asked.plain, files=FILES))


def no_hardware_root(asked: Asked) -> None:
    _run(asked.lab, JobOptions(asked.patched, files=FILES, banks=("sha384", "sha512")))


def two_kexecs(asked: Asked) -> None:
    with asked.lab.session(asked.patched) as session:
        scenario.boot(session)
        scenario.take_snapshot(session, "boot")
        loaded = scenario.kexec_load(session, chain=True)
        scenario.generate_activity(session, FILES)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "between")
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, FILES)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)


def violations(asked: Asked) -> None:
    with asked.lab.session(asked.patched) as session:
        scenario.boot(session)
        session.guest.run(["sh", "-c", VIOLATIONS], session.budget())
        scenario.take_snapshot(session, "boot", quote_after=True)
        loaded = scenario.kexec_load(session)
        scenario.generate_activity(session, FILES)
        scenario.take_snapshot(session, "before-execute")
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)


def cold_reset(asked: Asked) -> None:
    with asked.lab.session(asked.patched) as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        scenario.generate_activity(session, FILES)
        scenario.take_snapshot(session, "before-reset")
        scenario.cold_reset(session)
        scenario.take_snapshot(session, "after", quote_after=True)


VECTORS: Mapping[str, tuple[str, Callable[[Asked], None]]] = {
    "main-job": ("the main job", main_job),
    "truncated": ("the main job on a segment that is too small", truncated),
    "plain-base": ("the main job on a kernel without the series", plain_base),
    "no-hardware-root": ("the main job with SHA-384 and SHA-512 only", no_hardware_root),
    "two-kexecs": ("two kexecs in a row", two_kexecs),
    "violations": ("two violations, then a kexec", violations),
    "cold-reset": ("a cold reset in place of the kexec that was loaded", cold_reset),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_is_what_this_harness_takes(
    pytestconfig: pytest.Config,
    lab: Lab,
    patched: KernelRequest,
    tight: KernelRequest,
    plain: KernelRequest,
    tmp_path: Path,
    name: str,
) -> None:
    what, take = VECTORS[name]
    take(Asked(lab, patched=patched, tight=tight, plain=plain))
    fresh = tmp_path / "vector"
    keep_what_is_judged(Evidence.load(lab.folder), fresh, what)
    assert outline(judge_folder(fresh)) == outline(judge_folder(lab.folder))

    vectors: Path | None = pytestconfig.getoption("--vectors")
    if vectors is not None:
        shutil.rmtree(vectors / name, ignore_errors=True)
        shutil.copytree(fresh, vectors / name)
    kept = find_project() / "tests" / "vectors" / name
    assert outline(judge_folder(fresh)) == outline(judge_folder(kept))


def keep_what_is_judged(evidence: Evidence, folder: Path, what: str) -> None:
    """Write evidence anew, without what the verifier never reads."""
    assert evidence.complete
    assert evidence.ak_public is not None
    assert evidence.ak_pem is not None
    with EvidenceWriter.create(folder) as writer:
        run = {name: evidence.run[name] for name in KEPT_METADATA}
        writer.set_run({"vector": {"what": what, "command": COMMAND}, **run})
        writer.set_required_banks(evidence.required_banks)
        writer.set_ak(evidence.ak_public, evidence.ak_pem)
        for boot in evidence.boots:
            writer.add_boot(boot)
        for snapshot in evidence.snapshots:
            writer.add_snapshot(snapshot)


def outline(judgement: Judgement) -> dict[str, object]:
    """What a judgement says, without all that is different in every run."""
    assert judgement.timeline is not None, judgement.sentence
    return {
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        # After a disorderly reset a TPM calls its clock safe again within seconds.
        "flags": [flag for flag in judgement.flags if flag is not Flag.CLOCK_UNSAFE],
        "records": judgement.records,
        "first divergence": judgement.first_divergence,
        "violations": judgement.violations,
        "matched": [(bank.bank, bank.matched_records) for bank in judgement.banks],
        "boots": [step.kind for step in judgement.transitions],
        "rows": [(row.kind, row.count) for row in judgement.timeline.rows],
    }


def _run(lab: Lab, options: JobOptions) -> None:
    run_main_job(
        lab.workshop,
        replace(
            options,
            arch=options.kernel.arch,
            accelerator=lab.accelerator,
            out=lab.folder,
        ),
    )
