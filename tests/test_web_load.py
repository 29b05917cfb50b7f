"""The status page under what a network may do to it: slow, many, malformed, huge, half-closed.

Each time others are answered meanwhile, and memory is that of before, give or take a bound.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import wait_until
from web_log import make_log
from web_support import WebProcess

from node.web.server import MAX_CONNECTIONS, REQUEST_WITHIN_S, TAKE_WITHIN_S

pytestmark = pytest.mark.real_time

MORE_MB = 25.0
"""How much more memory it may have afterwards: what 250 answers take that nobody fetches."""


AT_REST = 8
"""Open files of a page that nobody asks anything."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A page over a log of ten sensors; it is warm, and lives on from test to test."""
    folder = tmp_path_factory.mktemp("web")
    make_log(folder / "state", sensors=10, hours=12)
    page = WebProcess(folder / "state")
    for _ in range(10):
        page.get("/?span=day")
        page.get("/export.csv?since=4h")
    wait_until(lambda: descriptors(page) <= AT_REST)
    try:
        yield page
        assert page.process.poll() is None, page.log
        assert "Traceback" not in page.log
        assert page.stop() == 0
    finally:
        page.kill()


@pytest.fixture(autouse=True)
def memory_stays(web: WebProcess) -> Iterator[None]:
    before_mb = web.rss_mb
    yield
    after_mb = web.rss_mb
    assert after_mb < before_mb + MORE_MB, f"{before_mb:.1f} MB, then {after_mb:.1f}"
    assert web.get("/").code == 200


