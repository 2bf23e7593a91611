# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel does, as data that can be compared with another one's; pure but for `measure`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from imakexec.handover_meter import SYMBOLS
from imakexec.handover_run import Sample, Subject
from imakexec.job import Prepared, Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.machine.accelerator import Accelerator
from imakexec.suite.catalogue import CATALOGUE
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun, TestResult
from imakexec.suite.runner import without_subject

_OTHERS = 0


class Change(StrEnum):
    """How a test ends on a kernel, held against how it ends on another."""

    SAME = "same"
    BETTER = "better"
    WORSE = "worse"
    OTHER = "other"
    """It says something else, such as another known defect, or nothing any more."""


_RANK: Mapping[Outcome, int] = {Outcome.FAIL: 0, Outcome.KNOWN: 1, Outcome.PASS: 2}


@dataclass(frozen=True)
class Ending:
    """How a test has ended.

    Attributes:
        outcome: in a word.
        scenario: of the catalogue, 0 for none.
        verdict: the verifier's; empty if it was not asked.
        defects: the ids of the known defects that have shown.
        faults: what else was found, one line each.
    """

    outcome: Outcome
    scenario: int
    verdict: str
    defects: tuple[str, ...]
    faults: tuple[str, ...]

    @classmethod
    def of(cls, test: TestResult) -> Ending:
        """What there is to compare of a result."""
        found = {item.defect for item in test.findings if item.defect}
        failed = test.outcome is Outcome.FAIL
        return cls(
            outcome=test.outcome,
            scenario=test.scenario or _OTHERS,
            verdict=test.verdict,
            defects=tuple(sorted(found)),
            faults=test.why if failed else (),
        )


def endings(run: SuiteRun) -> dict[str, Ending]:
    """How the tests of a run have ended, by name without that of the kernel."""
    return {without_subject(test.nodeid): Ending.of(test) for test in run.tests}


def change(before: Ending, after: Ending) -> Change:
    """What has become of a test.

    A kernel may set out to do more than the one before and fail to: a failure is worse than any
    known defect.
    """
    first, second = _RANK.get(before.outcome), _RANK.get(after.outcome)
    if first is None or second is None:
        return Change.SAME if before.outcome is after.outcome else Change.OTHER
    if first != second:
        return Change.BETTER if second > first else Change.WORSE
    had, has = set(before.defects), set(after.defects)
    if had == has:
        return Change.SAME if before.verdict == after.verdict else Change.OTHER
    return Change.BETTER if has < had else Change.WORSE if has > had else Change.OTHER


@dataclass(frozen=True)
class Difference:
    """A test that ends in another way.

    Attributes:
        name: of the test.
        change: of what kind.
        before: how it ended.
        after: how it ends.
    """

    name: str
    change: Change
    before: Ending
    after: Ending


def differences(before: Mapping[str, Ending], after: Mapping[str, Ending]) -> Iterator[Difference]:
    """The tests that end in another way, in the order of the suite.

    What is only for one of the kernels, such as a control, is not compared.
    """
    for name, first in before.items():
        second = after.get(name)
        if second is not None and change(first, second) is not Change.SAME:
            yield Difference(name, change(first, second), first, second)


def by_scenario(found: Mapping[str, Ending]) -> dict[int, Counter[Outcome]]:
    """How many tests of each scenario have ended how, by its number; 0 for the others."""
    counted: dict[int, Counter[Outcome]] = {}
    for ending in found.values():
        counted.setdefault(ending.scenario, Counter())[ending.outcome] += 1
    return dict(sorted(counted.items()))


def scenario_name(number: int) -> str:
    """What a scenario is called in a table."""
    return str(CATALOGUE[number]) if number else "   other tests"


def measure(
    workshop: Workshop, kernel: KernelRequest, forced: Accelerator | None, *, title: str
) -> Sample:
    """What the hand-over costs on a kernel, with the list as booted.

    Under TCG the times are instructions of the guest, a nanosecond each: the same on every host.

    Raises:
        UserError: the kernel cannot be built.
        GuestFailure: it failed, or did not carry its list.
        InfraError: the host failed.
    """
    request = KernelRequest(
        kernel.arch,
        base=kernel.base,
        kernel_tree=kernel.kernel_tree,
        patches=kernel.patches,
        further=kernel.further,
        symbols=(*kernel.symbols, *SYMBOLS),
    )
    built = workshop.kernel(request)
    prepared = Prepared(
        kernel=built,
        next_image=built.image,
        next_banner=built.banner,
        image=workshop.image(built.image, kernel.arch),
        accelerator=workshop.accelerator(kernel.arch, forced, built.image),
    )
    subject = Subject(title, request, prepared)
    with (
        workshop.progress.step(f"measure {title}") as step,
        workshop.cache.scratch() as folder,
    ):
        return subject.sample(
            0, step, folder=folder, templates=workshop.templates, counting=subject.can_count
        )
