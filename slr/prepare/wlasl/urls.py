"""Addresses of recordings: which are the same recording, and which may be asked for at all."""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, parse_qs, urlsplit

YOUTUBE_HOSTS = {"youtube.com", "www.youtube.com", "m.youtube.com", "youtu.be", "www.youtube-nocookie.com"}
VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")


class Failure(Exception):
    """An address that gave no file: a reason code, a detail, whether that can pass, and how long it asks to wait."""

    def __init__(self, reason: str, detail: str, passing: bool = False, wait: float = 0.0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.passing = passing
        self.wait = wait


class Refused(Failure):
    """An address that is not asked for."""


def distinct(address: str) -> str:
    """One spelling for the addresses of one recording.

    >>> distinct("https://youtu.be/0UsjUE-TXns?t=3"), distinct("https://www.youtube.com/watch?v=0UsjUE-TXns")
    ('https://www.youtube.com/watch?v=0UsjUE-TXns', 'https://www.youtube.com/watch?v=0UsjUE-TXns')
    >>> distinct("http://Example.org:80/a.mp4#t=3")
    'http://example.org/a.mp4'
    """
    video = youtube_id(address)
    if video is not None:
        return f"https://www.youtube.com/watch?v={video}"
    parts = _split(address)
    if parts is None:
        return address
    host = (parts.hostname or "") + (f":{parts.port}" if parts.port not in (None, 80, 443) else "")
    return parts._replace(scheme=parts.scheme.lower(), netloc=host, fragment="").geturl()


def youtube_id(address: str) -> str | None:
    """The id of a YouTube video, None for anything else.

    >>> youtube_id("https://www.youtube.com/embed/0UsjUE-TXns"), youtube_id("https://example.org/watch?v=0UsjUE-TXns")
    ('0UsjUE-TXns', None)
    """
    parts = _split(address)
    if parts is None or parts.scheme not in ("http", "https") or parts.hostname not in YOUTUBE_HOSTS:
        return None
    candidates = [*parse_qs(parts.query).get("v", []), parts.path.rpartition("/")[2]]
    return next((name for name in candidates if VIDEO_ID.fullmatch(name)), None)


def host(address: str) -> str:
    """The host of an address, with its port where that is unusual; pauses are kept per host.

    >>> host("http://media.example.org/a.mp4"), host("http://127.0.0.1:8000/a.mp4"), host("nonsense")
    ('media.example.org', '127.0.0.1:8000', '')
    """
    parts = _split(distinct(address))
    return parts.netloc if parts else ""


def _split(address: str) -> SplitResult | None:
    try:
        parts = urlsplit(address.strip())
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return None
    return parts


def reachable(name: str, port: int, allow_private: bool) -> str:
    """The network address of a host name; connect to it and to no later answer for the name, which is not checked.

    Raises:
        Refused: the name leads to a private, loopback, link-local or otherwise special address.
        OSError: the name is unknown.
    """
    numbers = [str(info[4][0]) for info in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
    private = [address for address in numbers if not ipaddress.ip_address(address.partition("%")[0]).is_global]
    if private and not allow_private:
        raise Refused("private_address", f"{name} leads to {private[0]}, which is no public address")
    return numbers[0]


def web(address: str) -> tuple[str, str, int, str]:
    """Scheme, host name, port and target (path with query) of an address.

    Raises:
        Refused: it is not http or https, carries a password, or cannot be read.
    """
    parts = _split(address)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise Refused("address", f"{address[:200]!r} is not a plain http or https address")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not re.fullmatch(r"[!-~]+", target) or not re.fullmatch(r"[!-~]+", parts.hostname):
        raise Refused("address", f"{address[:200]!r} holds characters that an address may not")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80), target
