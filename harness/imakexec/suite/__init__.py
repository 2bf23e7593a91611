# SPDX-License-Identifier: GPL-2.0-only
"""Does a kernel stand the situations of the catalogue? The library behind `pytest harness/`."""
