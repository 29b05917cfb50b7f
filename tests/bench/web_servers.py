"""HTTP servers that the status page could stand on, each with the same page of 60 kB, in one run.

    tests/.venv/bin/python tests/bench/web_servers.py

Makes an environment of its own with all of them (from PyPI, in $TMPDIR), and prints for each: the
memory of a process that has answered, beyond that of Python alone; processor time and time from
its start to its first answer; requests a second on one connection; wake-ups a second without any
request; and whether a hundred clients that never end their request keep another one waiting.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from process_meter import read_counters

__all__ = ["main"]

_PAGE = "page = b'x' * 60_000\n"
_WSGI = (
    _PAGE
    + """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "60000")])
    return [page]
"""
)
_SERVERS = {
    "waitress": _WSGI + "import waitress\n"
    "waitress.serve(app, host='127.0.0.1', port=PORT, threads=2, connection_limit=300,\n"
    "               asyncore_use_poll=True)",
    "cheroot": _WSGI + "from cheroot.wsgi import Server\n"
    "Server(('127.0.0.1', PORT), app, numthreads=2, request_queue_size=100).start()",
    "tornado": _PAGE
    + """
import asyncio, tornado.httpserver, tornado.web
class Page(tornado.web.RequestHandler):
    def get(self):
        self.finish(page)
async def main():
    app = tornado.web.Application([("/", Page)])
    tornado.httpserver.HTTPServer(app).listen(PORT, "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
""",
    "aiohttp": _PAGE
    + """
from aiohttp import web
async def answer(request):
    return web.Response(body=page, content_type="text/html")
app = web.Application()
app.add_routes([web.get("/", answer)])
web.run_app(app, host="127.0.0.1", port=PORT, print=None)
""",
    "uvicorn + starlette": _PAGE
    + """
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def answer(request):
    return Response(page, media_type="text/html")
uvicorn.run(Starlette(routes=[Route("/", answer)]), host="127.0.0.1", port=PORT,
            log_level="error", loop="asyncio", http="h11")
""",
}
_PACKAGES = ("waitress", "cheroot", "tornado", "aiohttp", "uvicorn", "starlette")
_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_TIMES = 5
_IDLE_S = 10.0
_PATIENCE_S = 5.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sensor-node-servers-") as folder:
        print("installing ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = str(Path(folder, "bin", "python"))
        pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *_PACKAGES], check=True)
        bare_kb = _bare_kb(python)
        print(f"{'server':20} {'memory':>8} {'CPU':>7} {'start':>7} {'req/s':>7} {'idle':>6}  slow")
        for name, program in _SERVERS.items():
            figures = [_measure(python, program, bare_kb) for _ in range(_TIMES)]
            memory_mb, cpu_ms, start_ms, rate = map(statistics.median, zip(*figures, strict=True))
            idle, slow = _idle_and_slow(python, program)
            print(
                f"{name:20} {memory_mb:5.1f} MB {cpu_ms:4.0f} ms {start_ms:4.0f} ms {rate:7.0f} "
                f"{idle:4.1f}/s  {slow}"
            )
    return 0


def _bare_kb(python: str) -> int:
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [python, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bare:
        assert bare.stdout is not None
        bare.stdout.readline()
        rss_kb = read_counters(bare.pid).rss_kb
        bare.communicate()
    return rss_kb


def _start(python: str, program: str) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return subprocess.Popen([python, "-c", program.replace("PORT", str(port))]), port


def _connect(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        except ConnectionRefusedError:
            time.sleep(0.001)


def _ask(connection: socket.socket) -> None:
    connection.sendall(_REQUEST)
    received = b""
    while len(received) - max(0, received.find(b"\r\n\r\n") + 4) < 60_000:
        content = connection.recv(65536)
        if not content:
            raise ConnectionError("closed")
        received += content


def _measure(python: str, program: str, bare_kb: int) -> tuple[float, float, float, float]:
    began_s = time.monotonic()
    process, port = _start(python, program)
    try:
        with _connect(port) as connection:
            _ask(connection)
            start_s = time.monotonic() - began_s
            cpu_s = read_counters(process.pid).cpu_s
            began_s = time.monotonic()
            for _ in range(500):
                _ask(connection)
            rate = 500 / (time.monotonic() - began_s)
        rss_kb = read_counters(process.pid).rss_kb
    finally:
        process.kill()
        process.wait()
    return (rss_kb - bare_kb) / 1024, cpu_s * 1000, start_s * 1000, rate


def _idle_and_slow(python: str, program: str) -> tuple[float, str]:
    process, port = _start(python, program)
    slow: list[socket.socket] = []
    try:
        with _connect(port) as connection:
            _ask(connection)
        time.sleep(0.5)
        before = read_counters(process.pid).wakeups
        time.sleep(_IDLE_S)
        idle = (read_counters(process.pid).wakeups - before) / _IDLE_S
        for _ in range(100):
            connection = _connect(port)
            connection.sendall(_REQUEST[:-2])
            slow.append(connection)
        began_s = time.monotonic()
        try:
            with _connect(port) as connection:
                _ask(connection)
            verdict = f"answers in {(time.monotonic() - began_s) * 1000:.0f} ms"
        except OSError:
            verdict = f"nothing in {_PATIENCE_S:.0f} s"
    finally:
        for connection in slow:
            connection.close()
        process.kill()
        process.wait()
    return idle, verdict


if __name__ == "__main__":
    sys.exit(main())
