# SPDX-License-Identifier: GPL-2.0-only
"""What evidence proves about a measurement list. Pure: no VM, no TPM, no clock, no network.

`judge_folder` and `judge` give a `Judgement`; `MeasurementLog` and `replay` work on lists alone.
Of other people's packages only `cryptography` is needed.
"""

from imakexec.attest.judgement import Judgement
from imakexec.attest.log import MeasurementLog, Record
from imakexec.attest.reasons import EXIT_CODES, Flag, Reason, Rejection, Verdict
from imakexec.attest.replay import Replay, replay
from imakexec.attest.timeline import Timeline
from imakexec.attest.verdict import judge, judge_folder

__all__ = [
    "EXIT_CODES",
    "Flag",
    "Judgement",
    "MeasurementLog",
    "Reason",
    "Record",
    "Rejection",
    "Replay",
    "Timeline",
    "Verdict",
    "judge",
    "judge_folder",
    "replay",
]
