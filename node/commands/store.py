"""`sensor-node store`: takes the history of all nodes into a database, as a separate process."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from node.cli.arguments import add_state_dir_argument
from node.cli.exit_codes import EXIT_FAILED
from node.cli.help_text import CommandHelp
from node.config.schema import MqttTable, TopicPart
from node.system.clock import SystemClock
from node.system.state_dir import find_state_dir
from node.system.systemd import Service, catch_signals

if TYPE_CHECKING:  # needs packages that other commands do without
    from node.store.consumer import Counts
    from node.store.database import Database

__all__ = ["HELP", "METRICS_ARE_AT", "add_arguments", "run"]

# ruff: noqa: T201

METRICS_ARE_AT = "metrics are at"
"""The beginning of the line that ends with the address of the metrics."""
_VARIABLE = "SENSOR_NODE_STORE"
_FILE_NAME = "store.db"

HELP = CommandHelp(
    details="""\
Stores the readings of all nodes at a broker in a database, each reading once. A message is
acknowledged to the broker when the database has committed it, and the broker keeps the rest
meanwhile. So nothing is lost, and nothing is stored twice, if this program, the database or the
network fails at any moment.

The numbers of the readings show what is missing. Each node is asked for that, and sends it again
from its own log. The view `gaps` lists what is still missing.

The database is PostgreSQL, a file of SQLite, or a server that takes InfluxDB's line protocol.
Tables are made and brought up to date at the start. [mqtt] in the configuration, or --broker, says
which broker. See node/store/README.md for the tables, rights and recipes.
""",
    examples={
        "sensor-node store --to sqlite:readings.db --broker 192.168.1.10": "a file",
        "sudo sensor-node store --to postgresql://store@db.lan/sensors": "the configured broker",
        "sensor-node store --to 'http://db.lan:8086/write?db=sensors' --once": "InfluxDB 1",
    },
    exit_codes={
        0: "ended by a signal, or --once: everything that waited is stored",
        1: "the database is of a newer version, or a package is missing",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from node.setup.brokers import parse_address

    def address(written: str) -> MqttTable:
        try:
            return parse_address(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        "--to",
        metavar="DATABASE",
        type=_target,
        default=os.environ.get(_VARIABLE),
        help="postgresql://USER@HOST/NAME, sqlite:FILE, or the http address of a server's write "
        f"API (default: ${_VARIABLE})",
    )
    parser.add_argument(
        "--broker",
        type=address,
        metavar="ADDRESS",
        help="HOST, HOST:PORT or mqtts://HOST, instead of the configured one",
    )
    parser.add_argument(
        "--name",
        type=_name,
        default=None,
        metavar="NAME",
        help="a name for this consumer, which no other one has; the broker keeps messages for it "
        "(default: the name of this computer)",
    )
    parser.add_argument(
        "--share",
        type=_name,
        metavar="GROUP",
        help="share the work with all consumers that name the same group and database",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token for a server of http"
    )
    parser.add_argument(
        "--metrics",
        type=_listen_address,
        metavar="[HOST:]PORT",
        help="serve metrics for Prometheus there; HOST is 127.0.0.1 by default",
    )
    parser.add_argument("--once", action="store_true", help="store what waits, and end")
    add_state_dir_argument(parser)


def _target(written: str) -> str:
    scheme, colon, rest = written.partition(":")
    known = scheme in ("postgresql", "postgres", "sqlite", "http", "https")
    if not (known and colon and rest.strip("/")):
        raise argparse.ArgumentTypeError(
            "expected postgresql://USER@HOST/NAME, sqlite:FILE, or an address with http"
        )
    return written


def _name(written: str) -> str:
    try:
        return msgspec.convert(written, TopicPart)
    except msgspec.ValidationError:
        raise argparse.ArgumentTypeError("expected letters, digits, - and _") from None


def _listen_address(written: str) -> tuple[str, int]:
    host, colon, port = written.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535 or (colon and not host):
        raise argparse.ArgumentTypeError("expected PORT or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def run(arguments: argparse.Namespace) -> int:
    """Store until SIGTERM or SIGINT; exit code 1 if that cannot begin."""
    from node.config.load import find_file, load_mqtt
    from node.config.tls import tls_files
    from node.store.consumer import Consumer
    from node.store.database import NewerDatabase

    if arguments.to is None:
        print(f"where to? give --to DATABASE, or set ${_VARIABLE}", file=sys.stderr)
        return 2
    try:
        database = _database(_target(arguments.to), arguments)
    except (_Unusable, argparse.ArgumentTypeError) as problem:
        print(f"{arguments.to.partition(':')[0]}: {problem}", file=sys.stderr)
        return EXIT_FAILED
    mqtt = arguments.broker or load_mqtt(find_file(arguments.config))
    clock = SystemClock()
    service = Service(clock)
    consumer = Consumer(
        mqtt,
        database,
        clock,
        name=arguments.name or _own_name(),
        share=arguments.share,
        tls_context=tls_files(mqtt.tls),
    )
    catch_signals(consumer.stop)
    try:
        consumer.open_database()
    except NewerDatabase as problem:
        print(problem, file=sys.stderr)
        return EXIT_FAILED
    if arguments.metrics is not None and not _serve_metrics(consumer.counts, arguments.metrics):
        return EXIT_FAILED
    service.ready()
    consumer.run(once=arguments.once)
    service.stopping()
    return 0


class _Unusable(Exception):
    """The database cannot be used by this installation; the text says what to do."""


def _database(target: str, arguments: argparse.Namespace) -> Database:
    from drivers.packages import install_command

    scheme, _, rest = target.partition(":")
    if scheme in ("postgresql", "postgres"):
        try:
            from node.store.postgres import PostgresDatabase
        except ImportError:
            raise _Unusable(f"this needs psycopg: {install_command('store')}") from None
        return PostgresDatabase(target)
    if scheme == "sqlite":
        from node.store.sqlite import SqliteDatabase

        return SqliteDatabase(Path(rest.removeprefix("//")))
    from node.store.influx import InfluxDatabase

    if arguments.share is not None:
        raise _Unusable("--share needs a database that knows what is stored: PostgreSQL or SQLite")
    if not urlsplit(target).path.strip("/"):
        raise _Unusable(
            "the path of the write API is missing: /api/v2/write?org=ORG&bucket=BUCKET (InfluxDB "
            "2), /write?db=NAME (InfluxDB 1, VictoriaMetrics)"
        )
    file = find_state_dir(arguments.state_dir) / _FILE_NAME
    return InfluxDatabase(target, file, token=_token(arguments.token_file))


def _token(file: Path | None) -> str | None:
    from node.config.password import read_password

    if file is None:
        return None
    try:
        return read_password(file)
    except OSError as error:
        raise _Unusable(f"the token file {file} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _Unusable(f"the token file {file} {error}") from None


def _own_name() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:40] or "store"


def _serve_metrics(counts: Counts, address: tuple[str, int]) -> bool:
    """Serve the metrics; return False, with the reason printed, if that is not possible."""
    from drivers.packages import install_command

    try:
        from node.store.metrics import serve_metrics
    except ImportError:
        print(f"--metrics needs prometheus-client: {install_command('store')}", file=sys.stderr)
        return False
    host, port = address
    try:
        port = serve_metrics(counts, host, port)
    except OSError as error:
        print(f"--metrics {host}:{port}: {error.strerror or error}", file=sys.stderr)
        return False
    print(f"{METRICS_ARE_AT} http://{host}:{port}/metrics", file=sys.stderr, flush=True)
    return True
