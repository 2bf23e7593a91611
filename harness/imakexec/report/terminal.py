# SPDX-License-Identifier: GPL-2.0-only
"""What came out, for people: a judgement, or the figures of a benchmark.

A judgement is the timeline, PCR 10 per bank, the hand-over buffer, the verdict. Every line fits 80
columns except digests, and nothing depends on colour.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from imakexec.attest import Flag, Verdict
from imakexec.attest.checkpoint import ContinuityState
from imakexec.attest.crosscheck import ListForm
from imakexec.attest.markers import Marker
from imakexec.attest.timeline import BootSpan, Handover, MarkerState, Row, RowKind, Timeline
from imakexec.errors import counted, printable

# To show a list takes less than to show a judgement, and that less than to make a benchmark.
if TYPE_CHECKING:
    from imakexec.attest import Continuity, CrossCheck, Judgement
    from imakexec.attest.judgement import BankResult
    from imakexec.bench import Figures, Spread

_GOOD, _BAD, _WARN, _PLAIN = "bold green", "bold red", "bold yellow", ""
_VERSION_SHOWN = 40
_WIDTH = 80
_BAR_WIDTH = 40


def print_judgement(
    console: Console, judgement: Judgement, *, folder: Path, checkpoint: str = ""
) -> None:
    """Print everything that the verdict rests on, and the verdict last.

    Args:
        folder: the evidence.
        checkpoint: what became of one, in words; empty if there is none.
    """
    for line in render_judgement(judgement):
        console.print(line, highlight=False)
    if checkpoint:
        console.print(folded("state", checkpoint), markup=False, highlight=False)
    console.print(f"evidence  {printable(str(folder))}", markup=False, highlight=False)


def render_judgement(judgement: Judgement) -> Iterator[Text]:
    """The lines of a judgement."""
    if judgement.timeline is not None and judgement.layout is not None:
        yield Text(folded("list", f"{judgement.records} records"))
        yield Text(folded("", judgement.layout.byteorder.meaning))
        if judgement.layout.bank != "sha1":
            yield Text(folded("", f"the list of bank {judgement.layout.bank}"))
        yield from render_timeline(judgement.timeline)
    if judgement.banks:
        yield Text("\nPCR 10", style="bold")
        for bank in judgement.banks:
            yield from _bank(bank, judgement.records)
    if judgement.first_divergence is not None:
        yield from _divergence(judgement, judgement.first_divergence)
    yield Text("")
    if judgement.transitions:
        yield Text(folded("snapshots", _transitions(judgement)))
    for path, check in judgement.checks.items():
        yield from render_check(path, check)
    if judgement.continuity is not None:
        yield Text(folded("history", _history(judgement.continuity)))
    if judgement.flags:
        yield Text(folded("flags", ", ".join(judgement.flags)))
    if Flag.UNAUTHENTICATED in judgement.flags:
        yield Text(
            folded("note", "Nothing was authenticated: nobody has signed these values."), _WARN
        )
    style = _GOOD if judgement.verdict is Verdict.IN_SYNC else _BAD
    yield Text.assemble("verdict   ", (f"{judgement.verdict} ({judgement.reason})", style))
    yield Text(folded("", judgement.sentence))
    if judgement.where:
        yield Text(folded("where", judgement.where))
    yield Text(folded("action", judgement.action))


def render_timeline(timeline: Timeline) -> Iterator[Text]:
    """The lines of a timeline, of the boots and of the hand-overs in it."""
    yield Text("\ntimeline of the measurement list", style="bold")
    for row in timeline.rows:
        yield from _row(row)
    if timeline.boots:
        yield Text("\nboots", style="bold")
        for boot in timeline.boots:
            yield from _boot(boot)
    for handover in timeline.handovers:
        yield Text(f"\nhand-over buffer before record {handover.index}", style="bold")
        yield from _handover(handover)


def render_check(path: Path, check: CrossCheck) -> Iterator[Text]:
    """The lines of a comparison with another list."""
    form = "ASCII" if check.form is ListForm.ASCII else "binary"
    yield Text(f"against   {printable(str(path))} ({form}, {check.bank})")
    if not check.agrees:
        text = f"DIFFERS in {check.field} of record {check.compared}: {check.difference}"
        yield Text(folded("", text), style=_BAD)
        return
    rest = ""
    if check.missing:
        rest = f"; it ends {check.missing} records before this list"
    elif check.further:
        rest = f"; it goes on after them, by {check.further}"
    yield Text(folded("", f"{check.compared} records agree{rest}"))


def print_complaints(console: Console, complaints: Sequence[str]) -> None:
    """Print what the kernels said against the hand-over, if anything."""
    for line in complaints:
        console.print(Text.assemble(("kernel    ", "bold yellow"), line), highlight=False)


def print_figures(console: Console, figures: Figures) -> None:
    """Print where it was measured, both wall times, their ratio, CPU time and memory."""
    for line in render_figures(figures):
        console.print(line, markup=False, highlight=False)


def render_figures(figures: Figures) -> Iterator[str]:
    """The lines of a benchmark's figures."""
    host = figures.host
    yield folded("host", f"{host.cpu}, {host.cpus} usable, load {host.load:.1f}")
    yield folded("", host.system)
    yield folded("machine", f"{host.qemu}, {host.accelerator}")
    yield folded("", host.reason)
    runs = f"{len(figures.job.samples)} counted runs of each, in turns"
    yield folded("work", f"{figures.kernel}, {figures.files} records; {runs}")
    yield f"\n{'':17}{'min':>10}{'median':>10}{'max':>10}{'user+sys, median':>20}"
    for name, timed in (("main job", figures.job), ("bare QEMU", figures.bare)):
        yield f"{name:17}{_spread(timed.wall, ' s')}{timed.cpu.median:18.2f} s"
    yield f"{'ratio, by pairs':17}{_spread(figures.pairwise)}"
    yield f"{'ratio of medians':17}{'':10}{figures.ratio:10.2f}"
    yield f"\nmemory    {figures.peak_memory / 2**20:.1f} MiB at most, beside QEMU and swtpm"


