#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A shop's service as small as it gets, which can be told to be slow, to fail and to hang.

    service.py HOST:PORT NAME

GET /pay            work, done by any instance
GET /healthz        what the agent's check asks
POST /slow?ms=N     answer /pay that much later from now on (0: at once)
POST /fail?on=1     answer /pay with 500 from now on (0: no more)
POST /hang?on=1     do not answer /pay from now on (0: answer those that wait, and all that come)

The check is answered at once whatever /pay does. That is on purpose: a service whose database is away often says that it is
well, and only those who call it know better.
"""

import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

address, name = sys.argv[1:3]
delay = 0.0
fails = False
goes_on = threading.Event()
goes_on.set()


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
        match urlsplit(self.path).path:
            case "/pay":
                time.sleep(delay)
                goes_on.wait()
                if fails:
                    self.answer(500, "failed")
                else:
                    self.answer(200, name)
            case "/healthz":
                self.answer(200, "ok")
            case _:
                self.answer(404, "not found")

    def do_POST(self) -> None:
        global delay, fails
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        match parts.path:
            case "/slow":
                delay = int(query["ms"][0]) / 1000
            case "/fail":
                fails = query["on"][0] == "1"
            case "/hang":
                if query["on"][0] == "1":
                    goes_on.clear()
                else:
                    goes_on.set()
            case _:
                self.answer(404, "not found")
                return
        self.answer(200, "ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away
            super().handle_error(request, client_address)


host, _, port = address.rpartition(":")
server = Server((host, int(port)), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print(f"{name} serves {address}", flush=True)
server.serve_forever()
