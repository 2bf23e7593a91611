# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 5: what all CPUs measure while kexec executes is in list and PCRs, or in neither.

A storm of new files and new programs goes on until the next kernel starts. What meets the list
before it is copied is carried; what comes later is refused in the documented way and extends no
PCR. If kexec_execute is carried, so is every record.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from conftest import chosen_arch, positions
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.attest.handover import HEADER_SIZE
from imakexec.suite.defects import LOST
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(5)

CPUS = 2
PROCESSES = 3
"""More than CPUs, so that at any time one waits for the mutex of the list."""
PROGRAMS = 2
"""Processes that execute new programs."""

AUDITED = "integrity_audit=1 audit_backlog_limit=4"
"""Every record is audited, with a queue for few messages: whoever has added a record, kexec_execute
too, waits for the queue when it has given the list back, so that others come in between.

For few and not for one, because a load by itself must not have to wait: audit_log_start() looks at
the queue before it is on the list of who is woken, and sleeps for a minute if it comes too late."""

# Without the shell that does it, which would be the first to go.
END_OF_STORM = """
for process in $(busybox pidof sh); do
    [ $process = $$ ] || kill $process
done
"""

# The time between copy and jump is stretched, so that a process meets it: the kernel reports every
# device that it shuts down, the TPM first, and takes its time over every line. Audit messages are
# printed by kauditd, which never gives its CPU away while there are more. If that is the CPU on
# which the next kernel is to be started, they have to come to an end: hence the pause, in which no
# program is run because that takes long on a busy host, and the last attempt.
ATTEMPTS = """
mkdir /late
busybox mkfifo /late/pause
(
    exec 9<>/late/pause
    i=0
    while [ $i -lt 30 ]; do
        i=$((i + 1))
        echo $i >/late/$i
        read -r line </late/$i
        read -r line </late/$i
        read -t 0.1 -r line <&9
    done
) &
echo 1 >/sys/module/kernel/parameters/initcall_debug
"""

ALL_REFUSALS = """
echo 0 >/proc/sys/kernel/printk_ratelimit
echo 50 >/proc/sys/kernel/printk_delay
"""

# A kernel that goes on measuring extends the PCRs until its first line has been printed.
LONG_FIRST_LINE = """
echo 0 >/proc/sys/kernel/printk_ratelimit_burst
echo 200 >/proc/sys/kernel/printk_delay
"""

REFUSED = re.compile(
    r'op=add_template_measure cause=measurements_suspended .* name="(?P<path>/late/\d+)".* res=0'
)

ROUNDS = [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(1, 51))]


def execute_in_a_storm(trial: Trial, *, each: int) -> list[str]:
    """Execute in the middle of a storm; the event names of the next kernel's list."""
    with trial.running(cpus=CPUS, cmdline=AUDITED):
        loaded = trial.load()
        storm = scenario.storm(PROCESSES, programs=PROGRAMS, each=each)
        trial.execute(loaded, meanwhile=storm)
    return trial.names()


@pytest.mark.parametrize("round_", ROUNDS)
def test_nothing_is_lost_in_a_storm(trial: Trial, round_: int) -> None:
    if trial.kernel.copies_bytes and not trial.kernel.suspends_on_execute:
        pytest.skip(
            f"{trial.kernel.release} loses what a storm measures after the copy, or nothing"
        )
    if not trial.kernel.suspends_on_execute:
        trial.allow(
            "Error Communicating to TPM chip",
            because="whether something is measured after the TPM was shut down is a matter of luck",
        )
    names = execute_in_a_storm(trial, each=1)

    _, second_boot = positions(names, "boot_aggregate", count=2)
    if trial.kernel.carries_events_after_load:
        storm = scenario.storm_paths(PROCESSES, programs=PROGRAMS)
        assert storm <= set(names), (round_, "there was no storm")
    if trial.kernel.is_ours:
        assert positions(names, "kexec_execute") == [second_boot - 1], (round_, "not the last")


@pytest.mark.tight
@pytest.mark.kernels("patched")
@pytest.mark.parametrize("round_", ROUNDS)
def test_a_marker_never_hides_a_loss(trial: Trial, round_: int) -> None:
    trial.waive(*LOST, because="the storm may outgrow half a page, or not")
    trial.allow("Kexec segment is full", because="the storm may outgrow half a page")
    # From less than there is room for to more.
    names = execute_in_a_storm(trial, each=1 + (round_ + 2) % 5)

    verdict = trial.judgement.verdict
    due = Verdict.IN_SYNC if "kexec_execute" in names else Verdict.TRUNCATED
    assert verdict is due, (round_, trial.judgement.sentence)


@pytest.mark.kernels("patched")
def test_kexec_load_in_a_storm_counts_what_it_sizes(trial: Trial) -> None:
    with trial.running(cpus=CPUS) as session:
        session.guest.run(["sh", "-c", f"{scenario.storm(PROCESSES, each=5)}"], session.budget())
        for _ in range(3):
            trial.load()
        session.guest.run(["sh", "-c", END_OF_STORM], session.budget())
        # The storm has outgrown the segment of the last load by now.
        trial.execute(trial.load())

    names = trial.names()
    assert any(name.startswith("/storm/") for name in names), "there was no storm"
    timeline = trial.judgement.timeline
    assert timeline is not None
    markers = timeline.markers
    assert [marker.kind for marker in markers] == ["kexec_load"] * 4 + ["kexec_execute"]
    for marker in markers:
        assert marker.logged is not None
        assert marker.logged.count <= marker.index
        counted = trial.log().offset(marker.logged.count)
        assert marker.logged.runtime_size == HEADER_SIZE + counted


def test_an_attempt_after_the_copy_is_refused(trial: Trial, pytestconfig: pytest.Config) -> None:
    trial.case |= {"late"}
    stretch = ALL_REFUSALS if trial.kernel.suspends_on_execute else LONG_FIRST_LINE
    with trial.running(cpus=CPUS, cmdline=chosen_arch(pytestconfig).true_delays):
        trial.execute(trial.load(), meanwhile=ATTEMPTS + stretch)

    refused = Counter(match["path"] for match in REFUSED.finditer(trial.console))
    trial.claim("refused after the copy", len(refused) >= 3, f"{len(refused)} of the attempts")
    names = trial.names()
    assert not refused.keys() & set(names), "refused and measured at once"
    if trial.kernel.is_ours:
        _, second_boot = positions(names, "boot_aggregate", count=2)
        assert positions(names, "kexec_execute") == [second_boot - 1]

    # A file that appeared as measured would not be tried again. Of the first file only the second
    # reading may have come late; the jump may have come before the second reading of the last.
    between = sorted(refused, key=lambda path: int(path.rpartition("/")[2]))[1:-1]
    assert {path: refused[path] for path in between} == dict.fromkeys(between, 2)
