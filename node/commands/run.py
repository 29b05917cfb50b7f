"""`sensor-node run`: the node itself."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from node import __version__
from node.cli.arguments import add_state_dir_argument
from node.cli.exit_codes import EXIT_CONFIG
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import Config
from node.system.lean_imports import lean_imports
from node.system.logs import RecentWarnings
from node.system.state_dir import StateDirLock, StateDirTaken, find_state_dir, make_state_dir
from node.system.terminal import count

__all__ = ["HELP", "add_arguments", "run"]

if TYPE_CHECKING:
    from node.config.afar.trial import TrialFile

_log = logging.getLogger(__name__)
TRIAL = "config-trial.json"
"""In a state directory: a configuration from afar, on trial (`node.config.afar.trial`)."""
_BY_SERVICE = "SENSOR_NODE_CONFIG_SERVICE"
"""A variable of the unit: sensor-node-config.service writes a configuration from afar."""
_SIMULATED = "simulated"
"""In a state directory: its log is of simulated hardware."""


HELP = CommandHelp(
    details="""\
Reads the configured sensors, each at its own interval, and publishes the readings, until SIGTERM
or SIGINT. The service runs this command. It can start without the broker, the network or the
right time: every reading goes into a log on disk first, and stays there until the broker has
acknowledged it.

With --simulate the same drivers run on simulated hardware; [simulation] in the configuration
describes the room and the faults.

With --last-good FILE, an invalid configuration no longer stops the node: it starts with the last
valid one, if a copy was saved in FILE, and reports the problem in its log, in health and on the
LED.
""",
    examples={
        "sensor-node run --config node.toml --state-dir ./state": "as yourself, with its log there",
        "sensor-node run --simulate --log-level debug": "without hardware; logs failed reads",
    },
    exit_codes={
        0: "ended by a signal, or by the MQTT command restart",
        1: "the state directory is another node's, or of the other kind of hardware",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="put simulated hardware under the configured drivers",
    )
    parser.add_argument(
        "--last-good",
        metavar="FILE",
        type=Path,
        help="keep a copy of the last valid configuration there, and run on it when the newest "
        "is invalid",
    )
    add_state_dir_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; exit code 1 if the state directory is not for this node."""
    source = configuration.find_file(arguments.config)
    warnings = RecentWarnings()
    logging.getLogger().addHandler(warnings)
    state_dir = find_state_dir(arguments.state_dir)
    lock = StateDirLock(state_dir)
    trial_file: TrialFile | None = None
    config: Config | None = None
    content = b""
    try:
        if (state_dir / TRIAL).exists():
            lock.hold()
            trial_file, config = _trial(state_dir, source)
        if config is None:
            try:
                content = configuration.read(source)
                config = configuration.parse(source, content)
            except configuration.ConfigError as error:
                config = _last_good(arguments.last_good, error)
                if config is None:
                    return _report_bad_configuration(error, simulate=arguments.simulate)
        try:
            return _run(arguments, config, content, trial_file, lock, state_dir, warnings)
        except Exception as error:
            if trial_file is None or not trial_file.is_running:
                raise
            _log.exception("the node cannot run on this configuration")
            trial_file.end(f"the node does not run on it ({type(error).__name__}); see its log")
            _begin_again()
            raise
    except StateDirTaken as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1


