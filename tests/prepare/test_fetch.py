import hashlib
import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from servers import Server

from slr.core.errors import UserError
from slr.data.manifest import read_manifest, read_rejected
from slr.prepare.wlasl.download import Failure, FetchPolicy, download
from slr.prepare.wlasl.fetch import _outcomes, describe_fetched, fetch, fetched, file_name
from slr.prepare.wlasl.prepare import WlaslOptions, prepare_wlasl

QUICK = FetchPolicy(
    pause=0, backoff=0.01, attempts=4, park_after=3, timeout=0.5, window=0.3, largest=2 * 1024**2, allow_private=True
)
ONE = "slr.prepare.wlasl.fetch.download_any"  # what downloads one address
CONTENT = np.random.default_rng(0).bytes(300_000)


def get(server, tmp_path, attempts=1, policy=QUICK):
    """What attempts at one file gave: the file's content, or how the last attempt failed."""
    target = tmp_path / "target"
    failure = None
    for _ in range(attempts):
        try:
            download(f"{server.address}/a.mp4", target, policy, threading.Event())
            assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]
            return target.read_bytes()
        except Failure as error:
            failure = error
            assert not target.exists()
    return failure


@pytest.mark.parametrize(
    ("manner", "attempts"), [("plain", 1), ("limited", 2), ("cut", 3), ("stall_once", 2), ("drip", 1)]
)
def test_what_can_pass_passes(tmp_path, manner, attempts):
    with Server(manner, {"/a.mp4": CONTENT}) as server:
        assert get(server, tmp_path, attempts) == CONTENT
        assert len(server.asked) == attempts


@pytest.mark.parametrize("manner", ["cut", "unmarked"])
def test_a_cut_connection_goes_on_where_it_was_cut(tmp_path, manner):
    with Server(manner, {"/a.mp4": CONTENT}) as server:
        assert get(server, tmp_path, 3) == CONTENT
        assert [asked for _, asked in server.asked] == ["", "bytes=150000-", "bytes=225000-"]


def test_another_file_is_not_continued(tmp_path):
    with Server("replaced", {"/a.mp4": CONTENT}) as server:
        assert get(server, tmp_path, 2) == CONTENT[::-1]


def test_a_kill_between_two_files_mixes_nothing(tmp_path, monkeypatch):
    def killed(*words):
        raise KeyboardInterrupt

    with Server("replaced", {"/a.mp4": CONTENT}) as server:
        assert isinstance(get(server, tmp_path), Failure)
        with monkeypatch.context() as patch:
            patch.setattr("slr.prepare.wlasl.download._copy", killed)
            with pytest.raises(KeyboardInterrupt):
                get(server, tmp_path)
        assert get(server, tmp_path) == CONTENT[::-1]


@pytest.mark.parametrize("step", ["unlink", "replace"])
def test_a_kill_at_the_end_leaves_no_note_beside_a_whole_file(tmp_path, monkeypatch, step):
    own = getattr(Path, step)

    def killed(path, *words, **options):
        if path.name.startswith("target.part") and (tmp_path / "target.part.json").exists() | (step == "replace"):
            raise KeyboardInterrupt
        return own(path, *words, **options)

    with Server("plain", {"/a.mp4": CONTENT}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(Path, step, killed)
            with pytest.raises(KeyboardInterrupt):
                get(server, tmp_path)
        assert not (tmp_path / "target").exists()
        assert get(server, tmp_path) == CONTENT  # and nothing else is left


def test_a_part_of_another_address_is_not_continued(tmp_path):
    with Server("cut", {"/a.mp4": CONTENT}) as server, Server("plain", {"/a.mp4": CONTENT[::-1]}) as other:
        assert isinstance(get(server, tmp_path), Failure)
        assert get(other, tmp_path) == CONTENT[::-1]


def test_a_file_that_was_whole_but_not_renamed_is_not_sent_again(tmp_path):
    with Server("plain", {"/a.mp4": CONTENT}) as server:
        (tmp_path / "target.part").write_bytes(CONTENT)
        note = {"address": f"{server.address}/a.mp4", "validator": None, "total": len(CONTENT)}
        (tmp_path / "target.part.json").write_text(json.dumps(note))
        assert get(server, tmp_path) == CONTENT
        assert server.whole == []


@pytest.mark.parametrize(
    ("manner", "reason", "passing"),
    [
        ("gone", "gone", False),
        ("forbidden", "forbidden", False),
        ("broken", "server_error", True),
        ("refused", "server_error", True),
        ("limited", "rate_limited", True),
        ("stall", "timeout", True),
        ("cut", "cut_off", True),
        ("endless", "too_large", False),
        ("slow", "too_slow", True),
        ("trickle", "timeout", True),
        ("empty", "cut_off", True),
    ],
)
def test_what_fails_is_told_apart(tmp_path, manner, reason, passing):
    with Server(manner, {"/a.mp4": CONTENT}) as server:
        failure = get(server, tmp_path)
    assert (failure.reason, failure.passing) == (reason, passing)
    assert failure.detail


def test_a_file_that_says_it_is_too_large_is_not_begun(tmp_path):
    with Server("plain", {"/a.mp4": bytes(3 * 1024**2)}) as server:
        assert get(server, tmp_path).reason == "too_large"
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(tmp_path):
    with Server() as server:
        pass
    failure = get(server, tmp_path)
    assert (failure.reason, failure.passing) == ("unreachable", True)


@pytest.mark.parametrize(
    "place",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "/etc\r\nX: y",
        "gopher://x",
        "http://user:pw@127.0.0.1/",
        "//[",
        "/a.mp4",
    ],
)
def test_redirects_lead_to_web_addresses_only(tmp_path, place):
    with Server("redirect", place=place.replace("\r\n", "%0d%0a")) as server:
        assert get(server, tmp_path).reason == "bad_redirect"
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_is_followed(tmp_path):
    with Server("cut", {"/b.mp4": CONTENT}) as other, Server("redirect", place=f"{other.address}/b.mp4") as server:
        assert get(server, tmp_path, 3) == CONTENT


