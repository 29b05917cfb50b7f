"""Builds the kernel's GPIO simulator (Documentation/admin-guide/gpio/gpio-sim.rst) for the guest.

Debian's kernels have neither it nor the simulated interrupts that it needs. Both are in their
source package, so they are built into one module, with the headers of that very kernel.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

__all__ = ["MODULE", "build"]

MODULE = "gpio-simulator.ko"
_SOURCES = ("drivers/gpio/gpio-sim.c", "drivers/gpio/gpiolib*.h", "kernel/irq/irq_sim.c")
# The kernel does not export `irq_to_desc`, but what it consists of.
_PRIVATE = ("irq_to_desc(irqnum)", "irq_data_to_desc(irq_get_irq_data(irqnum))")
_KBUILD = f"obj-m := {MODULE[:-3]}.o\n{MODULE[:-3]}-y := gpio-sim.o irq_sim.o\n"


def build(release: str, folder: Path, fetched: Callable[[str], Path]) -> Path:
    """Return the module for a kernel ("6.1.0-57-amd64"), built in `folder`.

    `fetched` returns the file of a Debian package.
    """
    headers = folder / "headers"
    for package in (f"linux-headers-{release}", *_needed_by(f"linux-headers-{release}")):
        subprocess.run(["dpkg-deb", "-x", fetched(package), headers], check=True)
    tree = headers / f"usr/src/linux-headers-{release}"
    makefile = tree / "Makefile"  # includes that of the common headers by its path
    makefile.write_text(makefile.read_text().replace("/usr/src", f"{headers}/usr/src"))

    source = folder / "source"
    source.mkdir()
    _unpack_sources(fetched(f"linux-source-{'.'.join(release.split('.')[:2])}"), source)
    interrupts = source / "irq_sim.c"
    text = interrupts.read_text()
    if _PRIVATE[0] not in text:
        raise ValueError(f"{interrupts} is another one than was expected")
    interrupts.write_text(text.replace(*_PRIVATE))
    (source / "Kbuild").write_text(_KBUILD)
    # Types for BPF would take the whole kernel, and another program.
    command = ["make", "-C", str(tree), f"M={source}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise RuntimeError(f"the GPIO simulator cannot be built:\n{made.stdout}{made.stderr}")
    return source / MODULE


def _needed_by(headers: str) -> list[str]:
    """Return the packages of headers and build scripts that a package of headers depends on."""
    shown = subprocess.run(
        ["apt-cache", "depends", headers], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in shown.stdout.splitlines() if "Depends: " in line]
    return [name for name in names if name.startswith(("linux-headers-", "linux-kbuild-"))]


def _unpack_sources(package: Path, folder: Path) -> None:
    """Unpack `_SOURCES` of Debian's source package, which has them in a tar in a tar."""
    outer = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    inner = subprocess.Popen(
        ["tar", "-xO", "--wildcards", "*.tar.xz"], stdin=outer.stdout, stdout=subprocess.PIPE
    )
    wanted = [f"*/{name}" for name in _SOURCES]
    subprocess.run(
        ["tar", "-xJ", "-C", folder, "--wildcards", *wanted], stdin=inner.stdout, check=True
    )
    if outer.wait() or inner.wait():
        raise RuntimeError(f"{package} cannot be unpacked")
    (root,) = folder.iterdir()
    for file in [path for path in root.rglob("*") if path.is_file()]:
        shutil.move(file, folder)
