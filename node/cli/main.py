"""The command line: parses, sets up logging, and runs one of `node.commands`.

Only the module of the chosen command is imported, so that `run` does not pay for the imports of
`watch`. Each module has `HELP`, `add_arguments(parser)` and `run(arguments) -> exit code`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Container, Iterable, Sequence

from node import __version__
from node.cli.exit_codes import EXIT_CONFIG, EXIT_FAILED
from node.cli.help_text import CommandParser, HelpFormatter
from node.system.lean_imports import lean_imports

__all__ = ["COMMANDS", "command_parser", "main"]

_COMMON_OPTIONS = ("-c", "--config", "--log-level")
LOG_LEVELS = ("debug", "info", "warning", "error")


COMMANDS = {
    "demo": "run a node on simulated hardware and a broker, and show what a subscriber sees",
    "init": "ask for the broker and the sensors, and write a configuration",
    "run": "read the sensors and publish, until SIGTERM",
    "check": "validate the configuration, and list the topics it would publish",
    "scan": "find attached sensors, and print [[sensor]] tables for them",
    "read": "read each sensor once",
    "calibrate": "measure a sensor against what is known, and write the correction",
    "doctor": "find problems, from the broker to the buses, and say how to fix them",
    "status": "show the state of the node on this machine",
    "watch": "show what the nodes publish through the broker",
    "resend": "send history again that the broker once refused",
    "forget": "remove the retained topics that a former node left at the broker",
    "push": "bring a signed bundle to a node, which installs and tries it",
    "verify": "check that no reading of a log or an export was altered or removed",
    "sign": "sign the head of the log's chain, for an auditor",
    "web": "serve the status page of the node on this machine",
    "store": "store the readings of all nodes at a broker in a database",
    "plot": "draw the readings of a sensor, as SVG",
    "drivers": "list the drivers, their options and channels",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code."""
    argv = _command_first(sys.argv[1:] if argv is None else argv)
    chosen = argv[0] if argv and argv[0] in COMMANDS else ""
    with lean_imports(with_ssl=chosen != "run"):
        names = [chosen] if chosen else list(COMMANDS)
        parser = command_parser(names, whole={chosen})
        if argv and not chosen and not argv[0].startswith("-"):
            parser.error(_no_command(argv[0]))
        arguments = parser.parse_args(argv)
        from node.config.reader import ConfigError
        from node.system.logs import set_up_logging

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows ? for °
            stream.reconfigure(errors="replace")
    if getattr(arguments, "json", False) and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale (RFC 8259, §8.1)
    set_up_logging(arguments.log_level)
    module = importlib.import_module(f"node.commands.{arguments.command}")
    try:
        code = module.run(arguments)
        sys.stdout.flush()
    except ConfigError as error:
        print(error.report(for_owner=sys.stderr.isatty()), file=sys.stderr)  # noqa: T201
        return EXIT_CONFIG
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does. Keep Python from failing again when
        # it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return int(code)


def _command_first(argv: Sequence[str]) -> list[str]:
    """Return the words with the command first, and with `help` and `version` as options.

    Many other programs accept `--config FILE check`, `help check` and `check help`.
    """
    words, before = list(argv), []
    while words and words[0].startswith("-") and len(words) > 1:
        name, equals, _ = words[0].partition("=")
        if name not in _COMMON_OPTIONS:
            break
        many = 1 if equals else 2
        before += words[:many]
        words = words[many:]
    if words[:1] == ["version"]:
        words[0] = "--version"
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    return [*words[:1], *before, *words[1:]]


def _no_command(word: str) -> str:
    import difflib

    # Of those that are like it, one as long: a letter is mistaken more often than left out.
    close = difflib.get_close_matches(word, COMMANDS)
    close.sort(key=lambda name: abs(len(name) - len(word)))
    hint = f"did you mean {close[0]}?" if close else "sensor-node --help lists them"
    return f'unknown command "{word}"; {hint}'


def command_parser(names: Iterable[str], *, whole: Container[str]) -> argparse.ArgumentParser:
    """Return the parser of the command line for `names`.

    The commands in `whole` get their arguments, too. A parser takes half a millisecond to build,
    and thirty times as long on a Pi Zero.
    """
    parser = CommandParser(
        prog="sensor-node",
        description="Reads temperature sensors on a schedule and publishes them over MQTT.",
        epilog="example: sensor-node demo",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sensor-node {__version__}")
    # Given a prog, the parser does not format its usage to find one.
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog=parser.prog
    )
    for name in names:
        summary = COMMANDS[name]
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            formatter_class=HelpFormatter,
        )
        subparser.add_argument(
            "-c",
            "--config",
            metavar="FILE",
            help="default: $SENSOR_NODE_CONFIG, else /etc/sensor-node/node.toml",
        )
        # The node speaks through its log; the other commands speak through their results.
        level = "info" if name == "run" else "warning"
        subparser.add_argument(
            "--log-level", choices=LOG_LEVELS, default=level, help=f"default: {level}"
        )
        if name in whole:
            module = importlib.import_module(f"node.commands.{name}")
            module.add_arguments(subparser)
            subparser.manual = module.HELP
    return parser
