# SPDX-License-Identifier: GPL-2.0-only
"""kexec_load and kexec_execute are critical data: measured if the policy says so, and checkable."""

from __future__ import annotations

from conftest import Lab, positions
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.options import Policy

# As the message of the patch that adds the events says.
CHECK = """
awk '$5 == "kexec_load" { print $6; exit }' \\
        ascii_runtime_measurements | xxd -r -p | sha256sum
"""
ASCII = "/sys/kernel/security/ima/ascii_runtime_measurements"


def test_without_a_rule_there_are_no_markers_and_all_is_carried(
    lab: Lab, patched: KernelRequest
) -> None:
    with lab.session(patched, policy=Policy.TCB) as session:
        scenario.boot(session)
        loaded = scenario.kexec_load(session)
        measured = scenario.generate_activity(session, 10)
        scenario.kexec_execute(session, loaded)
        scenario.take_snapshot(session, "after", quote_after=True)
        said = loaded.complaints + scenario.complaints(scenario.kernel_log(session))
    run = lab.judge()

    assert said == ()
    names = run.names("after")
    assert not {"kexec_load", "kexec_execute"} & set(names)
    assert set(measured) <= set(names)
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence


def test_the_hash_of_a_marker_is_checked_in_the_guest(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched) as session:
        scenario.boot(session)
        scenario.kexec_load(session)
        script = f"cd /sys/kernel/security/ima; {CHECK}"
        computed = session.guest.run(["sh", "-c", script], session.budget()).text.split()[0]
        lines = session.guest.read_file(ASCII, session.budget()).decode().splitlines()

    [marker] = [line.split() for line in lines if " kexec_load " in line]
    pcr, _, template, digest, name, _ = marker
    assert (pcr, template, name) == ("10", "ima-buf", "kexec_load")
    assert digest == f"sha256:{computed}"
    assert len(positions([line.split()[4] for line in lines], "kexec_load")) == 1
