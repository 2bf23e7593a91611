# SPDX-License-Identifier: GPL-2.0-only
"""Keeps what a kernel does, and says later what has changed: a guard for a CI.

What it does is how each test ends and how large the hand-over is. How long it takes is kept in
units of this host's own speed, the time in which it boots this project's kernel, so that another
host can be compared. Such a ratio still has noise, which is kept with it: a drift is a median
outside of Tukey's fences of the kept ones.

The form is "imakexec-baseline/1", docs/schema/imakexec-baseline-1.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Self

from imakexec import job, scenario
from imakexec.deadline import Deadline
from imakexec.errors import UserError
from imakexec.handover_run import Sample
from imakexec.job import JobOptions, Workshop
from imakexec.kernel.build import KernelRequest
from imakexec.machine.accelerator import Accelerator
from imakexec.review.behaviour import Difference, Ending, differences, endings, measure
from imakexec.strict_json import JsonFault, Value, parse_json
from imakexec.suite.outcome import Outcome
from imakexec.suite.result import SuiteRun
from imakexec.suite.runner import Selection, options_for, run_tests, subject_of

SCHEMA = "imakexec-baseline/1"

_TESTS_SECONDS = 2 * 3600.0
_CALIBRATIONS = 5
_FEWEST = 4
"""Times of a step that say something about its noise."""

_FENCE = 1.5
"""Tukey's: in interquartile ranges."""

_LEAST = 0.10
"""A drift that is smaller than this part of the time is none, however little noise there was."""


