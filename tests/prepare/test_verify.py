import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from PIL import Image

from slr.core.errors import UserError
from slr.data import video
from slr.prepare.decode.sandbox import Limits
from slr.prepare.decode.video import Unfit
from slr.prepare.encode import write_clip
from slr.prepare.verify import ClipJob, Prepared, checked, prepare_clip, prepare_clips, verify_clip, verify_clips


def noise(count, height=64, width=64):
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def decoded(path):
    """What PyAV alone makes of a file: its pictures' sizes and times, and the error that ended it, if any."""
    sizes, times = [], []
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for frame in container.decode(container.streams.video[0]):
                sizes.append((frame.width, frame.height))
                times.append(frame.time)
    except (av.error.FFmpegError, IndexError) as error:
        return sizes, times, error
    return sizes, times, None


def test_facts_are_those_of_a_full_decode(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, noise(31, 48, 80))
    facts = checked(path)
    sizes, times, error = decoded(path)
    assert error is None
    assert facts.frames == len(sizes) == 31
    assert {(facts.width, facts.height)} == set(sizes)
    assert facts.fps == pytest.approx(1 / np.diff(times).mean())
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_clips_are_made_and_others_told(tmp_path):
    write_clip(tmp_path / "a.mp4", noise(31))
    write_clip(tmp_path / "short.mp4", noise(3))
    (tmp_path / "page.mp4").write_text("<html>" * 100)
    out = tmp_path / "out"
    out.mkdir()
    names = ["page", "a", "short", "absent"]
    jobs = [ClipJob(tmp_path / f"{name}.mp4", out / f"{name}.mp4", least_frames=8) for name in names]
    outcomes = dict(prepare_clips(jobs, workers=2))
    assert [getattr(outcomes[number], "reason", "") for number in range(4)] == ["page", "", "too_short", "missing"]
    assert isinstance(outcomes[1], Prepared)
    assert outcomes[1].facts == checked(out / "a.mp4")
    assert outcomes[1].source_sha256 == hashlib.sha256((tmp_path / "a.mp4").read_bytes()).hexdigest()
    assert [path.name for path in out.iterdir()] == ["a.mp4"]


def test_what_a_child_does_with_a_file(tmp_path):
    """In this process: the clip's facts are those of a decode by PyAV alone, and what is too short leaves nothing."""
    source, target, pictures = tmp_path / "a.mp4", tmp_path / "out.mp4", tmp_path / "pictures"
    write_clip(source, noise(31))
    whole = asdict(ClipJob(source, target, 8).cut)
    made = prepare_clip(str(source), str(target), 8, whole, False, 60.0)
    sizes, _, error = decoded(target)
    assert (made["facts"]["frames"], made["facts"]["width"], error) == (len(sizes), 64, None)
    assert made["facts"]["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert made["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    target.unlink()
    with pytest.raises(Unfit, match="it has 31 pictures at 25 a second, at least 32 are wanted"):
        prepare_clip(str(source), str(target), 32, whole, False, 60.0)
    assert not target.exists()
    pictures.mkdir()
    for number, frame in enumerate(noise(9)):
        Image.fromarray(frame).save(pictures / f"{number}.png")
    assert prepare_clip(str(pictures / "0.png"), str(target), 1, whole, True, 60.0)["facts"]["frames"] >= 1


def test_the_number_of_workers_changes_no_byte(tmp_path):
    jobs = []
    for number in range(6):
        write_clip(tmp_path / f"{number}.mp4", noise(20 + number), fps=30)
        jobs.append((tmp_path / f"{number}.mp4", f"{number}.mp4"))
    contents = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        out.mkdir()
        assert all(
            isinstance(outcome, Prepared)
            for _, outcome in prepare_clips([ClipJob(source, out / name) for source, name in jobs], workers)
        )
        contents.append([(out / name).read_bytes() for _, name in jobs])
    assert contents[0] == contents[1]


def test_an_ended_child_leaves_nothing_half_written(tmp_path):
    write_clip(tmp_path / "long.mp4", noise(150, 360, 640), preset="ultrafast")
    write_clip(tmp_path / "a.mp4", noise(3))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".long.mp4.123.part").write_bytes(b"what a killed child was writing")
    (out / ".other.mp4.123.part").write_bytes(b"what another is writing")
    outcomes = dict(prepare_clips([ClipJob(tmp_path / "long.mp4", out / "long.mp4")], 1, Limits(wall=0.2)))
    assert isinstance(outcomes[0], Unfit)
    assert outcomes[0].reason == "timeout"
    assert [path.name for path in out.iterdir()] == [".other.mp4.123.part"]


def test_a_place_that_cannot_be_written_stops_the_run(tmp_path):
    write_clip(tmp_path / "a.mp4", noise(3))
    with pytest.raises(UserError, match="No such file") as refusal:
        list(prepare_clips([ClipJob(tmp_path / "a.mp4", tmp_path / "absent" / "a.mp4")], 1))
    assert "a.mp4" in str(refusal.value)


