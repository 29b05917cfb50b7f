"""Serial ports and TCP connections of this computer: `drivers.bus.ByteStream`, and their errors.

`drivers.hardware` hands them out. pyserial is imported when a serial port is opened; the extra
`modbus` brings it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import termios
import time

from drivers.errors import (
    MissingSupport,
    SensorError,
    SensorNotFound,
    SensorTimeout,
    permission_hint,
)
from drivers.ports import ByteStream, SerialSettings

__all__ = ["open_serial", "open_tcp"]

_SERIAL_GROUP = "dialout"
_WRITE_WITHIN_S = 2.0
_SHORTEST_WAIT_S = 0.001  # 0 would mean: do not wait at all, and raise another error
_CHUNK = 4096


def open_serial(port: str, settings: SerialSettings) -> ByteStream:
    """Open a serial port, and keep others from opening it (flock, as pyserial's `exclusive`).

    Raises:
        SensorNotFound: the port does not exist.
        MissingSupport: pyserial is not installed, or this user may not use the port.
        SensorTimeout: another program, or another sensor under another name of the port, has it.
        SensorError: it is not a serial port, or cannot do these settings.
    """
    try:
        import serial
    except ImportError as error:
        from drivers.packages import install_command

        raise MissingSupport(
            f"{port}: the package pyserial is missing", install_command("modbus")
        ) from error

    class Port(serial.Serial):  # type: ignore[misc]
        def reset_input_buffer(self) -> None:
            try:
                super().reset_input_buffer()
            except termios.error as error:  # so pyserial says that the adapter is unplugged
                raise OSError(*error.args) from error

    try:
        stream: ByteStream = Port(
            port,
            settings.baud,
            parity=settings.parity[0].upper(),
            stopbits=settings.stop_bits,
            timeout=0.0,
            write_timeout=_WRITE_WITHIN_S,
            exclusive=True,
        )
    except (OSError, ValueError) as error:
        raise _not_opened(port, settings, error) from error
    return stream


def _not_opened(port: str, settings: SerialSettings, error: Exception) -> SensorError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return SensorNotFound(f"{port} does not exist", _what_is_there())
    if number in (errno.EACCES, errno.EPERM):
        return MissingSupport(f"{port}: permission denied", permission_hint(_SERIAL_GROUP))
    if number in (errno.EBUSY, errno.EAGAIN):
        return SensorTimeout(
            f"{port} is in use",
            "stop the other program (fuser -v names it), and write the port in the same way in "
            "all its sensors",
        )
    return SensorError(f"{port} cannot be opened with {settings} ({error})", "is it a serial port?")


def _what_is_there() -> str:
    """Return the serial ports that exist, the lasting names of USB adapters first."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        found += sorted(entry.path for entry in os.scandir("/dev/serial/by-id"))
    for name in ("serial0", "ttyAMA0", "ttyS0", "ttyUSB0", "ttyUSB1", "ttyACM0"):
        if not found and os.path.exists(f"/dev/{name}"):
            found.append(f"/dev/{name}")
    there = f"there is {', '.join(found)}; " if found else ""
    return f"{there}is the adapter plugged in? ls /dev/serial/by-id shows names that stay"


def open_tcp(host: str, port: int, *, within_s: float) -> ByteStream:
    """Connect to a host.

    Raises:
        SensorNotFound: the name is unknown, the connection is refused, or there is no way to it.
        SensorTimeout: nothing answers.
    """
    where = f"{host}:{port}"
    try:
        connection = socket.create_connection((host, port), timeout=within_s)
    except socket.gaierror as error:
        raise SensorNotFound(
            f"{host}: unknown name ({error.strerror})", "check its spelling, or write its address"
        ) from error
    except ConnectionRefusedError as error:
        raise SensorNotFound(
            f"{where} refuses the connection",
            "is Modbus TCP switched on there, and does it use this port?",
        ) from error
    except TimeoutError as error:
        raise SensorTimeout(
            f"{where}: no answer within {within_s:g} s", "is it switched on, and on this network?"
        ) from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SensorNotFound(f"{where}: {reason}", "is it on this network?") from error
    return _TcpStream(connection)


class _TcpStream:
    """`ByteStream` on a TCP connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.timeout = 0.0
        # An answer is waited for, so small requests must not wait for more.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, size: int) -> bytes:
        until_s = time.monotonic() + self.timeout
        received = b""
        while len(received) < size:
            self._connection.settimeout(max(_SHORTEST_WAIT_S, until_s - time.monotonic()))
            try:
                more = self._connection.recv(size - len(received))
            except TimeoutError:
                break
            if not more:
                raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection")
            received += more
        return received

    def write(self, sent: bytes) -> None:
        self._connection.settimeout(_WRITE_WITHIN_S)
        self._connection.sendall(sent)

    def reset_input_buffer(self) -> None:
        self._connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._connection.recv(_CHUNK):
                pass

    def close(self) -> None:
        self._connection.close()
