"""`tests/kernel/run`, once everything is installed: makes the guest, runs it, tells its verdict.

The guest has Debian's kernel and modules for this machine, taken out of their package, a GPIO
simulator built for that kernel (`gpio_sim`), and a RAM disk of a megabyte; all else it reads from
this machine's own root file system.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gpio_sim

# ruff: noqa: T201

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
CACHE = Path("/var/cache/sensor-node")
MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "i2c-dev", "i2c-stub"),
    *("lm75", "jc42", "bmp280-i2c"),
    "configfs",
)
ADDRESSES = "chip_addr=0x48,0x18,0x76,0x77"
TIME_LIMIT_S = 1200  # for one that hangs; a busy machine is slow


def main() -> int:
    parts = kept_parts()
    with tempfile.TemporaryDirectory(prefix="kernel-") as temporary:
        return run_guest(parts / "vmlinuz", make_initrd(parts, Path(temporary)))


def kept_parts() -> Path:
    """The kernel, `modules/`, and their `order`, kept from one run to the next."""
    package = kernel_package()
    builder = Path(gpio_sim.__file__).read_text()
    what = hashlib.sha256(
        " ".join((package.name, ADDRESSES, *MODULES, builder)).encode()
    ).hexdigest()
    parts = CACHE / f"guest-{what[:16]}"
    if parts.exists():
        return parts
    print("unpacking the kernel", flush=True)
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=CACHE) as temporary:
        kernel, unfinished = Path(temporary, "kernel"), Path(temporary, "parts")
        subprocess.run(["dpkg-deb", "-x", package, kernel], check=True)
        (unfinished / "modules").mkdir(parents=True)
        (image,) = (kernel / "boot").glob("vmlinuz-*")
        shutil.copy(image, unfinished / "vmlinuz")
        choose_modules(kernel, unfinished)
        print("building the GPIO simulator", flush=True)
        simulator = gpio_sim.build(image.name.removeprefix("vmlinuz-"), Path(temporary), fetched)
        shutil.copy(simulator, unfinished / "modules")
        with (unfinished / "modules/order").open("a") as order:
            order.write(f"{simulator.name}\n")
        unfinished.rename(parts)
    return parts


def kernel_package() -> Path:
    """Debian's kernel for this machine, kept from one run to the next."""
    ask = ["apt-cache", "depends", "linux-image-amd64"]
    asked = subprocess.run(ask, capture_output=True, text=True, check=False)
    if "Depends: " not in asked.stdout:  # apt has no lists yet, because nothing was to be installed
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        asked = subprocess.run(ask, check=True, capture_output=True, text=True)
    name = asked.stdout.split("Depends: ")[1].split()[0]
    return fetched(name)


def fetched(name: str) -> Path:
    """The file of a Debian package, kept from one run to the next."""
    CACHE.mkdir(parents=True, exist_ok=True)
    kept = sorted(CACHE.glob(f"{name}_*.deb"))
    if not kept:
        print(f"fetching {name}", flush=True)
        fetch = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name]
        subprocess.run(fetch, cwd=CACHE, check=True)
        kept = sorted(CACHE.glob(f"{name}_*.deb"))
    return kept[-1]


def choose_modules(kernel: Path, parts: Path) -> None:
    """The modules, and those that they need, in the order in which they are to be loaded."""
    if not (kernel / "lib").exists():  # Debian 13 packs them in /usr, where a system has a link
        (kernel / "lib").symlink_to("usr/lib")
    (release,) = (path.name for path in (kernel / "lib/modules").iterdir())
    subprocess.run(["depmod", "-b", kernel, release], check=True)
    order: dict[str, str] = {}
    for module in MODULES:
        shown = subprocess.run(
            ["modprobe", "-d", kernel, "-S", release, "--show-depends", module],
            check=True,
            capture_output=True,
            text=True,
        )
        for line in shown.stdout.splitlines():
            if line.startswith("insmod"):
                file = Path(line.split()[1])
                order[file.name] = ADDRESSES if file.name.startswith("i2c-stub") else ""
                shutil.copy(file, parts / "modules")
    lines = (f"{name} {options}".rstrip() for name, options in order.items())
    (parts / "modules/order").write_text("\n".join(lines) + "\n")


def make_initrd(parts: Path, folder: Path) -> Path:
    """busybox, the modules, and `init`."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copytree(parts / "modules", root / "modules")
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)
    (root / "where").write_text(f"CHECKOUT={CHECKOUT}\nPYTHON={sys.executable}\n")
    initrd = folder / "initrd"
    names = subprocess.run(["find", "."], cwd=root, check=True, capture_output=True).stdout
    archive = ["busybox", "cpio", "-o", "-H", "newc"]
    with initrd.open("wb") as stream:
        subprocess.run(
            archive, cwd=root, input=names, stdout=stream, stderr=subprocess.DEVNULL, check=True
        )
    return initrd


def run_guest(kernel: Path, initrd: Path) -> int:
    """Show what the guest prints; its exit code."""
    began_s = time.monotonic()
    export = "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    command = [
        *("qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-m", "512", "-display", "none"),
        *("-monitor", "none", "-no-reboot", "-nic", "none", "-serial", "stdio"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-virtfs", export),
        # An emulated timer is late on a busy machine, and the kernel's check of it ends in a panic.
        *("-append", "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check rdinit=/init"),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        print(error.stdout, f"the guest has not ended within {TIME_LIMIT_S} s", sep="\n")
        return 1
    print(done.stdout.replace("\r", "").strip())
    print(f"the guest ran for {time.monotonic() - began_s:.1f} s")
    return 0 if "guest ended: 0" in done.stdout else 1


if __name__ == "__main__":
    sys.exit(main())
