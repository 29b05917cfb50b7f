"""Points of a calibration: what is known to be true, what was measured, and the keys that follow.

Ice water is 0 °C wherever it is; water boils at a temperature that the pressure of the air decides.
Pure, except for `measure`, which waits by the clock and the sleep that it is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from datetime import date

import msgspec

from node.setup.plateau import Plateau
from node.units import duration_text

__all__ = [
    "CannotCalibrate",
    "NoPlateau",
    "Point",
    "Target",
    "boiling_point",
    "keys_for",
    "measure",
    "pressure_at",
    "unfit",
]

_APART = 10.0
"""The least distance of two points, in °C: closer ones would magnify their errors."""


class CannotCalibrate(Exception):
    """The work cannot go on; the message says why, and what to do."""


class NoPlateau(CannotCalibrate):
    """The value did not come to rest."""


class Target(msgspec.Struct, frozen=True):
    """What a point is measured in."""

    name: str
    """In the middle of a sentence: "ice water"."""
    true: float | None
    """None for what the reference shows."""
    advice: str
    """A sentence: what to do with the sensor."""
    is_water: bool = False
    """Whether `true` is in °C, whatever the unit of the channel."""


class Point(msgspec.Struct, frozen=True):
    """One point, in the unit of the channel."""

    measured: float
    true: float
    name: str


def pressure_at(altitude: float) -> float:
    """Return the usual pressure in hPa at an altitude in m (ISO 2533, standard atmosphere)."""
    return float(1013.25 * (1 - 2.25577e-5 * altitude) ** 5.25588)


def boiling_point(pressure: float) -> float:
    """Return at what temperature in °C water boils at a pressure in hPa.

    The vapour pressure of Hyland and Wexler, 0 to 200 °C (ASHRAE Handbook, Fundamentals, 2017,
    chapter 1, eq. 6), halved down to the pressure.
    """
    low, high = 0.0, 200.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        kelvin = middle + 273.15
        vapour = math.exp(
            -5.8002206e3 / kelvin
            + 1.3914993
            - 4.8640239e-2 * kelvin
            + 4.1764768e-5 * kelvin**2
            - 1.4452093e-8 * kelvin**3
            + 6.5459673 * math.log(kelvin)
        )
        low, high = (low, middle) if vapour > 100 * pressure else (middle, high)
    return (low + high) / 2


def measure(
    read: Callable[[], tuple[float, float]],
    plateaus: tuple[Plateau, Plateau],
    *,
    near: Callable[[float, float], bool],
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
    interval_s: float,
    give_up_s: float,
    show: Callable[[str], None],
) -> tuple[float, float]:
    """Return what the sensor measures, and what is true, once both have come to rest.

    `read` returns (measured, true), and raises OSError or LookupError for a failed reading. `near`:
    whether the sensor can be where it should be; a rest elsewhere, on the table, does not count.

    Raises:
        NoPlateau: they have not come to rest within `give_up_s`.
    """
    end_s = monotonic() + give_up_s
    problem = "no reading"
    while monotonic() < end_s:
        try:
            measured, true = read()
        except (OSError, LookupError) as error:
            problem = str(error)
            show(problem)
        else:
            at_s = monotonic()
            rests = [plateaus[0].add(at_s, measured), plateaus[1].add(at_s, true)]
            moves = max(plateau.moves for plateau in plateaus)
            problem = f"the value still moves: {measured:.2f}"
            if rests[0] is not None and rests[1] is not None:
                if near(rests[0].mean, rests[1].mean):
                    return rests[0].mean, rests[1].mean
                problem = f"the value rests at {rests[0].mean:.2f}, too far from {true:.2f}"
            show(f"{measured:.2f}" + ("" if moves == math.inf else f", moves by {moves:.2f}"))
        sleep(interval_s)
    raise NoPlateau(f"{problem}, after {duration_text(give_up_s)}")


def unfit(points: Sequence[Point]) -> str:
    """Return why points do not make a calibration; "" if they do."""
    ordered = sorted(points, key=lambda point: point.true)
    for one, other in itertools.pairwise(ordered):
        if other.true - one.true < _APART:
            return f"{one.name} and {other.name} are too close to each other"
        if other.measured <= one.measured:
            return f"the sensor shows less in {other.name} than in {one.name}"
    return ""


def keys_for(points: Sequence[Point], today: date) -> dict[str, object]:
    """Return the keys of `[sensor.channel.NAME]`: an offset for one point, else the points."""
    calibrated: dict[str, object] = {"calibrated": today}
    if len(points) == 1:
        return {"offset": round(points[0].true - points[0].measured, 3), **calibrated}
    ordered = sorted(points, key=lambda point: point.measured)
    return {"calibrate": [[round(p.measured, 3), round(p.true, 3)] for p in ordered], **calibrated}
