"""The simulated Bluetooth adapter: real advertisement bytes, to the callback of the real one.

There is no thread: whoever looks at the radio gets what was sent since, on the simulation's clock.
"""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus import Advertisement, Clock
from drivers.sim.faults import FaultPlan
from drivers.sim.labels import advertised
from drivers.sim.room import Air

__all__ = ["SimulatedLabel", "SimulatedRadio"]

_EVERY_S = 0.5


class SimulatedLabel:
    """A thermometer that measures and sends twice a second.

    One that is unplugged has died; one that is stuck repeats its last advertisement forever, as a
    label does whose sensor has failed.
    """

    def __init__(
        self,
        form: str,
        address: str,
        key: bytes | None,
        air: Callable[[], Air],
        plan: FaultPlan | None,
    ) -> None:
        self.address = address
        self._form = form
        self._key = key
        self._air = air
        self._plan = plan
        self._count = 0

    def send(self, beat: int, now_s: float) -> Advertisement | None:
        """Return what it sends as its advertisement number `beat`, if anything."""
        if self._plan is not None and self._plan.has("unplug"):
            return None
        if self._plan is None or not self._plan.has("stuck"):
            self._count = beat
        return advertised(
            self._form, self._air(), self._count, self.address, self._key, heard_s=now_s
        )


class SimulatedRadio:
    """`drivers.bus.Radio` without an adapter; `labels` are the thermometers within its reach."""

    def __init__(self, clock: Clock) -> None:
        self.labels: dict[str, SimulatedLabel] = {}
        self._clock = clock
        self._start_s = clock.monotonic()
        self._ears: dict[str, Callable[[Advertisement], None]] = {}
        self._heard: dict[str, int] = {}
        """Address -> the number of its last advertisement that was handed on."""

    def listen(self, address: str, hear: Callable[[Advertisement], None], *, passive: bool) -> None:
        self._ears[address] = hear
        self._heard[address] = self._beat()

    def leave(self, address: str) -> None:
        self._ears.pop(address, None)

    def _beat(self) -> int:
        return int((self._clock.monotonic() - self._start_s) / _EVERY_S)

    def check(self) -> None:
        beat = self._beat()
        for address, hear in self._ears.items():
            label = self.labels.get(address)
            if label is None or beat == self._heard[address]:
                continue
            self._heard[address] = beat
            sent = label.send(beat, self._clock.monotonic())
            if sent is not None:
                hear(sent)

    def describe(self) -> str:
        return "simulated"

    def survey(self, seconds: float) -> list[Advertisement]:
        now_s, beat = self._clock.monotonic(), self._beat()
        sent = (label.send(beat, now_s) for label in self.labels.values())
        return [one for one in sent if one is not None]