def test_private_addresses_are_not_asked_unless_allowed(tmp_path):
    careful = FetchPolicy(timeout=1)
    with Server("plain", {"/a.mp4": CONTENT}) as server:
        assert get(server, tmp_path, policy=careful).reason == "private_address"
        assert server.asked == []


def test_each_address_is_asked_once_and_never_again(tmp_path):
    with (
        Server("plain", {f"/{n}": CONTENT for n in range(5)}) as server,
        Server("gone") as gone,
        Server("broken") as bad,
    ):
        wanted = {f"{server.address}/{n}": f"{n}-file" for n in range(5)} | {f"{gone.address}/x": "x"}
        wanted |= {f"{bad.address}/y": "y"}
        for _ in range(2):
            fetch(wanted, tmp_path, QUICK)
        assert Counter(path for path, _ in server.asked) == {f"/{n}": 1 for n in range(5)}
        assert len(gone.asked) == 1
        assert len(bad.asked) == 2 * QUICK.attempts  # what can pass is tried again by the next run
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [f"{n}-file" for n in range(5)]
    told = "\n".join(describe_fetched(wanted, tmp_path))
    assert "5 of      5 files" in told
    assert "gone 1" in told
    assert "server_error 1" in told


def test_a_host_that_keeps_failing_is_left_alone(tmp_path):
    with Server("broken") as server:
        fetch({f"{server.address}/{n}": str(n) for n in range(40)}, tmp_path, QUICK)
        reasons = Counter(outcome["reason"] for outcome in fetched(tmp_path).values())
        assert reasons.total() == 40
        assert reasons["parked"] >= 35
        assert len(server.asked) <= 5 * QUICK.attempts
    parked = next(outcome for outcome in fetched(tmp_path).values() if outcome["reason"] == "parked")
    assert "3 addresses in a row failed" in parked["detail"]


def test_few_at_a_time_and_not_too_fast(tmp_path, monkeypatch):
    """At most two requests to one host at a time, and none before all those before it have had their pause."""
    now, most, starts, lock = [0], [0], [], threading.Lock()
    two = threading.Event()

    def slow(address, target, policy, stop):
        with lock:
            starts.append(time.monotonic())
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 2:
                two.set()
        two.wait(20)
        stop.wait(0.01)  # for a third to come in, if it could
        target.write_bytes(b"x")
        with lock:
            now[0] -= 1

    polite = FetchPolicy(pause=0.02, per_host=2)
    began = time.monotonic()
    monkeypatch.setattr(ONE, slow)
    fetch({f"http://a.example/{n}": str(n) for n in range(8)}, tmp_path, polite)
    assert most[0] == 2
    assert (np.sort(starts) - began >= polite.pause * np.arange(8) - 0.001).all()


def test_hosts_do_not_wait_for_one_another(tmp_path, monkeypatch):
    together = threading.Barrier(6, timeout=20)

    def meet(address, target, policy, stop):
        together.wait()
        target.write_bytes(b"x")

    monkeypatch.setattr(ONE, meet)
    fetch({f"http://{n}.example/": str(n) for n in range(6)}, tmp_path, FetchPolicy(pause=0, per_host=1))
    assert len(list((tmp_path / "files").iterdir())) == 6


@pytest.mark.skipif(os.name != "posix", reason="sends a signal to a thread")
def test_a_signal_that_another_thread_takes_is_heard_while_files_come(tmp_path, monkeypatch):
    waits, heard, while_waiting = threading.Event(), threading.Event(), []

    def take(address, target, policy, stop):
        target.write_bytes(b"x")
        if address.endswith("2"):
            waits.wait(20)
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            while_waiting.append(heard.wait(20))

    def hear(number, frame):
        heard.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(ONE, take)
    before = signal.signal(signal.SIGUSR1, hear)
    try:
        asked = {f"http://a.example/{n}": tmp_path / n for n in "12"}
        came = _outcomes(asked, replace(QUICK, per_host=1))
        assert next(came)[0] == "http://a.example/1"  # all threads have been started
        waits.set()
        with pytest.raises(KeyboardInterrupt):
            next(came)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert while_waiting == [True]


