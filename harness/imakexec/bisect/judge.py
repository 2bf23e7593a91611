# SPDX-License-Identifier: GPL-2.0-only
"""Tells how far the kernel of one commit comes: builds it, boots it, and runs the tests on it.

What speaks against a kernel is believed only where a known good kernel does well on the same host.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from imakexec import job, scenario
from imakexec.arch import Arch
from imakexec.bisect.fate import Fate, RunOfTests, Tally
from imakexec.deadline import Deadline
from imakexec.errors import GuestFailure, InfraError, UserError, counted
from imakexec.job import JobOptions, Workshop
from imakexec.kernel.build import (
    DEFAULT_EXTRA_MEMORY_KB,
    BuildFailure,
    KernelImage,
    KernelRequest,
    offers_ima_option,
)
from imakexec.kernel.cache import write_atomically
from imakexec.kernel.config import EXTRA_MEMORY
from imakexec.machine.accelerator import Accelerator
from imakexec.options import Aim
from imakexec.progress import Step
from imakexec.suite.runner import (
    BuiltKernel,
    Selection,
    kernels_of,
    options_for,
    run_tests,
    subject_of,
)

_TESTS_SECONDS = 3600.0
"""For one run of the tests, the kernels that they configure for themselves included."""

_COPY = re.compile(r"/\S*/tree/")
"""Where the working copy of a tree is, in what a compiler says."""

_GIVEN_UP = 3
"""Runs of the tests in which the host failed, after which a kernel cannot be judged."""

_GOOD_BASE = "linux-6.1"


@dataclass(frozen=True)
class Question:
    """What is asked of every kernel.

    Attributes:
        selection: the tests that it must stand.
        runs: how often, to be good.
        aim: what is looked for; what is behind that is not tried.
        known: the ids of known defects that are no fault; None for all of them.
        features: what a kernel must set out to do, see `RunOfTests`.
        arch: of the guests.
        accelerator: forced, or None to find out.
    """

    selection: Selection
    runs: int
    aim: Aim
    known: frozenset[str] | None
    arch: Arch
    accelerator: Accelerator | None
    features: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """A digest of all of it."""
        known = None if self.known is None else sorted(self.known)
        machine = [self.arch.name, self.accelerator]
        asked = [str(self.selection), self.runs, self.aim, known, sorted(self.features), *machine]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What one kernel came to.

    Attributes:
        fate: how far it came.
        why: in a line.
        good: runs of the tests without a fault.
        bad: runs with one.
        defects: the ids of known defects that have shown.
        features: what the kernel sets out to do, as far as a test has looked.
        folder: what the run left that has decided; empty if none was made.
        kernels: SHA-256 of the boot images, by what they were built for.
        like: the commit whose kernels are the same bytes, and that was run instead; else empty.
        seconds: all of it took.
    """

    fate: Fate
    why: str
    good: int = 0
    bad: int = 0
    defects: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    folder: str = ""
    kernels: tuple[str, ...] = ()
    like: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, fields: dict[str, object]) -> Answer:
        """Read such an object, which this program has written."""
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        values["fate"] = Fate(str(values["fate"]))
        return cls(**values)  # type: ignore[arg-type]  # as to_json() has written them


