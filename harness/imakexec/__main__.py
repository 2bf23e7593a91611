# SPDX-License-Identifier: GPL-2.0-only
"""Where the command `imakexec` begins: signals in hand before anything slow is imported."""

from __future__ import annotations

import sys

from imakexec import interruption


def main() -> None:
    """Entry point of `imakexec`; ends the process with the command's exit code."""
    interruption.catch()
    try:
        from imakexec import cli  # noqa: PLC0415  # takes a noticeable part of a second

        cli.main()
    except interruption.Interrupted as interrupted:
        interruption.ignore()
        print(f"imakexec: {interrupted}", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    finally:
        interruption.ignore()


if __name__ == "__main__":
    main()
