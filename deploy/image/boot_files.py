"""The files of the FAT partition that the boot loader reads, checked at each build.

A fault in one of them shows only on a Pi, which then stays dark: QEMU has no such boot loader.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import zlib
from pathlib import Path

__all__ = [
    "check_kernel",
    "check_overlay",
    "compile_overlay",
    "compile_script",
    "config_text",
    "environment_of",
]

_MAGIC_AT, _MAGIC = 56, b"ARM\x64"
_HEADING = """\
# Read by the boot loader of the Pi. You may change this file, but leave the line kernel= as it is:
# u-boot.bin starts one of the two systems on this card. What may stand here:
# https://www.raspberrypi.com/documentation/computers/config_txt.html
# The overlays of this card are in the folder overlays; it has those of this image, not those of
# Raspberry Pi OS.

"""


_WITHOUT_U_BOOT = """\

# If the Pi stays dark: these two lines, without the # and with a # before kernel=u-boot.bin, start
# slot a without U-Boot. Updates of the image then have to wait.
# kernel=vmlinuz
# initramfs initrd.img
"""
_ENVIRONMENT_BYTES = 0x4000
"""CONFIG_ENV_SIZE of Debian's rpi_arm64."""
_CHANGED = {
    # Whatever comes in on the serial port: a dust sensor there must not stop the start.
    "bootdelay": "-2",
    # From boot.scr alone, and never from the network.
    "bootcmd": "bootmeth order script; bootflow scan",
    "boot_targets": "mmc usb",
    "preboot": "",
}


def config_text(generated: str, custom: str) -> str:
    """Return config.txt: what raspi-firmware has written, under a heading, and with U-Boot."""
    dropped = ("#", "kernel=", "initramfs ")
    lines = [line for line in generated.splitlines() if not line.startswith(dropped)]
    settings = re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip()
    return f"{_HEADING}{settings}\nkernel=u-boot.bin\n\n{custom}{_WITHOUT_U_BOOT}"


def environment_of(u_boot: bytes) -> bytes:
    """Return the file `uboot.env` for a U-Boot: the settings that are in it, but for `_CHANGED`.

    Raises:
        SystemExit: they are not found.
    """
    found = re.findall(rb"(?:[A-Za-z_]\w*=[^\0]*\0)+\0", u_boot)
    blocks = [block for block in found if b"\0bootdelay=" in block]
    if len(blocks) != 1:
        raise SystemExit(f"u-boot: its settings are there {len(blocks)} times and not once")
    pairs = (line.split("=", 1) for line in blocks[0].decode("ascii").rstrip("\0").split("\0"))
    settings = {**dict(pairs), **_CHANGED}
    text = "".join(f"{name}={value}\0" for name, value in sorted(settings.items()) if value)
    content = text.encode("ascii").ljust(_ENVIRONMENT_BYTES - 4, b"\0")
    return struct.pack("<I", zlib.crc32(content)) + content


def compile_script(source: str, target: Path, epoch: int) -> None:
    """Write a script for U-Boot, with its header, which has a time and a checksum.

    Raises:
        SystemExit: mkimage fails.
    """
    text = target.with_suffix(".cmd")
    text.write_text(source, encoding="ascii")
    make = ("mkimage", "-q", "-A", "arm64", "-T", "script", "-C", "none", "-n", "sensor-node")
    done = subprocess.run(
        [*make, "-d", str(text), str(target)],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        check=False,
        capture_output=True,
        text=True,
    )
    text.unlink()
    if done.returncode != 0:
        raise SystemExit(f"mkimage fails: {done.stderr}")


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