@dataclass(frozen=True)
class Baseline:
    """What a kernel did.

    Attributes:
        kernel: its "Linux version" line.
        tests: which were run, for people.
        endings: how they ended, by name.
        sizes: of the hand-over with the list as booted: "records"; bytes of the "list" and of the
            "segment"; bytes that are "mapped" and "owned" while a kernel is loaded, and what is
            "kept mapped" and "kept owned" after an unload, see `handover_meter.Held`.
        costs: of the hand-over with the list as booted: "load" and "execute", in seconds, or under
            TCG in thousand millions of instructions.
        counted: whether they are instructions.
        boot_seconds: in which this host boots this project's kernel, the median.
        ratios: of each step of the tests, "boot", "load", ...: its times in units of that.
    """

    kernel: str
    tests: str
    endings: Mapping[str, Ending]
    sizes: Mapping[str, int]
    costs: Mapping[str, float]
    counted: bool
    boot_seconds: float
    ratios: Mapping[str, tuple[float, ...]]

    def to_json(self) -> dict[str, object]:
        """A document of the form "imakexec-baseline/1"."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def read(cls, value: Value) -> Self:
        """Read such a document.

        Raises:
            JsonFault: it is none.
        """
        schema, kernel, tests, ended, sizes, costs, counted, boot, ratios = value.members(
            "schema",
            *("kernel", "tests", "endings", "sizes", "costs", "counted", "boot_seconds", "ratios"),
        )
        if schema.string() != SCHEMA:
            raise schema.wrong(f"{SCHEMA!r} expected")
        return cls(
            kernel=kernel.string(),
            tests=tests.string(),
            endings={item.name: _ending(item) for item in ended.items()},
            sizes={item.name: item.natural() for item in sizes.items()},
            costs={item.name: item.number() for item in costs.items()},
            counted=counted.boolean(),
            boot_seconds=boot.number(),
            ratios={
                item.name: tuple(each.number() for each in item.elements())
                for item in ratios.items()
            },
        )


def _ending(value: Value) -> Ending:
    outcome, number, verdict, defects, faults = value.members(
        "outcome", "scenario", "verdict", "defects", "faults"
    )
    try:
        found = Outcome(outcome.string())
    except ValueError:
        raise outcome.wrong(f"one of {', '.join(Outcome)} expected") from None
    return Ending(
        found,
        number.natural(),
        verdict.string(),
        tuple(item.string() for item in defects.elements()),
        tuple(item.string() for item in faults.elements()),
    )


@dataclass(frozen=True)
class Drift:
    """A time that has changed by more than its noise.

    Attributes:
        what: a step of the tests, or a cost of the hand-over.
        before: the kept median, in units of the host's speed or in instructions.
        after: the one of now.
    """

    what: str
    before: float
    after: float

    @property
    def part(self) -> float:
        """By which part of itself it has changed; negative for faster."""
        return self.after / self.before - 1


@dataclass(frozen=True)
class Comparison:
    """What has changed.

    Attributes:
        tests: that end in another way.
        missing: that are no longer there.
        sizes: that are others: what, before, after.
        drifts: times beyond their noise.
    """

    tests: tuple[Difference, ...]
    missing: tuple[str, ...]
    sizes: tuple[tuple[str, int, int], ...]
    drifts: tuple[Drift, ...]

    @property
    def is_behavioural(self) -> bool:
        """Whether the kernel does something else; a drift is not that."""
        return bool(self.tests or self.missing or self.sizes)

    @property
    def is_known(self) -> bool:
        """Whether the host has let everything be found out."""
        return all(it.after.outcome is not Outcome.INFRA for it in self.tests)


def compare(before: Baseline, after: Baseline) -> Comparison:
    """What a kernel does that it did not do, or another one did not."""
    return Comparison(
        tests=tuple(differences(before.endings, after.endings)),
        missing=tuple(name for name in before.endings if name not in after.endings),
        sizes=tuple(
            (name, size, after.sizes[name])
            for name, size in before.sizes.items()
            if after.sizes.get(name, size) != size
        ),
        drifts=tuple(_drifts(before, after)),
    )


def _drifts(before: Baseline, after: Baseline) -> Iterator[Drift]:
    for name, kept in before.ratios.items():
        now = after.ratios.get(name, ())
        if min(len(kept), len(now)) >= _FEWEST and _is_beyond_noise(kept, median(now)):
            yield Drift(name, median(kept), median(now))
    if before.counted and after.counted:  # else they are single times, whose noise nobody knows
        for name, cost in before.costs.items():
            if cost and abs(after.costs.get(name, cost) / cost - 1) > _LEAST:
                yield Drift(f"{name}, instructions", cost, after.costs[name])


def _is_beyond_noise(kept: Sequence[float], now: float) -> bool:
    first, middle, third = quantiles(kept, n=4)
    reach = max(_FENCE * (third - first), _LEAST * middle)
    return now < first - reach or now > third + reach


def ratios_of(run: SuiteRun, boot_seconds: float) -> dict[str, tuple[float, ...]]:
    """The times of all steps of some tests, in units of the host's speed.

    A step is named by its first word: snapshots have names of their own.
    """
    found: dict[str, list[float]] = {}
    for test in run.tests:
        for step in test.steps:
            name = step.name.partition(" ")[0]
            found.setdefault(name, []).append(round(step.seconds / boot_seconds, 4))
    return {name: tuple(times) for name, times in sorted(found.items())}


def take(
    workshop: Workshop,
    kernel: KernelRequest,
    selection: Selection,
    accelerator: Accelerator | None,
    folder: Path,
) -> Baseline:
    """Run the tests on a kernel, one after another, and measure it and the host.

    Args:
        kernel: the project's own series on its base has patches None, and no tree.
        folder: a new one for what the tests leave.

    Raises:
        UserError: there is no such kernel, or no such test.
        GuestFailure: the kernel does not carry its list, so that there is nothing to measure.
        InfraError: the host failed.
    """
    boot_seconds = calibrate(workshop, kernel, accelerator, folder / "calibration")
    is_ours = kernel.patches is None and kernel.kernel_tree is None and not kernel.further
    subject = "patched" if is_ours else subject_of(kernel)
    with workshop.progress.step(f"{selection} on {subject}") as step:
        run = run_tests(
            workshop.project,
            ["-n0", *options_for(kernel, accelerator), *selection.arguments(subject)],
            folder / "tests",
            deadline=Deadline.after(_TESTS_SECONDS),
            on_line=step.update,
            to_the_end=True,
        )
        step.done(f"{len(run.tests)} tests")
    sample = measure(workshop, kernel, accelerator, title=subject)
    built = workshop.kernel(kernel)
    choice = workshop.accelerator(kernel.arch, accelerator, built.image)
    return Baseline(
        kernel=built.banner,
        tests=str(selection),
        endings=endings(run),
        sizes=_sizes(sample),
        costs={"load": sample.load, "execute": sample.execute},
        counted=choice.accelerator is Accelerator.TCG,
        boot_seconds=boot_seconds,
        ratios=ratios_of(run, boot_seconds),
    )


def _sizes(sample: Sample) -> dict[str, int]:
    return {
        "records": sample.records,
        "list": sample.size,
        "segment": sample.segment,
        "mapped": sum(sample.held.mapped.values()),
        "owned": sum(sample.held.owned.values()),
        "kept mapped": sum(sample.kept.mapped.values()),
        "kept owned": sum(sample.kept.owned.values()),
    }


def calibrate(
    workshop: Workshop, kernel: KernelRequest, accelerator: Accelerator | None, folder: Path
) -> float:
    """Seconds in which this host boots this project's kernel: the median of some boots."""
    ours = KernelRequest(kernel.arch)
    times = []
    with workshop.progress.step(f"{_CALIBRATIONS} boots to calibrate") as step:
        for number in range(_CALIBRATIONS):
            out = folder / str(number)
            options = JobOptions(ours, arch=ours.arch, accelerator=accelerator, out=out)
            prepared = workshop.prepare(options)
            with job.open_session(workshop, prepared, options, out) as session:
                scenario.boot(session)
                times.append(session.boot_seconds)
        step.done(f"{median(times):.2f} s")
    return median(times)


def read_baseline(path: Path) -> Baseline:
    """Read what `imakexec baseline save` has kept.

    Raises:
        UserError: there is no such file, or it is no baseline.
    """
    remedy = "name a file that `imakexec baseline save` has written, with this version"
    try:
        return Baseline.read(parse_json(path.read_bytes(), path.name))
    except OSError as error:
        message = f"the baseline cannot be read: {error.strerror}"
        raise UserError(message, where=str(path), remedy=remedy) from error
    except JsonFault as fault:
        where = f"{path}, field {fault.field}" if fault.field else str(path)
        raise UserError(f"this is no baseline: {fault.what}", where=where, remedy=remedy) from fault
