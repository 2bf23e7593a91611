# SPDX-License-Identifier: GPL-2.0-only
"""Nothing is measured after the copy, and an attempt is refused in the documented way.

The time between the copy and the jump is stretched, so that a process meets it: the kernel is made
to report every device that it shuts down, and to take its time over every line.
"""

from __future__ import annotations

import re
from collections import Counter

from conftest import Lab, positions
from imakexec import scenario
from imakexec.attest import Verdict
from imakexec.kernel.build import KernelRequest
from imakexec.scenario import Session

CPUS = 2

# Every file is read twice: what was measured the first time is not tried a second time.
ATTEMPTS = """
echo 0 >/proc/sys/kernel/printk_ratelimit
mkdir /late
(
    i=0
    while :; do
        i=$((i + 1))
        echo $i >/late/$i
        read -r line </late/$i
        read -r line </late/$i
        busybox usleep 10000
    done
) &
echo 1 >/sys/module/kernel/parameters/initcall_debug
echo 20 >/proc/sys/kernel/printk_delay
"""

REFUSED = re.compile(
    r'op=add_template_measure cause=measurements_suspended .* name="(?P<path>/late/\d+)".* res=0'
)


def attempts_during_execute(session: Session) -> None:
    """Boot, load, and keep on trying to measure until the next kernel is up."""
    scenario.boot(session)
    loaded = scenario.kexec_load(session)
    scenario.kexec_execute(session, loaded, meanwhile=ATTEMPTS)
    scenario.take_snapshot(session, "after", quote_after=True)


def test_an_attempt_after_the_copy_is_refused(lab: Lab, patched: KernelRequest) -> None:
    with lab.session(patched, cpus=CPUS) as session:
        attempts_during_execute(session)
    run = lab.judge()

    console = (run.folder / "console.log").read_text()
    refused = Counter(match["path"] for match in REFUSED.finditer(console))
    assert len(refused) >= 3, "hardly anything met the time between copy and jump"

    names = run.names("after")
    _, second_boot = positions(names, "boot_aggregate")
    assert positions(names, "kexec_execute") == [second_boot - 1]
    assert run.judgement.verdict is Verdict.IN_SYNC, run.judgement.sentence
    assert not refused.keys() & set(names), "refused and measured at once"

    # A file that appeared as measured would not be tried again. Of the first file only the second
    # reading may have come late; the jump may have come before the second reading of the last.
    between = sorted(refused, key=lambda path: int(path.rpartition("/")[2]))[1:-1]
    assert {path: refused[path] for path in between} == dict.fromkeys(between, 2)
