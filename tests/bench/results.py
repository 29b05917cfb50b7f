"""The figures of a run: what is kept as JSON, and what table, goals and chart are made from."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from window import Figures

__all__ = ["Results", "load", "pooled", "save"]


class Results(NamedTuple):
    """`scenarios`: name -> peer -> metric -> samples. `settings`: name -> what it was run with."""

    began: str
    quick: bool
    machine: dict[str, str]
    peers: dict[str, str]
    missing: dict[str, str]
    scenarios: dict[str, dict[str, Figures]]
    settings: dict[str, dict[str, Any]]
    failed: dict[str, str]
    remarks: list[str]

    def samples(self, scenario: str, peer: str, metric: str) -> list[float]:
        """Those that are numbers; none for what was not measured."""
        found = self.scenarios.get(scenario, {}).get(peer, {}).get(metric, [])
        return [value for value in found if _is_number(value)]

    def median(self, scenario: str, peer: str, metric: str) -> float | None:
        samples = self.samples(scenario, peer, metric)
        return statistics.median(samples) if samples else None

    def ratio(self, scenario: str, metric: str, beside: str) -> float | None:
        """The node's to that of another peer: the median of the ratios of each round, or slice.

        These are near each other in time, so a machine that changes its pace does so for both.
        Who is slow has fewer rounds: the first ones.
        """
        peers = self.scenarios.get(scenario, {})
        own, others = (peers.get(peer, {}).get(metric, []) for peer in ("node", beside))
        ratios = [
            mine / theirs
            for mine, theirs in zip(own, others, strict=False)
            if _is_number(mine) and _is_number(theirs) and theirs
        ]
        return statistics.median(ratios) if ratios else None

    def spread(self, scenario: str, peer: str, metric: str) -> float | None:
        """Half of the distance between the quartiles; None for fewer than three samples."""
        samples = self.samples(scenario, peer, metric)
        if len(samples) < 3:
            return None
        lower, _, upper = statistics.quantiles(samples, n=4, method="inclusive")
        return (upper - lower) / 2


def _is_number(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def pooled(runs: Sequence[Results]) -> Results:
    """All samples of several runs together, for medians and spreads.

    Its ratios are none: samples of another run are not near each other in time.
    """
    scenarios: dict[str, dict[str, Figures]] = {}
    for run in runs:
        for scenario, peers in run.scenarios.items():
            for peer, figures in peers.items():
                known = scenarios.setdefault(scenario, {}).setdefault(peer, {})
                for metric, samples in figures.items():
                    known.setdefault(metric, []).extend(samples)
    return runs[0]._replace(
        began=", ".join(run.began for run in runs),
        quick=any(run.quick for run in runs),
        machine={
            name: _each(run.machine.get(name, "?") for run in runs) for name in runs[0].machine
        },
        peers={name: text for run in runs for name, text in run.peers.items()},
        missing={name: text for run in runs for name, text in run.missing.items()},
        scenarios=scenarios,
        settings={
            name: {"took_s": sum(run.settings.get(name, {"took_s": 0})["took_s"] for run in runs)}
            for name in {name: None for run in runs for name in run.settings}
        },
        failed={name: text for run in runs for name, text in run.failed.items()},
        remarks=list(dict.fromkeys(remark for run in runs for remark in run.remarks)),
    )


def _each(texts: Iterable[str]) -> str:
    """Return what the runs say, once where they agree."""
    return ", then ".join(dict.fromkeys(texts))


def save(runs: Sequence[Results], file: Path) -> None:
    kept = _without_nan([run._asdict() for run in runs])
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load(file: Path) -> list[Results]:
    return [Results(**run) for run in json.loads(file.read_text())]


def _without_nan(value: Any) -> Any:
    """JSON has no nan: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
