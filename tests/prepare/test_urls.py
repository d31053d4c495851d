import socket

import pytest

from slr.prepare.wlasl.urls import Refused, distinct, host, reachable, web, youtube_id


@pytest.mark.parametrize(
    "address",
    [
        "https://www.youtube.com/watch?v=0UsjUE-TXns",
        "http://youtube.com/watch?feature=share&v=0UsjUE-TXns",
        "https://youtu.be/0UsjUE-TXns",
        "https://m.youtube.com/embed/0UsjUE-TXns?start=3",
    ],
)
def test_the_addresses_of_one_video_are_one(address):
    assert youtube_id(address) == "0UsjUE-TXns"
    assert distinct(address) == "https://www.youtube.com/watch?v=0UsjUE-TXns"


@pytest.mark.parametrize(
    "address", ["https://evil.example/watch?v=0UsjUE-TXns", "ftp://youtu.be/0UsjUE-TXns", "https://youtu.be/short", ""]
)
def test_what_is_no_youtube_video(address):
    assert youtube_id(address) is None


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://example.org/a.mp4",
        "//example.org/a.mp4",
        "/etc/passwd",
        "http://",
        "http://user:word@example.org/",
        "http://example.org:99999/",
        "http://[::1/",
        "http://example.org/a b",
        "http://example.org/a\r\nHost: x",
        "javascript:alert(1)",
        "",
    ],
)
def test_only_plain_web_addresses_are_asked_for(address):
    with pytest.raises(Refused) as refusal:
        web(address)
    assert refusal.value.reason == "address"
    host(address)  # whatever it is, it can be counted


def test_parts_of_a_web_address():
    assert web("HTTPS://Example.org/a/b.mp4?x=1") == ("https", "example.org", 443, "/a/b.mp4?x=1")
    assert web("http://example.org:8080") == ("http", "example.org", 8080, "/")


PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "fd00::1"]


@pytest.mark.parametrize("number", [*PRIVATE, "::ffff:127.0.0.1", "100.64.0.1"])
def test_private_addresses_are_refused_unless_allowed(number):
    with pytest.raises(Refused) as refusal:
        reachable(number, 80, allow_private=False)
    assert refusal.value.reason == "private_address"
    assert reachable(number, 80, allow_private=True)


def test_one_private_answer_among_public_ones_is_enough(monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 80)) for number in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: answers)
    with pytest.raises(Refused):
        reachable("rebinding.example", 80, allow_private=False)


def test_public_addresses_pass():
    assert reachable("8.8.8.8", 80, allow_private=False) == "8.8.8.8"
