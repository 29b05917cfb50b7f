"""A Raspberry Pi, or something like it, in QEMU: a card goes in, and power goes on and off.

U-Boot, the command line and the device tree come out of the card's FAT partition, as the boot
loader of the Pi's GPU would read them; QEMU has no such loader. `virt` is another board, so it has
a U-Boot of its own, which runs the card's script. The only way out of the guest is to the broker on
this machine (`BROKER` there), and to what else the test serves; the only way in is SSH.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports import free_port

__all__ = ["BROKER", "QEMU", "U_BOOT", "Card", "Machine"]

BROKER = ("10.0.2.100", 1883)
"""Where a guest finds the broker of this machine."""
_FAT_OFFSET = "4M"
U_BOOT = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
_CARD_BYTES = 4 << 30
"""QEMU wants a card's size to be a power of two."""
QEMU = "qemu-system-aarch64"
# Without a seed for KASLR the kernel does without page tables of its own (KPTI): to change them at
# each system call costs QEMU its translations. With a firmware and ACPI it would have no GPIO chip.
_BOARD = {"virt": "virt,dtb-randomness=off,acpi=off", "raspi3b": "raspi3b"}
# The Pi has four processors, which the host may not have. In a thread each, one that waits for
# another turns in circles; in one thread for all it gives way.
_THREADS = {"virt": "multi", "raspi3b": "single"}
# Boots run behind everything else that this machine does.
_POLITE = ("chrt", "--idle", "0", "nice", "-n", "19")


class Card:
    """A memory card with the image on it; a card reader, when it is not in a machine."""

    def __init__(self, image: Path, file: Path) -> None:
        self.file = file
        subprocess.run(["cp", "--sparse=always", image, file], check=True)
        os.truncate(file, _CARD_BYTES)
        self._drive = f"{file}@@{_FAT_OFFSET}"

    def read(self, name: str) -> str:
        """A text file of the FAT partition, "" if it is not there."""
        done = subprocess.run(
            ["mtype", "-i", self._drive, f"::{name}"], capture_output=True, check=False
        )
        return done.stdout.decode("utf-8", "replace")

    def write(self, name: str, content: str | bytes) -> None:
        source = self.file.with_name("to-write")
        source.write_bytes(content.encode() if isinstance(content, str) else content)
        subprocess.run(["mcopy", "-o", "-i", self._drive, source, f"::{name}"], check=True)

    def make_folder(self, name: str) -> None:
        subprocess.run(["mmd", "-i", self._drive, f"::{name}"], check=True)

    def take(self, name: str, folder: Path) -> Path:
        """A copy of a file of the FAT partition."""
        target = folder / Path(name).name
        subprocess.run(["mcopy", "-n", "-o", "-i", self._drive, f"::{name}", target], check=True)
        return target


