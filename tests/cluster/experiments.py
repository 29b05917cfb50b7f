"""What a cluster does with retained messages, wills, sessions and acknowledgements: by trying.

Each experiment is a question with its answer as seen. They use the brokers' own addresses, not the
balancer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from brokers import Broker, RabbitMQ
from clients import ANSWER_WITHIN_S, Client

__all__ = ["experiments"]

Answers = Iterator[tuple[str, str]]
_SEPARATE = 60


def experiments(brokers: list[Broker], say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Try everything; broker 1 is killed and cut off meanwhile."""
    found = []
    trial = _Trial(brokers)
    for experiment in (
        trial.announced,
        trial.retained,
        trial.wills,
        trial.expiry,
        trial.sharing,
        trial.take_over,
        trial.will_of_a_broker_that_dies,
        trial.sessions,
        trial.retained_after_a_kill,
        trial.without_a_majority,
    ):
        try:
            for question, answer in experiment():
                say(f"  {question:{_SEPARATE}} {answer}")
                found.append((question, answer))
        except (ConnectionError, OSError) as error:
            say(f"  {experiment.__name__}: {error!r}")
            found.append((experiment.__name__, repr(error)))
    return found


def _yes(whether: object) -> str:
    return "yes" if whether else "no"


class _Trial:
    def __init__(self, brokers: list[Broker]) -> None:
        self._brokers = brokers
        self._mqtt_5 = brokers[0].mqtt_5

    def _client(self, number: int, **options: object) -> Client:
        address = self._brokers[number - 1].host.address
        return Client(address, mqtt_5=self._mqtt_5, **options)  # type: ignore[arg-type]

    def _gets(self, number: int, topic: str, subscription: str = "", within_s: float = 2.0) -> str:
        """What a new subscriber at a broker gets of what is retained."""
        client = self._client(number)
        client.subscribe(subscription or topic)
        found = client.wait_for(topic, within_s)
        client.close()
        return found[-1].decode() if found else "nothing"

    def _restart(self, *numbers: int) -> None:
        for number in numbers:
            self._brokers[number - 1].kill()
        for number in numbers:
            self._brokers[number - 1].start()
        for number in numbers:
            self._brokers[number - 1].wait_until_it_welcomes()

    def announced(self) -> Answers:
        client = self._client(1, keep_s=30 * 86_400, client_id="announced")
        told = ", ".join(f"{name} {value}" for name, value in sorted(client.told.items()))
        client.close()
        yield "what CONNACK says to a session of 30 days", told or "nothing (MQTT 3.1.1)"

    def retained(self) -> Answers:
        client = self._client(1)
        client.publish("kept/a", b"1", retain=True)
        time.sleep(1)
        yield "retained by broker1: a subscriber at broker1 gets it", self._gets(1, "kept/a")
        yield "... with a wildcard (kept/+)", self._gets(1, "kept/a", "kept/+")
        yield "... at broker2", self._gets(2, "kept/a")
        other = self._client(2)
        other.publish("kept/a", b"2", retain=True)
        time.sleep(1)
        yield "replaced by broker2 (2): a subscriber at broker1 gets", self._gets(1, "kept/a")
        other.publish("kept/a", b"", retain=True)
        time.sleep(1)
        yield "emptied by broker2: a subscriber at broker1 gets", self._gets(1, "kept/a")
        client.close()
        other.close()

    def retained_after_a_kill(self) -> Answers:
        client = self._client(1)
        client.publish("kept/b", b"1", retain=True)
        client.close()
        time.sleep(1)
        self._brokers[0].kill()
        yield (
            "retained by broker1, which is then killed: broker2 gives",
            self._gets(2, "kept/b", within_s=ANSWER_WITHIN_S),
        )
        self._brokers[0].start()
        self._brokers[0].wait_until_it_welcomes()
        yield "... broker1, once it runs again", self._gets(1, "kept/b")
        self._restart(1, 2, 3)
        yield "... broker1, after all three were killed", self._gets(1, "kept/b")
        client = self._client(1)
        client.publish("kept/b", b"2", retain=True)
        client.close()
        time.sleep(1)
        yield "... broker1, once it is retained there again (2)", self._gets(1, "kept/b")

    def wills(self) -> Answers:
        watcher = self._client(2)
        watcher.subscribe("will/+")
        self._client(1, will="will/a").drop()
        yield (
            "a client at broker1 is lost: broker2 sends its will",
            _yes(watcher.wait_for("will/a")),
        )
        time.sleep(1)
        kept = ", ".join(self._gets(number, "will/a") for number in (1, 2, 3))
        yield "... and the will is retained: broker1, 2 and 3 give", kept
        alive = self._client(1, will="will/e")
        alive.publish("will/e", b"online", retain=True)
        alive.drop()
        watcher.wait_for("will/e")
        time.sleep(1)
        kept = ", ".join(self._gets(number, "will/e") for number in (1, 2, 3))
        yield "... if the client had retained online there: they give", kept
        if self._mqtt_5:
            began_s = time.monotonic()
            self._client(1, will="will/b", will_delay_s=8, client_id="late", keep_s=60).drop()
            came = watcher.wait_for("will/b", ANSWER_WITHIN_S)
            after = f"after {time.monotonic() - began_s:.1f} s" if came else "never"
            yield "a will with a delay of 8 s comes", after
            began_s = time.monotonic()
            self._client(1, will="will/c", will_delay_s=8, client_id="back", keep_s=60).drop()
            back = self._client(3, client_id="back", keep_s=60)
            took = f", after {time.monotonic() - began_s:.1f} s"
            came = watcher.wait_for("will/c", 12)
            yield "... and does not, if the client is back at broker3 before", _yes(not came) + took
            back.close()
        watcher.close()

    def will_of_a_broker_that_dies(self) -> Answers:
        watcher = self._client(2)
        watcher.subscribe("will/+")
        client = self._client(1, will="will/d")
        self._brokers[0].kill()
        client.drop()
        came = watcher.wait_for("will/d", ANSWER_WITHIN_S)
        yield "broker1 is killed: broker2 sends the wills of its clients", _yes(came)
        self._brokers[0].start()
        self._brokers[0].wait_until_it_welcomes()
        came = watcher.wait_for("will/d", ANSWER_WITHIN_S)
        yield "... once broker1 runs again", _yes(came)
        watcher.close()

    def sessions(self) -> Answers:
        client = self._client(1, client_id="kept", keep_s=3600)
        client.subscribe("session/a")
        client.close()
        other = self._client(2)
        codes = {other.publish("session/a", str(n).encode()) for n in range(20)}
        other.close()
        yield "20 messages for a session that is away: PUBACK says", _codes(codes)
        self._brokers[0].kill()
        back = self._client(3, client_id="kept", keep_s=3600)
        back.subscribe("session/a")
        got = back.wait_for("session/a", ANSWER_WITHIN_S, count=20)
        yield (
            "broker1, where it began, is killed: broker3 has the session",
            _yes(back.session_present),
        )
        yield "... and gives its messages", f"{len(set(got))} of 20"
        back.close()
        self._brokers[0].start()
        self._brokers[0].wait_until_it_welcomes()
        again = self._client(2)
        for n in range(20):
            again.publish("session/a", str(n).encode())
        again.close()
        self._restart(1, 2, 3)
        back = self._client(1, client_id="kept", keep_s=3600)
        got = back.wait_for("session/a", ANSWER_WITHIN_S, count=20)
        yield (
            "all three are killed: 20 messages of a session that was away",
            f"{len(set(got))} of 20",
        )
        back.close()

    def expiry(self) -> Answers:
        if not self._mqtt_5:
            yield "message expiry, session expiry", "not in MQTT 3.1.1"
            return
        self._client(1, client_id="slow", keep_s=3600).close()
        slow = self._client(1, client_id="slow", keep_s=3600)
        slow.subscribe("expiry/a")
        slow.close()
        other = self._client(2)
        other.publish("expiry/a", b"old", expiry_s=2)
        other.publish("expiry/b", b"old", retain=True, expiry_s=2)
        other.close()
        time.sleep(4)
        slow = self._client(1, client_id="slow", keep_s=3600)
        came = slow.wait_for("expiry/a", 3)
        yield "a message of a session expires", _yes(not came)
        slow.close()
        yield "a retained message expires", _yes(self._gets(2, "expiry/b") == "nothing")
        self._client(1, client_id="short", keep_s=2).close()
        time.sleep(5)
        short = self._client(1, client_id="short", keep_s=2)
        yield "a session of 2 s is gone after 5 s", _yes(not short.session_present)
        short.close()

    def sharing(self) -> Answers:
        client = self._client(1)
        code = client.subscribe("$share/all/shared/+")
        yield "SUBACK for a shared subscription", "none" if code < 0 else f"0x{code:02x}"
        yield "... and the connection", "ends" if client.was_ended else "stays"
        if not client.was_ended:
            other = self._client(2)
            other.publish("shared/a", b"1")
            yield "... and a message for it comes", _yes(client.wait_for("shared/a"))
            other.close()
        client.drop()

    def take_over(self) -> Answers:
        first = self._client(1, client_id="twin")
        second = self._client(2, client_id="twin")
        time.sleep(2)
        yield (
            "a client id comes again, at broker2: the first connection ends",
            _yes(first.was_ended),
        )
        first.drop()
        second.drop()

    def without_a_majority(self) -> Answers:
        client = self._client(1, client_id="majority", keep_s=3600)
        client.subscribe("majority/a")
        client.close()
        one, *others = self._brokers
        one.host.lose([broker.host for broker in others])
        try:
            time.sleep(30)  # until it has noticed
            try:
                alone = self._client(1)
            except ConnectionError:
                yield "cut off from the others, broker1 accepts clients", "no"
                return
            yield "cut off from the others, broker1 accepts clients", "yes"
            code = alone.publish("majority/a", b"1")
            yield "... PUBACK for a message to a session", _codes({code})
            code = alone.publish("majority/nobody", b"1")
            yield "... PUBACK for a message that no one wants", _codes({code})
            code = alone.publish("majority/kept", b"1", retain=True)
            yield "... PUBACK for a retained message", _codes({code})
            code = alone.subscribe("majority/b")
            yield "... SUBACK", _codes({code})
            alone.drop()
            another = self._client(1)
            yield "... SUBACK at QoS 0", _codes({another.subscribe("majority/c", 0)})
            another.drop()
        finally:
            one.host.find([broker.host for broker in others])
        time.sleep(10)
        if isinstance(one, RabbitMQ):
            back = self._client(2, client_id="majority", keep_s=3600)
            yield (
                "... the message comes when the others are back",
                _yes(back.wait_for("majority/a", ANSWER_WITHIN_S)),
            )
            back.close()


def _codes(codes: set[int]) -> str:
    return ", ".join("none" if code < 0 else f"0x{code:02x}" for code in sorted(codes))
