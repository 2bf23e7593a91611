# SPDX-License-Identifier: GPL-2.0-only
"""What does a series of someone else do to the hand-over? The library behind `imakexec review`."""
