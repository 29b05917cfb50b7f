"""What is proved, line by line, while it runs; and a last line that says how many."""

from __future__ import annotations

import contextlib
import resource
import time
import traceback
from collections.abc import Iterator

__all__ = ["Report", "StageOver"]

# ruff: noqa: T201


class StageOver(Exception):
    """A check has failed that the ones after it stand on."""


class Report:
    """Of one stage; `mark` begins each of its lines, for others are running."""

    def __init__(self, began_s: float, mark: str = "") -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.not_run: list[str] = []
        self._began_s = began_s
        self._mark = mark and f"{mark:7} "

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began_s:5.0f} s  {self._mark}{text}", flush=True)

    @contextlib.contextmanager
    def check(self, claim: str, *, vital: bool = False) -> Iterator[list[str]]:
        """One claim; what is put into the list is told with it. The others go on if it fails."""
        figures: list[str] = []
        began_s = time.monotonic()
        try:
            yield figures
        except Exception:  # noqa: BLE001, failed, and told
            self.failed.append(f"{self._mark}{claim}")
            self.say(f"FAILED  {claim}\n{traceback.format_exc()}")
            if vital:
                raise StageOver(claim) from None
            return
        told = f" ({', '.join(figures)})" if figures else ""
        self.passed.append(claim)
        self.say(f"ok      {claim}{told} [{time.monotonic() - began_s:.0f} s]")

    def could_not_run(self, what: str, why: str) -> None:
        self.not_run.append(what)
        self.say(f"NOT RUN {what}: {why}")

    def add(self, other: Report) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.not_run += other.not_run

    def end(self) -> int:
        """Exit code 1 if anything failed."""
        for what in self.not_run:
            print(f"not run: {what}")
        for claim in self.failed:
            print(f"failed: {claim}")
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.say(f"over; {spent.ru_utime + spent.ru_stime:.0f} s of processor time")
        print(
            f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.not_run)} skipped",
            flush=True,
        )
        return 1 if self.failed else 0
