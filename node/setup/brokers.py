"""Finds MQTT brokers in this network, and checks whether the node can log in to one."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import msgspec

from node.config.schema import MqttTable, Secret, TlsTable
from node.config.tls import BadTlsFile, tls_context
from node.config.values import parse_host
from node.doctor.broker import Broker
from node.doctor.broker_checks import check_way_in
from node.doctor.report import Step
from node.setup.dialog import Dialog
from node.system.terminal import visible
from node.topics import Topics

__all__ = ["ask_broker", "brokers_of", "parse_address"]

_PROGRAM = "avahi-browse"
_SERVICES = {"_mqtt._tcp": False, "_secure-mqtt._tcp": True}
"""Service -> whether it is TLS."""
_HOME_ASSISTANT = "_home-assistant._tcp"
_DEFAULT_PORT, _TLS_PORT = 1883, 8883
_BROWSE_S = 4.0
_ADDRESS = re.compile(r"(?:(?P<scheme>mqtts?)://)?(?P<host>\[[^]]+\]|[^:/]+)(?::(?P<port>\d+))?/?")


class FoundBroker(msgspec.Struct, frozen=True):
    """A broker that announces itself, or that answers on this computer."""

    host: str
    port: int
    label: str
    tls: bool = False


def brokers_here() -> list[FoundBroker]:
    """Return the brokers in mDNS (RFC 6763, `_mqtt._tcp`), and one on this computer.

    Takes at most `_BROWSE_S`. Without avahi's tools, only this computer is checked.
    """
    found = [broker for service in (*_SERVICES, _HOME_ASSISTANT) for broker in _browse(service)]
    if _listens("127.0.0.1", _DEFAULT_PORT):
        found.append(FoundBroker("127.0.0.1", _DEFAULT_PORT, "on this computer"))
    unique = {(broker.host, broker.port): broker for broker in reversed(found)}
    return list(reversed(unique.values()))


def _browse(service: str) -> list[FoundBroker]:
    program = shutil.which(_PROGRAM)
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, "--resolve", "--parsable", "--terminate", service],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_BROWSE_S / 2,
            check=False,
        )
        text = done.stdout
    except subprocess.TimeoutExpired as slow:
        text = slow.stdout or b""
    except OSError:
        return []
    return brokers_of(text.decode(errors="replace"), service)


def brokers_of(text: str, service: str) -> list[FoundBroker]:
    """Return the brokers in the output of `avahi-browse --parsable` (avahi-browse(1))."""
    found = []
    for line in text.splitlines():
        # =;eth0;IPv4;broker;_mqtt._tcp;local;broker.local;192.0.2.7;1883;"..."
        fields = line.split(";")
        if len(fields) < 9 or fields[0] != "=" or not fields[8].isdecimal():
            continue
        name, address, port = fields[6], fields[7], int(fields[8])
        try:
            host = str(parse_host(name if name.endswith(".local") else address))
        except ValueError:
            continue
        if service == _HOME_ASSISTANT:
            label = f"{host} (Home Assistant; its broker listens on port {_DEFAULT_PORT})"
            found.append(FoundBroker(host, _DEFAULT_PORT, label))
            continue
        tls = _SERVICES[service]
        label = f"{host} ({visible(address)}) port {port}" + (", TLS" if tls else "")
        found.append(FoundBroker(host, port, label, tls))
    return found


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def parse_address(written: str) -> MqttTable:
    """Return a table for `host`, `host:port`, `[v6]:port`, `mqtt://host` or `mqtts://host`.

    Raises:
        ValueError: it is not an address.
    """
    if written.count(":") > 1 and "[" not in written and "://" not in written:
        host, port, scheme = written, None, None  # an IPv6 address by itself
    elif match := _ADDRESS.fullmatch(written):
        host, port, scheme = match["host"].strip("[]"), match["port"], match["scheme"]
    else:
        raise ValueError("Please type a host name or an IP address, such as 192.168.1.10.")
    tls = TlsTable() if scheme == "mqtts" else None
    table = MqttTable(host=parse_host(host), tls=tls)
    if port is None:
        return table
    if not 1 <= int(port) <= 65535:
        raise ValueError("A port is a number from 1 to 65535.")
    return msgspec.structs.replace(table, port=int(port))


def ask_broker(dialog: Dialog, given: MqttTable | None, node: str) -> tuple[MqttTable, bool]:
    """Return the broker, and whether the node can log in to it.

    Raises:
        Unanswered: there is no further input, or no broker was given and no question is asked.
    """
    mqtt = _ask_address(dialog) if given is None else given
    while True:
        dialog.say(f"Trying {mqtt.address} ...")
        failed = try_broker(mqtt, node)
        if failed is None:
            dialog.say("The broker accepts the login.")
            return mqtt, True
        dialog.say(f"{failed.message}.", indent="  ")
        if failed.remedy:
            dialog.say(f"-> {failed.remedy}", indent="  ")
        if not dialog.asks:
            return mqtt, False
        again = _mended(dialog, mqtt, failed)
        if again is None and dialog.confirm("Use this broker anyway?", default=False):
            return mqtt, False
        mqtt = again or _ask_address(dialog)


def try_broker(mqtt: MqttTable, node: str) -> Step | None:
    """Connect and log in as the node would; return the step that failed."""
    context = None if mqtt.tls is None else tls_context(mqtt.tls)
    broker = Broker(mqtt, Topics(mqtt.base_topic, node), context)
    with broker.closing():
        return next((step for step in check_way_in(broker) if step.status == "failed"), None)


def _ask_address(dialog: Dialog) -> MqttTable:
    dialog.say("Looking for MQTT brokers in this network ...")
    found = brokers_here()
    for broker in found:
        dialog.say(broker.label, indent="  ")
    written = ""
    if len({broker.host for broker in found}) == 1:
        first = found[0]
        usual = _TLS_PORT if first.tls else _DEFAULT_PORT
        written = ("mqtts://" if first.tls else "") + first.host
        written += "" if first.port == usual else f":{first.port}"
    return dialog.ask("Address of the MQTT broker", parse_address, written)


def _mended(dialog: Dialog, mqtt: MqttTable, failed: Step) -> MqttTable | None:
    """Ask for the missing setting; return None if it is not known which one is missing."""
    replace = msgspec.structs.replace
    if failed.name == "login":
        username = dialog.ask("User name at the broker (Enter for none)", str)
        if not username:
            return None
        return replace(mqtt, username=username, password=Secret(dialog.secret("Password")) or None)
    if failed.name == "TLS" and mqtt.tls is None:
        if dialog.confirm("Connect with TLS?", default=True):
            return replace(mqtt, tls=TlsTable(), port=mqtt.broker_port)
    elif failed.name == "TLS" and mqtt.tls is not None and mqtt.tls.ca_file is None:
        file = dialog.ask("File of the broker's CA certificate (Enter for none)", _ca_file)
        if file is not None:
            return replace(mqtt, tls=TlsTable(ca_file=file))
    return None


def _ca_file(written: str) -> Path | None:
    if not written:
        return None
    file = Path(written).expanduser().absolute()
    try:
        tls_context(TlsTable(ca_file=file))
    except (BadTlsFile, OSError) as error:
        raise ValueError(f"{file}: {error}") from error
    return file
