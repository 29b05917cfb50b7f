"""What the build of the image checks, and what an update of its kernel leaves as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_support import DEPLOY, of_the_build

boot_files, radios = of_the_build("boot_files"), of_the_build("radios")

# Written by `modinfo --field=firmware` for Debian 13's brcmfmac, Linux 6.12.117.
MODULE = """\
brcm/brcmfmac43456-sdio.bin
brcm/brcmfmac43455-sdio.clm_blob
brcm/brcmfmac43455-sdio.bin
brcm/brcmfmac43430b0-sdio.bin
brcm/brcmfmac43430-sdio.clm_blob
brcm/brcmfmac43430-sdio.bin
"""
# In Debian 13's firmware-brcm80211 20250410-2 and raspi-firmware 1.20240424.
FIRMWARE = (
    "brcmfmac43430-sdio.bin",
    "brcmfmac43430-sdio.clm_blob",
    "brcmfmac43430-sdio.txt",
    "brcmfmac43430-sdio.raspberrypi,model-zero-2-w.txt",
    "brcmfmac43455-sdio.bin",
    "brcmfmac43455-sdio.clm_blob",
    "brcmfmac43455-sdio.raspberrypi,4-model-b.txt",
    "brcmfmac43456-sdio.bin",
    "brcmfmac43456-sdio.txt",
)
BOARDS = {
    "bcm2837-rpi-zero-2-w": "raspberrypi,model-zero-2-w brcm,bcm2837",
    "bcm2711-rpi-4-b": "raspberrypi,4-model-b brcm,bcm2711",
    "bcm2837-rpi-cm3-io3": "raspberrypi,3-compute-module brcm,bcm2837",
}


@pytest.fixture
def image(tmp_path, monkeypatch) -> Any:
    """A root file system with a module and its firmware; scripts that say what is in the files."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    module = root / "usr/lib/modules/6.12/kernel/drivers/net/wireless/broadcom/brcmfmac.ko.xz"
    for file in (module, *(root / "usr/lib/firmware/brcm" / name for name in FIRMWARE)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    module.write_text(MODULE)
    programs.mkdir()
    for name, script in {
        "modinfo": 'exec cat "$2"',
        "fdtget": 'exec cat "$3"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    trees = []
    for name, compatible in BOARDS.items():
        trees.append(tmp_path / f"{name}.dtb")
        trees[-1].write_text(compatible)
    return root, trees


def test_the_firmware_of_each_board_is_found_by_the_names_that_its_module_asks_for(image):
    assert radios.check_radios(*image) == {
        "bcm2837-rpi-zero-2-w": [
            "brcmfmac43430-sdio.bin",
            "brcmfmac43430-sdio.raspberrypi,model-zero-2-w.txt",
            "brcmfmac43430-sdio.clm_blob",
        ],
        "bcm2711-rpi-4-b": [
            "brcmfmac43455-sdio.bin",
            "brcmfmac43455-sdio.raspberrypi,4-model-b.txt",
            "brcmfmac43455-sdio.clm_blob",
            "brcmfmac43456-sdio.bin",
            "brcmfmac43456-sdio.txt",
        ],
        "bcm2837-rpi-cm3-io3": [],
    }


@pytest.mark.parametrize(
    "name", ["brcmfmac43456-sdio.bin", "brcmfmac43455-sdio.raspberrypi,4-model-b.txt"]
)
def test_a_build_without_a_firmware_file_fails_and_says_which(image, name):
    root, trees = image
    (root / "usr/lib/firmware/brcm" / name).unlink()
    with pytest.raises(SystemExit, match=r"bcm2711-rpi-4-b\.dtb needs brcm/brcmfmac4345[56]-sdio"):
        radios.check_radios(root, trees)


def test_a_link_to_nowhere_counts_as_missing(image):
    root, trees = image
    file = root / "usr/lib/firmware/brcm/brcmfmac43430-sdio.bin"
    file.unlink()
    file.symlink_to("../cypress/cyfmac43430-sdio.bin")
    with pytest.raises(SystemExit, match=r"43430-sdio\.bin, and the image does not have it"):
        radios.check_radios(root, trees)


def test_a_name_that_the_module_does_not_ask_for_fails_the_build(image):
    root, trees = image
    (module,) = root.rglob("brcmfmac.ko.xz")
    module.write_text(MODULE.replace("43455-sdio.bin", "43455x-sdio.bin"))
    with pytest.raises(SystemExit, match=r"does not name brcm/brcmfmac43455-sdio\.bin"):
        radios.check_radios(root, trees)


def test_a_board_that_the_table_does_not_name_fails_the_build(image):
    root, trees = image
    new = trees[0].with_name("bcm2837-rpi-new.dtb")
    new.write_text("raspberrypi,new")
    with pytest.raises(SystemExit, match="is a board that deploy/image/radios"):
        radios.check_radios(root, [*trees, new])


def test_a_kernel_is_recognised_by_its_header(tmp_path):
    kernel = tmp_path / "vmlinuz-6.12"
    for header in (b"MZ\0\0" + bytes(52) + b"ARM\x64" + bytes(8), b"\x1f\x8b\x08" + bytes(61)):
        kernel.write_bytes(header)
        boot_files.check_kernel(kernel)
    kernel.write_bytes(b"MZ\0\0zimg" + bytes(56))
    with pytest.raises(SystemExit, match="is an EFI zboot image"):
        boot_files.check_kernel(kernel)
    kernel.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(SystemExit, match="neither an arm64 Image"):
        boot_files.check_kernel(kernel)


# As raspi-firmware 1.20240424 writes it.
GENERATED = """\
# Do not modify this file!
#
# It is automatically generated upon install or update of either the
# firmware or the Linux kernel.

# Switch the CPU from ARMv7 into ARMv8 (aarch64) mode
arm_64bit=1

enable_uart=1
upstream_kernel=1

kernel=vmlinuz-{version}
# For details on the initramfs directive, see
# https://www.raspberrypi.org/forums/viewtopic.php?f=63&t=10532
initramfs initrd.img-{version}
"""


def test_config_txt_says_that_it_may_be_changed():
    text = boot_files.config_text(GENERATED.format(version="6.12.1"), "dtoverlay=sensor-node\n")
    assert "Do not modify" not in text
    assert "You may change this file" in text
    settings = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert settings == [
        "arm_64bit=1",
        "enable_uart=1",
        "upstream_kernel=1",
        "kernel=u-boot.bin",
        "dtoverlay=sensor-node",
    ]
    assert text.endswith("\n# kernel=vmlinuz\n# initramfs initrd.img\n")


@pytest.fixture
def update(tmp_path) -> Callable[[str], None]:
    """An update of the kernel: the hooks of the image, and raspi-firmware's between them."""
    hooks = DEPLOY / "image/root/etc/kernel/postinst.d"
    order = sorted([*(file.name for file in hooks.iterdir()), "z50-raspi-firmware"])
    assert [name[:3] for name in order] == ["z40", "z50", "z60"]
    kernels = tmp_path / "kernels"
    kernels.mkdir()

    def run(version: str, *, until: str = "z60") -> None:
        (kernels / f"vmlinuz-{version}").touch()
        for name in order:
            if name == "z50-raspi-firmware":
                (tmp_path / "config.txt").write_text(GENERATED.format(version=version))
                (tmp_path / "cmdline.txt").write_text("console=tty0 rw\n")
            else:
                words = (hooks / name).read_text().split()
                script = DEPLOY / "image/root" / words[-2].lstrip("/")
                environment = {**os.environ, "BOOT": str(tmp_path), "KERNELS": str(kernels)}
                subprocess.run(["sh", script, words[-1]], check=True, env=environment)
            if name.startswith(until):
                break

    return run


def test_the_hooks_of_kernel_and_ram_disk_are_the_same():
    def texts(folder: str) -> dict[str, str]:
        return {f.name: f.read_text() for f in (DEPLOY / "image/root/etc" / folder).iterdir()}

    assert texts("kernel/postinst.d") == texts("kernel/postrm.d")
    assert texts("kernel/postinst.d") == texts("initramfs/post-update.d")


OWNERS = """\
kernel=vmlinuz-6.12.1
initramfs initrd.img-6.12.1
dtoverlay=sensor-node,i2c_arm_baudrate=50000
[pi4]
over_voltage=2
"""


def test_the_owners_lines_survive_an_update_of_the_kernel(tmp_path, update):
    (tmp_path / "config.txt").write_text(OWNERS)
    (tmp_path / "cmdline.txt").write_text("root=PARTUUID=1-02 ro quiet\n")
    update("6.12.2")
    assert (tmp_path / "config.txt").read_text() == OWNERS.replace("6.12.1", "6.12.2")
    assert (tmp_path / "cmdline.txt").read_text() == "root=PARTUUID=1-02 ro quiet\n"
    names = ["cmdline.txt", "config.txt", "kernels"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names


def test_the_boot_loader_stays_and_finds_the_newest_kernel(tmp_path, update):
    (tmp_path / "config.txt").write_text("kernel=u-boot.bin\n")
    for version in ("6.12.9", "6.12.10"):
        update(version)
        assert (tmp_path / "config.txt").read_text() == "kernel=u-boot.bin\n"
        assert (tmp_path / "kernels/vmlinuz").readlink() == Path(f"vmlinuz-{version}")
        assert (tmp_path / "kernels/initrd.img").readlink() == Path(f"initrd.img-{version}")


def test_the_settings_of_u_boot_are_its_own_but_for_how_it_starts():
    u_boot = b"\0code\0bootcmd=bootflow scan\0bootdelay=2\0preboot=usb start\0board=rpi\0\0code"
    made = boot_files.environment_of(u_boot)
    assert len(made) == 0x4000
    assert int.from_bytes(made[:4], "little") == zlib.crc32(made[4:])
    lines = made[4:].rstrip(b"\0").split(b"\0")
    assert lines == [
        b"board=rpi",
        b"boot_targets=mmc usb",
        b"bootcmd=bootmeth order script; bootflow scan",
        b"bootdelay=-2",
    ]
    with pytest.raises(SystemExit, match="its settings are there 0 times and not once"):
        boot_files.environment_of(b"no settings")
    with pytest.raises(SystemExit, match="its settings are there 2 times and not once"):
        boot_files.environment_of(u_boot * 2)


@pytest.mark.skipif(
    shutil.which("mkimage") is None, reason="needs mkimage: apt-get install u-boot-tools"
)
def test_the_script_for_u_boot_is_the_same_in_each_build(tmp_path):
    for name in ("one.scr", "two.scr"):
        boot_files.compile_script("echo hello\n", tmp_path / name, 1_800_000_000)
    assert (tmp_path / "one.scr").read_bytes() == (tmp_path / "two.scr").read_bytes()
    assert (tmp_path / "one.scr").read_bytes().endswith(b"echo hello\n")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.scr", "two.scr"]


@pytest.mark.parametrize("until", ["z40", "z50"])
def test_a_power_cut_during_an_update_does_not_lose_the_owners_lines(tmp_path, update, until):
    (tmp_path / "config.txt").write_text(OWNERS)
    update("6.12.2", until=until)
    assert "kernel=vmlinuz-6.12." in (tmp_path / "config.txt").read_text(), "it boots"
    update("6.12.3")
    assert (tmp_path / "config.txt").read_text() == OWNERS.replace("6.12.1", "6.12.3")
