"""TLS and login: first as the node makes them, then in other ways to find out why they fail."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator

from node.config.certificates import ends_soon
from node.doctor.broker import TEST_PAYLOAD, Broker, LoggedIn, LoginRefused
from node.doctor.packets import NotMqtt, Will, WireError
from node.doctor.report import Step, failed
from node.doctor.wire import Closed, NoAnswer
from node.mqtt.errors import closed_early, connect_failure, no_answer, refusal
from node.mqtt.reasons import REFERRALS, SERVER_MOVED, UNSUPPORTED_VERSION

__all__ = ["WILL_TOPIC", "LoginSteps"]

WILL_TOPIC = "will"
"""Below the scratch topic."""


class LoginSteps:
    """Logs in as the node does: with a will, and in the version that it would use."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._mqtt = broker.mqtt
        self.made: LoggedIn | None = None
        self.is_sent_on = False
        """Whether the broker has sent the doctor to another server, where to try again."""

    def steps(self, sock: socket.socket) -> Iterator[Step]:
        """Yield the steps TLS and login on a connected socket; `made` is the login."""
        versions = {"auto": (5, 4), "5": (5,), "3.1.1": (4,)}[self._mqtt.protocol]
        for version in versions:
            self._broker.version = version
            is_last = version == versions[-1]
            try:
                first = version == versions[0]
                secured = self._broker.secure(sock if first else self._broker.connect())
            except (OSError, ValueError) as error:
                yield self._no_handshake(error)
                return
            try:
                self.made = self._broker.log_in(secured, will=self._will)
            except LoginRefused as error:
                if not is_last and error.reason.code == UNSUPPORTED_VERSION:
                    continue
                yield self._tls_step()
                yield self._refused(error)
                return
            except Closed:
                if not is_last:  # a broker without MQTT 5 may do that
                    continue
                yield from self._closed()
                return
            except (WireError, OSError) as error:
                yield from self._no_login(error)
                return
            yield self._tls_step()
            yield self._login_step()
            return

    def _refused(self, error: LoginRefused) -> Step:
        if error.reason.code in REFERRALS:
            return self._sent_on(error)
        if self._mqtt.client_id is None:
            return failed("login", refusal(error.reason, self._mqtt))
        return Step(
            "login",
            "failed",
            f"{self._mqtt.address} refuses the doctor: {error.reason}",
            "the doctor has client ids of its own (sndoctor...), because that of the node would "
            "disconnect the node; if the broker allows only that one, see sensor-node status",
        )

    def _sent_on(self, error: LoginRefused) -> Step:
        here = self._mqtt.address
        why_not = self._broker.referrals.follow(error.reason.code, error.server_reference)
        if why_not:
            remedy = "if that is right, list the server in [mqtt] servers, or set [mqtt] host"
            return Step("login", "failed", f"{here} {why_not}", remedy)
        self.is_sent_on = True
        there = self._broker.mqtt.address
        if error.reason.code == SERVER_MOVED:
            remedy = f"set [mqtt] host and port to {there}"
            return Step("login", "warning", f"{here} has moved to {there}", remedy)
        return Step("login", "ok", f"{here} sends this node to {there} for now")

    @property
    def _will(self) -> Will:
        return Will(f"{self._broker.scratch}/{WILL_TOPIC}", TEST_PAYLOAD)

    def _tls_step(self) -> Step:
        if self._mqtt.tls is None:
            return Step("TLS", "skipped", "[mqtt.tls] is not configured")
        by = self._mqtt.tls.ca_file or "this system"
        if soon := ends_soon(self._broker.certificate_ends_s, time.time()):
            return Step("TLS", "warning", f"the broker's certificate {soon}", "renew it there")
        name = self._mqtt.tls.server_name or self._mqtt.host
        return Step("TLS", "ok", f"the certificate is for {name}, and trusted by {by}")

    def _login_step(self) -> Step:
        who = f'the user "{self._mqtt.username}"' if self._mqtt.username else "no user name"
        text = "5" if self._broker.version == 5 else "3.1.1"
        return Step("login", "ok", f"accepted with {who}, MQTT {text}")

    def _no_handshake(self, error: Exception) -> Step:
        where = self._mqtt.address
        certificate = isinstance(error, ssl.SSLError) and "CERTIFICATE" in str(error.reason)
        if not certificate and self._broker.speaks_plain_mqtt():
            return Step(
                "TLS",
                "failed",
                f"{where} is not a TLS port: it speaks MQTT without TLS",
                "set [mqtt] port to the broker's TLS port (often 8883), or leave out [mqtt.tls]",
            )
        if isinstance(error, TimeoutError):
            return failed("TLS", no_answer(self._mqtt))
        return failed("TLS", connect_failure(error, self._mqtt))

    def _closed(self) -> Iterator[Step]:
        """Yield the step for a broker that ended the connection without a CONNACK."""
        if self._mqtt.tls is None and self._broker.speaks_tls():
            yield self._needs_tls()
            return
        yield self._tls_step()
        yield failed("login", closed_early(self._mqtt))

    def _needs_tls(self) -> Step:
        return Step(
            "TLS",
            "failed",
            f"{self._mqtt.address} is a TLS port, but [mqtt.tls] is not configured",
            "add [mqtt.tls] to the configuration, or set [mqtt] port to the one without TLS",
        )

    def _no_login(self, error: WireError | OSError) -> Iterator[Step]:
        """Yield the steps for a CONNACK that is missing for another reason."""
        where = self._mqtt.address
        if isinstance(error, NotMqtt):
            if self._mqtt.tls is None and self._broker.speaks_tls():
                yield self._needs_tls()
                return
            yield self._tls_step()
            remedy = "is [mqtt] port the MQTT port? WebSockets have a different one"
            yield Step("login", "failed", f"{where} answers with {error}: not MQTT", remedy)
        elif isinstance(error, NoAnswer):
            yield self._tls_step()
            yield failed("login", no_answer(self._mqtt))
        else:
            # With TLS 1.3 the broker reports its objection to our certificate only here.
            assert isinstance(error, OSError)
            yield failed("TLS", connect_failure(error, self._mqtt))