def test_whatever_ends_it_stops_all_that_are_at_it(tmp_path, monkeypatch):
    """Ctrl-C comes while an outcome is noted; what holds its traceback must not keep downloads going."""
    told, second = [], threading.Event()

    def take(address, target, policy, stop):
        target.write_bytes(b"x")
        if address.endswith("2"):
            second.set()
            told.append(stop.wait(20))
        second.wait(20)

    def interrupted(name, outcome):
        raise KeyboardInterrupt

    monkeypatch.setattr(ONE, take)
    monkeypatch.setattr("slr.prepare.wlasl.fetch.open_ledger", lambda *words: nullcontext(interrupted))
    with pytest.raises(KeyboardInterrupt) as stopped:
        fetch({f"http://a.example/{n}": n for n in "12"}, tmp_path, QUICK)
    assert told == [True], stopped.traceback


def test_a_fault_stops_everything(tmp_path, monkeypatch):
    def faulty(address, target, policy, stop):
        raise UserError("the disk is full")

    monkeypatch.setattr(ONE, faulty)
    with pytest.raises(UserError, match="the disk is full"):
        fetch({f"http://a.example/{n}": str(n) for n in range(9)}, tmp_path, QUICK)


def test_links_and_foreign_notes_are_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "downloads").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="found a link"):
        fetch({}, tmp_path / "downloads", QUICK)
    (tmp_path / "elsewhere" / "fetched.json").write_text("[")
    with pytest.raises(UserError, match=r"delete fetched\.json"):
        fetch({}, tmp_path / "elsewhere", QUICK)


def test_names_come_from_ids():
    for address in ("http://a.example/../../etc/passwd", "http://a.example/x%2f..%2f", "https://youtu.be/0UsjUE-TXns"):
        assert file_name("00335", address)[:6] == "00335-"
        assert file_name("00335", address)[6:].isalnum()


# manner of a host → how many clips it has, and what becomes of them
HOSTS = {
    "gone": (2, {"gone"}),
    "forbidden": (2, {"forbidden"}),
    "limited": (3, {""}),
    "broken": (7, {"server_error", "parked"}),
    "stall": (2, {"timeout"}),
    "stall_once": (2, {""}),
    "cut": (5, {""}),
    "page": (2, {"page"}),
    "stub": (4, {"stub"}),
    "endless": (1, {"too_large"}),
    "redirect": (1, {"bad_redirect"}),
    "slow": (1, {"too_slow"}),
}


@pytest.mark.parametrize("count", [36, pytest.param(156, marks=pytest.mark.slow)])
def test_every_instance_ends_as_a_clip_or_with_the_right_reason(shared, tmp_path, count):
    listed = json.loads((shared / "wlasl" / "clips.json").read_text())
    names = sorted(listed)[:count]
    manners = [manner for manner, (number, _) in HOSTS.items() for _ in range(number)]
    manner_of = dict(zip(names, manners + ["plain"] * count, strict=False))
    files = {f"/{name}.mp4": (shared / "wlasl" / "clips" / f"{name}.mp4").read_bytes() for name in names}
    with ExitStack() as stack:
        servers = {m: stack.enter_context(Server(m, files, "file:///etc/passwd")) for m in [*HOSTS, "plain"]}
        rows = {
            name: {
                "video_id": name,
                "url": f"{servers[manner_of[name]].address}/{name}.mp4",
                "split": listed[name]["split"],
                "signer_id": listed[name]["signer_id"],
                "source": listed[name]["source"],
                "bbox": [0, 0, 9, 9],
                "frame_start": 1,
                "frame_end": -1,
            }
            for name in names
        }
        index = [{"gloss": listed[name]["gloss"], "instances": [rows[name]]} for name in names]
        (tmp_path / "index.json").write_text(json.dumps(index))
        wish = WlaslOptions(index=str(tmp_path / "index.json"), policy=QUICK)
        manifest = prepare_wlasl(wish, tmp_path / "downloads", tmp_path / "out", 2)
    clips = {clip.id: clip for clip in read_manifest(manifest)}
    reasons = {row.id: row.reason for row in read_rejected(tmp_path / "out" / "rejected.jsonl")}
    assert clips.keys() | reasons.keys() == set(names)
    assert len(clips) + len(reasons) == count
    found = {manner: set() for manner in manner_of.values()}
    for name in names:
        found[manner_of[name]].add(reasons.get(name, ""))
    assert found == {manner: wanted for manner, (_, wanted) in HOSTS.items()} | {"plain": {""}}
    for name, clip in clips.items():
        assert clip.source_sha256 == hashlib.sha256(files[f"/{name}.mp4"]).hexdigest() == listed[name]["sha256"]
        assert clip.source == rows[name]["url"]
