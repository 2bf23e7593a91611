# SPDX-License-Identifier: GPL-2.0-only
"""What evidence proves about a measurement list. Pure: no VM, no TPM, no clock, no network.

`judge_folder` and `judge` give a `Judgement`; `MeasurementLog` and `replay` work on lists alone,
`read_list` and `compare_with` on the files in which they lie, `HandoverBuffer` on the form in which
a kernel hands them over. Of other people's packages only `cryptography` is needed.
"""

from imakexec.attest.crosscheck import CrossCheck
from imakexec.attest.handover import HandoverBuffer
from imakexec.attest.judgement import Judgement
from imakexec.attest.log import ByteOrder, Layout, MeasurementLog, Record
from imakexec.attest.reasons import EXIT_CODES, Flag, Reason, Rejection, Verdict
from imakexec.attest.replay import Replay, replay
from imakexec.attest.source import MalformedLog, WholeList, compare_with, read_list
from imakexec.attest.timeline import Timeline
from imakexec.attest.verdict import judge, judge_folder

__all__ = [
    "EXIT_CODES",
    "ByteOrder",
    "CrossCheck",
    "Flag",
    "HandoverBuffer",
    "Judgement",
    "Layout",
    "MalformedLog",
    "MeasurementLog",
    "Reason",
    "Record",
    "Rejection",
    "Replay",
    "Timeline",
    "Verdict",
    "WholeList",
    "compare_with",
    "judge",
    "judge_folder",
    "read_list",
    "replay",
]
