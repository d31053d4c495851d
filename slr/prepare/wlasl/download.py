"""One address → one file, by plain http or https, continuing an earlier attempt."""

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

from slr.core.errors import UserError
from slr.core.files import write_whole
from slr.prepare.wlasl.urls import Failure, Refused, reachable, web

AGENT = "Mozilla/5.0 (compatible; slr data preparation)"
MOST_REDIRECTS = 5
CHUNK = 1 << 16  # bytes
FORBIDDEN = (401, 402, 403, 451)
FREE_SPACE = "free space and run the same command again"


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How the network is asked, and when an answer is given up."""

    pause: float = 1.0  # seconds between two requests to one host
    per_host: int = 2  # requests to one host at a time
    attempts: int = 4  # for what can pass
    backoff: float = 2.0  # seconds before the second attempt, twice that before the third …
    longest_wait: float = 120.0  # seconds; a host that asks for more is asked again after these
    park_after: int = 5  # addresses in a row that all attempts failed for: the host is left alone
    timeout: float = 20.0  # seconds without a byte
    slowest: float = 4096.0  # bytes a second, over `window` seconds
    window: float = 30.0
    largest: int = 512 * 1024**2  # bytes
    allow_private: bool = False  # addresses inside one's own network


class _Part:
    """The bytes received so far, and a note which version of the file they belong to."""

    def __init__(self, target: Path, address: str) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")
        self.address = address
        self.validator: str | None = None  # ETag or date, to continue only the same file
        self.total: int | None = None  # bytes
        with suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if note["address"] == address:
                self.validator, self.total = note["validator"], note["total"]
                return
        self.path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def keep(self, headers: Message, total: int | None) -> None:
        etag = headers.get("ETag", "")
        self.validator = etag if etag.startswith('"') else headers.get("Last-Modified")  # weak tags prove nothing
        self.total = total
        note = {"address": self.address, "validator": self.validator, "total": total}
        write_whole(self.note, json.dumps(note) + "\n")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def download(address: str, target: Path, policy: FetchPolicy, stop: threading.Event) -> None:
    """Download `address` into `target` in one attempt; a part stays beside it for the next attempt.

    Raises:
        Failure: it gave no file, or not all of it.
        UserError: the file cannot be written.
    """
    part = _Part(target, address)
    try:
        _attempt(part, policy, stop)
        with _writing(target.parent):
            part.note.unlink(missing_ok=True)  # first: nobody looks at a note again whose file has its name
            part.path.replace(target)
    except Failure as failure:
        if not failure.passing:
            part.drop()
        raise
    except ssl.SSLCertVerificationError as error:
        raise Failure("certificate", f"its certificate is not valid: {error.verify_message}") from None
    except TimeoutError:
        raise Failure("timeout", f"no answer, or nothing for {policy.timeout:g} seconds", passing=True) from None
    except (socket.gaierror, ConnectionRefusedError) as error:
        raise Failure("unreachable", f"no connection: {error.strerror}", passing=True) from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise Failure("cut_off", f"the connection broke: {error or type(error).__name__}", passing=True) from None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tell a full disk from a broken connection: both are OSErrors."""
    try:
        yield
    except OSError as error:
        raise UserError(f"expected to write downloads to {folder}, found: {error}; {FREE_SPACE}") from None


def _attempt(part: _Part, policy: FetchPolicy, stop: threading.Event) -> None:
    address, location = part.address, ""
    for redirects in range(MOST_REDIRECTS + 1):
        try:
            address = urljoin(address, location) if redirects else address
            with _asked(address, part, policy) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    return _take(answer, part, policy, stop)
                location = answer.headers.get("Location", "")
        except (Refused, ValueError) as refused:
            if redirects == 0:
                raise
            raise Failure("bad_redirect", f"it redirects to a refused address: {refused}") from None
    raise Failure("bad_redirect", f"it redirects more than {MOST_REDIRECTS} times")


