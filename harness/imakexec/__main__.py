# SPDX-License-Identifier: GPL-2.0-only
"""Where the command `imakexec` begins and ends.

Signals are in hand before anything slow is imported. At the end, when every context is closed, the
process leaves without taking the interpreter apart: freeing the libraries' objects one by one would
be a tenth of the time that the harness costs a run.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from imakexec import interruption

_JUDGES = "bisect-step"
_ANSWERS = (0, 1, 125)
_STOP = 128


def main() -> NoReturn:
    """Entry point of `imakexec`; ends the process with the command's exit code."""
    code = _judgement() if sys.argv[1:2] == [_JUDGES] else _run()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _judgement() -> int:
    """Run the command that answers git, to which every code below 128 is a judgement of a commit.

    Returns:
        0, 1 or 125, or what git stops at: 128, or the code of a signal.
    """
    try:
        code = _run()
    except BaseException:  # of whatever kind: Python itself would end with 1, which is "bad"
        traceback.print_exc()
        return _STOP
    is_answer = code in _ANSWERS or _STOP <= code < 255
    return code if is_answer else _STOP


def _run() -> int:
    """Run the command and return its exit code."""
    interruption.catch()
    try:
        from imakexec import cli  # noqa: PLC0415  # takes a noticeable part of a second

        cli.main()
    except SystemExit as end:  # how cli.main() ends, with a number
        return end.code if isinstance(end.code, int) else 0
    except interruption.Interrupted as interrupted:
        interruption.ignore()
        print(f"imakexec: {interrupted}", file=sys.stderr)
        return interrupted.exit_code
    finally:
        interruption.ignore()
    return 0


if __name__ == "__main__":
    main()