def _spread(spread: Spread, unit: str = "") -> str:
    values = (spread.least, spread.median, spread.most)
    return "".join(f"{value:{10 - len(unit)}.2f}{unit}" for value in values)


def folded(title: str, text: str) -> str:
    """A titled text, folded below itself at 80 columns."""
    return textwrap.fill(
        printable(text), _WIDTH, initial_indent=f"{title:10}", subsequent_indent=" " * 10
    )


def _row(row: Row) -> Iterator[Text]:
    place = f"{row.index:6}  "
    match row.kind:
        case RowKind.BOOT_AGGREGATE:
            state = f" ({row.boot_aggregate.state})" if row.boot_aggregate else ""
            yield Text.assemble(place, ("boot_aggregate", "bold cyan"), state)
        case RowKind.RECORDS:
            violations = f", {counted(row.violations, 'violation')}" if row.violations else ""
            count = counted(row.count, "record")
            yield Text(f"{place}  {count}, {row.size} bytes{violations}")
        case RowKind.KEXEC_LOAD | RowKind.KEXEC_EXECUTE:
            yield Text.assemble(place, (row.kind, "bold magenta"), _marker_state(row.marker))
            if row.marker is not None:
                yield from _marker_values(row.marker)


def _marker_state(marker: Marker | None) -> str:
    if marker is None or marker.accepted:
        return ""
    return f" REJECTED: {'; '.join(marker.flaws)}"


def _marker_values(marker: Marker) -> Iterator[Text]:
    if marker.logged is None:
        return
    said, indent = marker.logged, " " * 10
    yield Text(f"{indent}segment  {said.segment_size} bytes")
    yield Text(f"{indent}list     {said.runtime_size} bytes, recomputed {marker.recomputed_size}")
    yield Text(f"{indent}records  {said.count}, recomputed {marker.recomputed_count}")