def connect(web: WebProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", web.port), 20)


def answers_in_s(web: WebProcess) -> float:
    began_s = time.monotonic()
    assert web.get("/api/v1/now").code == 200
    return time.monotonic() - began_s


@pytest.mark.real_time(seconds=20)
def test_a_hundred_clients_that_never_finish_their_request_keep_nobody_waiting(web):
    """A byte each second: others are answered, and the slow ones are cut off after a while."""
    slow = [connect(web) for _ in range(100)]
    began_s = time.monotonic()
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    ended = 0
    while ended < 100 and time.monotonic() < began_s + REQUEST_WITHIN_S + 15:
        assert answers_in_s(web) < 5
        time.sleep(1)
        for connection in list(slow):
            try:
                connection.sendall(b"x")
                connection.setblocking(False)
                if connection.recv(1) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                connection.setblocking(True)
            except OSError:
                ended += 1
                slow.remove(connection)
                connection.close()
    assert ended == 100, "a byte now and then does not keep a connection"
    assert time.monotonic() - began_s >= REQUEST_WITHIN_S - 1


def test_connections_beyond_the_bound_wait_and_are_served_when_there_is_room(web):
    idle = [connect(web) for _ in range(MAX_CONNECTIONS + 20)]
    time.sleep(0.2)
    assert descriptors(web) < MAX_CONNECTIONS + 30
    for connection in idle:
        connection.close()
    assert answers_in_s(web) < 10


@pytest.mark.real_time(seconds=20)
def test_who_holds_all_connections_and_comes_again_keeps_nobody_out(web):
    """More than there may be, each with a request that does not end, opened anew when closed."""
    done = threading.Event()

    def hold() -> None:
        held: list[socket.socket] = []
        while not done.is_set():
            while len(held) < MAX_CONNECTIONS + 50 and not done.is_set():
                connection = connect(web)
                connection.sendall(b"GET /")
                connection.setblocking(False)
                held.append(connection)
            for connection in list(held):
                try:
                    connection.recv(1)  # it is the end: nothing was asked yet
                except BlockingIOError:
                    continue
                except OSError:
                    pass
                held.remove(connection)
                connection.close()
            done.wait(0.05)
        for connection in held:
            connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        wait_until(lambda: descriptors(web) > MAX_CONNECTIONS - 20)
        for _ in range(20):
            assert answers_in_s(web) < 5
    finally:
        done.set()
        thread.join()


@pytest.mark.real_time(seconds=25)
def test_ten_thousand_requests_on_many_connections(web):
    """All are answered, and in between somebody who only wants one answer gets it."""
    codes: list[int] = []
    paths = ("/api/v1/node", "/healthz", "/nothing", "/page.css", "/api/v1/sensors/s1")

    def ask(count: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        for number in range(count):
            connection.request("GET", paths[number % len(paths)])
            answer = connection.getresponse()
            answer.read()
            codes.append(answer.status)
        connection.close()

    threads = [threading.Thread(target=ask, args=(500,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    slowest_s = 0.0
    while any(thread.is_alive() for thread in threads):
        slowest_s = max(slowest_s, answers_in_s(web))
    for thread in threads:
        thread.join()
    assert len(codes) == 10_000
    assert set(codes) == {200, 404, 503}
    assert slowest_s < 10


MALFORMED = (
    b"\r\n\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"\x00\xff\xfe" * 50 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\n folded: yes\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\nTransfer-Encoding: x, chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET \\..\\x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /\xe2\x82 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /?%%%00%zz&&&=&a=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


@pytest.mark.parametrize("content", MALFORMED)
def test_what_is_no_request_is_refused_or_answered_and_costs_nothing(web, content):
    received = web.raw(content, shut=True)
    assert b"Traceback" not in received
    if received:
        code = int(received.split()[1])
        assert code in (200, 400, 404, 405, 413, 421, 431, 501, 505), received[:200]


def test_huge_headers_lines_bodies_and_queries_are_refused(web):
    start = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    for huge in (
        start + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        start + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
        start + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /?" + b"q" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
    ):
        received = web.raw(huge)
        assert received == b"" or b" 431 " in received[:30]
    assert b" 413 " in web.raw(start + b"Content-Length: 99999999999\r\n\r\n")[:30]
    many = "&".join(f"a{number}=1" for number in range(500))
    assert web.get(f"/?{many}").code == 400
    assert web.get("/?page=" + "9" * 5000).code == 400
    assert web.get("/sensor/" + "x" * 8000).code == 404


def test_requests_in_one_packet_are_answered_in_order(web):
    asked = [b"/healthz", b"/nothing", b"/api/v1/node"] * 4
    packet = b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n" for path in asked)
    last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    received = web.raw(packet + last)
    codes = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
    assert codes == [503, 404, 200] * 4 + [200]


def descriptors(web: WebProcess) -> int:
    return len(list(Path(f"/proc/{web.process.pid}/fd").iterdir()))


def lazy_client(web: WebProcess, packet: bytes) -> socket.socket:
    """A client that asks, and takes nothing of the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", web.port))
    connection.sendall(packet)
    return connection


@pytest.mark.real_time(seconds=20)
def test_who_asks_much_at_once_and_takes_nothing_holds_no_thread(web):
    """More answers in one packet than the kernel keeps: such a client is cut off."""
    wait_until(lambda: descriptors(web) <= AT_REST, seconds=40)
    greedy = [
        lazy_client(web, b"GET /?span=day HTTP/1.1\r\nHost: localhost\r\n\r\n" * 170)
        for _ in range(4)
    ]
    wait_until(lambda: descriptors(web) >= AT_REST + 3)
    deadline_s = time.monotonic() + 60
    while descriptors(web) > AT_REST + 1 and time.monotonic() < deadline_s:
        assert answers_in_s(web) < 10
        time.sleep(0.1)
    assert descriptors(web) <= AT_REST + 1, "they are cut off, and not by themselves"
    for connection in greedy:
        connection.close()


@pytest.mark.real_time(seconds=30)
def test_exports_that_nobody_takes_are_few_and_end(web):
    """Two at a time; a third is told to come again, and those that stand still are cut off."""
    request = b"GET /export.csv HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lazy = [lazy_client(web, request) for _ in range(2)]

    def third() -> int:
        assert answers_in_s(web) < 5
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)
        try:
            connection.request("HEAD", "/export.csv")
            return connection.getresponse().status
        finally:
            connection.close()

    wait_until(lambda: third() == 503, seconds=TAKE_WITHIN_S, what="both have begun")
    wait_until(lambda: third() == 200, seconds=TAKE_WITHIN_S + 15)
    for connection in lazy:
        connection.close()


def test_half_closed_and_broken_connections_are_answered_or_forgotten(web):
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    web.raw(request, shut=True)
    for cut in range(0, len(request), 5):
        with connect(web) as connection:
            connection.sendall(request[:cut])
    for _ in range(50):
        connection = connect(web)
        connection.sendall(b"GET /?span=day HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # A reset, in the midst of the answer.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.close()

    wait_until(lambda: descriptors(web) < 30, seconds=40)
