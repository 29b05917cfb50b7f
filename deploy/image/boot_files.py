"""The files of the FAT partition that the boot loader reads, checked at each build.

A fault in one of them shows only on a Pi, which then stays dark: QEMU has no such boot loader.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

__all__ = ["check_kernel", "check_overlay", "compile_overlay", "config_text"]

_MAGIC_AT, _MAGIC = 56, b"ARM\x64"
_HEADING = """\
# Read by the boot loader of the Pi. You may change this file: an update of the kernel replaces only
# the lines kernel= and initramfs. What may stand here:
# https://www.raspberrypi.com/documentation/computers/config_txt.html
# The overlays of this card are in the folder overlays; it has those of this image, not those of
# Raspberry Pi OS.

"""


def config_text(generated: str, custom: str) -> str:
    """Return config.txt: what raspi-firmware has written, under a heading for its owner."""
    lines = [line for line in generated.splitlines() if not line.startswith("#")]
    settings = re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip()
    return f"{_HEADING}{settings}\n\n{custom}"


def check_kernel(kernel: Path) -> None:
    """Look at the header of an arm64 kernel (Documentation/arch/arm64/booting.rst, §4).

    Raises:
        SystemExit: the Pi's boot loader could not start it.
    """
    with kernel.open("rb") as stream:
        header = stream.read(64)
    if header[4:8] == b"zimg":
        raise SystemExit(
            f"kernel: {kernel.name} is an EFI zboot image, which unpacks itself under UEFI only: "
            "the boot loader of a Pi does not start it. Take a kernel without CONFIG_EFI_ZBOOT"
        )
    if header[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC and header[:2] != b"\x1f\x8b":
        raise SystemExit(f"kernel: {kernel.name} is neither an arm64 Image nor a gzipped one")


def compile_overlay(source: Path, target: Path) -> None:
    """Compile an overlay, without symbols: no other overlay refers to it.

    Raises:
        SystemExit: it is not valid, or one of its parameters changes nothing.
    """
    done = _run("dtc", "-q", "-I", "dts", "-O", "dtb", "-o", target, source)
    if done.returncode != 0:
        raise SystemExit(f"overlay: {source.name} cannot be compiled:\n{done.stderr}")
    if "__overrides__" not in _output("fdtget", "-l", target, "/").split():
        return
    for name in _output("fdtget", "-p", target, "/__overrides__").split():
        for node, what in _targets(target, name):
            _check_target(source.name, target, name, node, what)


def check_overlay(overlay: Path, tree: Path) -> None:
    """Apply an overlay to a board's device tree, as the boot loader does it.

    Raises:
        SystemExit: it does not fit.
    """
    done = _run("fdtoverlay", "-i", tree, "-o", "/dev/null", overlay)
    if done.returncode != 0:
        raise SystemExit(f"overlay: {overlay.name} does not fit {tree.name}: {done.stderr.strip()}")


def _targets(overlay: Path, name: str) -> list[tuple[int, str]]:
    """Return what a parameter changes: pairs of a node's phandle and `property:offset`."""
    text = _output("fdtget", "-t", "bx", overlay, "/__overrides__", name)
    rest = bytes(int(byte, 16) for byte in text.split())
    found = []
    while rest:
        what, _, after = rest[4:].partition(b"\0")
        found.append((int.from_bytes(rest[:4]), what.decode("ascii")))
        rest = after
    return found


def _check_target(source: str, overlay: Path, name: str, phandle: int, what: str) -> None:
    """A number of 32 bits at an offset inside a property that the overlay itself has."""
    key, _, offset = what.partition(":")
    for node in _nodes(overlay, "/"):
        shown = _run("fdtget", "-t", "i", overlay, node, "phandle")
        if shown.returncode == 0 and int(shown.stdout) == phandle:
            value = _run("fdtget", "-t", "bx", overlay, node, key)
            if value.returncode == 0 and int(offset) + 4 <= len(value.stdout.split()):
                return
    raise SystemExit(f"overlay: {source}: the parameter {name} changes {what}, which is not there")


def _nodes(tree: Path, node: str) -> list[str]:
    below = [f"{node.rstrip('/')}/{name}" for name in _output("fdtget", "-l", tree, node).split()]
    return [node, *(inner for each in below for inner in _nodes(tree, each))]


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def _output(*command: object) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