def _boot(boot: BootSpan) -> Iterator[Text]:
    words = [counted(boot.count, "record")]
    if boot.violations:
        words.append(counted(boot.violations, "violation"))
    if boot.kernel_version is not None:
        words.append(f"Linux {printable(boot.kernel_version)[:_VERSION_SHOWN]}")
    yield Text.assemble(f"{boot.index:6}  ", (f"{boot.kind:6}", "cyan"), f"  {', '.join(words)}")
    if boot.clock is not None:
        first, last = boot.clock
        yield Text(
            f"{'':16}resetCount {last.reset_count}, restartCount {last.restart_count},"
            f" clock {first.clock} to {last.clock} ms"
        )


def _handover(handover: Handover) -> Iterator[Text]:
    indent = " " * 10
    if handover.segment_size is None or handover.fill_percent is None:
        yield Text(f"{indent}{handover.bytes_used} bytes carried, size of the segment unknown")
    else:
        full = round(_BAR_WIDTH * min(100.0, handover.fill_percent) / 100)
        yield Text(
            f"{indent}[{'#' * full}{'.' * (_BAR_WIDTH - full)}] "
            f"{handover.bytes_used} of {handover.segment_size} bytes, {handover.fill_percent} %"
        )
    if handover.full and handover.markers is not MarkerState.COMPLETE:
        yield Text(f"{indent}full: one more record would not have found room", _BAD)
    yield Text(f"{indent}markers  {handover.markers.replace('_', ' ')}")
    if handover.lost:
        yield Text(f"{indent}{handover.lost} records that were seen before it are missing after it")
    if handover.uncounted:
        yield Text(f"{indent}its markers claim {handover.uncounted} that do not stand before them")


def _divergence(judgement: Judgement, place: int) -> Iterator[Text]:
    """The records around the first one in doubt, which is marked."""
    yield Text("\nfirst record in doubt", style="bold")
    for record in judgement.context:
        mark = ">" if record.index == place else " "
        kind = "violation" if record.violation else record.template
        line = f"{mark}{record.index:5}  {kind:10} {record.digest.hex()[:16]}  {record.name}"
        yield Text(_clipped(line), _BAD if record.index == place else _PLAIN)
    if place == judgement.records:
        yield Text(f">{place:5}  the list ends here", _BAD)


def _history(continuity: Continuity) -> str:
    total, kept = continuity.checkpoint_records, continuity.surviving
    if continuity.surviving_below not in (None, kept + 1):
        left = f"at least {kept}, fewer than {continuity.surviving_below}"
    else:
        left = str(kept)
    match continuity.state:
        case ContinuityState.CONTINUES:
            text = f"it goes on from the checkpoint, whose {total} records it begins with"
        case ContinuityState.LOSS:
            most = kept if continuity.surviving_below is None else continuity.surviving_below - 1
            text = (
                f"of the checkpoint's {total} records a kexec has left the first {left}:"
                f" {total - most} are lost at least"
            )
        case ContinuityState.CONTRADICTED:
            text = f"of the checkpoint's {total} records only the first {left} are there"
        case ContinuityState.NEW_POWER_CYCLE:
            text = "the TPM was reset since the checkpoint, or has slept: this is another list"
    if continuity.anchor is not None:
        text += f"; replay begins anew after record {continuity.anchor.records}"
    return text


def _clipped(line: str) -> str:
    text = printable(line)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _bank(bank: BankResult, records: int | None) -> Iterator[Text]:
    match = bank.matched_records is not None
    verdict = f"match after record {bank.matched_records} of {records}" if match else "NO MATCH"
    yield Text.assemble(f"  {bank.bank:8}", (verdict, _PLAIN if match else _BAD))
    yield Text(f"    expected {bank.expected.hex()}")
    yield Text(f"    quoted   {bank.quoted.hex()}")


def _transitions(judgement: Judgement) -> str:
    """What lies between the snapshots, in one line: "boot -(same_boot)- before-execute ..."."""
    names = [snapshot.name for snapshot in judgement.snapshots]
    words = names[:1]
    for transition, name in zip(judgement.transitions, names[1:], strict=False):
        words += [f"--{transition.kind}-->", name]
    return " ".join(words)
