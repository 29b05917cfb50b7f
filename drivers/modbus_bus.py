"""One Modbus line, serial or TCP, that all sensors on it share; used on the line's thread.

minimalmodbus makes the requests and checks the answers. This module gives it a port that knows
where an answer ends, so that a short one does not cost the whole timeout, and that passes over what
is not the answer: an echo of the request, and answers that come late. It retries what fails by
accident, opens a lost port again, and says what is wrong in terms of the wires.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from drivers.bus import ByteStream, Clock
from drivers.errors import (
    BadFrame,
    MissingSupport,
    SensorError,
    SensorFault,
    SensorNotFound,
)
from drivers.modbus_frame import (
    EXCEPTIONS,
    SHORTEST,
    TCP_HEADER,
    exception_code,
    frame_length,
    is_whole,
    tcp_length,
    tcp_message,
    with_crc,
)

__all__ = ["ModbusBus", "Request"]

_LATE_S = 1.0
"""How long after a request that was not answered its answer may still come."""
_MOST_GLITCHES = 2
_NEVER_A_UNIT = (b"\x00", b"\xff")
"""What an adapter hears when the line changes its direction; units are 1 to 247 (line §2.2)."""
_PASSING = {5, 6, 11}
"""Exceptions that may be over at the next attempt."""


class Request(msgspec.Struct, frozen=True):
    """Registers to read: `function` 3 reads holding registers, 4 input registers."""

    unit: int
    function: int
    first: int
    count: int


class _Line:
    """The port that minimalmodbus reads and writes, for one exchange at a time.

    `answer` is what it was given, whole or damaged; `echoed` and `strays` (units) say what was
    passed over.
    """

    is_open = True

    def __init__(self, name: str, baud: int, clock: Clock) -> None:
        self.port = name
        self.baudrate = baud
        self.timeout = 0.0
        self.stream: ByteStream | None = None
        self.clear()
        self._clock = clock

    def clear(self) -> None:
        """Forget the last exchange."""
        self.answer = b""
        self.echoed = False
        self.strays: list[int] = []
        self._sent = b""

    def open(self) -> None:
        """Do nothing: the bus opens the stream."""

    def close(self) -> None:
        """Do nothing: the bus closes the stream."""

    def reset_input_buffer(self) -> None:
        assert self.stream is not None
        self.stream.reset_input_buffer()

    def reset_output_buffer(self) -> None:
        """Do nothing: `write` keeps nothing back."""

    def write(self, sent: bytes) -> None:
        assert self.stream is not None
        self._sent = sent
        self.stream.write(sent)

    def read(self, size: int) -> bytes:
        """Return the answer to what was written last, of `size` bytes if it is a good one."""
        until_s = self._clock.monotonic() + self.timeout
        while self._clock.monotonic() <= until_s:
            frame = self._frame(until_s)
            if frame == self._sent:
                self.echoed = True
            elif is_whole(frame) and frame[0] != self._sent[0]:
                self.strays.append(frame[0])
            elif not is_whole(frame) or exception_code(frame) or len(frame) == size:
                self.answer = frame
                break
            # else it is the late answer to a request for more or fewer registers
        return self.answer

    def _frame(self, until_s: float) -> bytes:
        """Return one frame, or as much of it as comes in time."""
        frame = self._more(b"", SHORTEST, until_s)
        for _ in range(_MOST_GLITCHES):
            if frame[:1] in _NEVER_A_UNIT:
                frame = self._more(frame[1:], SHORTEST, until_s)
        if len(frame) < SHORTEST:
            return frame
        if frame == self._sent[:SHORTEST]:
            frame = self._more(frame, len(self._sent), until_s)
            if frame == self._sent:
                return frame
        return self._more(frame, frame_length(frame), until_s)

    def _more(self, frame: bytes, length: int, until_s: float) -> bytes:
        """Return `frame` with bytes added up to `length`."""
        assert self.stream is not None
        if len(frame) >= length:
            return frame
        self.stream.timeout = max(0.0, until_s - self._clock.monotonic())
        return frame + self.stream.read(length - len(frame))


class _TcpLine(_Line):
    """The same on Modbus TCP: its header names the request that an answer belongs to."""

    _transaction = 0

    def write(self, sent: bytes) -> None:
        assert self.stream is not None
        self._sent = sent
        self._transaction = self._transaction % 0xFFFF + 1
        self.stream.write(tcp_message(self._transaction, sent[:-2]))

    def read(self, size: int) -> bytes:
        until_s = self._clock.monotonic() + self.timeout
        while self._clock.monotonic() <= until_s:
            header = self._more(b"", TCP_HEADER, until_s)
            length = tcp_length(header)
            if length is None:
                self.answer = header
                break
            message = self._more(header, length, until_s)
            if int.from_bytes(header[:2], "big") == self._transaction:
                self.answer = message[TCP_HEADER - 1 :]
                if len(message) == length:
                    self.answer = with_crc(self.answer)
                break
        return self.answer


class ModbusBus:
    """The line `name` ("/dev/ttyUSB0", "192.168.1.50:502")."""

    def __init__(
        self,
        name: str,
        open_stream: Callable[[], ByteStream],
        clock: Clock,
        *,
        settings: str = "",
        baud: int = 9600,
        tcp: bool = False,
    ) -> None:
        """`settings`: those of a serial line, in words; `tcp`: Modbus TCP, not RTU frames."""
        self._name = name
        self._open_stream = open_stream
        self._clock = clock
        self._settings = settings
        self._line = (_TcpLine if tcp else _Line)(name, baud, clock)
        self._tells_late_answers = tcp
        self._silent: set[int] = set()
        """The units that did not answer when they were asked last."""
        self._unanswered: dict[int, tuple[Request, float]] = {}
        """Unit -> the last request that it did not answer, and when that was given up."""
        self._active_s = 0.0

    def words(
        self,
        request: Request,
        where: str,
        *,
        timeout_s: float,
        retries: int = 0,
        turnaround_s: float = 0.0,
        until_s: float = float("inf"),
    ) -> list[int]:
        """Return the content of registers, 16 bits each.

        A unit that was silent the last time is asked once, so that a dead one does not take the
        time of the others. `turnaround_s` is the least silence before the request.

        Raises:
            SensorError: `where` begins its message.
        """
        attempts = 1 if request.unit in self._silent else 1 + retries
        while True:
            attempts -= 1
            self._await_silence(request, turnaround_s)
            try:
                words = self._exchange(request, where, timeout_s)
            except _Accident as accident:
                if attempts <= 0 or self._clock.monotonic() + timeout_s > until_s:
                    raise accident.error from accident.__cause__
            else:
                self._silent.discard(request.unit)
                return words

    def _await_silence(self, request: Request, turnaround_s: float) -> None:
        """Wait until no late answer can be taken for the answer to `request`.

        The late answer to the same request is as good as its own.
        """
        now_s = self._clock.monotonic()
        begin_s = self._active_s + turnaround_s
        if not self._tells_late_answers and request.unit in self._unanswered:
            unanswered, given_up_s = self._unanswered[request.unit]
            if unanswered != request:
                begin_s = max(begin_s, given_up_s + _LATE_S)
        if begin_s > now_s:
            self._clock.sleep(begin_s - now_s)

    def _exchange(self, request: Request, where: str, timeout_s: float) -> list[int]:
        """Ask once.

        Raises:
            _Accident: it may work at the next attempt.
            SensorError: it would not.
        """
        for is_last in (False, True):
            is_new = self._line.stream is None
            if is_new:
                self._line.stream = self._open_stream()
            try:
                return self._ask(request, where, timeout_s)
            except OSError as error:
                self.close()
                # A peer may close an idle connection, and an adapter may have been plugged in
                # again: only a new stream shows whether there is anything.
                if is_new or is_last:
                    raise SensorNotFound(
                        f"{where}: {self._name} is gone ({error.strerror or error})",
                        "was the adapter unplugged, or the other side switched off?",
                    ) from error
        raise AssertionError("unreachable")

    def _ask(self, request: Request, where: str, timeout_s: float) -> list[int]:
        library = _library(where)
        line = self._line
        line.clear()
        line.timeout = timeout_s
        instrument = library.Instrument(line, request.unit)
        try:
            answer: list[int] = instrument.read_registers(
                request.first, request.count, functioncode=request.function
            )
        except library.ModbusException as error:
            raise self._sorted(request, where, timeout_s) from error
        finally:
            self._active_s = self._clock.monotonic()
        return answer

    def _sorted(self, request: Request, where: str, timeout_s: float) -> Exception:
        """Return the error for what came in place of a good answer."""
        line = self._line
        if is_whole(line.answer):
            self._silent.discard(request.unit)
            code = exception_code(line.answer)
            if code is None:
                what = f"{where}: the answer does not fit the request"
                return _Accident(BadFrame(what, "is it a Modbus device, and alone with its id?"))
            name, remedy = EXCEPTIONS.get(code, ("unknown", "look it up in the device's manual"))
            registers = f"{request.first}"
            if request.count > 1:
                registers += f" to {request.first + request.count - 1}"
            fault = SensorFault(
                f"{where}: exception {code} ({name}) for function {request.function}, "
                f"register {registers}",
                remedy,
            )
            return _Accident(fault) if code in _PASSING else fault
        self._unanswered[request.unit] = (request, self._clock.monotonic())
        if line.answer:
            self._silent.discard(request.unit)
            return _Accident(self._damaged(line.answer, where))
        self._silent.add(request.unit)
        return _Accident(self._silence(request, where, timeout_s))

    def _damaged(self, answer: bytes, where: str) -> SensorError:
        seen = answer[:12].hex(" ") + (" ..." if len(answer) > 12 else "")
        if len(answer) < SHORTEST or len(answer) < frame_length(answer):
            return BadFrame(
                f"{where}: the answer was cut short ({seen})",
                "noise, a loose wire, or a timeout that is too short",
            )
        if len(set(answer)) == 1:
            what = f"{where}: every byte read was 0x{answer[0]:02x}"
            other = f"does not have {self._settings}" if self._settings else "speaks no Modbus TCP"
            return BadFrame(what, f"the line is stuck, or {other}")
        if self._tells_late_answers:
            return BadFrame(f"{where}: no Modbus TCP came ({seen})", 'is framing = "rtu" right?')
        return BadFrame(
            f"{where}: wrong checksum ({seen})",
            "noise: check the shield, a common GND and 120 Ω at both ends of the line; or two "
            "devices with one unit id",
        )

    def _silence(self, request: Request, where: str, timeout_s: float) -> SensorError:
        line = self._line
        if line.strays:
            return SensorNotFound(
                f"{where}: unit {line.strays[-1]} answered, and unit {request.unit} did not",
                f"check unit = {request.unit}; an answer may also come late: raise timeout",
            )
        if not self._settings:
            return SensorNotFound(
                f"{where}: no answer within {timeout_s:g} s",
                f"check the unit id (here {request.unit}), and the wires behind the gateway",
            )
        echo = "only the echo of the request came" if line.echoed else "no answer"
        return SensorNotFound(
            f"{where}: {echo} within {timeout_s:g} s",
            f"check its power, the unit id (here {request.unit}), {self._settings}, whether A and "
            "B are swapped, and 120 Ω at both ends of the line",
        )

    @property
    def is_open(self) -> bool:
        """Return whether the port has been opened and not been lost since."""
        return self._line.stream is not None

    def close(self) -> None:
        """Close the port; the next exchange opens it again."""
        stream, self._line.stream = self._line.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class _Accident(Exception):
    """`error` may be over at the next attempt."""

    def __init__(self, error: SensorError) -> None:
        super().__init__(str(error))
        self.error = error


def _library(where: str) -> Any:
    """Return minimalmodbus.

    Raises:
        MissingSupport: it is not installed.
    """
    try:
        import minimalmodbus
    except ImportError as error:
        from drivers.packages import install_command

        raise MissingSupport(
            f"{where}: the package minimalmodbus is missing", install_command("modbus")
        ) from error
    return minimalmodbus
