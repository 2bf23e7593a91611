# SPDX-License-Identifier: GPL-2.0-only
"""Does every prefix boot, and carry its measurement list as it promises?

Three runs of a machine for each prefix: a plain kexec, one after a second and larger load, and one
after an unload and another load. In each of them something is measured before the last load and
after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from imakexec import job, scenario
from imakexec.arch import Arch
from imakexec.attest import MeasurementLog, judge_folder
from imakexec.attest.reasons import Rejection
from imakexec.errors import ImaKexecError
from imakexec.job import JobOptions, Prepared, Workshop
from imakexec.kernel.build import KernelImage, KernelRequest
from imakexec.machine.accelerator import Accelerator, AcceleratorChoice
from imakexec.machine.complaint import complaint_lines
from imakexec.scenario import LoadedKernel, Session
from imakexec.series.cells import Cell
from imakexec.series.promises import Seen, list_faults, promise_of, verdict_faults, verdict_words

_FEW = 8
"""Records that half a page holds, which is all that a segment has to spare without patches."""
_MANY = 60
"""Records that take more than a page: a load after them needs a larger segment."""


@dataclass(frozen=True)
class _Loads:
    """How a run came to its loaded kernel."""

    loaded: LoadedKernel
    times: int
    measured: tuple[str, ...] = ()


def _once(session: Session) -> _Loads:
    return _Loads(scenario.kexec_load(session), 1)


def _twice(session: Session) -> _Loads:
    scenario.kexec_load(session)
    measured = scenario.generate_activity(session, _MANY)
    return _Loads(scenario.kexec_load(session), 2, measured)


def _after_an_unload(session: Session) -> _Loads:
    scenario.kexec_load(session)
    scenario.kexec_unload(session)
    return _Loads(scenario.kexec_load(session), 2)


WAYS: Mapping[str, Callable[[Session], _Loads]] = MappingProxyType(
    {"carries": _once, "twice": _twice, "reload": _after_an_unload}
)
"""The ways to a loaded kernel, by name."""


@dataclass
class BootChecks:
    """Runs machines with the kernels of the series, once each way.

    Attributes:
        workshop: packs guests and chooses the accelerator.
        arch: of the guest.
        forced: the accelerator to take; None to find out.
        logs: where the evidence of each run goes.
    """

    workshop: Workshop
    arch: Arch
    forced: Accelerator | None
    logs: Path
    choice: AcceleratorChoice | None = field(init=False, default=None)
    _prepared: dict[int, Prepared] = field(init=False, default_factory=dict)
    _seen: dict[tuple[int, str], Seen | ImaKexecError] = field(init=False, default_factory=dict)

    def carries(self, patches: int, kernel: KernelImage, way: str) -> Cell:
        """Whether the list is carried as far as it is promised, and nobody complains.

        Args:
            way: how the kernel is loaded: "carries" for once, "twice" for a second and larger
                load, "reload" for an unload and another load.

        Raises:
            GuestFailure: the kernel failed before that.
            InfraError: the host failed.
        """
        promise = promise_of(patches)
        seen = self.seen(patches, kernel, way)
        faults = [*list_faults(promise, seen), *verdict_faults(promise, seen)]
        return Cell.judged(faults, promise.carried, self.folder(patches, way))

    def verdict(self, patches: int, kernel: KernelImage) -> Cell:
        """Whether the verifier says of the plain kexec what it must say; raises the same."""
        promise = promise_of(patches)
        faults = verdict_faults(promise, self.seen(patches, kernel, "carries"))
        good = verdict_words(*promise.verdict)
        return Cell.judged(faults, good, self.folder(patches, "carries"))

    def folder(self, patches: int, way: str) -> Path:
        """Where the evidence of a run is."""
        return self.logs / f"{patches}-{way}"

    def seen(self, patches: int, kernel: KernelImage, way: str) -> Seen:
        """Run a machine, unless that was done before; what failed then fails again.

        Args:
            way: see `carries`.

        Raises:
            GuestFailure: the kernel failed.
            InfraError: the host failed.
        """
        if (patches, way) not in self._seen:
            try:
                self._seen[patches, way] = self._kexec(patches, kernel, way)
            except ImaKexecError as error:
                self._seen[patches, way] = error
        seen = self._seen[patches, way]
        if isinstance(seen, ImaKexecError):
            raise seen
        return seen

    def _kexec(self, patches: int, kernel: KernelImage, way: str) -> Seen:
        prepared = self._prepare(patches, kernel)
        folder = self.folder(patches, way)
        options = JobOptions(KernelRequest(self.arch), arch=self.arch, accelerator=self.forced)
        with (
            self.workshop.progress.step(f"kexec with {patches} patches, {way}"),
            job.open_session(self.workshop, prepared, options, folder) as session,
        ):
            scenario.boot(session)
            until_load = scenario.generate_activity(session, _FEW)
            loads = WAYS[way](session)
            after_load = scenario.generate_activity(session, _FEW)
            scenario.take_snapshot(session, "before-execute")
            scenario.kexec_execute(session, loads.loaded, banner=prepared.next_banner)
            log = scenario.take_snapshot(session, "after", quote_after=True)
            said = complaint_lines(scenario.kernel_log(session))
            complaints = loads.loaded.complaints + said
            job.record_complaints(session, complaints)
        return Seen(
            loads=loads.times,
            until_load=until_load + loads.measured,
            after_load=after_load,
            names=_event_names(log),
            complaints=complaints,
            judgement=judge_folder(folder),
        )

    def _prepare(self, patches: int, kernel: KernelImage) -> Prepared:
        if self.choice is None:
            self.choice = self.workshop.accelerator(self.arch, self.forced, kernel.image)
        if patches not in self._prepared:
            self._prepared[patches] = Prepared(
                kernel=kernel,
                next_image=kernel.image,
                next_banner=kernel.banner,
                image=self.workshop.image(kernel.image, self.arch),
                accelerator=self.choice,
            )
        return self._prepared[patches]


def _event_names(raw: bytes) -> tuple[str, ...]:
    """The event names of a list, in order; none of one that is no list, as the verifier says."""
    try:
        log = MeasurementLog.parse(raw)
    except Rejection:
        return ()
    return tuple((log[index].event or b"").decode(errors="replace") for index in range(len(log)))
