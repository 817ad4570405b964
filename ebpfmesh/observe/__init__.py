# SPDX-License-Identifier: BSD-2-Clause
"""What there is: a mesh and the machine under it, read from the record, maps, links and netlink.

Nothing here changes anything or takes a lock. Each module gives rows: frozen dataclasses whose
fields are plain values in base units (bytes, packets, CPUs), as they stand in JSON.
"""
