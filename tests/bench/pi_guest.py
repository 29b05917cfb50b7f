"""A Raspberry Pi Zero in QEMU that counts its instructions, with Python and the node on it.

Debian's userland and kernel for the ARMv6 of a Pi Zero (armel: ARM code without floating-point
unit, Raspberry Pi OS uses it) are unpacked, not installed, so nothing of them runs on this machine.
QEMU's `raspi0` has the Pi's ARM1176 and 448 MB; with `-icount` each instruction takes 2 ns of the
machine's own time, so its CPU times are numbers of instructions, and waiting takes no time at all.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

__all__ = [
    "COMPILER",
    "NS_PER_INSTRUCTION",
    "Unavailable",
    "boot",
    "check",
    "packed",
    "run_in_guest",
    "unpacked",
]

NS_PER_INSTRUCTION = 2
_ICOUNT_SHIFT = 1  # 2**1 ns
_SUITE, _PYTHON = "bookworm", "3.11"
_PACKAGES = ("python3", "libpython3.11-dev", "mosquitto", "busybox-static", "linux-image-rpi")
COMPILER = "arm-linux-gnueabi-gcc"
_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-arm": "qemu-system-arm",
    "busybox": "busybox-static",
    COMPILER: "gcc-arm-linux-gnueabi libc6-dev-armel-cross",
}
_LEFT_OUT = ("include", "src", "test", "idlelib", "lib2to3", "ensurepip", "modules", "boot", "apt")
_LEFT_OUT_ENDS = (".a", ".pyc", ".gz")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "/var/cache")) / "sensor-node"
_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parents[1]
_TIME_LIMIT_S = 1800
_INIT = """#!/bin/busybox sh
for f in "proc /proc" "sysfs /sys" "devtmpfs /dev" "tmpfs /run" "tmpfs /tmp"; do
    set -- $f
    /bin/busybox mkdir -p $2
    /bin/busybox mount -t $1 $1 $2
