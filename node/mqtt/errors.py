"""Why the broker cannot be reached, in words, with what to try.

Pure: an exception of the network thread, or a reason of the broker's, becomes a sentence.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from node.config.schema import MqttTable
from node.mqtt.reasons import BAD_CLIENT_ID, BAD_LOGIN, NOT_AUTHORIZED, Reason

if TYPE_CHECKING:
    import ssl

__all__ = ["closed_early", "connect_failure", "no_answer", "refusal"]

# OpenSSL's verify codes (x509_vfy.h).
_EXPIRED = 10
_NOT_YET_VALID = 9
_WRONG_HOST = {62, 64}


def connect_failure(error: BaseException, mqtt: MqttTable) -> str:
    """Why no connection came about."""
    where = mqtt.address
    if isinstance(error, socket.gaierror):
        return f"the name {mqtt.host} does not resolve; check [mqtt] host, DNS and the network"
    if mqtt.tls is not None and (told := _tls_failure(error, mqtt)):
        return f"{where}{told}"
    if isinstance(error, ConnectionRefusedError):
        return f"{where} refuses the connection; is the broker running, and the port right?"
    if isinstance(error, TimeoutError):
        return f"{where} does not answer; is the host up, and no firewall between?"
    if isinstance(error, ConnectionResetError):
        return f"{where} closes the connection at once; is it for TLS, or not a broker's port?"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"{where} cannot be reached: {error.strerror}; is the network up?"
    return f"{where}: {error or type(error).__name__}"


def _tls_failure(error: BaseException, mqtt: MqttTable) -> str:
    """Why there is no TLS; "" if that is not what is wrong."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f": {_certificate_failure(error, mqtt)}"
    if not isinstance(error, ssl.SSLError | ConnectionResetError):
        return ""
    reason = getattr(error, "reason", None) or error.strerror
    if "_ALERT_" in str(reason):
        return f" {_alert(str(reason))}"
    return (
        f": no TLS handshake ({reason}); is this the broker's TLS port, and does it want a client "
        "certificate?"
    )


def _certificate_failure(error: ssl.SSLCertVerificationError, mqtt: MqttTable) -> str:
    code = error.verify_code
    if code in _WRONG_HOST:
        return (
            f"the broker's certificate is not for {mqtt.host}; set [mqtt] host to a name "
            "that is in the certificate"
        )
    if code == _EXPIRED:
        return "the broker's certificate has expired; renew it, or check this clock"
    if code == _NOT_YET_VALID:
        return "the broker's certificate is not valid yet; is this computer's clock right?"
    ca_file = mqtt.tls.ca_file if mqtt.tls else None
    trusted = f"by {ca_file}" if ca_file else "by this system"
    return (
        f"the broker's certificate is not trusted {trusted} ({error.verify_message}); "
        "set [mqtt.tls] ca_file to the CA that signed it"
    )


def _alert(reason: str) -> str:
    """What the broker has against this client, by the alert that it ended the handshake with."""
    if "CERTIFICATE_REQUIRED" in reason:
        return "wants a client certificate; set [mqtt.tls] cert_file and key_file"
    if any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA")):
        return (
            f"does not accept this client's certificate ({reason}); is [mqtt.tls] cert_file "
            "signed by a CA that the broker trusts, and not expired?"
        )
    return (
        f"ends the TLS handshake ({reason}); is this the broker's TLS port, and does it want a "
        "client certificate?"
    )


def no_answer(mqtt: MqttTable) -> str:
    """The connection came about, and nothing else."""
    return (
        f"{mqtt.address} accepts the connection and does not answer; is it an MQTT broker, and "
        'does it run? (amqtt needs protocol = "3.1.1")'
    )


def closed_early(mqtt: MqttTable) -> str:
    """The connection was closed instead of an answer to the login."""
    question = (
        "does it want a client certificate?"
        if mqtt.tls
        else "is this the port of an MQTT broker, and without TLS?"
    )
    return f"{mqtt.address} closes the connection before it answers; {question}"


def refusal(reason: Reason, mqtt: MqttTable) -> str:
    """Why the broker refused the login."""
    where = mqtt.address
    if reason.code in (BAD_LOGIN, NOT_AUTHORIZED):
        who = f'the user "{mqtt.username}"' if mqtt.username else "a client without a user name"
        return (
            f"{where} refuses {who}: {reason}; check [mqtt] username and the password, "
            "and the broker's password file"
        )
    if reason.code == BAD_CLIENT_ID:
        return f"{where} refuses the client id; does the broker restrict client ids?"
    return f"{where} refuses the connection: {reason}"
