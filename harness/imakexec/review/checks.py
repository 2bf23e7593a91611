# SPDX-License-Identifier: GPL-2.0-only
"""What each patch of someone else's series does: it applies, compiles, boots, and carries how much?

Nothing is known of what such a series promises. So a patch is held against the kernel before it: it
must not say what the base does not say, and must not carry less than one patch earlier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from imakexec.attest import Verdict
from imakexec.errors import GuestFailure, ImaKexecError, InfraError, UserError, counted
from imakexec.job import Workshop
from imakexec.kernel.build import KernelImage, KernelRequest, wanted_symbols
from imakexec.kernel.series import PatchSeries
from imakexec.kernel.source import SourceTree
from imakexec.kernel.worktree import WorkTree
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.review.inbox import MailedSeries
from imakexec.series.boots import WAYS, BootChecks
from imakexec.series.cells import Cell, Column, Row, Status
from imakexec.series.mail import Applied, apply_mails, base_files, run_checkpatch
from imakexec.series.messages import lines_of
from imakexec.series.objects import BOOTABLE, PERMUTATIONS, ObjectChecks, Permutation
from imakexec.series.promises import Carried, Seen, carried_of, verdict_words

_ORDER = tuple(Carried)

COLUMNS: tuple[Column, ...] = (
    Column("git am", ("git", "am"), 3, "it applies, without fuzz"),
    Column("checkpatch", ("check", "patch"), 5, "errors/warnings/checks"),
    Column("build", ("W=1", "C=1"), 3, "no warning in the kernel, none new with W=1 and sparse"),
    *(Column(it.name, it.heading, it.width, it.meaning) for it in PERMUTATIONS),
    Column("kexec", ("kexec",), 5, "both kernels come up, and say nothing against the hand-over"),
    Column("carries", ("car-", "ries"), 4, "what of the list: all, the part until the load, ..."),
    Column("twice", ("load", "twice"), 5, "the same after a second, larger load"),
    Column("reload", ("re-", "load"), 4, "the same after an unload and another load"),
    Column("verdict", ("verdict",), 12, "what the verifier says of the list"),
)
"""All properties of a patch, those first that are known soonest."""


def request_with(kernel: KernelRequest, series: PatchSeries) -> KernelRequest:
    """A kernel with patches on top of it."""
    files = tuple(patch.path.absolute() for patch in series.patches)
    return replace(kernel, patches=0, further=files)


@dataclass
class PatchChecks:
    """The per-patch table of a review.

    Attributes:
        workshop: builds and packs.
        kernel: the kernel without the series.
        source: what it is made from.
        mailed: the series.
        accelerator: forced, or None to find out.
        logs: an existing folder for all output.
    """

    workshop: Workshop
    kernel: KernelRequest
    source: SourceTree
    mailed: MailedSeries
    accelerator: Accelerator | None
    logs: Path
    _kernels: dict[int, KernelImage | ImaKexecError] = field(init=False, default_factory=dict)
    _best: dict[str, Carried] = field(init=False, default_factory=dict)
    _was_in_sync: bool = field(init=False, default=False)

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """The rows of some patches, by default of the base, which has number 0, and of all."""
        total = len(self._series.patches)
        for patches in range(first, (total if last is None else last) + 1):
            started = time.monotonic()
            cells = {name: self._cell(patches, name, look) for name, look in self._looks.items()}
            subject = self.mailed.subjects[patches - 1] if patches else self.source.base
            seconds = time.monotonic() - started
            yield Row(patches, len(self._series.patches), subject, cells, seconds)

    @property
    def choice(self) -> AcceleratorChoice | None:
        """What machines have run on; None if there was none."""
        return self._boots.choice

    @property
    def _series(self) -> PatchSeries:
        return self.mailed.series

    @cached_property
    def _looks(self) -> Mapping[str, Callable[[int], Cell]]:
        return {
            "git am": self._applies,
            "checkpatch": self._reads_well,
            "build": self._build,
            **{each.name: partial(self._compile, permutation=each) for each in PERMUTATIONS},
            "kexec": self._goes_through,
            **{way: partial(self._carries, way=way) for way in WAYS},
            "verdict": self._is_judged,
        }

    def _cell(self, patches: int, name: str, look: Callable[[int], Cell]) -> Cell:
        try:
            return look(patches)
        except (UserError, GuestFailure) as error:
            return self._failed(Status.RED, error, f"{patches}-{name}")
        except InfraError as error:
            return self._failed(Status.INFRA, error, f"{patches}-{name}")

    def _failed(self, status: Status, error: ImaKexecError, name: str) -> Cell:
        log = self.logs / f"{name.replace(' ', '-')}-error.log"
        log.write_text(f"{error}\n", encoding="utf-8")
        return Cell(status, error.what, tuple(error.tail.splitlines()), log)

    # The mails.

    @cached_property
    def _applied(self) -> Applied:
        with self.workshop.progress.step("git am"), self.workshop.cache.scratch() as scratch:
            files = base_files(self.source, self._series, scratch)
            log = self.logs / "git-am.log"
            return apply_mails(self._series, files, self.workshop.cache, log)

    def _applies(self, patches: int) -> Cell:
        log = self.logs / "git-am.log"
        if self._applied.patches >= patches:
            return Cell(Status.OK, "ok", (), log)
        if self._applied.patches + 1 < patches:
            return Cell(Status.SKIPPED, "an earlier one does not apply")
        return Cell(Status.RED, "it does not apply", self._applied.complaints, log)

    def _reads_well(self, patches: int) -> Cell:
        if not patches:
            return Cell(Status.NOT_APPLICABLE, "no patch")
        patch = self._series.patches[patches - 1]
        log = self.logs / f"{patches}-checkpatch.log"
        with self.workshop.progress.step(f"checkpatch {patch.name}"):
            report = run_checkpatch(patch, self.source.path, self.workshop.cache, log)
        return Cell.judged(report.faults, report.counts, log)

    # Objects.

    @cached_property
    def _objects(self) -> ObjectChecks:
        return ObjectChecks(
            series=self._series,
            work=WorkTree(self.source, self.workshop.cache),
            arch=self.kernel.arch,
            wanted=tuple(wanted_symbols(self.kernel, self.workshop.project)),
            cache=self.workshop.cache,
            progress=self.workshop.progress,
            logs=self.logs,
        )

    def _build(self, patches: int) -> Cell:
        kernel = self._kernel(patches)
        if isinstance(kernel, ImaKexecError):
            raise kernel
        if kernel.warnings and patches:  # those of the base are not its fault
            plural = counted(len(kernel.warnings), "compiler warning")
            return Cell.judged([plural, *kernel.warnings], "", kernel.log)
        return self._compile(patches, BOOTABLE)

    def _compile(self, patches: int, permutation: Permutation) -> Cell:
        if self._applied.patches < patches:
            return Cell(Status.SKIPPED, "it does not apply")
        cell = self._objects.compare(patches, permutation)
        if cell.status is not Status.RED or cell.log is None:
            return cell
        # A maintainer looks for the line.
        text = cell.log.read_text(encoding="utf-8", errors="replace")
        tree = str(self._objects.work.tree)
        return replace(cell, details=tuple(lines_of(text, tree, cell.details)))

    def _kernel(self, patches: int) -> KernelImage | ImaKexecError:
        if patches not in self._kernels:
            wanted = request_with(self.kernel, self._series.first(patches))
            try:
                self._kernels[patches] = self.workshop.kernel(wanted)
            except ImaKexecError as error:
                self._kernels[patches] = error
        return self._kernels[patches]

    # Machines.

    @cached_property
    def _boots(self) -> BootChecks:
        return BootChecks(self.workshop, self.kernel.arch, self.accelerator, self.logs)

    def _seen(self, patches: int, way: str) -> Seen | None:
        """A run, or None if there is no kernel for it."""
        kernel = self._kernel(patches)
        return None if isinstance(kernel, ImaKexecError) else self._boots.seen(patches, kernel, way)

    def _goes_through(self, patches: int) -> Cell:
        seen = self._seen(patches, "carries")
        if seen is None:
            return Cell(Status.SKIPPED, "there is no kernel to boot")
        return Cell.judged(seen.complaints, "ok", self._boots.folder(patches, "carries"))

    def _carries(self, patches: int, way: str) -> Cell:
        seen = self._seen(patches, way)
        if seen is None:
            return Cell(Status.SKIPPED, "there is no kernel to boot")
        carried, before = carried_of(seen), self._best.get(way, Carried.NONE)
        faults = []
        if _ORDER.index(carried) < _ORDER.index(before):
            faults = [f"{carried} of the list is carried, {before} was one patch earlier"]
        self._best[way] = carried
        return Cell.judged(faults, carried, self._boots.folder(patches, way))

    def _is_judged(self, patches: int) -> Cell:
        seen = self._seen(patches, "carries")
        if seen is None:
            return Cell(Status.SKIPPED, "there is no kernel to boot")
        judgement = seen.judgement
        in_sync = judgement.verdict is Verdict.IN_SYNC
        words = verdict_words(judgement.verdict, judgement.reason)
        faults = []
        if carried_of(seen) is Carried.ALL and not in_sync:
            faults = [f"{words}, though all is carried", judgement.sentence]
        elif self._was_in_sync and not in_sync:
            faults = [f"{words}, and was in step one patch earlier", judgement.sentence]
        elif judgement.verdict in (Verdict.TAMPERED, Verdict.MALFORMED, Verdict.INVALID_EVIDENCE):
            faults = [words, judgement.sentence]
        self._was_in_sync = in_sync
        return Cell.judged(faults, words, self._boots.folder(patches, "carries"))
