# SPDX-License-Identifier: GPL-2.0-only
"""What evidence proves about a measurement list. Pure: no VM, no TPM, no clock, no network.

`judge_folder` and `judge` judge what the harness has taken, `judge_list` and `judge_log` a list
with the quotes of other tools. Each gives a `Judgement`, of which `next_checkpoint` makes what a
later one goes on from. `MeasurementLog` and `replay` work on lists alone, `read_list` and
`compare_with` on the files in which they lie, `HandoverBuffer` on the form in which a kernel hands
them over.

Nothing here keeps state, prints or starts a thread. Of other people's packages only `cryptography`
is needed. What judges evidence is imported when it is first asked for: whoever reads and replays a
list needs no quotes, and what checks these takes longer to import than 100000 records take to
parse.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from imakexec.attest.checkpoint import Anchor, Checkpoint, Continuity
from imakexec.attest.crosscheck import CrossCheck
from imakexec.attest.handover import HandoverBuffer
from imakexec.attest.log import ByteOrder, Layout, MeasurementLog, Record
from imakexec.attest.reasons import EXIT_CODES, Flag, Reason, Rejection, Verdict
from imakexec.attest.replay import Replay, Start, replay
from imakexec.attest.selection import Selection
from imakexec.attest.source import MalformedLog, WholeList, compare_with, read_list

if TYPE_CHECKING:
    from imakexec.attest.continuity import CannotAnchor, next_checkpoint
    from imakexec.attest.detached import (
        Proof,
        QuoteFiles,
        Vouchers,
        authenticate,
        judge_list,
        judge_log,
    )
    from imakexec.attest.judgement import Judgement
    from imakexec.attest.quote import AttestationKey, Quote
    from imakexec.attest.timeline import Timeline
    from imakexec.attest.verdict import judge, judge_folder

__all__ = [
    "EXIT_CODES",
    "Anchor",
    "AttestationKey",
    "ByteOrder",
    "CannotAnchor",
    "Checkpoint",
    "Continuity",
    "CrossCheck",
    "Flag",
    "HandoverBuffer",
    "Judgement",
    "Layout",
    "MalformedLog",
    "MeasurementLog",
    "Proof",
    "Quote",
    "QuoteFiles",
    "Reason",
    "Record",
    "Rejection",
    "Replay",
    "Selection",
    "Start",
    "Timeline",
    "Verdict",
    "Vouchers",
    "WholeList",
    "authenticate",
    "compare_with",
    "judge",
    "judge_folder",
    "judge_list",
    "judge_log",
    "next_checkpoint",
    "read_list",
    "replay",
]

_LATER = {
    "AttestationKey": "quote",
    "CannotAnchor": "continuity",
    "Judgement": "judgement",
    "Proof": "detached",
    "Quote": "quote",
    "QuoteFiles": "detached",
    "Timeline": "timeline",
    "Vouchers": "detached",
    "authenticate": "detached",
    "judge": "verdict",
    "judge_folder": "verdict",
    "judge_list": "detached",
    "judge_log": "detached",
    "next_checkpoint": "continuity",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
