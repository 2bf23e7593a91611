# SPDX-License-Identifier: GPL-2.0-only
"""The known defects of kernels: which demand of which scenario fails for which reason.

Each is a strict expectation: a demand that fails without standing here fails the suite, and so does
one that stands here and holds. What a plain base loses by its design (A1) is listed like the rest:
a control that does not fail as predicted is a fault of the harness.

The ids are stable: reports and --fixed name them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imakexec.suite.oracles import Finding, Oracle
from imakexec.suite.properties import KernelProperties

LOST = frozenset({Oracle.REPLAY, Oracle.PREFIX, Oracle.COUNTER})
"""What the loss of records at a kexec breaks."""


LISTED = "a load that takes the list"
"""The case of every test with such a load."""


@dataclass(frozen=True)
class Defect:
    """One defect in one scenario, or in all that have the case.

    Attributes:
        id: of the defect.
        scenario: the number in the catalogue; None for any.
        breaks: the demands that fail, oracles or names of claims.
        reason: in a line.
        present: whether a kernel has it.
        case: which tests of the scenario show it: those with this word among the parameters of
            `Trial.case`; empty for all.
        finding: a regular expression for what is found, so that nothing else is excused.
        console: another for what the kernels say where it shows: a kernel may die only of it.
        certain: whether it shows each time. One that does not is a consequence: another entry of
            its id and scenario is certain.
    """

    id: str
    scenario: int | None
    breaks: frozenset[str]
    reason: str
    present: Callable[[KernelProperties], bool]
    case: str = ""
    finding: str = ""
    console: str = ""
    certain: bool = True

    def explains(self, finding: Finding, console: str) -> bool:
        """Whether a finding is of this defect.

        Args:
            console: what all kernels have said.
        """
        return (
            finding.demand in self.breaks
            and re.search(self.finding, finding.what) is not None
            and re.search(self.console, console) is not None
        )

    def __str__(self) -> str:
        return f"{self.id}: {self.reason}"


def _copies_at_load(kernel: KernelProperties) -> bool:
    return not kernel.carries_events_after_load


def _copied_at_load(number: int, *more: str, case: str = "") -> Defect:
    """What a kernel that copies at load does to records after it."""
    return Defect(
        id="A1",
        scenario=number,
        breaks=LOST | set(more),
        reason="the list is copied at load: what is measured between load and execute is lost",
        present=_copies_at_load,
        case=case,
    )


def _keeps_state_outside_the_image(kernel: KernelProperties) -> bool:
    """Buffer, size and mapping are variables of IMA, as in the series that was merged for 6.16."""
    return kernel.carries_events_after_load and not kernel.is_ours


def _mapping_stays(number: int, *breaks: str, case: str = "") -> Defect:
    return Defect(
        id="K2",
        scenario=number,
        breaks=frozenset(breaks),
        reason="nobody unmaps the segment of an image that is unloaded or replaced by a legacy one",
        present=_keeps_state_outside_the_image,
        case=case,
    )


def _failed_load_measured(number: int, *, case: str) -> Defect:
    return Defect(
        id="K9",
        scenario=number,
        breaks=frozenset({"a kexec_load for each load"}),
        reason="kexec_load is measured before a load can fail",
        present=lambda kernel: _keeps_state_outside_the_image(kernel) and kernel.has_markers,
        case=case,
    )


_CRASH_SEGMENT = "the crash image gets a segment, and its kernel restores the list of its load"


_LOADS = (
    _mapping_stays(2, "a mapping for what waits", case="segment dropped"),
    _failed_load_measured(2, case="failed load"),
    _copied_at_load(6, case="fits"),
    Defect(
        id="K1",
        scenario=6,
        breaks=frozenset({Oracle.ALIVE, Oracle.MESSAGES}),
        reason="a failed load leaves its larger size, and the copy runs past the first segment",
        present=_keeps_state_outside_the_image,
        case="exceeds",
        console=r" ima_dump_measurement_list\+| ima_update_kexec_buffer\+",
    ),
    _failed_load_measured(6, case="fits"),
    _copied_at_load(7, "records carried", case="unload"),
    _mapping_stays(7, "no mapping after an unload", case="unload"),
    _mapping_stays(7, "no mapping after a legacy load", case="legacy"),
    Defect(
        id="K2",
        scenario=7,
        breaks=frozenset({Oracle.ALIVE}),
        reason="the list is written into pages of the image that is executed, which never starts",
        present=_keeps_state_outside_the_image,
        case="pages reused",
        certain=False,  # It takes a page of the image among those that the segment had.
    ),
    _copied_at_load(12, case="fits"),
    Defect(
        id="B15",
        scenario=12,
        breaks=frozenset({Oracle.BOOTS, "loss detected"}),
        reason=_CRASH_SEGMENT,
        present=_copies_at_load,
        case="panic",
    ),
    Defect(
        id="B15",
        scenario=12,
        breaks=frozenset({"nothing is handed over"}),
        reason=_CRASH_SEGMENT,
        present=_copies_at_load,
        case="panic, shown",
    ),
)


def _copies_bytes(kernel: KernelProperties) -> bool:
    return kernel.copies_bytes


def _shows_no_loss(kernel: KernelProperties) -> bool:
    return kernel.copies_bytes and not kernel.has_markers


_ALL_THAT_FIT = "all that fit are carried"


_REPORTED_HERE = "reported by the first kernel"


_REPORTED_THERE = "reported by the next kernel"


def _lost_in_silence(number: int, *more: str) -> Defect:
    """What a kernel that copies at load does to a list that outgrows its segment."""
    return Defect(
        id="A1",
        scenario=number,
        breaks=frozenset({_ALL_THAT_FIT, _REPORTED_HERE, *more}),
        reason="the list is copied at load: what is measured later is lost without a word",
        present=_copies_at_load,
    )


_OVERFLOW = (
    _lost_in_silence(3, _REPORTED_THERE),
    _lost_in_silence(4),
    Defect(
        id="B11",
        scenario=3,
        breaks=frozenset({"whole records"}),
        reason="the copy stops in the middle of a record, which the header counts",
        present=_copies_bytes,
        case="cut, in the buffer",
    ),
    Defect(
        id="B11",
        scenario=3,
        breaks=frozenset({Oracle.MESSAGES}),
        reason="a part of a record is handed over, and the next kernel stumbles over it",
        present=_copies_bytes,
        case="cut",
        finding="mismatch|Failed to restore the measurement list",
    ),
    Defect(
        id="B11",
        scenario=3,
        breaks=frozenset({_REPORTED_HERE}),
        reason="nobody looks whether the last record was cut: its loss is not reported",
        present=_copies_bytes,
        case="cut in the last record",
    ),
    Defect(
        id="B11",
        scenario=3,
        breaks=frozenset({_REPORTED_THERE}),
        reason="a segment that is full at the end of a record looks like a whole list",
        present=_shows_no_loss,
        case="full at a boundary",
    ),
)


def _keeps_measuring(kernel: KernelProperties) -> bool:
    return not kernel.suspends_on_execute


_LOST_AT_EXECUTE = frozenset({Oracle.REPLAY, Oracle.COUNTER})


_STORM = (
    Defect(
        id="A1",
        scenario=5,
        breaks=_LOST_AT_EXECUTE,
        reason="the list is copied at load: a storm after that is lost",
        present=_copies_at_load,
    ),
    Defect(
        id="G1",
        scenario=5,
        breaks=_LOST_AT_EXECUTE,
        reason="what is measured after the copy extends the PCRs and is handed to nobody",
        present=_keeps_measuring,
        case="late",
    ),
    Defect(
        id="G1",
        scenario=5,
        breaks=frozenset({"refused after the copy", Oracle.MESSAGES}),
        reason="what is measured when the TPM has been shut down is in no PCR and no list",
        present=_keeps_measuring,
        case="late",
    ),
)


def _walks_without_the_lock(kernel: KernelProperties) -> bool:
    """Copy the list without a lock that RCU knows of, and say so."""
    return _copies_at_load(kernel) and kernel.config.get("PROVE_RCU_LIST") == "y"


_DEBUG = (
    Defect(
        id="C6",
        scenario=None,
        breaks=frozenset({Oracle.MESSAGES}),
        reason="the load walks the list without a lock that RCU knows of",
        present=_walks_without_the_lock,
        case=LISTED,
        finding="RCU",
    ),
)


def _every_kernel(_: KernelProperties) -> bool:
    return True


def _missizes_records(kernel: KernelProperties) -> bool:
    return not kernel.is_ours


def _missizes_in_public(kernel: KernelProperties) -> bool:
    return kernel.has_markers and not kernel.is_ours


_SIZED = "sized by what is written"


_UNCOUNTED = "a custom format is counted without its text: the segment is too small"


_RENAMED = "records of a custom format that a template has too come back under that one's name"


_TEMPLATES = (
    Defect(
        id="K4",
        scenario=13,
        breaks=LOST | {Oracle.MESSAGES, "all are carried"},
        reason=_UNCOUNTED,
        present=_missizes_records,
    ),
    Defect(
        id="K4",
        scenario=13,
        breaks=frozenset({Oracle.BOOTS}),
        reason="a list that its segment cannot hold at load is not handed over at all",
        present=_copies_at_load,
    ),
    Defect(
        id="K4",
        scenario=14,
        breaks=frozenset({_SIZED}),
        reason=_UNCOUNTED,
        present=_missizes_in_public,
        case="custom format",
    ),
    Defect(
        id="K4",
        scenario=14,
        # The verifier believes no marker whose size is not that of the list.
        breaks=frozenset({_SIZED, "loss detected"}),
        reason="the template ima is counted with lengths that are not written",
        present=_missizes_in_public,
        case="ima_template=ima",
    ),
    Defect(
        id="K12",
        scenario=14,
        breaks=frozenset({Oracle.REPLAY, Oracle.PREFIX}),
        reason=_RENAMED,
        present=_every_kernel,
        case="format of a template",
        finding="history_rewritten|keeps 0 of",
    ),
    Defect(
        id="K12",
        scenario=14,
        breaks=frozenset({_SIZED}),
        reason=_RENAMED,
        present=lambda kernel: kernel.has_markers,
        case="format of a template",
    ),
    Defect(
        id="E1",
        scenario=14,
        breaks=frozenset({_REPORTED_THERE}),
        reason="a restore that meets an unknown field drops the rest and returns success",
        present=_every_kernel,
        case="unknown field",
    ),
)


_ASYMMETRY = (
    Defect(
        id="K13",
        scenario=16,
        breaks=frozenset({Oracle.BOOTS, "loss detected"}),
        reason="a kernel without IMA leaves the hand-over in the device tree, with memory that it "
        "does not reserve, and the one after it restores a list from before it",
        present=_every_kernel,
        case="kept in the device tree",
        finding=r"^2 boot_aggregate records|^TAMPERED",
    ),
)


def _is_x86(kernel: KernelProperties) -> bool:
    return kernel.config.get("X86") == "y"


_PAGE = 4096


def _aligns_less_than_asked(kernel: KernelProperties) -> bool:
    """dma_alloc_from_contiguous() aligns to no more than CONFIG_CMA_ALIGNMENT says."""
    aligned = _PAGE << int(kernel.config.get("CMA_ALIGNMENT", "0"))
    return kernel.places_in_cma and aligned < int(kernel.config.get("PHYSICAL_ALIGN", "0"), 16)


_ARCHITECTURES = (
    Defect(
        id="F3",
        scenario=21,
        breaks=LOST | {Oracle.BOOTS},
        reason="an x86 kernel with CONFIG_OF_FLATTREE looks in the device tree, not in setup_data",
        present=_every_kernel,
        case="flattened tree",
    ),
    Defect(
        id="F7",
        scenario=21,
        breaks=LOST | {Oracle.BOOTS, "records carried"},
        reason="a kernel that was booted by ACPI does not read the device tree",
        present=_every_kernel,
        case="arm64 UEFI",
    ),
)


DEFECTS: tuple[Defect, ...] = (
    _copied_at_load(1, "records carried", case="gap"),
    _copied_at_load(9, "records carried"),
    _copied_at_load(23, "a record per measurement", case="no table"),
    Defect(
        id="K10",
        scenario=20,
        breaks=frozenset({Oracle.ALIVE, Oracle.MESSAGES}),
        reason="the kernel is put into CMA less aligned than it asks for, moves itself when it "
        "unpacks, and overwrites the initramfs behind it",
        present=_aligns_less_than_asked,
        case="default",
        console="No working init found",
    ),
    Defect(
        id="J2",
        scenario=25,
        breaks=frozenset({"refused", "nothing loaded"}),
        reason="without CONFIG_KEXEC_SIG nobody asks lockdown about kexec_file_load",
        present=lambda kernel: kernel.config.get("KEXEC_SIG") != "y",
        case="kexec_file_load",
    ),
    Defect(
        id="C5",
        scenario=8,
        breaks=frozenset({Oracle.ALIVE, Oracle.MESSAGES}),
        reason="x86 restores from a buffer for which the next kernel has no memory, and dies",
        present=lambda kernel: _is_x86(kernel) and kernel.version < (7, 0),
        case="1 MiB",
        console=r"RIP: .*:ima_restore_measurement_list\+",
    ),
    Defect(
        id="C5",
        scenario=8,
        breaks=frozenset({Oracle.ALIVE, Oracle.MESSAGES}),
        reason="the same with a small list, which lies at the end of memory since 6.8",
        present=lambda kernel: _is_x86(kernel) and (6, 8) <= kernel.version < (7, 0),
        case="8 KiB",
        console=r"RIP: .*:ima_restore_measurement_list\+",
    ),
    Defect(
        id="K11",
        scenario=17,
        breaks=frozenset({Oracle.ALIVE, Oracle.MESSAGES}),
        reason="a segment of the size of low memory is put there, and the next kernel finds no "
        "room for its real-mode trampoline",
        # Segments are placed from the top of memory since 6.8, as C5 shows.
        present=lambda kernel: _is_x86(kernel) and kernel.version < (6, 8),
        case="low memory",
        console="Real mode trampoline was not allocated",
    ),
    _copied_at_load(11, "violations carried"),
    Defect(
        id="C4",
        scenario=11,
        breaks=frozenset({Oracle.VIOLATIONS}),
        reason="restored violations are not counted",
        present=_every_kernel,
        finding=r"^the kernel counts 0 violations in (boot-1|end),",
    ),
    Defect(
        id="E8",
        scenario=19,
        breaks=frozenset({Oracle.ALIVE, Oracle.MESSAGES}),
        reason="the restore believes the header's buffer_size, reads beyond the segment, and dies",
        present=_every_kernel,
        case="beyond memory",
        console=r"(RIP: .*:|pc : )ima_parse_buf\+",
    ),
    Defect(
        id="E8",
        scenario=19,
        breaks=frozenset({"the kernel says it"}),
        reason="the restore believes a buffer_size with which the end of the list wraps, restores "
        "nothing, and returns success",
        present=_every_kernel,
        case="address wraps",
    ),
    Defect(
        id="A1",
        scenario=24,
        breaks=frozenset({Oracle.PREFIX, "records carried"}),
        reason="without a TPM as with one, what is measured between load and execute is lost",
        present=_copies_at_load,
        case="no TPM",
    ),
    Defect(
        id="A1",
        scenario=24,
        breaks=frozenset({"the list is carried", "records carried"}),
        reason="with the TPM removed too, what is measured between load and execute is lost",
        present=_copies_at_load,
        case="TPM removed",
    ),
    *_LOADS,
    *_OVERFLOW,
    *_STORM,
    *_DEBUG,
    *_TEMPLATES,
    *_ASYMMETRY,
    *_ARCHITECTURES,
)


def known_defects(
    scenario: int, case: frozenset[str], kernel: KernelProperties, fixed: frozenset[str]
) -> Iterator[Defect]:
    """The defects that a test must show.

    Args:
        case: the words that describe the test within its scenario.
        fixed: ids of defects that this kernel has not, whatever its version says.
    """
    for defect in DEFECTS:
        here = defect.scenario in (scenario, None) and (not defect.case or defect.case in case)
        if here and defect.id not in fixed and defect.present(kernel):
            yield defect
