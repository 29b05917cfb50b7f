"""`sensor-node web`: serves the status page, as a separate process."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drivers.packages import install_command
from node.cli.arguments import add_state_dir_argument
from node.cli.exit_codes import EXIT_CONFIG, EXIT_FAILED
from node.cli.help_text import CommandHelp
from node.config.reader import ConfigError, find_file
from node.config.schema import HomeAssistantTable, HostName, MqttTable, WebTable
from node.config.tls import tls_files
from node.config.values import parse_host
from node.system.clock import SystemClock
from node.system.state_dir import find_state_dir
from node.system.systemd import Service, catch_signals
from node.web.settings import Settings, read_settings

if TYPE_CHECKING:  # waitress may not be installed
    from node.watch.discovery import Units
    from node.web.server import Looker
    from node.web.site import Site

__all__ = ["HELP", "PAGE_IS_AT", "add_arguments", "run"]

# ruff: noqa: T201

_log = logging.getLogger(__name__)

PAGE_IS_AT = "the status page is at"
"""The beginning of the line that ends with the page's address; `demo` waits for it."""

HELP = CommandHelp(
    details="""\
Serves a page with the newest values of the node on this machine, plots of the last hour and
days, its broker, its outbox and its last errors; the same as JSON, as metrics for Prometheus,
and as CSV. It reads the log and never writes to it, and a running node is not disturbed. A page
with a password also has a button that has a sensor read now, by the command `read` over MQTT.

[web] in the configuration sets the address and the password; the options override it. The page
listens on 127.0.0.1 by default. A configuration file is optional. If there is one, only its [web]
table has to be valid.

With --broker it serves a page of all nodes that a broker knows: the condition of each, its
sensors, its problems and a link to its own page, those in most trouble first. The same is at
/api/v1/fleet as JSON. Without an ADDRESS it is the configured broker, with its login and
base_topic; then the whole configuration must be valid.
""",
    examples={
        "sudo sensor-node web": "the node of the service; then open http://127.0.0.1:8080/",
        "sensor-node web --state-dir ./state --host 0.0.0.0": "another node, for the network",
        "sudo sensor-node web --broker --port 8081": "all nodes of the configured broker",
        "sensor-node web --broker 192.168.1.10": "all nodes of a broker that wants no login",
    },
    exit_codes={
        0: "ended by a signal; --is-enabled: the page is enabled",
        1: "it cannot listen, or waitress is missing; --is-enabled: it is not",
        78: "the configuration cannot be read, or [web] (--broker: any of it) is wrong",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="HOST", help="address to listen on; 0.0.0.0 or :: is all")
    parser.add_argument("--port", metavar="N", type=_port, help="default: 8080; 0 picks a free one")
    parser.add_argument(
        "--broker",
        nargs="?",
        type=_address,
        const=True,  # the configured one; a text would be parsed as an address
        metavar="ADDRESS",
        help="all nodes that a broker knows; HOST, HOST:PORT or mqtts://HOST instead of the "
        "configured one",
    )
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


def _address(written: str) -> MqttTable:
    from node.setup.brokers import parse_address

    try:
        return parse_address(written)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
    if arguments.broker is not None:
        return _serve_fleet(settings, arguments)
    return _serve_node(settings, arguments)


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


def _serve_node(settings: Settings, arguments: argparse.Namespace) -> int:
    from node.web.application import Application
    from node.web.watcher import Watcher

    listener = _listener(settings.web)
    if listener is None:
        return EXIT_FAILED
    watcher = Watcher(find_state_dir(arguments.state_dir), SystemClock())
    health = watcher.look().health  # the one long scan, before anybody waits for an answer
    name = health.node if health else settings.node
    return _serve(Application(watcher, settings), listener, watcher, settings, name)


def _serve_fleet(settings: Settings, arguments: argparse.Namespace) -> int:
    from node.web.fleet import Fleet
    from node.web.fleet_application import FleetApplication
    from node.web.fleet_watcher import FleetWatcher

    try:
        mqtt, prefix, units = _broker(arguments)
    except ConfigError as error:
        print(error.report(for_owner=sys.stderr.isatty()), file=sys.stderr)
        return EXIT_CONFIG
    words = tuple(filter(None, (mqtt.host, mqtt.username)))
    settings = msgspec.structs.replace(settings, broker=words)
    listener = _listener(settings.web)
    if listener is None:
        return EXIT_FAILED
    tls = tls_files(mqtt.tls)
    fleet = Fleet(mqtt.base_topic, units, masked=settings.masked)
    watcher = FleetWatcher(mqtt, SystemClock(), fleet, tls_context=tls, prefix=prefix)
    application = FleetApplication(watcher, settings, mqtt.address)
    watcher.start()
    try:
        return _serve(application, listener, watcher, settings, "all nodes")
    finally:
        watcher.stop()


def _broker(arguments: argparse.Namespace) -> tuple[MqttTable, str, Units]:
    """Return the broker, the prefix of discovery there, and the units of the configured node.

    Raises:
        ConfigError: the configuration is wrong, or there is none.
    """
    if isinstance(arguments.broker, MqttTable):
        return arguments.broker, HomeAssistantTable().prefix, {}
    from node.config.load import load
    from node.watch.model import units_of

    config = load(find_file(arguments.config))
    return config.mqtt, config.homeassistant.prefix, units_of(config)


def _listener(table: WebTable) -> socket.socket | None:
    """Return a socket where the page listens; None, with the reason printed, if it cannot."""
    from node.web.server import listening_socket

    try:
        return listening_socket(table.host, table.port)
    except OSError as error:
        what = error.strerror or error
        print(
            f"the page cannot listen on {table.host} port {table.port}: {what}; choose another "
            "with [web] host and port, or --host and --port",
            file=sys.stderr,
        )
        return None


def _serve(
    application: Site, listener: socket.socket, watcher: Looker, settings: Settings, name: str
) -> int:
    from node.web.mdns import announced
    from node.web.server import make_server

    table = settings.web
    service = Service(SystemClock())
    server = make_server(application, listener, watcher, service)
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