class Memory:
    """What is known of the commits of one bisection, kept in a file as it becomes known.

    Args:
        path: the file; None to remember nothing.
        identity: of the bisection: what is known of another one is forgotten.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self._path = path
        self._identity = identity
        self.answers: dict[str, Answer] = {}
        self.variants: list[BuiltKernel] = []
        self.host_is_good = False
        self._read()

    def keep(self, key: str, answer: Answer) -> None:
        """Remember an answer under the key of commit and question."""
        self.answers[key] = answer
        self._write()

    def keep_variants(self, found: Iterable[BuiltKernel]) -> None:
        """Remember how the tests configure a kernel for themselves."""
        self.variants = list(dict.fromkeys([*self.variants, *found]))
        self._write()

    def trust_host(self) -> None:
        """Remember that a known good kernel does well here."""
        self.host_is_good = True
        self._write()

    def same_kernels(self, key: str, kernels: tuple[str, ...]) -> tuple[str, Answer] | None:
        """Another commit with the same boot images that was tried, by its key's commit.

        Args:
            key: of the question, which ends the keys of its answers.
        """
        for known, answer in self.answers.items():
            commit, _, asked = known.rpartition(" ")
            is_decided = answer.fate in (Fate.FAILS, Fate.PASSES, Fate.NOT_BOOTED)
            if asked == key and is_decided and answer.kernels == kernels and not answer.like:
                return commit, answer
        return None

    def _read(self) -> None:
        if self._path is None or not self._path.is_file():
            return
        document = json.loads(self._path.read_text(encoding="utf-8"))
        if document["identity"] != self._identity:
            return
        self.answers = {key: Answer.read(it) for key, it in document["answers"].items()}
        self.variants = [BuiltKernel.read(it) for it in document["variants"]]
        self.host_is_good = document["host_is_good"]

    def _write(self) -> None:
        if self._path is None:
            return
        document = {
            "identity": self._identity,
            "host_is_good": self.host_is_good,
            "variants": [it.to_json() for it in self.variants],
            "answers": {key: answer.to_json() for key, answer in self.answers.items()},
        }
        write_atomically(self._path, json.dumps(document, indent=2) + "\n")


@dataclass
class Judge:
    """Answers the question for one kernel after the other.

    Attributes:
        workshop: builds and packs; what it shows is shown within a step of the bisection.
        question: what is asked.
        memory: of this bisection.
        runs: an existing folder for what the runs leave.
    """

    workshop: Workshop
    question: Question
    memory: Memory
    runs: Path
    _count: int = field(init=False, default=0)

    def judge(self, commit: str, request: KernelRequest, step: Step) -> Answer:
        """How far a kernel comes.

        Args:
            commit: its name in this bisection.
            request: its source and patches.
            step: to show what happens.

        Raises:
            UserError: there is no such kernel to build, or no such test.
            InfraError: a known good kernel fails on this host, too.
        """
        key = f"{commit} {self.question.key}"
        known = self.memory.answers.get(key)
        if known is not None:
            return known
        started = time.monotonic()
        answer = self._judge(with_room(self.workshop, request), step)
        answer = replace(answer, seconds=time.monotonic() - started)
        self.memory.keep(key, answer)
        return answer

    def _judge(self, request: KernelRequest, step: Step) -> Answer:
        try:
            kernel = self.workshop.kernel(request)
        except BuildFailure as error:
            return Answer(Fate.NOT_BUILT, _first_complaint(error))
        except UserError as error:
            return Answer(Fate.NOT_CONFIGURED, _first_complaint(error))
        except InfraError as error:
            return self._unknown(error, step)
        if self.question.aim in (Aim.CONFIG, Aim.BUILD):
            return Answer(Fate.PASSES, "it builds", kernels=(_digest(kernel),))
        kernels = self._kernels(kernel, request)
        same = self.memory.same_kernels(self.question.key, kernels)
        if same is not None:
            commit, answer = same
            return replace(answer, like=commit)
        return replace(self._run(request, step), kernels=self._kernels(kernel, request))

    def _kernels(self, kernel: KernelImage, request: KernelRequest) -> tuple[str, ...]:
        """The boot images that the tests will run, as far as it is known which."""
        return (_digest(kernel), *self._variants(request))

    def _variants(self, request: KernelRequest) -> Iterator[str]:
        for variant in self.memory.variants:
            try:
                image = self.workshop.kernel(_as_variant(request, variant))
            except UserError as error:
                yield f"none: {error.what}"
            else:
                yield _digest(image)

    def _run(self, request: KernelRequest, step: Step) -> Answer:
        step.update("boot")
        folder = self._new_folder()
        try:
            self._boot(request, folder)
        except GuestFailure as error:
            self._require_good_host(error.what, step)
            return Answer(Fate.NOT_BOOTED, error.what, folder=str(folder))
        except InfraError as error:
            return self._unknown(error, step)
        if self.question.aim is Aim.BOOT:
            return Answer(Fate.PASSES, "it boots", folder=str(folder))
        answer = self._run_tests(request, step)
        if answer.fate is Fate.FAILS and not self.memory.host_is_good:
            self._require_good_host(answer.why, step)
            self.memory.trust_host()
        return answer

    def _boot(self, request: KernelRequest, folder: Path) -> None:
        """Boot a guest and no more.

        Raises:
            GuestFailure: it does not come up.
        """
        options = JobOptions(
            request, arch=request.arch, accelerator=self.question.accelerator, out=folder
        )
        prepared = self.workshop.prepare(options)
        with job.open_session(self.workshop, prepared, options, folder) as session:
            scenario.boot(session)

    def _run_tests(self, request: KernelRequest, step: Step) -> Answer:
        """Run the tests until it is clear what they say."""
        tally, said, failed = Tally(), _Said(), 0
        while (fate := tally.fate(self.question.runs)) is None:
            title = f"run {tally.runs + 1} of the tests"
            ran, folder = self._run_once(
                subject_of(request), request, self.question.known, partial(_show, step, title)
            )
            self.memory.keep_variants(
                _variant_of(request, built)
                for built in kernels_of(folder)
                if _is_variant(request, built)
            )
            if ran.faults:
                tally = replace(tally, bad=tally.bad + 1)
            elif ran.infra:
                failed += 1
                if failed == _GIVEN_UP:
                    return self._unknown(InfraError("; ".join(ran.silent)), step)
                continue
            elif not ran.tried:
                return Answer(Fate.UNKNOWN, "; ".join(dict.fromkeys(ran.silent)))
            else:
                tally = replace(tally, good=tally.good + 1)
            said.take(ran, folder)
        return said.answer(fate, tally)

    def _run_once(
        self,
        subject: str,
        request: KernelRequest,
        known: frozenset[str] | None,
        on_line: Callable[[str], None],
    ) -> tuple[RunOfTests, Path]:
        """One run of the tests on a kernel of the suite; with the folder that has the artefacts."""
        folder = self._new_folder()
        options = options_for(request, self.question.accelerator)
        run = run_tests(
            self.workshop.project,
            [*options, *self.question.selection.arguments(subject)],
            folder,
            deadline=Deadline.after(_TESTS_SECONDS),
            on_line=on_line,
        )
        features = frozenset() if known is None else self.question.features
        return RunOfTests.of(run, known, features), folder

    def _unknown(self, error: InfraError, step: Step) -> Answer:
        """Nothing is known of this kernel: that of the host is found out."""
        self._require_good_host(error.what, step)
        return Answer(Fate.UNKNOWN, error.what)

    def _require_good_host(self, why: str, step: Step) -> None:
        """Run the known good kernel, which is this project's series on its base.

        Raises:
            InfraError: it fails, too.
        """
        step.update("is it the host? trying a known good kernel")
        told = self._trouble_with(KernelRequest(self.question.arch, base=_GOOD_BASE), step)
        if told:
            raise InfraError(
                f"this host cannot judge kernels: a known good one fails, too: {told}",
                where=str(self.runs),
                remedy=f"run `imakexec doctor`, and see there; what led to this: {why}",
            )

    def _trouble_with(self, good: KernelRequest, step: Step) -> str:
        """What is wrong with a kernel in which nothing is wrong; empty for nothing."""
        try:
            self.workshop.kernel(good)
            if self.question.aim is Aim.BOOT:
                self._boot(good, self._new_folder())
            elif self.question.aim is Aim.SCENARIO:
                title = "a known good kernel"
                ran, _ = self._run_once("patched", good, None, partial(_show, step, title))
                return "; ".join(ran.faults or (ran.silent if ran.infra else ()))
        except (GuestFailure, InfraError, BuildFailure) as error:
            return error.what
        return ""

    def _new_folder(self) -> Path:
        """A name for the artefacts of the next run."""
        while True:
            self._count += 1
            folder = self.runs / f"{self._count}"
            if not folder.exists():
                return folder


@dataclass
class _Said:
    """What the runs of one kernel have said so far."""

    good: tuple[RunOfTests, Path] | None = None
    bad: tuple[RunOfTests, Path] | None = None
    defects: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()

    def take(self, ran: RunOfTests, folder: Path) -> None:
        """Remember a run; the last one of its kind stands for all."""
        self.defects |= ran.defects
        self.features |= ran.features
        if ran.faults:
            self.bad = (ran, folder)
        else:
            self.good = (ran, folder)

    def answer(self, fate: Fate, tally: Tally) -> Answer:
        """What they come to together."""
        shown = self.good if fate is Fate.PASSES else self.bad
        assert shown is not None
        ran, folder = shown
        why = ran.faults[0] if ran.faults else f"{counted(ran.tried, 'test')} passed"
        return Answer(
            fate,
            why,
            tally.good,
            tally.bad,
            tuple(sorted(self.defects)),
            tuple(sorted(self.features)),
            str(folder),
        )


def _show(step: Step, title: str, line: str) -> None:
    step.update(f"{title}: {line}")


def _first_complaint(error: UserError) -> str:
    """What a tree lacks, in a line, without the place of the copy that was built."""
    first = error.tail.partition("\n")[0].strip()
    return _COPY.sub("", first) or error.what


def with_room(workshop: Workshop, request: KernelRequest) -> KernelRequest:
    """The request as the tests make it: with room for late records where the source offers it."""
    offers = offers_ima_option(request, workshop.source(request).path, EXTRA_MEMORY)
    return replace(request, extra_memory_kb=DEFAULT_EXTRA_MEMORY_KB if offers else None)


def _digest(kernel: KernelImage) -> str:
    return hashlib.sha256(kernel.image.read_bytes()).hexdigest()


def _is_variant(request: KernelRequest, built: BuiltKernel) -> bool:
    """Whether a kernel that the tests had built is the one under test."""
    own = BuiltKernel.of(request)
    return (
        (built.base, built.kernel_tree) == (own.base, own.kernel_tree)
        and (built.patches or 0) == (own.patches or 0)
        and built.further[: len(own.further)] == own.further
    )


def _variant_of(request: KernelRequest, built: BuiltKernel) -> BuiltKernel:
    """How a kernel differs from the one under test, whatever its source is."""
    return replace(
        built, base="", kernel_tree="", patches=None, further=built.further[len(request.further) :]
    )


def _as_variant(request: KernelRequest, variant: BuiltKernel) -> KernelRequest:
    return replace(
        request,
        symbols=variant.symbols,
        further=(*request.further, *map(Path, variant.further)),
        extra_memory_kb=variant.extra_memory_kb,
    )
