"""A loopback web server that misbehaves as asked; every server is a host of its own, by its port."""

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

PIECE = 8192  # bytes


class Server:
    """Serves `files` (path → content) in one manner, and keeps what it was asked for.

    Manners: plain, unmarked (no ETag), drip (in small pieces), gone, forbidden, limited (429, then fine), broken
    (503 for ever), stall, stall_once, cut (the first two answers end in the middle), replaced (cut, and then it is
    another file), page, stub, endless, slow (1 kB a second), trickle (a head
    that does not end), empty, refused (501), and redirect, to `place`.
    """

    def __init__(self, manner: str = "plain", files: dict[str, bytes] | None = None, place: str = "") -> None:
        self.manner, self.files, self.place = manner, files or {}, place
        self.asked: list[tuple[str, str]] = []  # path and Range
        self.whole: list[str] = []  # paths that went out to the last byte
        self.over = threading.Event()
        self._server = _Listener(self)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Listener(ThreadingHTTPServer):
    """Listens for its owner."""

    daemon_threads = True

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request as its server's `owner` is meant to."""

    server: "_Listener"
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        times = sum(path == self.path for path, _ in self.server.owner.asked)
        self.server.owner.asked.append((self.path, self.headers.get("Range", "")))
        self.close_connection = True
        manner = self.server.owner.manner
        status = {"gone": 404, "forbidden": 403, "broken": 503, "refused": 501}.get(manner)
        if manner == "limited" and times == 0:
            status = 429
        if manner == "redirect":
            status = 302
        if status:
            self.send_response(status)
            self.send_header("Location", self.server.owner.place)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif manner == "endless":
            self._endless()
        elif manner == "trickle":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not self.server.owner.over.wait(0.05):
                self.wfile.write(b"x")
        else:
            self._content(manner, times)

    def _content(self, manner: str, times: int) -> None:
        content = self.server.owner.files.get(self.path, b"") if manner != "empty" else b""
        if manner == "page":
            content = b"<!DOCTYPE html><html><body>" + self.path.encode() * 20
        elif manner == "stub":
            content = b"<html><head><title>Object moved</title></head></html>" * 2
        elif manner == "replaced" and times > 0:
            content = content[::-1]
        tag = f'"{hash(content)}"'
        start = self._start(content, tag)
        if start is None:
            return
        stop = len(content)
        if (manner in ("cut", "unmarked") and times < 2) or (manner == "replaced" and times == 0):
            stop = start + (stop - start) // 2
        if manner == "stall" or (manner == "stall_once" and times == 0):
            stop = start + (stop - start) // 3
        self._send(content[start:stop], manner)
        if stop == len(content):
            self.server.owner.whole.append(self.path)
        elif manner.startswith("stall"):
            self.server.owner.over.wait(10)

    def _start(self, content: bytes, tag: str) -> int | None:
        """Send the head; where the body begins, None where there is none."""
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") in (None, tag)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.owner.manner != "unmarked":
            self.send_header("ETag", tag)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        return start

    def _send(self, content: bytes, manner: str) -> None:
        piece, pause = {"slow": (50, 0.05), "drip": (PIECE, 0.002)}.get(manner, (1 << 20, 0.0))
        for place in range(0, len(content), piece):
            self.wfile.write(content[place : place + piece])
            if pause and self.server.owner.over.wait(pause):
                return

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.owner.over.is_set():
            self.wfile.write(bytes(1 << 16))
