"""`sensor-node web`: serves the status page, as a separate process."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import socket
import sys
from pathlib import Path

import msgspec

from drivers.packages import install_command
from node.cli.arguments import add_state_dir_argument
from node.cli.exit_codes import EXIT_CONFIG, EXIT_FAILED
from node.cli.help_text import CommandHelp
from node.config.reader import ConfigError, find_file
from node.config.schema import HostName, WebTable
from node.config.values import parse_host
from node.system.clock import SystemClock
from node.system.state_dir import find_state_dir
from node.system.systemd import Service, catch_signals
from node.web.settings import Settings, read_settings

__all__ = ["HELP", "PAGE_IS_AT", "add_arguments", "run"]

# ruff: noqa: T201

_log = logging.getLogger(__name__)

PAGE_IS_AT = "the status page is at"
"""The beginning of the line that ends with the page's address; `demo` waits for it."""

HELP = CommandHelp(
    details="""\
Serves a page with the newest values of the node on this machine, plots of the last hour and
days, its broker, its outbox and its last errors; the same as JSON, as metrics for Prometheus,
and as CSV. It reads the log and never writes to it, and a running node is not disturbed.

[web] in the configuration sets the address and the password; the options override it. The page
listens on 127.0.0.1 by default. A configuration file is optional. If there is one, only its [web]
table has to be valid.
""",
    examples={
        "sudo sensor-node web": "the node of the service; then open http://127.0.0.1:8080/",
        "sensor-node web --state-dir ./state --host 0.0.0.0": "another node, for the network",
    },
    exit_codes={
        0: "ended by a signal; --is-enabled: the page is enabled",
        1: "it cannot listen, or waitress is missing; --is-enabled: it is not",
        78: "the configuration cannot be read, or its [web] table is invalid",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="HOST", help="address to listen on; 0.0.0.0 or :: is all")
    parser.add_argument("--port", metavar="N", type=_port, help="default: 8080; 0 picks a free one")
    parser.add_argument(
        "--last-good",
        metavar="FILE",
        type=Path,
        help="the copy that `run --last-good` keeps; used if the newest file is not valid TOML",
    )
    parser.add_argument(
        "--is-enabled",
        action="store_true",
        help="serve nothing; the exit code says whether [web] is enabled",
    )
    add_state_dir_argument(parser)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; exit code 1 if it cannot."""
    try:
        settings = _settings(arguments)
    except ConfigError as error:
        print(error.report(for_owner=sys.stderr.isatty()), file=sys.stderr)
        # As a condition of the unit: not enabled, which is not a failure of the unit.
        return EXIT_FAILED if arguments.is_enabled else EXIT_CONFIG
    if arguments.is_enabled:
        return 0 if settings.web.enabled else EXIT_FAILED
    if importlib.util.find_spec("waitress") is None:
        print(f"the status page needs waitress: {install_command('web')}", file=sys.stderr)
        return EXIT_FAILED
    return _serve(settings, arguments)


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the configured settings; the defaults if no file is named and none exists."""
    source = find_file(arguments.config)
    if not arguments.config and not source.exists() and not arguments.is_enabled:
        settings = Settings(node=socket.gethostname().partition(".")[0])
    else:
        settings = read_settings(source, arguments.last_good)
    changes: dict[str, object] = {}
    if arguments.host is not None:
        changes["host"] = _host(arguments.host)
    if arguments.port is not None:
        changes["port"] = arguments.port
    table: WebTable = msgspec.structs.replace(settings.web, **changes)
    return msgspec.structs.replace(settings, web=table)


def _host(written: str) -> HostName:
    try:
        return parse_host(written)
    except ValueError as error:
        print(f"--host {written}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    from node.web.application import Application
    from node.web.mdns import announced
    from node.web.server import listening_socket, make_server
    from node.web.watcher import Watcher

    table = settings.web
    try:
        listener = listening_socket(table.host, table.port)
    except OSError as error:
        what = error.strerror or error
        print(
            f"the page cannot listen on {table.host} port {table.port}: {what}; choose another "
            "with [web] host and port, or --host and --port",
            file=sys.stderr,
        )
        return EXIT_FAILED
    watcher = Watcher(find_state_dir(arguments.state_dir), SystemClock())
    watcher.look()  # the one long scan, before the first request
    service = Service(SystemClock())
    server = make_server(Application(watcher, settings), listener, watcher, service)
    catch_signals(_end)
    port = listener.getsockname()[1]
    url = _url(table.host, port)
    print(f"{PAGE_IS_AT} {url}", file=sys.stderr, flush=True)
    for note in settings.notes:
        _log.warning("%s", note)
    if table.on_the_network and settings.password:
        _log.warning("the password and the page cross the network unencrypted, without TLS")
    elif table.on_the_network:
        _log.warning("everybody on the network can read the page: set [web] password to prevent it")
    node = watcher.look().health
    name = node.node if node else settings.node
    announce = announced(name, port) if table.on_the_network else contextlib.nullcontext(False)
    with announce:
        service.ready()
        service.status(f"serves {url}")
        server.run()
        service.stopping()
    return 0


def _end(_name: str) -> None:
    raise SystemExit(0)


def _url(host: str, port: int) -> str:
    """Return the address of the page for a browser."""
    if host in ("0.0.0.0", "::"):
        host = f"{socket.gethostname().partition('.')[0]}.local"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
