"""Checks the programs of alarms: that they are there, and in which sandbox they would run."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from node.alarms.programs import SOCKET, bubblewrap_problem
from node.config.schema import Config
from node.doctor.report import Step
from node.doctor.users import User

__all__ = ["check_alarm_programs"]

_NAME = "alarms"


def check_alarm_programs(config: Config, user: User, *, unit: Path = SOCKET) -> Iterator[Step]:
    """Yield a step for each program that cannot be run, and one for their sandbox."""
    programs: dict[str, str] = {}
    for sensor in config.sensors:
        for channel, alarm in sensor.alarms:
            if alarm.exec_ is not None:
                programs.setdefault(alarm.exec_[0], f"{sensor.id}/{alarm.called(channel)}")
    if not programs:
        return
    by_unit = unit.exists()
    for program, whose in programs.items():
        if why := _why_not(Path(program), user, for_everyone=by_unit):
            remedy = "put it where every user may run it: sudo install -m 755 FILE /usr/local/bin/"
            yield Step(_NAME, "failed", f"{program} of {whose} {why}", remedy)
    if by_unit:
        yield Step(_NAME, "ok", "their programs run in sensor-node-alarm@.service")
    elif problem := bubblewrap_problem():
        message, _, remedy = problem.partition(" (")
        yield Step(
            _NAME,
            "warning",
            f"their programs run with the rights of the node's user: {message}",
            remedy.removesuffix(")") or "run the node as the service",
        )
    else:
        yield Step(_NAME, "ok", "their programs run in bubblewrap")


def _why_not(program: Path, user: User, *, for_everyone: bool) -> str:
    """Return why a program cannot be run; "" if it can."""
    try:
        mode = program.stat().st_mode
    except PermissionError:
        return "cannot be seen by this user" if for_everyone else ""
    except OSError:
        return "does not exist"
    if for_everyone:
        is_open = mode & stat.S_IXOTH and all(f.stat().st_mode & 0o001 for f in program.parents)
        return "" if is_open else "may not be run by every user, and runs as a user of its own"
    return "" if user.may(program, 1) else f"may not be run by {user.name}"
