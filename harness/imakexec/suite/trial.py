# SPDX-License-Identifier: GPL-2.0-only
"""One test of a scenario: it drives the guest, watches it with every oracle, and concludes.

A scenario's test says only what is special about it. Snapshots, what is read beside them, the
oracles and the known defects come with every step that is taken through a `Trial`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from imakexec import scenario
from imakexec.attest import Judgement, MeasurementLog, Record, Verdict, judge_folder
from imakexec.errors import GuestFailure
from imakexec.evidence import Evidence
from imakexec.machine.guest import BootInfo
from imakexec.machine.watch import Expected
from imakexec.scenario import Load, LoadedKernel, Session
from imakexec.suite import oracles
from imakexec.suite.catalogue import Scenario
from imakexec.suite.defects import LISTED, Defect, known_defects
from imakexec.suite.notes import Notes
from imakexec.suite.oracles import NOT_PADDED, Finding, Hop, Oracle, Padded
from imakexec.suite.outcome import Conclusion, Outcome
from imakexec.suite.properties import KernelProperties
from imakexec.suite.readings import Reading, take_reading
from imakexec.suite.result import Complaint, Found

SYSRQ_PANIC = ("sysrq triggered crash",)
"""What a kernel says when it is told to panic."""

BYPASS = "activating TPM-bypass"
"""What IMA says on a machine without a TPM."""

OpenSession = Callable[..., AbstractContextManager[Session]]


@dataclass
class Trial:
    """One test of a scenario on one kernel.

    Attributes:
        scenario: of the catalogue.
        kernel: what the kernel under test sets out to do.
        open_session: starts its machine; takes fields of `JobOptions`.
        folder: where the evidence goes.
        notes: what becomes known of the test.
        fixed: ids of known defects that the kernel has not.
        case: words that tell this test from others of the scenario, for `Defect.case`.
        set_aside: records that were taken from the running kernel's list, staged or deleted, as
            they were read; every snapshot begins with them. Staged ones come back with a kexec.
        findings: what is wrong so far.
        session: the machine, while it runs.
        judgement: the verifier's, when the machine is off.
        boot_seconds: that the first kernel took to its agent.
        hops: how long each later one took.
        mended: the ids of known defects that should have shown and have not, when it has concluded.
    """

    scenario: Scenario
    kernel: KernelProperties
    open_session: OpenSession
    folder: Path
    notes: Notes
    fixed: frozenset[str] = frozenset()
    case: frozenset[str] = frozenset()
    set_aside: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    session: Session = field(init=False)
    judgement: Judgement = field(init=False)
    boot_seconds: float = field(init=False, default=1.0)
    hops: list[Hop] = field(default_factory=list)
    mended: tuple[str, ...] = ()
    _readings: list[Reading] = field(default_factory=list)
    _allowed: dict[str, str] = field(default_factory=dict)
    _loss: str = ""
    _starts_anew: bool = False
    _anew_in: int | None = None
    _announced: bool = True
    _has_list: bool = True
    _waived: dict[str, str] = field(default_factory=dict)
    _padded: Padded = NOT_PADDED
    _zero: frozenset[int] = frozenset()
    _per_record: int = 0
    _first_uptime: float = 0.0
    _is_over: bool = False

    # What a test says before or while it runs.

    def allow(self, *texts: str, because: str = "") -> None:
        """Let kernels say what holds one of these texts: here it is what they must say.

        Args:
            because: why; if it is left out, because of the loss that is expected.
        """
        self._allowed |= dict.fromkeys(texts, because)

    def expect_loss(
        self,
        because: str,
        *,
        of_all: bool = False,
        anew_in: int | None = None,
        announced: bool = True,
    ) -> None:
        """Records must be lost, in whole records and noticed by the verifier.

        It takes the place of O1, O2 and O7. Without a TPM the lists alone must show it.

        Args:
            of_all: the next kernel gets none of them, and starts a list of its own.
            anew_in: the boot that does, if it is not every one.
            announced: whether the last list that was seen is of a kernel under test, which may
                write markers.
        """
        self._loss = because
        self._starts_anew = of_all
        self._anew_in = anew_in
        self._announced = announced

    def waive(self, *which: Oracle, because: str) -> None:
        """Make no use of an oracle where it cannot be asked.

        Args:
            because: why; a test that fails says it.
        """
        self._waived |= dict.fromkeys(which, because)

    def extends_padded(self, *banks: str, since: int = 0) -> None:
        """The kernel has no hash for these banks, and extends padded SHA-1 digests into them.

        Args:
            since: the first boot of such a kernel. If those before it have had the hash, nothing
                may verify in these banks any more.
        """
        self._padded = Padded(frozenset(banks), since)

    def has_no_bank_for_boot_aggregate(self, *boots: int) -> None:
        """A kernel takes the bank of its hash, else sha256 or sha1; these boots' kernels have none.

        See ima_calc_boot_aggregate(), security/integrity/ima/ima_crypto.c.
        """
        self._zero = frozenset(boots)

    def claim(self, name: str, holds: object, what: object = "it does not hold") -> None:
        """Make a demand of the scenario's own, which a known defect can name.

        Args:
            name: of the demand, in a few words.
            holds: whether it is met.
            what: what was seen instead.
        """
        if not holds:
            self.findings.append(Finding(name, str(what)))

    # Steps.

    @contextmanager
    def running(self, **options: object) -> Iterator[Session]:
        """Boot a machine; when the context ends, read its list once more, and judge it all.

        Args:
            options: fields of `JobOptions`.
        """
        with self.open_session(**options) as session:
            self.session = session
            self._first_uptime = scenario.boot(session).uptime
            self.boot_seconds = session.boot_seconds
            if not session.has_tpm:
                self.allow(BYPASS, because="the machine has no TPM")
            else:
                self._per_record = session.tpm.counter_step(session.budget(), banks=session.banks)
            self.snapshot("boot")
            yield session
            if not self._is_over:
                self._look_for_leaks("at the end")
                self.snapshot("end", quote_after=True)
        self._judge()

    def snapshot(self, name: str, *, quote_after: bool = False) -> bytes:
        """Take a snapshot with all that is read beside it; the list that was read.

        Of a kernel without IMA there is none.
        """
        if not self._has_list:
            return b""
        if self.session.has_tpm:
            log = scenario.take_snapshot(
                self.session, name, quote_after=quote_after, set_aside=self.set_aside
            )
        else:
            log = self.set_aside + scenario.read_list(self.session)
        self._readings.append(take_reading(self.session, name, log, len(self.set_aside)))
        return log

    def load(
        self,
        *,
        how: Load = Load.FILE,
        append: str = "",
        without: str = "",
        chain: bool = False,
    ) -> LoadedKernel:
        """Load the next kernel; what the kernel says against the hand-over is O6's to judge."""
        if how is not Load.LEGACY:
            self.case |= {LISTED}
        return scenario.kexec_load(
            self.session, how=how, append=append, without=without, chain=chain
        )

    def execute(
        self, loaded: LoadedKernel, *, meanwhile: str = "", has_list: bool = True
    ) -> BootInfo:
        """Take a snapshot, execute, and take one in the next kernel.

        Args:
            meanwhile: a shell script that starts what goes on while kexec executes. No snapshot is
                then taken before: it would not be the last.
            has_list: whether the next kernel has IMA; without it there is nothing to take a
                snapshot of until the one after it.
        """
        return self._hop(
            lambda: scenario.kexec_execute(self.session, loaded, meanwhile=meanwhile),
            at_rest=not meanwhile,
            has_list=has_list,
        )

    def panic(self, crash_kernel: LoadedKernel) -> BootInfo:
        """Take a snapshot, have the kernel panic, and take one in the crash kernel."""
        self.allow(*SYSRQ_PANIC, because="the kernel is told to panic")
        return self._hop(lambda: scenario.crash(self.session, crash_kernel), at_rest=True)

    def _hop(self, go: Callable[[], None], *, at_rest: bool, has_list: bool = True) -> BootInfo:
        epoch = self.session.machine.epochs.current.number
        self._look_for_leaks(f"before execute {epoch}")
        if at_rest:
            self.snapshot(f"before-execute-{epoch}")
        go()
        info = self.session.guest.ping(self.session.budget())
        records = self._readings[-1].count
        self.hops.append(Hop(epoch + 1, info.uptime, records))
        self._has_list = has_list
        if self.set_aside and scenario.read_list(self.session).startswith(self.set_aside):
            self.set_aside = b""  # it was staged, and not deleted
        self.snapshot(f"boot-{epoch + 1}")
        return info

    def end(self, command: str, how: Expected) -> None:
        """Take the last snapshot, and have a shell command in the guest end the machine."""
        self.snapshot("end", quote_after=True)
        scenario.end(self.session, command, how)
        self._is_over = True

    def execute_refused(self, loaded: LoadedKernel) -> None:
        """Take the last snapshot, and execute what the purgatory must not start."""
        self.snapshot("end", quote_after=True)
        self._is_over = True
        scenario.kexec_execute_refused(self.session, loaded)

    def hand_over(self, loaded: LoadedKernel) -> bytes:
        """Take a last snapshot, execute a kernel that was loaded with `scenario.KEEPS_BUFFER`.

        That kernel has no list: the trial ends with the snapshot "end" of the one before, and the
        verifier is not asked about a boot that it knows nothing of.

        Returns:
            The segment as that kernel finds it, whole.

        Raises:
            GuestFailure: there is none.
        """
        self.snapshot("end", quote_after=True)
        self._is_over = True
        self.waive(Oracle.REPLAY, because="the kernel that was booted last has no list")
        scenario.kexec_execute(self.session, loaded)
        content = scenario.read_handover_buffer(self.session)
        if content is None:
            raise GuestFailure(
                "the next kernel has no hand-over buffer",
                where=str(self.folder),
                remedy="see what the kernel before has said at the load",
            )
        return content

    def _look_for_leaks(self, when: str) -> None:
        if self.kernel.finds_leaks:
            self.findings += oracles.leak_findings(when, scenario.find_leaks(self.session))

    # What came out.

    @property
    def readings(self) -> Sequence[Reading]:
        """All of them, in order."""
        return self._readings

    def log(self, snapshot: str = "end") -> MeasurementLog:
        """The list of a snapshot."""
        [found] = [reading for reading in self._readings if reading.snapshot == snapshot]
        return MeasurementLog.parse(found.log)

    def records(self, snapshot: str = "end") -> list[Record]:
        """The records of a snapshot."""
        return list(self.log(snapshot))

    def names(self, snapshot: str = "end") -> list[str]:
        """The event names of a snapshot, in order."""
        return [record.name for record in self.records(snapshot)]

    @property
    def console(self) -> str:
        """All that the kernels have said, each line with its time."""
        return (self.folder / "console.log").read_text(errors="replace")

    @property
    def complaints(self) -> tuple[Complaint, ...]:
        """What the kernels have said that no healthy one says, with what is allowed here."""
        allowed = {text: because or self._loss for text, because in self._allowed.items()}
        return tuple(oracles.find_said(self.console, allowed))

    @property
    def evidence(self) -> Evidence:
        """The evidence folder."""
        return Evidence.load(self.folder)

    # Judging.

    def _judge(self) -> None:
        self.judgement = judge_folder(self.folder)
        self.notes.take_judgement(self.judgement, self.folder)
        self.notes.complaints = self.complaints
        found = [
            *oracles.boot_findings(self.judgement, self._readings, self._starts, self._zero),
            *oracles.count_findings(self._readings, self._padded),
            *oracles.violation_findings(self._readings),
            *oracles.message_findings(self.complaints),
            *oracles.time_findings(self._first_uptime, self.hops),
        ]
        lost = list(oracles.prefix_findings(self._readings))
        if self._loss and self.session.has_tpm:
            found += self._loss_findings()
        elif self._loss:
            found += [] if lost else [Finding("loss detected", f"nothing is lost: {self._loss}")]
        else:
            found += lost
            if self.session.has_tpm:
                found += self._replay_findings()
                found += oracles.counter_findings(self._readings, self._per_record)
        self.findings += [finding for finding in found if finding.demand not in self._waived]

    @property
    def _starts(self) -> frozenset[int]:
        """The boots with which a list starts."""
        if self._anew_in is not None:
            return frozenset({0, self._anew_in})
        boots = range(self._readings[-1].epoch + 1)
        return frozenset(boots if self._starts_anew else {0})

    def _replay_findings(self) -> Iterator[Finding]:
        if not self._padded.banks:
            return oracles.replay_findings(self.judgement)
        last = self.evidence.snapshots[-1]
        return oracles.padded_replay_findings(self.judgement, last, self._padded)

    def _loss_findings(self) -> Iterator[Finding]:
        """A loss must be one, of whole records, and be called what it is."""
        due = {Verdict.OUT_OF_SYNC}
        writes_markers = self.kernel.has_markers and self.kernel.carries_events_after_load
        if writes_markers and self._announced:
            due = {Verdict.TRUNCATED}
        verdict = self.judgement.verdict
        if verdict not in due:
            yield Finding(
                "loss detected",
                f"{verdict} ({self.judgement.reason}), {' or '.join(due)} was due: {self._loss}",
            )
        timeline = self.judgement.timeline
        for handover in timeline.handovers if timeline else ():
            if handover.whole_prefix is False:
                yield Finding("whole prefix", f"what was carried before {handover.index} is not")

    def died(self, failure: GuestFailure) -> None:
        """The machine is gone because the guest failed: what is left is what the kernels said."""
        self.notes.complaints = self.complaints
        self.findings.append(Finding(Oracle.ALIVE, failure.what))
        self.findings += oracles.message_findings(self.complaints)

    @property
    def excuse(self) -> str:
        """How the host has kept the guest from working; empty if it has not."""
        return self.session.machine.excuse if hasattr(self, "session") else ""

    @property
    def may_die(self) -> bool:
        """Whether a known defect kills the guest."""
        return any(Oracle.ALIVE in defect.breaks for defect in self.defects)

    @property
    def defects(self) -> tuple[Defect, ...]:
        """What this test is known to show on this kernel."""
        return tuple(known_defects(self.scenario.number, self.case, self.kernel, self.fixed))

    def found(self) -> tuple[Found, ...]:
        """What is wrong so far, each with the known defect that explains it."""
        if not self.findings:
            return ()  # there may be no console yet
        defects = self.defects
        said = self._said_for(defects)
        return tuple(
            Found(
                finding.demand,
                finding.what,
                next((item.id for item in defects if item.explains(finding, said)), ""),
            )
            for finding in self.findings
        )

    def unexplained(self) -> list[str]:
        """What is wrong so far, and of no known defect."""
        return [str(found) for found in self.found() if not found.defect]

    def _said_for(self, defects: Sequence[Defect]) -> str:
        return self.console if any(defect.console for defect in defects) else ""

    def conclude(self) -> Conclusion:
        """Hold what was found against what is known."""
        defects = self.defects
        hidden = list(self._hidden(defects))
        self.mended = tuple(dict.fromkeys(defect.id for defect, _ in hidden))
        wrong = self.unexplained()
        wrong += [
            f"{demand} holds, which {defect.id} should break ({defect.reason}): if it is mended, "
            f"remove it from suite/defects.py, or say --fixed {defect.id}"
            for defect, demand in hidden
        ]
        if wrong:
            waived = [f"not asked: {oracle}: {why}" for oracle, why in self._waived.items()]
            return Conclusion(Outcome.FAIL, (*wrong, *waived))
        if defects:
            return Conclusion(Outcome.KNOWN, tuple(dict.fromkeys(map(str, defects))))
        return Conclusion(Outcome.PASS, ())

    def _hidden(self, defects: Sequence[Defect]) -> Iterator[tuple[Defect, str]]:
        """The defects that should have shown and have not, each with the demand that holds."""
        said = self._said_for(defects)
        for defect in defects:
            for demand in sorted(defect.breaks if defect.certain else ()):
                if not any(
                    finding.demand == demand and defect.explains(finding, said)
                    for finding in self.findings
                ):
                    yield defect, demand
