"""Explains why the broker cannot be reached, and suggests a remedy.

Pure: an exception of the network thread, or a reason code of the broker, becomes a `Failure`.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import msgspec

from node.config.schema import MqttTable
from node.mqtt.reasons import BAD_CLIENT_ID, BAD_LOGIN, BUSY, NOT_AUTHORIZED, Reason

if TYPE_CHECKING:
    import ssl

__all__ = [
    "Failure",
    "closed_early",
    "connect_failure",
    "no_answer",
    "not_a_broker",
    "refusal",
]

# OpenSSL's verify codes (x509_vfy.h).
_EXPIRED = 10
_NOT_YET_VALID = 9
_WRONG_HOST = {62, 64}


class Failure(msgspec.Struct, frozen=True):
    """A problem and its remedy; one sentence as a text."""

    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what


def connect_failure(error: BaseException, mqtt: MqttTable) -> Failure:
    """Return why there is no connection."""
    where = mqtt.address
    if isinstance(error, socket.gaierror):
        remedy = "check [mqtt] host, DNS and the network"
        return Failure(f"the name {mqtt.host} does not resolve", remedy)
    if mqtt.tls is not None and (failure := _tls_failure(error, mqtt)):
        return failure
    if isinstance(error, ConnectionRefusedError):
        remedy = "is the broker running, and the port right?"
        return Failure(f"{where} refuses the connection", remedy)
    if isinstance(error, TimeoutError):
        return Failure(f"{where} does not answer", "is the host up, and no firewall between?")
    if isinstance(error, ConnectionResetError):
        remedy = "is it a TLS port, or not a broker's port?"
        return Failure(f"{where} closes the connection at once", remedy)
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Failure(f"{where} cannot be reached: {error.strerror}", "is the network up?")
    return Failure(f"{where}: {error or type(error).__name__}")


def _tls_failure(error: BaseException, mqtt: MqttTable) -> Failure | None:
    """Return why TLS failed; None if the error has another cause."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate_failure(error, mqtt)
    if not isinstance(error, ssl.SSLError | ConnectionResetError):
        return None
    reason = str(getattr(error, "reason", None) or error.strerror)
    if "_ALERT_" in reason:
        return _alert(reason, mqtt.address)
    return Failure(f"{mqtt.address}: no TLS handshake ({reason})", _TLS_PORT)


_TLS_PORT = "is this the broker's TLS port, and does it require a client certificate?"


def _certificate_failure(error: ssl.SSLCertVerificationError, mqtt: MqttTable) -> Failure:
    code, certificate = error.verify_code, f"{mqtt.address}: the broker's certificate"
    if code in _WRONG_HOST:
        remedy = "set [mqtt] host to a name that is in the certificate"
        return Failure(f"{certificate} is not for {mqtt.host}", remedy)
    if code == _EXPIRED:
        return Failure(f"{certificate} has expired", "renew it, or check this computer's clock")
    if code == _NOT_YET_VALID:
        return Failure(f"{certificate} is not valid yet", "is this computer's clock right?")
    ca_file = mqtt.tls.ca_file if mqtt.tls else None
    trusted = f"by {ca_file}" if ca_file else "by this system"
    return Failure(
        f"{certificate} is not trusted {trusted} ({error.verify_message})",
        "set [mqtt.tls] ca_file to the CA that signed it",
    )


def _alert(reason: str, where: str) -> Failure:
    """Return why the broker ended the handshake, according to its alert."""
    if "CERTIFICATE_REQUIRED" in reason:
        remedy = "set [mqtt.tls] cert_file and key_file"
        return Failure(f"{where} requires a client certificate", remedy)
    if any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA")):
        return Failure(
            f"{where} does not accept this client's certificate ({reason})",
            "is [mqtt.tls] cert_file signed by a CA that the broker trusts, and not expired?",
        )
    return Failure(f"{where} ends the TLS handshake ({reason})", _TLS_PORT)


def no_answer(mqtt: MqttTable) -> Failure:
    """Return the failure of a connection without an answer."""
    return Failure(
        f"{mqtt.address} accepts the connection and does not answer",
        'is an MQTT broker running there? (amqtt needs protocol = "3.1.1")',
    )


def closed_early(mqtt: MqttTable) -> Failure:
    """Return the failure of a connection that was closed instead of answering the login."""
    question = (
        "does it require a client certificate?"
        if mqtt.tls
        else "is this the port of an MQTT broker, and without TLS?"
    )
    return Failure(f"{mqtt.address} closes the connection before it answers", question)


def not_a_broker(reason: Reason, mqtt: MqttTable) -> Failure:
    """What answered the login is no CONNACK, or was followed by what no broker may send."""
    return Failure(
        f"{mqtt.address} sends what no MQTT broker may ({reason})",
        "is this the port of an MQTT broker, and without anything between that changes packets?",
    )


def refusal(reason: Reason, mqtt: MqttTable) -> Failure:
    """Return why the broker refused the login."""
    where = mqtt.address
    if reason.code in (BAD_LOGIN, NOT_AUTHORIZED):
        who = f'the user "{mqtt.username}"' if mqtt.username else "a client without a user name"
        return Failure(
            f"{where} refuses {who}: {reason}",
            "check [mqtt] username and the password, and the broker's password file",
        )
    if reason.code == BAD_CLIENT_ID:
        return Failure(f"{where} refuses the client id", "does the broker restrict client ids?")
    remedy = "the node tries again, less and less often" if reason.code in BUSY else ""
    return Failure(f"{where} refuses the connection: {reason}", remedy)
