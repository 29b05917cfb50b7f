"""Fills the root file system and the FAT partition: the base, the node, the owner's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from image.base import SUITE
from image.boot_files import (
    check_kernel,
    check_overlay,
    compile_overlay,
    compile_script,
    config_text,
    environment_of,
)
from image.disk import DISK_ID, LAYOUT
from image.lock import CHECKOUT
from image.node_files import HOME, SITE, NodeFiles, compile_python
from image.radios import NOT_IN_DEBIAN, check_radios

__all__ = ["Source", "Tree"]

_HERE = Path(__file__).parent
_DEPLOY = _HERE.parent
_UNITS = (
    "sensor-node.service",
    "sensor-node-web.service",
    "sensor-node-alarm.socket",
    "sensor-node-alarm@.service",
    "sensor-node-staged.path",
    "sensor-node-staged.service",
)
_ENABLED = (
    "sensor-node.service",
    "sensor-node-web.service",
    "sensor-node-firmware.service",
    "sensor-node-image-judge.service",
    "sensor-node-image-verdict.service",
    "sensor-node-packages.service",
    "sensor-node-packages-judge.service",
    "sensor-node-panel.service",
    "sensor-node-staged.path",
    "sensor-node-status.timer",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "ssh.service",
)
_NEVER = (
    # Units that write to the card or use the network without being asked.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-journal-flush.service",  # to a card; the journal stays in memory
    "wpa_supplicant.service",
    # Units for programs that are not installed.
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
    # Logins at a screen are impossible because accounts do not have passwords. SSH works without.
    "systemd-logind.service",
    "dbus-org.freedesktop.login1.service",
    "getty@tty1.service",
    "serial-getty@ttyS1.service",
    "serial-getty@ttyAMA0.service",
)
_OWN_PACKAGES = "/var/lib/sensor-node-packages/current"
_BOARDS = "bcm2837-*.dtb", "bcm2711-*.dtb"
_PI_5 = "bcm2712*-rpi-*.dtb"
_FOR_PI_5 = """
[pi5]
# The boot loader takes a kernel that it does not know.
os_check=0
dtoverlay=sensor-node-pi5
[all]
"""


_U_BOOT = "usr/lib/u-boot/rpi_arm64/u-boot.bin"
_UPDATE_PARTS = (
    "__init__.py",
    "bundle.py",
    "clock.py",
    "ed25519.py",
    "minisign.py",
    "staged.py",
    "take.py",
    "trust.py",
)
"""The parts of deploy/update that judge a bundle; the others are about releases of wheels."""
_UPDATE = "/usr/lib/sensor-node/update_image.py"


class Source(NamedTuple):
    """What an image is made from."""

    version: str
    """Of the node."""
    commit: str
    epoch: int
    """The time of the commit, in seconds since 1970."""


class Tree:
    """The image as two folders, `root` and `boot`, below `work`."""

    def __init__(
        self, work: Path, source: Source, *, pi5: bool, say: Callable[[str], None]
    ) -> None:
        self.root = work / "root"
        self.boot = work / "boot"
        self._work = work
        self._source = source
        self._pi5 = pi5
        self._say = say
        self.radios: dict[str, list[str]] = {}
        """The firmware of each board's radio, once the FAT partition is filled."""

    def fill(self, base: Path, cache: Path) -> None:
        self._say("root file system: the base")
        self.root.mkdir()
        tar = ["tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
        _run(*tar, f"--file={base}", f"--directory={self.root}", "--exclude=./dev/*")
        self._say("root file system: the node, its drivers and their libraries")
        NodeFiles(self.root, self._work, cache, self._say).add(base.name)
        self._add_files()
        self._add_units()
        compile_python(self.root, "/usr/lib/sensor-node")
        self._say("FAT partition")
        self._fill_boot()

    # -- other parts of the root file system

    def _add_files(self) -> None:
        quietly = ("env", "SYSTEMD_LOG_LEVEL=warning")
        _run(*quietly, "systemd-sysusers", f"--root={self.root}", _DEPLOY / "sensor-node.sysusers")
        group = _group_id(self.root, "sensor-node")
        for unit in _UNITS:
            shutil.copy(_DEPLOY / unit, self._etc("systemd/system"))
        shutil.copy(CHECKOUT / "node/alarms/hook.py", self.root / HOME / "alarm_hook.py")
        shutil.copy(
            _DEPLOY / "sensor-node.rules", self._etc("udev/rules.d") / "90-sensor-node.rules"
        )
        shutil.copy(
            _DEPLOY / "sensor-node.sysusers", self._usr_lib("sysusers.d") / "sensor-node.conf"
        )
        words = {
            "@DISK@": DISK_ID,
            "@GID@": str(group),
            "@SENSOR_NODE@": f"/{HOME}/bin/sensor-node",
        }
        for source in sorted((_HERE / "root").rglob("*")):
            if not source.is_file() or "__pycache__" in source.parts:
                continue
            text = source.read_text(encoding="utf-8")
            for word, value in words.items():
                text = text.replace(word, value)
            target = self.root / source.relative_to(_HERE / "root")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            target.chmod(0o755 if text.startswith("#!") else 0o644)
        programs = self.root / "usr/lib/sensor-node"
        (programs / "update_parts").mkdir()
        for name in _UPDATE_PARTS:
            shutil.copy(_DEPLOY / "update_parts" / name, programs / "update_parts")
        _link(self.root / HOME / "update", _UPDATE)
        about = {"layout": LAYOUT, "kernel": self.kernel_suite, **self._source._asdict()}
        (programs / "image.json").write_text(json.dumps(about) + "\n")
        # The owner's packages come last: they cannot replace what is on the image.
        (self.root / SITE / "own-packages.pth").write_text(f"{_OWN_PACKAGES}\n")
        etc = self.root / "etc"
        (etc / "sensor-node").mkdir()
        (etc / "machine-id").write_text("")
        (etc / "hostname").write_text("sensor-node\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 sensor-node\n")
        (etc / "environment").write_text("SENSOR_NODE_CONFIG=/boot/firmware/sensor-node.toml\n")
        _link(etc / "resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        # What dpkg knows is about one system, and /var belongs to both.
        database = self.root / "usr/lib/sysimage/dpkg"
        database.parent.mkdir()
        (self.root / "var/lib/dpkg").rename(database)
        _link(self.root / "var/lib/dpkg", "../../usr/lib/sysimage/dpkg")
        state = self.root / "var/lib/systemd/timesync/clock"
        state.parent.mkdir(parents=True, exist_ok=True)
        state.touch()  # a Pi without a network starts its clock at the image's time
        _run("chown", "--reference", self.root / "var/lib/systemd", state.parent)

    def _add_units(self) -> None:
        _run("systemctl", f"--root={self.root}", "--quiet", "enable", *_ENABLED)
        _run("systemctl", f"--root={self.root}", "--quiet", "mask", *_NEVER)
        # bluetoothd starts when the node asks for it by D-Bus, and not with every Pi's adapter.
        _run("systemctl", f"--root={self.root}", "--quiet", "disable", "bluetooth.service")
        alias = self._etc("systemd/system") / "dbus-org.bluez.service"
        _link(alias, "/usr/lib/systemd/system/bluetooth.service")

    def _etc(self, folder: str) -> Path:
        (self.root / "etc" / folder).mkdir(parents=True, exist_ok=True)
        return self.root / "etc" / folder

    def _usr_lib(self, folder: str) -> Path:
        (self.root / "usr/lib" / folder).mkdir(parents=True, exist_ok=True)
        return self.root / "usr/lib" / folder

    # -- the FAT partition

    def _fill_boot(self) -> None:
        """Add the boot loaders' files, as laid out by raspi-firmware, and the owner's files."""
        self.boot.mkdir()
        firmware = self.root / "boot/firmware"
        for file in sorted(firmware.iterdir()):
            if file.suffix != ".dtb":
                # A kernel for a Pi that U-Boot does not start: see config_text.
                kernel = file.name.startswith(("vmlinuz-", "initrd.img-"))
                name = file.name.partition("-")[0] if kernel else file.name
                shutil.move(file, self.boot / name)
        shutil.rmtree(firmware)
        firmware.mkdir()
        self._add_device_trees()
        for file in sorted((_HERE / "boot").glob("*.*")):
            if file.is_file():
                # With these line ends, every editor on Windows can show them.
                text = file.read_text(encoding="utf-8")
                (self.boot / file.name).write_text(text, encoding="utf-8", newline="\r\n")
        self._add_overlays()
        config = self.boot / "config.txt"
        custom = (self.root / "etc/default/raspi-firmware-custom").read_text(encoding="utf-8")
        custom += _FOR_PI_5 if self._pi5 else ""
        config.write_text(config_text(config.read_text(encoding="utf-8"), custom), encoding="utf-8")
        self._add_u_boot()
        self._check_radios()
        extra = (self.root / "etc/default/raspi-extra-cmdline").read_text().strip()
        (self.boot / "cmdline.txt").write_text(
            f"console=ttyS1,115200 console=tty0 root=PARTUUID={DISK_ID}-02 rw "
            f"fsck.repair=yes rootwait {extra}\n"
        )

    def _add_u_boot(self) -> None:
        """Add the boot loader that chooses the slot, and the names by which it finds a kernel."""
        u_boot = self.boot / "u-boot.bin"
        shutil.copy(self.root / _U_BOOT, u_boot)
        (self.boot / "uboot.env").write_bytes(environment_of(u_boot.read_bytes()))
        script = (_HERE / "boot.cmd").read_text(encoding="ascii").replace("@DISK@", DISK_ID)
        compile_script(script, self.boot / "boot.scr", self._source.epoch)
        kernel = self.root / "boot" / f"vmlinuz-{self.kernel()}"
        check_kernel(kernel)
        _link(kernel.with_name("vmlinuz"), kernel.name)
        _link(kernel.with_name("initrd.img"), f"initrd.img-{self.kernel()}")

    def _add_overlays(self) -> None:
        """Add this image's overlays, and look whether they fit the boards that they are for."""
        (self.boot / "overlays").mkdir(exist_ok=True)
        for source in sorted((_HERE / "boot/overlays").glob("*.dts")):
            compiled = self.boot / "overlays" / source.with_suffix(".dtbo").name
            compile_overlay(source, compiled)
            patterns = (_PI_5,) if source.stem.endswith("-pi5") else _BOARDS
            for pattern in patterns:
                for tree in self.boot.glob(pattern):
                    check_overlay(compiled, tree)

    def _check_radios(self) -> None:
        self.radios = check_radios(self.root, sorted(self.boot.glob("*.dtb")))
        self._say(
            f"firmware: every board's radio has its own, but for a Zero 2 W with {NOT_IN_DEBIAN}, "
            "which Debian does not have; its owner adds it (deploy/YOUR-PI.md)"
        )

    def _add_device_trees(self) -> None:
        """Add the device trees of the boards that the kernel supports well enough."""
        # Their place in a kernel package until Linux 6.19, and since.
        folders = ("usr/lib/linux-image-*/broadcom", "usr/lib/modules/*/dtb/broadcom")
        for pattern in (*_BOARDS, *((_PI_5,) if self._pi5 else ())):
            found = [file for folder in folders for file in self.root.glob(f"{folder}/{pattern}")]
            if not found:
                raise SystemExit(f"the kernel has no device tree {pattern}")
            for file in found:
                shutil.copy(file, self.boot)

    # -- facts for the manifest

    def packages(self) -> dict[str, str]:
        """Return the Debian packages and their versions."""
        status = (self.root / "var/lib/dpkg/status").read_text(encoding="utf-8")
        found = re.findall(r"^Package: (\S+)$(?:\n.+)*?\nVersion: (\S+)$", status, re.M)
        return dict(sorted(found))

    def python_packages(self) -> dict[str, str]:
        folders = (self.root / SITE).glob("*.dist-info")
        pairs = (folder.name.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)
        return dict(sorted((name, version) for name, version in pairs))

    def kernel(self) -> str:
        return next((self.root / "usr/lib/modules").iterdir()).name

    @property
    def kernel_suite(self) -> str:
        """The Debian suite that the kernel is from."""
        return f"{SUITE}-backports" if self._pi5 else SUITE

    def forget_times(self) -> None:
        """Make every file at most as young as the commit that the image is made from."""
        epoch = self._source.epoch
        for top in (self.root, self.boot):
            for folder, folders, files in os.walk(top, topdown=False):
                for name in (*files, *folders):
                    path = Path(folder, name)
                    if path.lstat().st_mtime > epoch:
                        os.utime(path, (epoch, epoch), follow_symlinks=False)
            os.utime(top, (epoch, epoch))
        # The first start must not update anything: everything is up to date, and /etc, where an
        # update would be recorded, is read-only (systemd-update-done.service(8)).
        os.utime(self.root / "usr", (epoch, epoch))
        for folder in ("etc", "var"):
            done = self.root / folder / ".updated"
            done.write_text(f"TIMESTAMP_NSEC={epoch}000000000\n")
            os.utime(done, (epoch, epoch))
            os.utime(done.parent, (epoch, epoch))


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _group_id(root: Path, name: str) -> int:
    for line in (root / "etc/group").read_text(encoding="ascii").splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2])
    raise SystemExit(f"systemd-sysusers has made no group {name}")
