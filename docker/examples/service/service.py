#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A payment service as small as it gets: every instance takes requests, one at a time also runs the nightly job.

    service.py HOST:PORT NAME LEDGER

GET /pay            work, done by any instance
GET /healthz        what the agent's check asks
GET /job            the epoch under which the job runs here, or 0
POST /job?epoch=N   run the job under this epoch (0: stop); answered when it is so
POST /slow?ms=N     answer that much later from now on: for trying out what happens then

The job appends lines "epoch name count" to the ledger, and the ledger is guarded: under a lock it refuses an epoch older
than the newest it has seen. So an instance that was frozen and wakes up as a second runner is refused, not believed.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

address, name, ledger = sys.argv[1:4]
lock = threading.Lock()
epoch = 0
delay = 0.0


def append(mine: int, count: int) -> bool:
    with open(ledger, "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines = file.read().splitlines()
        if lines and int(lines[-1].split()[0]) > mine:
            return False
        file.write(f"{mine} {name} {count}\n")
        return True


def job() -> None:
    global epoch
    count = 0
    while True:
        with lock:
            if epoch:
                count += 1
                if not append(epoch, count):
                    epoch = 0
        time.sleep(0.02)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # an idle connection does not keep the service from ending

    def answer(self, status: int, text: str) -> None:
        body = (text + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        time.sleep(delay)
        match urlsplit(self.path).path:
            case "/pay":
                self.answer(200, name)
            case "/healthz":
                self.answer(200, "ok")
            case "/job":
                self.answer(200, str(epoch))
            case _:
                self.answer(404, "not found")

    def do_POST(self) -> None:
        global epoch, delay
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/job":
            with lock:  # not in the middle of a line
                epoch = int(query["epoch"][0])
            self.answer(200, str(epoch))
        elif parts.path == "/slow":
            delay = int(query["ms"][0]) / 1000
            self.answer(200, "ok")
        else:
            self.answer(404, "not found")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False  # what is being answered when it is told to end is answered

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away
            super().handle_error(request, client_address)


host, _, port = address.rpartition(":")
server = Server((host, int(port)), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
threading.Thread(target=job, daemon=True).start()
print(f"{name} serves {address}, process {os.getpid()}", flush=True)
server.serve_forever()
