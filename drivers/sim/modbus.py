"""Simulated Modbus devices, and the line that they are on: an RS-485 port or a TCP gateway.

The driver's own frames go in and the devices' frames come out, so that minimalmodbus, and
everything above it, is what runs. Waiting for an answer is sleeping on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from drivers.bus import Clock
from drivers.modbus_frame import TCP_HEADER, is_whole, tcp_message, with_crc
from drivers.modbus_models import MODELS, Register
from drivers.sim.faults import FaultPlan
from drivers.sim.room import Air

__all__ = [
    "SimulatedDevice",
    "SimulatedGateway",
    "SimulatedLine",
    "break_device",
    "hold_air",
    "hold_id",
]

_READS = (3, 4)
_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS = 1, 2
ANSWERS_WITHIN_S = 0.02

Words = Callable[[], list[int]]


def _word(words: Words, index: int) -> int:
    return words()[index]


class SimulatedDevice:
    """A unit: its registers, by function and number, each with a function for its content.

    `answer` and `late_s` may be replaced: what it sends for a request (no bytes for silence), with
    checksum, and how long that takes.
    """

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self.registers: dict[tuple[int, int], Callable[[], int]] = {}
        self.answer: Callable[[bytes], bytes] = self.healthy_answer
        self.late_s: Callable[[], float] = lambda: ANSWERS_WITHIN_S

    def hold(self, function: int, first: int, words: Words, count: int) -> None:
        """Let `count` registers from `first` on hold what `words` returns."""
        for index in range(count):
            self.registers[function, first + index] = partial(_word, words, index)

    def healthy_answer(self, request: bytes) -> bytes:
        """Return the answer to a request without its checksum."""
        function = request[1]
        if function not in _READS:
            return self._exception(function, _ILLEGAL_FUNCTION)
        first, count = int.from_bytes(request[2:4], "big"), int.from_bytes(request[4:6], "big")
        wanted = [(function, number) for number in range(first, first + count)]
        if any(register not in self.registers for register in wanted):
            return self._exception(function, _ILLEGAL_ADDRESS)
        content = b"".join(self.registers[each]().to_bytes(2, "big") for each in wanted)
        return with_crc(bytes([self.unit, function, len(content)]) + content)

    def _exception(self, function: int, code: int) -> bytes:
        return with_crc(bytes([self.unit, function | 0x80, code]))


class SimulatedLine:
    """`drivers.bus.ByteStream` to devices on RS-485; it can be opened and closed at will.

    `echoes`: the adapter hears what it sends. `before_answer` is called at each write and read, and
    may raise OSError.
    """

    def __init__(self, clock: Clock) -> None:
        self.timeout = 0.0
        self.devices: dict[int, SimulatedDevice] = {}
        self.echoes = False
        self.before_answer: Callable[[], object] = lambda: None
        self._clock = clock
        self._coming: list[tuple[float, int]] = []
        """When each byte comes, and the byte."""

    def write(self, sent: bytes) -> None:
        self.before_answer()
        if self.echoes:
            self._send(sent, 0.0)
        if is_whole(sent) and sent[0] in self.devices:
            device = self.devices[sent[0]]
            self._send(device.answer(sent[:-2]), device.late_s())

    def _send(self, message: Iterable[int], late_s: float) -> None:
        at_s = self._clock.monotonic() + late_s
        self._coming += [(at_s, byte) for byte in message]
        self._coming.sort(key=lambda byte: byte[0])

    def read(self, size: int) -> bytes:
        self.before_answer()
        until_s = self._clock.monotonic() + self.timeout
        wanted = self._coming[:size]
        ends_s = wanted[-1][0] if len(wanted) == size else until_s
        now_s = self._clock.monotonic()
        if min(ends_s, until_s) > now_s:
            self._clock.sleep(min(ends_s, until_s) - now_s)
        come = [byte for at_s, byte in wanted if at_s <= max(until_s, now_s)]
        del self._coming[: len(come)]
        return bytes(come)

    def reset_input_buffer(self) -> None:
        now_s = self._clock.monotonic()
        self._coming = [byte for byte in self._coming if byte[0] > now_s]

    def close(self) -> None:
        """Nothing is lost: what comes, comes after the next opening."""


class SimulatedGateway(SimulatedLine):
    """The same behind a gateway that speaks Modbus TCP."""

    def write(self, sent: bytes) -> None:
        self.before_answer()
        message = sent[TCP_HEADER - 1 :]
        if message[0] in self.devices:
            device = self.devices[message[0]]
            answer = device.answer(message)
            if is_whole(answer):  # it keeps damaged ones to itself
                transaction = int.from_bytes(sent[:2], "big")
                self._send(tcp_message(transaction, answer[:-2]), device.late_s())


def hold_air(device: SimulatedDevice, entries: dict[str, Register], air: Callable[[], Air]) -> None:
    """Let each register hold what its channel measures in the air; others hold 50 of their unit."""

    def words(name: str, entry: Register) -> list[int]:
        return entry.words(getattr(air(), name.rstrip("0123456789_-"), 50.0))

    for name, entry in entries.items():
        device.hold(entry.function, entry.register, partial(words, name, entry), entry.count)


def hold_id(device: SimulatedDevice, model: str) -> None:
    """Let the register that has the unit id of a model hold it."""
    own_id = MODELS[model].own_id
    if own_id is not None:
        device.hold(3, own_id, lambda: [device.unit], 1)


def break_device(device: SimulatedDevice, plan: FaultPlan) -> None:
    """Simulate silence, half an answer, a wrong checksum, or an answer that comes late."""

    def answer(request: bytes) -> bytes:
        sent = device.healthy_answer(request)
        if plan.has("unplug"):
            return b""
        if plan.has("hang"):
            return sent[: len(sent) // 2]
        return sent[:-1] + bytes([sent[-1] ^ 0xFF]) if plan.has("crc") else sent

    device.answer = answer
    device.late_s = lambda: ANSWERS_WITHIN_S + plan.late_s()
