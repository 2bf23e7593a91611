# SPDX-License-Identifier: GPL-2.0-only
"""Scenario 16: the two kernels of a kexec need not be alike.

Receiving a list takes less than sending one: a kernel without CONFIG_IMA_KEXEC restores what it is
handed, and hands nothing on. One without IMA says that it drops the list. Kernels of different
versions understand each other both ways. Whatever is lost, the verifier notices.
"""

from __future__ import annotations

import pytest

from conftest import Kernels, Subject, chosen_arch
from imakexec import scenario
from imakexec.machine.complaint import complaint_lines
from imakexec.suite.properties import KernelProperties
from imakexec.suite.trial import Trial

pytestmark = pytest.mark.scenario(16)

ONLY_RECEIVES = ("# CONFIG_IMA_KEXEC is not set",)
NO_IMA = tuple(
    f"# CONFIG_{name} is not set"
    for name in (
        *("IMA", "IMA_KEXEC", "IMA_NG_TEMPLATE", "IMA_DEFAULT_HASH_SHA256", "IMA_WRITE_POLICY"),
        *("IMA_READ_POLICY", "IMA_APPRAISE", "IMA_APPRAISE_BOOTPARAM"),
    )
)
DROPPED = "Passed IMA kexec data, but CONFIG_IMA not set"
BASES = ("linux-6.1", "linux-6.12", "linux-7.3")
RECORDS = 10


def test_kernel_that_only_receives(trial: Trial, subject: Subject, kernels: Kernels) -> None:
    receiver = kernels.build(subject.request(symbols=ONLY_RECEIVES))
    trial.expect_loss("the second kernel hands nothing on", anew_in=2, announced=False)
    with trial.running(next_kernel=receiver.image) as session:
        scenario.generate_activity(session, RECORDS)
        trial.execute(trial.load(chain=True))
        scenario.generate_activity(session, RECORDS)
        trial.execute(trial.load())

    restored = {item.name: item for item in trial.judgement.snapshots}["before-execute-1"]
    assert restored.matched_records == (restored.records,), "the second kernel's list is whole"
    before, received = trial.names("before-execute-0"), trial.names("before-execute-1")
    assert received[: len(before)] == before
    assert "kexec_load" not in received[len(before) :]


def test_kernel_without_ima(
    trial: Trial, subject: Subject, kernels: Kernels, pytestconfig: pytest.Config
) -> None:
    dropping = kernels.build(kernels.request(patches=0, extra_memory_kb=None, symbols=NO_IMA))
    in_tree = chosen_arch(pytestconfig).handover.in_device_tree
    if in_tree:
        trial.case |= {"kept in the device tree"}
    trial.expect_loss("the second kernel has no list", anew_in=2)
    trial.allow(DROPPED)
    with trial.running(next_kernel=dropping.image) as session:
        scenario.generate_activity(session, RECORDS)
        trial.execute(trial.load(chain=True), has_list=False)
        said = complaint_lines(scenario.kernel_log(session))
        scenario.put_next_kernel(session, kernels.build(subject.request()).image)
        trial.execute(trial.load())

    # Only x86 looks at the hand-over data at all without IMA.
    due = [] if in_tree else [f"{DROPPED}. Ignoring."]
    assert [line.partition("] ")[2] for line in said] == due


@pytest.mark.nightly  # it takes the kernels of two more bases
def test_other_versions(trial: Trial, subject: Subject, kernels: Kernels) -> None:
    """To a kernel of each other version and back."""
    own = subject.request()
    others = [kernels.of_base(base) for base in BASES if base != kernels.base]
    route = [kernel for other in others for kernel in (other, own)]
    images = [kernels.build(request) for request in route]
    running = trial.kernel
    measured: list[str] = []
    with trial.running(next_kernel=images[0].image) as session:
        for image in images:
            scenario.put_next_kernel(session, image.image)
            measured += scenario.generate_activity(session, RECORDS)
            loaded = trial.load(chain=True)
            if running.carries_events_after_load:
                measured += scenario.generate_activity(session, RECORDS)
            info = trial.execute(loaded)
            running = KernelProperties.of(image)
            assert info.release == image.release

    assert [name for name in trial.names() if name in measured] == measured
