# SPDX-License-Identifier: BSD-2-Clause
"""Images that others have, as the directories that they are made of. Nothing is pulled or mounted.

A sandbox lays them over one another in a mount namespace of its own, so that nothing of it is left
when the sandbox is gone, however that goes.
"""

from typing import Protocol

from ebpfmesh.errors import NotFound, Unsupported
from ebpfmesh.runtime import containerd, podman
from ebpfmesh.runtime.image import Image


class _Store(Protocol):
    """Who may have it."""

    NAME: str

    def is_here(self) -> bool: ...

    def find(self, name: str) -> Image | None: ...


STORES: tuple[_Store, ...] = (podman, containerd)


def find(name: str) -> Image:
    """An image by name or id; NotFound if nobody has it, Unsupported if there is nobody to ask."""
    stores = [store for store in STORES if store.is_here()]
    if not stores:
        what = f"image {name}: neither podman nor containerd is there"
        raise Unsupported(what, hint="apt install podman")
    for store in stores:
        if found := store.find(name):
            return found
    what = f"{' and '.join(store.NAME for store in stores)} {'have' if stores[1:] else 'has'} no"
    hint = f"podman pull {name}" if podman in stores else f"ctr images pull {name}"
    raise NotFound(f"{what} image {name}", hint=hint)
