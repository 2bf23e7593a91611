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

from imakexec.attest import Judgement, Verdict
from imakexec.attest.judgement import BankResult
from imakexec.attest.markers import Marker
from imakexec.attest.timeline import Handover, Row, RowKind, Timeline

if TYPE_CHECKING:  # the benchmark needs far more than showing a judgement does
    from imakexec.bench import Figures, Spread

_GOOD, _BAD, _PLAIN = "bold green", "bold red", ""
_WIDTH = 80
_BAR_WIDTH = 40


def print_judgement(console: Console, judgement: Judgement, *, folder: Path) -> None:
    """Print everything that the verdict rests on, and the verdict last."""
    for line in render_judgement(judgement):
        console.print(line, highlight=False)
    console.print(f"evidence  {folder}", markup=False, highlight=False)


def render_judgement(judgement: Judgement) -> Iterator[Text]:
    """The lines of a judgement."""
    if judgement.timeline is not None:
        yield from render_timeline(judgement.timeline)
    if judgement.banks:
        yield Text("\nPCR 10", style="bold")
        for bank in judgement.banks:
            yield from _bank(bank, judgement.records)
    yield Text("")
    if judgement.transitions:
        yield Text(folded("boots", _transitions(judgement)))
    if judgement.flags:
        yield Text(folded("flags", ", ".join(judgement.flags)))
    style = _GOOD if judgement.verdict is Verdict.IN_SYNC else _BAD
    yield Text.assemble("verdict   ", (f"{judgement.verdict} ({judgement.reason})", style))
    yield Text(folded("", judgement.sentence))
    if judgement.where:
        yield Text(folded("where", judgement.where))
    yield Text(folded("action", judgement.action))


def render_timeline(timeline: Timeline) -> Iterator[Text]:
    """The lines of a timeline and of the hand-overs in it."""
    yield Text("\ntimeline of the measurement list", style="bold")
    for row in timeline.rows:
        yield from _row(row)
    for handover in timeline.handovers:
        yield Text("\nhand-over buffer", style="bold")
        yield from _handover(handover)


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
    return textwrap.fill(text, _WIDTH, initial_indent=f"{title:10}", subsequent_indent=" " * 10)


def _row(row: Row) -> Iterator[Text]:
    place = f"{row.index:6}  "
    match row.kind:
        case RowKind.BOOT_AGGREGATE:
            state = f" ({row.boot_aggregate.state})" if row.boot_aggregate else ""
            yield Text.assemble(place, ("boot_aggregate", "bold cyan"), state)
        case RowKind.RECORDS:
            violations = f", {row.violations} violations" if row.violations else ""
            noun = "record" if row.count == 1 else "records"
            yield Text(f"{place}  {row.count} {noun}, {row.size} bytes{violations}")
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


def _handover(handover: Handover) -> Iterator[Text]:
    if handover.segment_size is None or handover.fill_percent is None:
        yield Text(f"          {handover.bytes_used} bytes carried, size of the segment unknown")
    else:
        full = round(_BAR_WIDTH * min(100.0, handover.fill_percent) / 100)
        yield Text(
            f"          [{'#' * full}{'.' * (_BAR_WIDTH - full)}] "
            f"{handover.bytes_used} of {handover.segment_size} bytes, {handover.fill_percent} %"
        )
    if handover.lost:
        yield Text(
            f"          {handover.lost} records that were seen before it are missing after it"
        )


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
