"""Tries what a node must do and must not, and writes what came of it into its working directory."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
found: dict[str, Any] = {}


def attempt(name: str, action: Callable[[], Any]) -> None:
    """Note `works`, what the action returns, or the name of its errno."""
    try:
        returned = action()
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno or 0, str(error))
    except Exception as error:  # noqa: BLE001, found, and written down
        found[name] = f"{type(error).__name__}: {error}"
    else:
        found[name] = "works" if returned is None else returned


def must(returned: int) -> int:
    if returned < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return returned


def open_and_close(path: str) -> None:
    os.close(os.open(path, os.O_RDWR))


def open_socket(family: int) -> None:
    socket.socket(family, socket.SOCK_RAW).close()


def write(folder: str) -> None:
    file = Path(folder, "probe")
    file.write_text("x")
    file.unlink()


def read(path: str) -> None:
    Path(path).read_text()


def adjtimex(modes: int) -> int:
    timex = ctypes.create_string_buffer(512)
    ctypes.c_uint.from_buffer(timex).value = modes
    return must(libc.adjtimex(timex))


def message_queue() -> None:
    """msgget(2) and its kin: IPC_PRIVATE, a message of one byte there and back."""
    queue = must(libc.msgget(0, 0o1600))
    message = ctypes.create_string_buffer(b"\2" + b"\0" * (ctypes.sizeof(ctypes.c_long) - 1) + b"x")
    must(libc.msgsnd(queue, message, 1, 0))
    must(libc.msgrcv(queue, message, 1, 2, 0))
    must(libc.msgctl(queue, 0, None))


def callback() -> None:
    """Needs memory that is written and then executed, where libffi does it the old way."""
    assert ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 5)() == 5


def system_bus() -> str:
    """Ask who owns bluetoothd's name, with the package by which the driver `ble` does."""
    import asyncio

    from dbus_fast import BusType, Message
    from dbus_fast.aio import MessageBus

    async def ask() -> str:
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        question = Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="NameHasOwner",
            signature="s",
            body=["org.bluez"],
        )
        answer = await bus.call(question)
        assert answer is not None
        return f"owned: {answer.body[0]}"

    return asyncio.run(ask())


def decrypt() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM

    sealed = AESCCM(bytes(16), tag_length=4).encrypt(bytes(13), b"x", None)
    assert AESCCM(bytes(16), tag_length=4).decrypt(bytes(13), sealed, None) == b"x"


def sqlite() -> None:
    with contextlib.closing(sqlite3.connect("probe.db")) as db:
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (a)")
    Path("probe.db").unlink()


def child() -> None:
    subprocess.run([sys.executable, "-c", "0"], check=True, start_new_session=True)


def mode_of_a_new_file() -> str:
    file = Path("probe-mode")
    file.write_text("")
    mode = oct(file.stat().st_mode & 0o777)
    file.unlink()
    return mode


def capabilities() -> int:
    status = Path("/proc/self/status").read_text()
    sets = [line.split()[1] for line in status.splitlines() if line.startswith("Cap")]
    return max(int(text, 16) for text in sets)


def other_processes() -> int:
    return sum(name.isdigit() and int(name) != os.getpid() for name in os.listdir("/proc"))


for device in ("/dev/probe-named", "/dev/probe-other"):
    attempt(f"open {device}", partial(open_and_close, device))
attempt("write /srv/everybodys", lambda: write("/srv/everybodys"))
for place in ("/root", "/home"):
    attempt(f"list {place}", partial(os.listdir, place))
for place in ("/proc/cpuinfo", "/proc/sys/kernel/random/boot_id"):
    attempt(f"read {place}", partial(read, place))
for family in ("AF_PACKET", "AF_NETLINK", "AF_BLUETOOTH"):
    attempt(f"socket of {family}", partial(open_socket, getattr(socket, family)))
attempt("adjtimex", lambda: adjtimex(0))
attempt("set the clock", lambda: str(adjtimex(1)))
attempt("message queue", message_queue)
attempt("ctypes callback", callback)
attempt("sqlite", sqlite)
attempt("system bus", system_bus)
attempt("decrypt", decrypt)
attempt("child", child)
attempt("localhost", lambda: [a[4][0] for a in socket.getaddrinfo("localhost", 1)])
attempt("unshare", lambda: str(must(libc.unshare(0x10000000))))
attempt("raise priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5))
attempt("mode of a new file", mode_of_a_new_file)
attempt("capabilities", capabilities)
attempt("other processes", other_processes)
attempt("groups", lambda: [grp.getgrgid(number).gr_name for number in os.getgroups()])

new = Path("probe.json.new")
new.write_text(json.dumps(found))
new.rename("probe.json")
