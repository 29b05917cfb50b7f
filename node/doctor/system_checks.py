"""Checks the computer: its clock, the disk of the log, the supply, and permissions of files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from drivers.bus import Board
from drivers.scan_buses import model_of
from node.config.certificates import ending_soon
from node.config.schema import Config
from node.doctor.report import Step, from_sentence
from node.doctor.users import User
from node.system.clock import Clock, utc_text
from node.system.throttling import Throttled, read_throttled
from node.units import duration_text

__all__ = ["TIMESYNC", "check_clock", "check_disk", "check_files", "check_supply"]

LOW_BYTES = 50_000_000
LOW_SHARE = 0.05
_ROUNDING_S = 2.0
TIMESYNC = Path("/var/lib/systemd/timesync/clock")
"""systemd-timesyncd touches it while the clock is right (systemd-timesyncd.service(8))."""
_SET_UP_NTP = (
    "sudo timedatectl set-ntp true (systemd-timesyncd), or install chrony; then see "
    "timedatectl timesync-status: does it reach a time server?"
)


def check_clock(clock: Clock, files: Iterable[Path]) -> Step:
    """Check that NTP keeps the kernel's clock; if not, report the least error that is known.

    `files` were written before now, so a clock that is behind one of them is slow.
    """
    now_s = clock.utc_s()
    shows = f"{utc_text(round(now_s * 1000))[:19].replace('T', ' ')} UTC"
    if clock.synced():
        return Step("clock", "ok", f"kept by NTP or a hardware clock, and shows {shows}")
    written = [(os.path.getmtime(file), file) for file in files if os.path.exists(file)]
    newest_s, newest = max(written, default=(now_s, Path()))
    how_far = "there is no way to check the time from here"
    if newest_s > now_s + _ROUNDING_S:
        how_far = f"{duration_text(round(newest_s - now_s))} slow at least, judging by {newest}"
    return Step(
        "clock",
        "warning",
        "not kept by NTP, and no hardware clock agrees with it: readings are marked unsynced; "
        f"it shows {shows}: {how_far}",
        _SET_UP_NTP,
    )


def check_supply(board: Board) -> Step:
    """Check for under-voltage, and anything else that slows the processor."""
    found = read_throttled(board)
    name = "supply"
    if found is None:
        is_pi = model_of(board).startswith("Raspberry Pi")
        why = "this kernel does not report it" if is_pi else "this is not a Raspberry Pi"
        return Step(name, "skipped", f"not available: {why}")
    if found.under_voltage:
        return Step(
            name,
            "failed",
            "under-voltage: the Pi gets less than 4.63 V, and sensors may read wrongly",
            "use the supply made for this Pi, and a short, thick cable",
        )
    if troubles := _troubles(found):
        return Step(
            name,
            "warning",
            ", ".join(troubles),
            "a better supply and cable against under-voltage; a heat sink against heat",
        )
    return Step(name, "ok", "no under-voltage, and the processor is not throttled")


def _troubles(found: Throttled) -> list[str]:
    texts = {
        "under-voltage since boot": found.under_voltage_since_boot,
        "frequency capped": found.frequency_capped,
        "throttled": found.throttled,
        "at the soft temperature limit": found.soft_temperature_limit,
        "frequency capped since boot": found.frequency_capped_since_boot,
        "throttled since boot": found.throttled_since_boot,
        "at the soft temperature limit since boot": found.soft_temperature_limit_since_boot,
    }
    return [text for text, is_so in texts.items() if is_so]


def check_disk(state_dir: Path, user: User) -> Step:
    """Check for room for the log of readings, and for permission to write it."""
    name = "disk"
    folder = state_dir
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent  # the node creates missing folders
    except PermissionError as error:
        return Step(name, "skipped", f"{folder}: {error.strerror}", "try it with sudo")
    try:
        disk = os.statvfs(folder)
    except OSError as error:
        return Step(name, "failed", f"{folder}: {error.strerror}", "is the disk connected?")
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    room = f"{folder}: {_megabytes(free)} of {_megabytes(size)} free"
    if disk.f_flag & os.ST_RDONLY:
        remedy = "sudo mount -o remount,rw; if the kernel did it, see dmesg"
        return Step(name, "failed", f"{folder} is on a disk that is mounted read-only", remedy)
    if not user.may(folder, os.R_OK | os.W_OK | os.X_OK):
        remedy = f"sudo install -d -o {user.name} {state_dir}"
        if folder != state_dir:
            what = f"{state_dir} does not exist, and {user.name} may not create it"
            return Step(name, "warning", what, f"the service creates it; otherwise: {remedy}")
        return Step(name, "failed", f"{folder} may not be written by {user.name}", remedy)
    make_room = "free some space: sudo journalctl --vacuum-size=50M, sudo apt clean"
    if free == 0:
        return Step(name, "failed", f"{room}: nothing can be written", make_room)
    if disk.f_files and disk.f_favail == 0:
        return Step(name, "failed", f"{folder}: no free inode for a new file", make_room)
    if free < LOW_BYTES or free < LOW_SHARE * size:
        return Step(name, "warning", room, make_room)
    if disk.f_files and disk.f_favail < LOW_SHARE * disk.f_files:
        few = f"{folder}: {disk.f_favail} of {disk.f_files} inodes free"
        return Step(name, "warning", few, make_room)
    return Step(name, "ok", room)


def _megabytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def check_files(config: Config, user: User) -> Iterator[Step]:
    """Check that the node's user may read the configuration and the files that it names."""
    mqtt = config.mqtt
    files = [config.source]
    if mqtt.password_file is not None:
        files.append(config.source.parent / mqtt.password_file)
    if mqtt.tls is not None:
        named = (mqtt.tls.ca_file, mqtt.tls.cert_file, mqtt.tls.key_file)
        files += [file for file in named if file is not None]
    forbidden = [file for file in files if not user.may(file, os.R_OK)]
    for file in forbidden:
        yield Step(
            "files",
            "failed",
            f"{file} may not be read by {user.name}, which the node runs as",
            f"sudo chgrp {user.group_name} {file} && sudo chmod 640 {file}; its folders need x",
        )
    for text in ending_soon(mqtt.tls, time.time()):
        yield from_sentence("files", "warning", text)
    if not forbidden:
        count = "" if len(files) == 1 else f" and {len(files) - 1} more"
        yield Step("files", "ok", f"{config.source}{count} may be read by {user.name}")
