"""Preparations that are killed or run out of room, as commands that a person types again."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from entry import ROOT
from servers import Server

from slr.prepare.encode import write_clip
from slr.prepare.ledger import read_ledger

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs kill -9 and limits on file sizes")
COUNT = 8
RANGES = [(1, -1), (3, 20), (10, -1), (5, 44)]  # the last goes past the end


@pytest.fixture
def world(tmp_path):
    """A server of eight recordings and a page, and their index; four of them are named twice."""
    rng = np.random.default_rng(0)
    files = {"/page.mp4": b"<html>" * 50}
    for number in range(COUNT):
        write_clip(tmp_path / "clip.mp4", rng.integers(0, 256, (40, 96, 96, 3), dtype=np.uint8), fps=30)
        files[f"/{number}.mp4"] = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").unlink()
    with Server("drip", files) as server:
        paths = [f"/{number}.mp4" for number in [*range(COUNT), *range(4)]] + ["/page.mp4"]
        instances = [
            {
                "video_id": str(number),
                "url": server.address + path,
                "split": "train",
                "signer_id": 1,
                "source": "a",
                "bbox": [0, 0, 9, 9],
                "frame_start": RANGES[number % 4][0],
                "frame_end": RANGES[number % 4][1],
            }
            for number, path in enumerate(paths)
        ]
        index = [{"gloss": "x", "instances": instances[::2]}, {"gloss": "y", "instances": instances[1::2]}]
        (tmp_path / "index.json").write_text(json.dumps(index))
        yield tmp_path, server


def command(world, data, *words):
    settings = ["dataset=wlasl", f"dataset.index={world / 'index.json'}", "dataset.subset=100", f"data={data}"]
    polite = ["dataset.pause=0", "dataset.private_addresses=true"]
    return [sys.executable, str(ROOT / "prepare_data.py"), *settings, *polite, *words]


def content(data):
    """The lists and the clips, byte by byte."""
    out = data / "wlasl" / "100"
    names = [out / "manifest.jsonl", out / "rejected.jsonl", *sorted((out / "clips").iterdir())]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in names}


def fetched_whole(data):
    folder = data / "wlasl" / "downloads" / "files"
    return {path.name for path in folder.glob("*") if "." not in path.name} if folder.is_dir() else set()


def progress(data, total):
    """How far a preparation is: fetch counts from 0 to 1, cut to 2, verify to 3."""
    folder, out = data / "wlasl" / "downloads" / "files", data / "wlasl" / "100"
    came = 0
    for path in folder.glob("*") if folder.is_dir() else ():
        try:
            came += path.stat().st_size if path.suffix != ".json" else 0
        except FileNotFoundError:  # renamed meanwhile
            return 0.0
    try:
        outcomes = (read_ledger(out / "source.json") or {"outcomes": {}})["outcomes"].values()
    except (OSError, ValueError):
        return 0.0
    read = sum("rejected" in outcome or outcome["verified"] for outcome in outcomes)
    return came / total + (len(outcomes) + read) / (COUNT + 5)


@POSIX
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_preparation_that_is_killed_again_and_again(world, kills):
    place, server = world
    subprocess.run(command(place, place / "calm"), check=True, capture_output=True)
    assert len(server.whole) == len(set(server.whole)) == COUNT + 1
    server.asked.clear()
    server.whole.clear()
    total = sum(len(body) for body in server.files.values())
    moments = (np.arange(kills) + np.random.default_rng(kills).random(kills)) * 2.9 / kills  # some in every stage
    data, stages = place / "killed", []
    for moment in moments:
        before = fetched_whole(data)
        asked = len(server.asked)
        process = subprocess.Popen(command(place, data), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while progress(data, total) < moment and process.poll() is None:
            threading.Event().wait(0.002)
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stages.append(int(progress(data, total)))
        names = {name.partition("-")[0] for name in before}
        paths = {f"/{name}.mp4" for name in names} | ({"/page.mp4"} if str(COUNT + 4) in names else set())
        assert paths.isdisjoint(path for path, _ in server.asked[asked:])
    assert {0, 1, 2} <= set(stages)
    subprocess.run(command(place, data), check=True, capture_output=True)
    assert content(data) == content(place / "calm")
    assert sorted(set(server.whole)) == sorted(server.files)
    assert fetched_whole(data) == fetched_whole(place / "calm")
    left = [path.name for name in ("downloads/files", "100/clips") for path in (data / "wlasl" / name).glob("*part*")]
    assert left + list(data.rglob("*.journal")) == []


LIMITED = """
import resource, runpy, sys
room, *sys.argv = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), int(room)))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@POSIX
@pytest.mark.parametrize(("stages", "room"), [("[fetch]", 100_000), ("[cut]", 100_000)])
def test_a_full_disk_is_one_line_and_can_be_gone_on_with(world, stages, room):
    """A limit on the size of files stands for the disk: writing fails in the same way, in the middle of a file."""
    place, _ = world
    data = place / "data"
    if stages != "[fetch]":
        subprocess.run(command(place, data, "stages=[fetch]"), check=True, capture_output=True)
    python, *words = command(place, data, f"stages={stages}")
    result = subprocess.run([python, "-c", LIMITED, str(room), *words], capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "File too large" in line
    assert "Traceback" not in result.stderr
    subprocess.run(command(place, data), check=True, capture_output=True)
    subprocess.run(command(place, place / "calm"), check=True, capture_output=True)
    assert content(data) == content(place / "calm")
