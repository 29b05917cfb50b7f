"""Which Wi-Fi firmware each board needs, checked in the image at each build.

The kernel's module brcmfmac takes a file for the chip that it finds, and settings (NVRAM) for the
board (drivers/net/wireless/broadcom/brcm80211/brcmfmac/firmware.c). A missing file shows only on
the board: the Pi has no wireless device. So the build looks for all of them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["NOT_IN_DEBIAN", "RADIOS", "check_radios"]

_FIRMWARE = Path("usr/lib/firmware")
_A1, _C0, _C5 = "brcmfmac43430-sdio", "brcmfmac43455-sdio", "brcmfmac43456-sdio"
NOT_IN_DEBIAN = "brcmfmac43430b0-sdio"
"""Of a Zero 2 W whose chip is BCM43430/2 (SYN43436): its owner adds it to the FAT partition."""
RADIOS: dict[str, tuple[str, ...]] = {
    "bcm2837-rpi-2-b": (),  # version 1.2; since Linux 7
    "bcm2837-rpi-3-a-plus": (_C0,),
    "bcm2837-rpi-3-b": (_A1,),
    "bcm2837-rpi-3-b-plus": (_C0,),
    "bcm2837-rpi-cm3-io3": (),
    "bcm2837-rpi-zero-2-w": (_A1,),
    "bcm2711-rpi-4-b": (_C0, _C5),
    "bcm2711-rpi-400": (_C0, _C5),
    "bcm2711-rpi-cm4-io": (_C0, _C5),
    "bcm2712-rpi-5-b": (_C0,),
    "bcm2712-d-rpi-5-b": (_C0,),
}
"""Each device tree of the image, and the chips that its boards have had."""


def check_radios(root: Path, device_trees: list[Path]) -> dict[str, list[str]]:
    """Return the firmware files of each board, as `root` has them.

    Raises:
        SystemExit: a board is unknown, or the module or a file of it is missing.
    """
    known = _names_in_module(root)
    found: dict[str, list[str]] = {}
    for tree in device_trees:
        if tree.stem not in RADIOS:
            raise SystemExit(
                f"firmware: {tree.name} is a board that deploy/image/radios.py does not name; add "
                "it there, with the firmware of its radio"
            )
        board = _compatible(tree)
        found[tree.stem] = [
            name
            for chip in RADIOS[tree.stem]
            for name in _files(root, tree.name, board, chip, known)
        ]
    return found


def _files(root: Path, tree: str, board: str, chip: str, known: set[str]) -> list[str]:
    """Return the firmware, the settings and, if there is one, the regulatory file of a chip."""
    if f"brcm/{chip}.bin" not in known:
        raise SystemExit(
            f"firmware: the kernel's brcmfmac does not name brcm/{chip}.bin, which {tree} needs "
            "according to deploy/image/radios.py; its name has changed, or that table is wrong"
        )
    names = []
    for ending in ("bin", "txt"):
        choices = [f"{chip}.{board}.{ending}", f"{chip}.{ending}"]  # in the module's order
        there = [name for name in choices if (root / _FIRMWARE / "brcm" / name).exists()]
        if not there:
            raise SystemExit(
                f"firmware: {tree} needs brcm/{choices[1]}, and the image does not have it; "
                "without it such a board has no Wi-Fi. Add the Debian package that has it to "
                "deploy/image/packages.txt"
            )
        names.append(there[0])
    if (root / _FIRMWARE / f"brcm/{chip}.clm_blob").exists():
        names.append(f"{chip}.clm_blob")
    return names


def _names_in_module(root: Path) -> set[str]:
    """Return the firmware that the module says it may ask for."""
    modules = [*root.glob("usr/lib/modules/*/kernel/drivers/net/wireless/**/brcmfmac.ko*")]
    if len(modules) != 1:
        raise SystemExit(f"firmware: the image has {len(modules)} modules brcmfmac, not one")
    return set(_output("modinfo", "--field=firmware", modules[0]).split())


def _compatible(tree: Path) -> str:
    """Return the board's name, as the module puts it into file names."""
    return _output("fdtget", "-t", "s", tree, "/", "compatible").split()[0].replace("/", "-")


def _output(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