def test_written_clips_read_back(tmp_path):
    for count in (1, 13, 150):
        write_clip(tmp_path / f"{count}.mp4", noise(count))
    paths = sorted(tmp_path.iterdir())
    assert dict(verify_clips([(path, asdict(checked(path))) for path in paths], 2)) == {0: None, 1: None, 2: None}


def test_a_file_that_was_changed_or_lost_is_noticed(tmp_path):
    write_clip(tmp_path / "a.mp4", noise(13))
    facts = asdict(checked(tmp_path / "a.mp4"))
    write_clip(tmp_path / "a.mp4", noise(12))
    changed, absent = dict(verify_clips([(tmp_path / "a.mp4", facts), (tmp_path / "b.mp4", facts)], 1)).values()
    assert changed.reason == absent.reason == "unverified"
    assert "not the file that was written" in changed.detail


def test_a_reader_that_gives_other_pictures_is_noticed(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", (np.full((64, 64, 3), 5 * number, np.uint8) for number in range(30)))
    facts = asdict(checked(tmp_path / "a.mp4"))
    honest = video.read

    def late(path, positions, reader):
        return honest(path, np.maximum(positions - 2, 0) if reader == "decord" else positions, "pyav")

    monkeypatch.setattr(video, "read", late)
    with pytest.raises(Unfit, match="unverified: decord reads frame"):
        verify_clip(str(tmp_path / "a.mp4"), facts)


def test_raw_clips_seem_longer_to_decord_than_they_are(shared):
    """As their headers say: why every clip is written anew, and known by what was decoded."""
    decord = video.load_decord()
    clips = shared / "wlasl" / "clips"
    listed = json.loads((clips.parent / "clips.json").read_text())
    longer = [name for name, row in listed.items() if row["frames_header"] > row["frames_decoded"]][:3]
    for name in longer:
        assert len(decord.VideoReader(str(clips / f"{name}.mp4"))) == listed[name]["frames_header"]
        verify_clip(str(clips / f"{name}.mp4"), asdict(checked(clips / f"{name}.mp4")))
    assert len(longer) == 3


@pytest.fixture(scope="module")
def odd(shared, tmp_path_factory):
    """Every odd video with what became of it and where its clip would be."""
    sources = sorted(path for path in (shared / "odd_videos").iterdir() if path.suffix != ".json")
    out = tmp_path_factory.mktemp("odd")
    jobs = [ClipJob(source, out / f"{source.name}.mp4", least_frames=8) for source in sources]
    outcomes = dict(prepare_clips(jobs, workers=2))
    assert sorted(outcomes) == list(range(66))
    return [(job.source, outcomes[number], job.target) for number, job in enumerate(jobs)]


REASONS = {"not_video", "picture", "no_video_stream", "encrypted", "truncated", "broken", "too_short"}


def test_odd_videos_become_clips_or_are_told(odd):
    for source, outcome, target in odd:
        if isinstance(outcome, Prepared):
            sizes, _, error = decoded(target)
            assert error is None, source.name
            assert {(outcome.facts.width, outcome.facts.height)} == set(sizes), source.name
            assert outcome.facts.frames == len(sizes), source.name
            assert checked(target) == outcome.facts, source.name
        else:
            assert outcome.reason in REASONS, (source.name, outcome)
            assert not target.exists(), source.name
    folder = odd[0][2].parent
    assert len(list(folder.iterdir())) == sum(isinstance(outcome, Prepared) for _, outcome, _ in odd)


def test_no_good_odd_video_is_rejected_and_each_keeps_its_duration(odd):
    good = 0
    for source, outcome, _ in odd:
        _, times, error = decoded(source)
        if error is None and len(times) >= 8:
            good += 1
            assert isinstance(outcome, Prepared), (source.name, outcome)
            if None not in times and times == sorted(times):
                # The first stream stands for the best one: they last equally long where there are two.
                lasted = times[-1] - times[0]
                step = max(np.diff(times).max(), 1 / 25)
                assert lasted <= outcome.facts.frames / 25 + 1 / 25, source.name
                assert outcome.facts.frames / 25 <= lasted + step + 1 / 25, source.name
    assert good == 40


def test_rotated_odd_videos_stand_upright(odd):
    turned = 0
    for source, outcome, _ in odd:
        if not isinstance(outcome, Prepared):
            continue
        with av.open(str(source), metadata_errors="replace") as container:
            frame = next(container.decode(container.streams.best("video")))
        if frame.rotation % 180:
            turned += 1
            shown = frame.height / frame.width
            assert outcome.facts.width / outcome.facts.height == pytest.approx(shown, rel=0.02), Path(source).name
    assert turned >= 2  # those of 8 pictures and more