class Machine:
    """QEMU, from `power_on` to `cut_power`; `kind` is "virt" or "raspi3b"."""

    def __init__(self, kind: str, card: Card, folder: Path, *, broker_port: int) -> None:
        self.kind = kind
        self.card = card
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.console = folder / "console.log"
        self.ssh_port = free_port()
        self.servers = {BROKER: broker_port}
        """Address in the guest -> port of this machine that it leads to."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ssh_key = folder / "key"
        self._device_tree: Path | None = None

    # -- its parts

    def make_ssh_key(self) -> str:
        """A key that `run` uses; its public half is what goes onto the card."""
        for file in (self._ssh_key, self._ssh_key.with_suffix(".pub")):
            file.unlink(missing_ok=True)
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "boot test"]
        subprocess.run([*make, "-f", self._ssh_key], check=True)
        return self._ssh_key.with_suffix(".pub").read_text()

    def use_device_tree(self, name: str, *overlays: Path) -> None:
        """The board's device tree with overlays put onto it, as the boot loader does it."""
        plain = self.card.take(name, self.folder)
        merged = self.folder / "merged.dtb"
        subprocess.run(["fdtoverlay", "-i", plain, "-o", merged, *overlays], check=True)
        self._device_tree = merged

    def _command(self, extra: list[str]) -> list[str]:
        # All that the guest says of its start is to be read on the serial line.
        words = self.card.read("cmdline.txt").split()
        words = [word for word in words if word not in ("quiet", "console=tty0")]
        pipe = f"{sys.executable} {Path(__file__).with_name('pipe.py')}"
        network = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        for (address, port), here in self.servers.items():
            network += f",guestfwd=tcp:{address}:{port}-cmd:{pipe} {here}"
        command = [*_POLITE, QEMU, "-accel", f"tcg,thread={_THREADS[self.kind]}"]
        command += ["-display", "none", "-monitor", "none", "-netdev", network]
        command += ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        command += ["-qtest", f"unix:{self.folder}/qtest,server=on,wait=off", "-qtest-log", "none"]
        drive = f"file={self.card.file},format=raw,cache=writeback,id=card"
        if self.kind == "virt":
            words = ["console=ttyAMA0", *(w for w in words if not w.startswith("console="))]
            board = ["-M", _BOARD["virt"], "-cpu", "cortex-a53", "-smp", "2", "-m", "1024"]
            board += ["-bios", U_BOOT]
            command += [*board, "-dtb", str(self._own_tree(board, words))]
            command += ["-drive", f"{drive},if=none", "-device", "virtio-blk-pci,drive=card"]
            command += ["-device", "virtio-net-pci,netdev=net,id=nic", "-device", "virtio-rng-pci"]
            command += ["-serial", f"file:{self.console}"]
        else:
            # To arm QEMU's bcm2835_wdt resets the machine. Its GPIOs have no pull-up: an empty
            # 1-Wire bus would answer each search with 64 chips, and udev run its rules for each.
            words += ["modprobe.blacklist=bcm2835_wdt", "wire.search_count=0"]
            config = self.card.read("config.txt")
            loader = self.card.take(re.findall(r"^kernel=(\S+)", config, re.M)[-1], self.folder)
            command += ["-M", _BOARD["raspi3b"], "-kernel", str(loader), "-no-reboot"]
            command += ["-append", " ".join(words)]
            command += ["-dtb", str(self._device_tree), "-drive", f"{drive},if=sd"]
            # At the root's own port: QEMU puts a hub between, else, which a boot in seven misses.
            command += ["-device", "usb-net,port=1,netdev=net,id=nic"]
            command += ["-serial", "null", "-serial", f"file:{self.console}"]
        return [*command, *extra]

    def _own_tree(self, board: list[str], words: list[str]) -> Path:
        """The device tree of QEMU's own board, with the words for the kernel in it."""
        tree = self.folder / "virt.dtb"
        dump = [board[0], f"{board[1]},dumpdtb={tree}", *board[2:]]
        subprocess.run([QEMU, *dump], check=True, capture_output=True)
        put = ["fdtput", "-t", "s", str(tree), "/chosen", "bootargs", " ".join(words)]
        subprocess.run(put, check=True)
        return tree

    # -- power

    def power_on(self, *extra: str) -> None:
        for name in ("qmp", "qtest"):
            (self.folder / name).unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(list(extra)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def cut_power(self) -> None:
        """The plug is pulled: what the guest has not flushed to its card is gone."""
        if self._process is not None and self.is_on:
            self._process.kill()
            self._process.wait(30)

    def shut_down(self, seconds: float) -> None:
        """Let it end by itself, as with `poweroff`."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            self.run("poweroff", seconds=seconds)
        self._process.wait(seconds)

    # -- from outside

    @contextlib.contextmanager
    def _socket(self, name: str) -> Iterator[Any]:
        deadline_s = time.monotonic() + 20
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(self.folder / name))
                break
            except OSError:
                link.close()
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.2)
        link.settimeout(30)
        with link, link.makefile("rw") as stream:
            yield stream

    def qmp(self, command: str, **arguments: Any) -> Any:
        """A command of the QEMU Machine Protocol, and what it returns."""
        with self._socket("qmp") as stream:
            stream.readline()
            for name, given in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": given}) + "\n")
                stream.flush()
                while "event" in (answer := json.loads(stream.readline())):
                    pass
            if "error" in answer:
                raise AssertionError(f"QEMU refuses {command} {arguments}: {answer['error']}")
            return answer["return"]

    def qtest(self, command: str) -> str:
        """A command of QEMU's test protocol: reads and writes as a device on the bus would."""
        with self._socket("qtest") as stream:
            stream.write(command + "\n")
            stream.flush()
            answer = stream.readline().split()
            if not answer or answer[0] != "OK":
                raise AssertionError(f"QEMU refuses {command}: {answer}")
            return answer[1] if len(answer) > 1 else ""

    def plug_network(self, *, in_: bool) -> None:
        self.qmp("set_link", name="nic", up=in_)

    def bytes_written(self) -> int:
        """What the guest has written to its card, in all."""
        (card,) = (d for d in self.qmp("query-blockstats") if d.get("device") == "card")
        return int(card["stats"]["wr_bytes"])

    def run(self, command: str, *, seconds: float = 120) -> str:
        """What a command prints, over SSH as root; it must succeed."""
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "60",
            "BatchMode": "yes",
        }
        ssh = ["ssh", "-F", "none", "-i", str(self._ssh_key), "-p", str(self.ssh_port)]
        for key, value in options.items():
            ssh += ["-o", f"{key}={value}"]
        done = subprocess.run(
            [*ssh, "root@127.0.0.1", command],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"{command!r} in the guest: {done.returncode}, {done.stderr}")
        return done.stdout

    def journal(self) -> str:
        """The newest of the node's own log, as far as SSH gets in."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            return self.run("journalctl --boot --no-pager --lines=40 -u 'sensor-node*'")
        return "no SSH, no journal"

    def all_of_console(self) -> str:
        """What the guest has said there since power came on."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def last_of_console(self, lines: int = 25) -> str:
        return "\n".join(self.all_of_console().splitlines()[-lines:])
