"""Fills the root file system and the FAT partition: the node, its service, the owner's files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from image.lock import CHECKOUT, LOCK, PLATFORM_OPTIONS

__all__ = ["Tree"]

_HERE = Path(__file__).parent
_DEPLOY = _HERE.parent
_HOME = Path("opt/sensor-node")
_SITE = _HOME / "lib/python3.13/site-packages"
_ENABLED = (
    "sensor-node.service",
    "sensor-node-web.service",
    "sensor-node-panel.service",
    "sensor-node-status.timer",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "ssh.service",
)
_NEVER = (
    # What writes to the card, or looks into the network, when nobody has asked for it.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
    "wpa_supplicant.service",
    # Nobody can log in at a screen: no account has a password. SSH needs none of it.
    "systemd-logind.service",
    "getty@tty1.service",
    "serial-getty@ttyS1.service",
    "serial-getty@ttyAMA0.service",
)
_BOARDS = "bcm2837-*.dtb", "bcm2711-*.dtb"
_PI_5 = "bcm2712*-rpi-*.dtb"
_FOR_PI_5 = """
[pi5]
# The boot loader takes a kernel that it does not know.
os_check=0
dtoverlay=sensor-node-pi5
[all]
"""
_START = """\
#!/{home}/bin/python3
import sys

from node.cli import main

