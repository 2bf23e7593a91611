# SPDX-License-Identifier: GPL-2.0-only
"""What has changed since a baseline was kept, for the terminal and for a CI's log."""

from __future__ import annotations

from collections.abc import Iterator

from imakexec.errors import counted
from imakexec.review.baseline import Baseline, Comparison
from imakexec.review.behaviour import Ending

_SHOWN_FAULTS = 3


def baseline_lines(baseline: Baseline) -> Iterator[str]:
    """What was kept."""
    yield f"kernel    {baseline.kernel}"
    yield f"tests     {counted(len(baseline.endings), 'test')}: {baseline.tests}"
    sizes = ", ".join(f"{name} {size}" for name, size in baseline.sizes.items())
    yield f"hand-over {sizes}"
    yield f"speed     this host boots a kernel of imakexec in {baseline.boot_seconds:.2f} s"


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """What has changed, one thing a line or a few."""
    for test in comparison.tests:
        yield f"{test.change}: {test.name}: {_said(test.before)} -> {_said(test.after)}"
        yield from (f"    {fault}" for fault in test.after.faults[:_SHOWN_FAULTS])
    for name in comparison.missing:
        yield f"not run any more: {name}"
    for name, before, after in comparison.sizes:
        yield f"size: {name}: {before} -> {after}"
    for drift in comparison.drifts:
        yield (
            f"drift: {drift.what}: {drift.before:.3f} -> {drift.after:.3f} ({drift.part:+.0%}); "
            "that is no failure"
        )
    if not comparison.is_behavioural:
        yield "the kernel does what it did"


def _said(ending: Ending) -> str:
    known = f" ({', '.join(ending.defects)})" if ending.defects else ""
    return f"{ending.outcome}{known}{f' {ending.verdict}' if ending.verdict else ''}"
