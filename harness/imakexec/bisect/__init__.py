# SPDX-License-Identifier: GPL-2.0-only
"""Which commit broke it? The library behind `imakexec bisect` and `bisect-step`."""