done
export PATH=/bin:/usr/bin:/sbin:/usr/sbin HOME=/run LANG=C.UTF-8 PYTHONPATH=/opt/site
busybox ifconfig lo 127.0.0.1 up
busybox date -s "2026-11-24 12:00" >/dev/null
printf 'listener 1883 127.0.0.1\\nallow_anonymous true\\nuser root\\n' >/run/mosquitto.conf
mosquitto -c /run/mosquitto.conf -d 2>/dev/null
python3 /opt/bench/pi_measure.py "$@"
echo GUEST ENDED
"""


class Unavailable(Exception):
    """It cannot run here; the text says why."""


def run_in_guest(say: Callable[[str], None]) -> list[str]:
    """The lines that `pi_measure.py` prints in the guest.

    Raises:
        Unavailable: something that it needs is not here.
    """
    check()
    debian = unpacked(say)
    with tempfile.TemporaryDirectory(prefix="pi-zero-") as name:
        folder = Path(name)
        initrd = _initrd(debian, folder)
        say(f"booting a Raspberry Pi Zero in QEMU ({initrd.stat().st_size / 1e6:.0f} MB)")
        return boot(debian, initrd, folder / "console")


def check() -> None:
    """Look for what a guest needs.

    Raises:
        Unavailable: something is not here.
    """
    if os.geteuid() != 0:
        raise Unavailable("it needs root, to unpack Debian")
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"not installed: apt-get install {' '.join(missing)}")
    if sys.version_info[:2] != tuple(map(int, _PYTHON.split("."))):
        raise Unavailable(f"the guest has Python {_PYTHON}, and is compiled for by the same")


def _mirror() -> str:
    """This machine's own."""
    asked = subprocess.run(
        [
            *("apt-get", "indextargets", "--format", "$(REPO_URI)"),
            *("Created-By: Packages", "Origin: Debian", "Label: Debian"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if not asked:
        raise Unavailable("apt of this machine knows no Debian mirror")
    return asked[0]


def unpacked(say: Callable[[str], None]) -> Path:
    """Debian for the Pi, kept from one run to the next, with msgspec compiled for it."""
    version = metadata.version("msgspec")
    digest = hashlib.sha256(f"{_SUITE} {_PACKAGES} {version}".encode()).hexdigest()[:8]
    kept = _CACHE / f"pi-zero-{_SUITE}-{digest}"
    if kept.exists():
        return kept
    say("unpacking Debian for the Pi Zero, once: a minute or two")
    _CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = kept.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["mmdebstrap", "--quiet", "--mode=root", "--architectures=armel"]
    command += ["--variant=extract", f"--include={','.join(_PACKAGES)}"]
    for folder in ("doc", "locale", "man"):
        command.append(f"--dpkgopt=path-exclude=/usr/share/{folder}/*")
    done = subprocess.run(
        [*command, _SUITE, str(unfinished), _mirror()], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"mmdebstrap failed: {done.stderr.strip().splitlines()[-1]}")
    _compile_msgspec(unfinished, version)
    unfinished.rename(kept)
    return kept


def _compile_msgspec(debian: Path, version: str) -> None:
    """PyPI has no wheel for a 32-bit ARM."""
    with tempfile.TemporaryDirectory() as name:
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary=:all:"]
        subprocess.run([*pip, f"--dest={name}", f"msgspec=={version}"], check=True)
        (archive,) = Path(name).glob("msgspec-*.tar.gz")
        shutil.unpack_archive(archive, name)
        source = Path(name, f"msgspec-{version}", "src", "msgspec")
        headers = debian / "usr/include"
        # Python.h includes <arm-linux-gnueabi/python3.11/pyconfig.h>, and nothing else from there.
        ours = Path(name, "include/arm-linux-gnueabi")
        ours.mkdir(parents=True)
        (ours / f"python{_PYTHON}").symlink_to(headers / f"arm-linux-gnueabi/python{_PYTHON}")
        module = debian / "msgspec-core.so"
        command = [COMPILER, "-O2", "-g0", "-DNDEBUG", "-shared", "-fPIC", f"-I{ours.parent}"]
        command += [f"-I{headers / f'python{_PYTHON}'}", str(source / "_core.c")]
        subprocess.run([*command, "-o", str(module), "-lm"], check=True)


def _initrd(debian: Path, folder: Path) -> Path:
    """A RAM disk with all of it: Debian, the libraries, the node, compiled."""
    root = folder / "root"

    def left_out(_where: str, names: list[str]) -> list[str]:
        return [n for n in names if n in _LEFT_OUT or n.endswith(_LEFT_OUT_ENDS)]

    root.mkdir()
    for part in (
        "bin",
        "sbin",
        "lib",
        "etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/share/zoneinfo",
    ):
        if (debian / part).exists():
            shutil.copytree(debian / part, root / part, symlinks=True, ignore=left_out)
    site, bench = root / "opt/site", root / "opt/bench"
    bench.mkdir(parents=True)
    libraries = Path(str(metadata.distribution("msgspec").locate_file("")))
    no_cache = shutil.ignore_patterns("__pycache__", "*.so")
    for package in ("paho", "schedule", "msgspec"):
        shutil.copytree(libraries / package, site / package, ignore=no_cache)
    for package in ("node", "drivers"):
        shutil.copytree(_CHECKOUT / package, site / package, ignore=no_cache)
    core = site / f"msgspec/_core.cpython-{_PYTHON.replace('.', '')}-arm-linux-gnueabi.so"
    shutil.copy(debian / "msgspec-core.so", core)
    for script in ("pi_measure.py", "process_meter.py", "tutorial_loop.py"):
        shutil.copy(_HERE / script, bench)
    (root / "etc/passwd").write_text("root:x:0:0::/run:/bin/sh\n")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    compiler = [sys.executable, "-m", "compileall", "-q", "-s", str(root), "-p", "/"]
    for modules in (root / f"usr/lib/python{_PYTHON}", site, bench):
        subprocess.run(
            [*compiler, "--invalidation-mode", "unchecked-hash", str(modules)],
            check=False,
            stdout=subprocess.DEVNULL,
        )
    return packed(root, folder)


def packed(root: Path, folder: Path) -> Path:
    """A RAM disk, in `folder`, of what is in `root`."""
    names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
    packer = ["busybox", "cpio", "-o", "-H", "newc"]
    archive = subprocess.run(packer, cwd=root, input=names, check=True, capture_output=True).stdout
    initrd = folder / "initrd"
    with gzip.open(initrd, "wb", compresslevel=1) as stream:
        stream.write(archive)
    return initrd


def boot(debian: Path, initrd: Path, console: Path) -> list[str]:
    """The lines on the console of a Pi Zero, until its `/init` says that it has ended."""
    (kernel,) = (debian / "boot").glob("vmlinuz-*")
    (tree,) = (debian / "usr/lib").glob("linux-image-*/bcm2835-rpi-zero.dtb")
    # QEMU has no power domains of the BCM2835: the kernel's driver of them would take it down.
    line = "console=ttyAMA0 quiet rdinit=/init initcall_blacklist=bcm2835_pm_driver_init"
    command = [
        *("chrt", "--idle", "0", "nice", "-n", "19", "qemu-system-arm", "-M", "raspi0"),
        *("-icount", f"shift={_ICOUNT_SHIFT},sleep=off", "-display", "none", "-monitor", "none"),
        *("-kernel", str(kernel), "-dtb", str(tree), "-initrd", str(initrd), "-append", line),
        *("-serial", f"file:{console}"),
    ]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        end_s = time.monotonic() + _TIME_LIMIT_S
        while time.monotonic() < end_s and machine.poll() is None:
            time.sleep(1)
            said = console.read_text(errors="replace") if console.exists() else ""
            if "GUEST ENDED" in said or "Kernel panic" in said:
                break
    finally:
        machine.kill()
        machine.wait()
    lines = console.read_text(errors="replace").splitlines()
    if not any("GUEST ENDED" in line for line in lines):
        raise SystemExit("\n".join([*lines[-20:], "footprint: the guest has not come to its end"]))
    return lines
