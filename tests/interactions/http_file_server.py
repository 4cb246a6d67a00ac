"""A server of one file on 127.0.0.1 that can be told to misbehave, request by request."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """``script`` says what each request gets, in order; afterwards the whole file is served.

    An entry is a status code; ``("cut", n)``: close after n bytes of what was asked for; ``("stall", n)``:
    send n bytes and then nothing; ``"ignore range"``; ``"no length"``; ``"wrong range"``.
    """

    body: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = "Mon, 01 Jan 2024 00:00:00 GMT"
    script: list[object] = field(default_factory=list)
    requests: list[Message] = field(default_factory=list)
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def ranges(self) -> list[str | None]:
        return [headers["Range"] for headers in self.requests]


@contextlib.contextmanager
def serving(server: FileServer) -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            step = server.script.pop(0) if server.script else "whole"
            server.requests.append(self.headers)
            # A client that gave up has closed the connection.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.answer(step)

        def answer(self, step: object) -> None:
            if isinstance(step, int):
                self.send_error(step)
                return
            start = 0
            asked = self.headers["Range"]
            fresh = self.headers["If-Range"] in (server.etag, server.last_modified)
            if asked and fresh and step != "ignore range":
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(server.body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(server.body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if step == "wrong range":
                    start += 1
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
            else:
                self.send_response(200)
            content = server.body[start:]
            if step != "no length":
                self.send_header("Content-Length", str(len(content)))
            if server.etag:
                self.send_header("ETag", server.etag)
            if server.last_modified:
                self.send_header("Last-Modified", server.last_modified)
            self.end_headers()
            action, count = step if isinstance(step, tuple) else ("send", len(content))
            self.wfile.write(content[:count])
            self.wfile.flush()
            if action == "stall":
                server.released.wait(30)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/archive.zip"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            http.shutdown()
            thread.join()