sys.exit(main())
"""


class Tree:
    """The image as two folders, `root` and `boot`, below `work`."""

    def __init__(self, work: Path, *, disk_id: str, pi5: bool, say: Callable[[str], None]) -> None:
        self.root = work / "root"
        self.boot = work / "boot"
        self._work = work
        self._disk_id = disk_id
        self._pi5 = pi5
        self._say = say

    def fill(self, base: Path, cache: Path) -> None:
        self._say("root file system: the base")
        self.root.mkdir()
        tar = ["tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
        _run(*tar, f"--file={base}", f"--directory={self.root}", "--exclude=./dev/*")
        self._say("root file system: the node, its drivers and their libraries")
        self._add_libraries(
            cache / f"libraries-{_digest(base.name.encode(), LOCK.read_bytes())}.tar"
        )
        self._add_node()
        self._add_files()
        self._add_units()
        self._compile(f"/{_SITE}/node", f"/{_SITE}/drivers", "/usr/lib/sensor-node")
        self._say("FAT partition")
        self._fill_boot()

    # -- the node

    def _add_libraries(self, kept: Path) -> None:
        """What the lock file names, compiled; kept, for under emulation that takes minutes."""
        site = self.root / _SITE
        site.mkdir(parents=True)
        if not kept.exists():
            self._say("root file system: the libraries; three minutes, once")
            install = self._pip("install", f"--target={site}", "--no-deps", "--no-compile")
            _run(*install, "--require-hashes", f"--requirement={LOCK}", *PLATFORM_OPTIONS)
            shutil.rmtree(site / "bin", ignore_errors=True)
            self._compile(f"/{_SITE}")
            unfinished = kept.with_suffix(".unfinished.tar")
            _run("tar", "--create", f"--file={unfinished}", f"--directory={site}", ".")
            unfinished.replace(kept)
        else:
            _run("tar", "--extract", f"--file={kept}", f"--directory={site}")

    def _add_node(self) -> None:
        """A virtual environment that could have been made on the Pi, without running anything."""
        home = self.root / _HOME
        (home / "bin").mkdir()
        (home / "bin/python3").symlink_to("/usr/bin/python3")
        (home / "pyvenv.cfg").write_text(
            "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.13\n"
        )
        wheels = self._work / "wheels"
        _run(*self._pip("wheel", "--no-deps", f"--wheel-dir={wheels}"), self._clean_checkout())
        (wheel,) = wheels.iterdir()
        own = self._work / "own"
        _run(*self._pip("install", f"--target={own}", "--no-deps", "--no-compile"), wheel)
        shutil.rmtree(own / "bin")
        for note in own.glob("*.dist-info/direct_url.json"):
            note.unlink()  # where this machine had the wheel
        shutil.copytree(own, self.root / _SITE, dirs_exist_ok=True)
        start = home / "bin/sensor-node"
        start.write_text(_START.format(home=_HOME))
        start.chmod(0o755)
        shutil.copy(CHECKOUT / "README.md", home)
        (self.root / "usr/local/bin/sensor-node").symlink_to(f"/{_HOME}/bin/sensor-node")

    def _pip(self, *words: str) -> tuple[object, ...]:
        """This machine's pip, in an environment of its own."""
        venv = self._work / "venv"
        if not venv.exists():
            _run(sys.executable, "-m", "venv", venv)
        return (venv / "bin/python3", "-m", "pip", "-qq", "--disable-pip-version-check", *words)

    def _clean_checkout(self) -> Path:
        """What the wheel is made of: what setuptools leaves behind is not to be in it."""
        copy = self._work / "checkout"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(CHECKOUT / name, copy)
        for name in ("node", "drivers"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(CHECKOUT / name, copy / name, ignore=ignored)
        return copy

    def _compile(self, *folders: str) -> None:
        """Byte code, which a Pi could never keep: the file system is only read there.

        That of Debian's own packages is in the base.

        By hash and unchecked: it does not depend on when a file was written.
        """
        command = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
        done = subprocess.run(
            ["chroot", self.root, "/usr/bin/python3", *command, *folders],
            check=False,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        if done.returncode != 0:
            raise SystemExit(
                "compiling failed; if it says `Exec format error`, this machine cannot run arm64 "
                "programs: apt-get install qemu-user-static binfmt-support"
            )

    # -- what else is in the root file system

    def _add_files(self) -> None:
        _run("systemd-sysusers", f"--root={self.root}", _DEPLOY / "sensor-node.sysusers")
        group = _group_id(self.root, "sensor-node")
        for unit in ("sensor-node.service", "sensor-node-web.service"):
            shutil.copy(_DEPLOY / unit, self._etc("systemd/system"))
        shutil.copy(
            _DEPLOY / "sensor-node.rules", self._etc("udev/rules.d") / "90-sensor-node.rules"
        )
        shutil.copy(
            _DEPLOY / "sensor-node.sysusers", self._usr_lib("sysusers.d") / "sensor-node.conf"
        )
        words = {
            "@DISK@": self._disk_id,
            "@GID@": str(group),
            "@SENSOR_NODE@": f"/{_HOME}/bin/sensor-node",
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
        etc = self.root / "etc"
        (etc / "sensor-node").mkdir()
        (etc / "machine-id").write_text("")
        (etc / "hostname").write_text("sensor-node\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 sensor-node\n")
        (etc / "environment").write_text("SENSOR_NODE_CONFIG=/boot/firmware/sensor-node.toml\n")
        _link(etc / "resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        state = self.root / "var/lib/systemd/timesync/clock"
        state.parent.mkdir(parents=True, exist_ok=True)
        state.touch()  # the time from which a Pi without a network counts: that of the image
        _run("chown", "--reference", self.root / "var/lib/systemd", state.parent)

    def _add_units(self) -> None:
        _run("systemctl", f"--root={self.root}", "--quiet", "enable", *_ENABLED)
        _run("systemctl", f"--root={self.root}", "--quiet", "mask", *_NEVER)

    def _etc(self, folder: str) -> Path:
        (self.root / "etc" / folder).mkdir(parents=True, exist_ok=True)
        return self.root / "etc" / folder

    def _usr_lib(self, folder: str) -> Path:
        (self.root / "usr/lib" / folder).mkdir(parents=True, exist_ok=True)
        return self.root / "usr/lib" / folder

    # -- the FAT partition

    def _fill_boot(self) -> None:
        """What the boot loader reads, as raspi-firmware has laid it out, and the owner's files."""
        self.boot.mkdir()
        firmware = self.root / "boot/firmware"
        for file in sorted(firmware.iterdir()):
            if file.suffix != ".dtb":
                shutil.move(file, self.boot / file.name)
        shutil.rmtree(firmware)
        firmware.mkdir()
        self._add_device_trees()
        for file in sorted((_HERE / "boot").glob("*.*")):
            if file.is_file():
                # Windows shows them in any editor with these ends of lines.
                text = file.read_text(encoding="utf-8")
                (self.boot / file.name).write_text(text, encoding="utf-8", newline="\r\n")
        (self.boot / "overlays").mkdir(exist_ok=True)
        for source in sorted((_HERE / "boot/overlays").glob("*.dts")):
            compiled = self.boot / "overlays" / source.with_suffix(".dtbo").name
            _run("dtc", "-q", "-@", "-I", "dts", "-O", "dtb", "-o", compiled, source)
        config = self.boot / "config.txt"
        custom = (self.root / "etc/default/raspi-firmware-custom").read_text(encoding="utf-8")
        custom += _FOR_PI_5 if self._pi5 else ""
        config.write_text(f"{config.read_text().rstrip()}\n\n# Inserted by build-image\n{custom}")
        extra = (self.root / "etc/default/raspi-extra-cmdline").read_text().strip()
        (self.boot / "cmdline.txt").write_text(
            f"console=ttyS1,115200 console=tty0 root=PARTUUID={self._disk_id}-02 rw "
            f"fsck.repair=yes rootwait {extra}\n"
        )

    def _add_device_trees(self) -> None:
        """Of the boards that the kernel knows well enough."""
        # Where they are in a kernel package until Linux 6.19, and since.
        folders = ("usr/lib/linux-image-*/broadcom", "usr/lib/modules/*/dtb/broadcom")
        for pattern in (*_BOARDS, *((_PI_5,) if self._pi5 else ())):
            found = [file for folder in folders for file in self.root.glob(f"{folder}/{pattern}")]
            if not found:
                raise SystemExit(f"the kernel has no device tree {pattern}")
            for file in found:
                shutil.copy(file, self.boot)

    # -- what the manifest tells

    def packages(self) -> dict[str, str]:
        """Debian packages and their versions."""
        status = (self.root / "var/lib/dpkg/status").read_text(encoding="utf-8")
        found = re.findall(r"^Package: (\S+)$(?:\n.+)*?\nVersion: (\S+)$", status, re.M)
        return dict(sorted(found))

    def python_packages(self) -> dict[str, str]:
        folders = (self.root / _SITE).glob("*.dist-info")
        pairs = (folder.name.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)
        return dict(sorted((name, version) for name, version in pairs))

    def kernel(self) -> str:
        return next((self.root / "usr/lib/modules").iterdir()).name

    def forget_times(self, epoch: int) -> None:
        """Let nothing be younger than the commit that the image is made of."""
        for top in (self.root, self.boot):
            for folder, folders, files in os.walk(top, topdown=False):
                for name in (*files, *folders):
                    path = Path(folder, name)
                    if path.lstat().st_mtime > epoch:
                        os.utime(path, (epoch, epoch), follow_symlinks=False)
            os.utime(top, (epoch, epoch))
        # Nothing is to be brought up to date at the first start: all of it has been made here, and
        # /etc, where the next start would see that, is only read (systemd-update-done.service(8)).
        os.utime(self.root / "usr", (epoch, epoch))
        for folder in ("etc", "var"):
            done = self.root / folder / ".updated"
            done.write_text(f"TIMESTAMP_NSEC={epoch}000000000\n")
            os.utime(done, (epoch, epoch))
            os.utime(done.parent, (epoch, epoch))


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _group_id(root: Path, name: str) -> int:
    for line in (root / "etc/group").read_text(encoding="ascii").splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return int(fields[2])
    raise SystemExit(f"systemd-sysusers has made no group {name}")