def _take(answer: http.client.HTTPResponse, part: _Part, policy: FetchPolicy, stop: threading.Event) -> None:
    if answer.status == 416 and part.size and part.size == part.total:
        return  # an earlier attempt got everything but the end of the connection
    if answer.status not in (200, 206):
        if answer.status == 416:
            part.drop()
        raise _refusal(answer, policy)
    whole = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    continues = answer.status == 206 and whole and int(whole[1]) == part.size
    total = _number(whole[2] if continues and whole else answer.headers.get("Content-Length"))
    if answer.status == 206 and not (continues and part.total in (None, total)):
        part.drop()
        raise Failure("cut_off", "it continued another file, or elsewhere than it was asked to", passing=True)
    if total is not None and total > policy.largest:
        raise Failure("too_large", f"it has {total} bytes, at most {policy.largest} are taken")
    with _writing(part.path.parent):
        if not continues:
            part.path.unlink(missing_ok=True)  # before the note says that what is there is a part of another file
        part.keep(answer.headers, total)
        file = part.path.open("ab" if continues else "wb")
    with file:
        _copy(answer, file, policy, stop)
    if part.size == 0:
        raise Failure("cut_off", "the answer was empty", passing=True)
    if total is not None and part.size != total:
        raise Failure("cut_off", f"the connection ended after {part.size} of {total} bytes", passing=True)


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, policy: FetchPolicy, stop: threading.Event) -> None:
    since, came = time.monotonic(), 0
    while chunk := answer.read1(CHUNK):
        with _writing(Path(file.name).parent):
            file.write(chunk)
            file.flush()
        came += len(chunk)
        if file.tell() > policy.largest:
            raise Failure("too_large", f"it goes on after {policy.largest} bytes")
        if stop.is_set():
            raise Failure("stopped", "preparation was stopped", passing=True)
        spent = time.monotonic() - since
        if spent >= policy.window:
            if came / spent < policy.slowest:
                raise Failure("too_slow", f"{came / spent:.0f} bytes a second came", passing=True)
            since, came = time.monotonic(), 0


def _refusal(answer: http.client.HTTPResponse, policy: FetchPolicy) -> Failure:
    status, text = answer.status, f"{answer.status} {answer.reason}"
    if status in (429, 503):
        wait = min(_number(answer.headers.get("Retry-After")) or 0, policy.longest_wait)
        return Failure("rate_limited" if status == 429 else "server_error", text, passing=True, wait=wait)
    if status >= 500 or status in (408, 416, 425):
        return Failure("server_error", text, passing=True)
    return Failure("gone" if status in (404, 410) else "forbidden" if status in FORBIDDEN else "bad_answer", text)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


@contextmanager
def _asked(address: str, part: _Part, policy: FetchPolicy) -> Iterator[http.client.HTTPResponse]:
    """The answer to one request, from the network address that was checked."""
    scheme, name, port, target = web(address)
    connected = socket.create_connection((reachable(name, port, policy.allow_private), port), policy.timeout)
    if scheme == "https":
        connected = ssl.create_default_context().wrap_socket(connected, server_hostname=name)

    def hang_up() -> None:
        with suppress(OSError):  # it may be over
            connected.shutdown(socket.SHUT_RDWR)

    with closing(http.client.HTTPConnection(name, port)) as connection:
        connection.sock, connection.default_port = connected, 443 if scheme == "https" else 80
        # The head may come a byte at a time but has a deadline; one that ends in the middle reads like a short one.
        limit = policy.timeout + policy.window
        deadline, clock = time.monotonic() + limit, threading.Timer(limit, hang_up)
        clock.start()
        try:
            connection.request("GET", target, headers=_headers(address, part))
            answer = connection.getresponse()
        finally:
            clock.cancel()
        with closing(answer):
            if time.monotonic() >= deadline:
                raise TimeoutError
            yield answer


def _headers(address: str, part: _Part) -> dict[str, str]:
    headers = {"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}
    headers["Referer"] = urljoin(address, "/")  # some hosts serve videos to their own pages only
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    return headers