def _run(
    arguments: argparse.Namespace,
    config: Config,
    content: bytes,
    trial_file: TrialFile | None,
    lock: StateDirLock,
    state_dir: Path,
    warnings: RecentWarnings,
) -> int:
    """Run on this configuration, the `content` of the file or, if that is empty, another text.

    Raises:
        StateDirTaken: another process has locked the state directory.
    """
    secure = config.mqtt.tls is not None or config.mqtt.transport == "websockets"
    with lean_imports(with_ssl=secure):
        # Imported late: the configuration decides whether ssl is needed.
        from node.loop import Node
        from node.sensors.board import open_board, preload_drivers
        from node.system.clock import SystemClock
        from node.system.node_ids import client_id
        from node.system.systemd import catch_signals
    context = None
    if config.mqtt.tls is not None:
        from node.config.tls import TlsFiles

        context = TlsFiles(config.mqtt.tls)
    lock.hold()
    if mixed := _other_hardware(state_dir, simulate=arguments.simulate):
        print(mixed, file=sys.stderr)  # noqa: T201
        return 1
    if arguments.last_good is not None and content and not config.stands_in_for:
        from node.config.last_good import LastGood

        LastGood(arguments.last_good).keep(config, content)
    for remark in config.remarks:
        _log.info("%s: %s", config.source, remark)
    for note in config.notes_for(simulate=arguments.simulate):
        _log.warning("%s: %s", config.source, note)
    if config.commands.config and trial_file is None:
        from node.config.afar.trial import TrialFile

        # Not config.source, which may be the last good one.
        trial_file = TrialFile(state_dir, configuration.find_file(arguments.config))
    board = open_board(config, simulate=arguments.simulate)
    preload_drivers(config)
    node = Node(
        config,
        board,
        SystemClock(),
        client_id=config.mqtt.client_id or client_id(config.mqtt.base_topic, config.node.name),
        state_dir=state_dir,
        hold_state_dir=lock.hold,
        tls_context=context,
        simulated=arguments.simulate,
        warnings=warnings,
        trial_file=trial_file,
        config_by_service=_BY_SERVICE in os.environ,
    )
    catch_signals(node.stop)
    sensors = count(config.sensors, "sensor")
    _log.info("sensor-node %s, node %s, %s", __version__, config.node.name, sensors)
    if arguments.simulate:
        _log.warning("the hardware is simulated: no reading is real")
        for fault in config.simulation.fault if config.simulation is not None else ():
            _log.info("simulated fault: %s", fault)
    node.run()
    if node.begins_again:
        _begin_again()
    return 0


def _begin_again() -> None:
    from node.system.systemd import begin_again

    begin_again()


def _trial(state_dir: Path, source: Path) -> tuple[TrialFile, Config | None]:
    """Return the record of a trial, and the configuration if it is on trial in this process."""
    from node.config.afar.trial import TrialFile

    trial_file = TrialFile(state_dir, source)
    content = trial_file.begin()
    if content is None:
        return trial_file, None
    try:
        return trial_file, configuration.parse(source, content)
    except configuration.ConfigError as error:
        trial_file.end(f"it is not valid any more: {error.problems[0]}")
        return trial_file, None


def _other_hardware(state_dir: Path, *, simulate: bool) -> str:
    """Return why the log there must not be continued: simulated readings would pass for real ones.

    "" if there is no obstacle. A file next to the log marks it as one of simulated readings. The
    mark outlives a damaged log, and the real node need not look into its log.
    """
    from node.outbox.store import FILE_NAME

    log, marker = state_dir / FILE_NAME, state_dir / _SIMULATED
    if not log.exists():
        with contextlib.suppress(OSError):
            if simulate:
                make_state_dir(state_dir)
                marker.touch()
            else:
                marker.unlink(missing_ok=True)
        return ""
    if marker.exists() == simulate or (simulate and _has_no_real_reading(log, marker)):
        return ""
    has, wants = ("real", "simulated") if simulate else ("simulated", "real")
    return (
        f"{state_dir} has readings of {has} hardware, and this node's would be {wants}: name "
        f"another folder with --state-dir, or delete {log}*"
    )


def _has_no_real_reading(log: Path, marker: Path) -> bool:
    """Return whether an unmarked log is empty or of simulated hardware; if so, mark it."""
    from node.outbox.reader import LOG_TROUBLE, health_in, look_into

    try:
        ledger = look_into(log, lambda file: file.ledger)
    except LOG_TROUBLE:
        return False
    health = health_in(ledger)
    if ledger.last_seq and not (health is not None and health.simulated):
        return False
    with contextlib.suppress(OSError):
        marker.touch()
    return True


def _last_good(file: Path | None, error: configuration.ConfigError) -> Config | None:
    """Log what is wrong, and return the last good configuration; None if there is none."""
    if file is None:
        return None
    from node.config.last_good import LastGood

    config = LastGood(file).stand_in(error)
    if config is not None:
        for line in error.report().splitlines():
            _log.error("%s", line)
        _log.error("the node runs on the last good configuration, %s", file)
    return config


def _report_bad_configuration(error: configuration.ConfigError, *, simulate: bool) -> int:
    """Report on standard error, and on the LED, because that may be all that a person sees."""
    from node.panel import led_of, show_bad_configuration
    from node.sensors.board import bare_board

    report = error.report(for_owner=sys.stderr.isatty())
    print(report, file=sys.stderr, flush=True)  # noqa: T201
    led = led_of(error.source)
    if led is not None and not sys.stderr.isatty():
        show_bad_configuration(led, bare_board(simulate=simulate))
    return EXIT_CONFIG
