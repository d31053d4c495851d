"""Own files: what is found, what is refused, what is answered, in Python and by the command."""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from videos import numbered, write_video

import slr
from slr.commands import predict
from slr.config.saved_run import open_run
from slr.core.errors import UserError
from slr.core.files import read_json
from slr.models.generation import Decoding
from slr.predict import sources
from slr.predict.calibration import Calibration, Familiarity
from slr.predict.results import Ranked, Refusal
from slr.prepare.decode.image import MOST_PIXELS, is_picture, read_pictures
from slr.prepare.decode.video import Unfit

ROOT = Path(__file__).resolve().parents[2]


def typed(monkeypatch, *words):
    """What the command returns for these words."""
    monkeypatch.setattr(sys, "argv", ["slr predict", *words])
    return predict.main()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected the folder of a run"):
        slr.load(tmp_path)
    with pytest.raises(UserError, match="expected the folder of a run"):
        slr.load(tmp_path / "it's = not, there")


def test_importing_slr_imports_nothing_heavy():
    code = "import sys, slr; assert not {'torch', 'numpy', 'lightning', 'transformers', 'av'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- files


@pytest.fixture
def folder(tmp_path):
    """A folder whose names are as awkward as names can be, with two videos, a text and a hidden file."""
    place = tmp_path / "o, it's [a] = ü"
    place.mkdir()
    for name in ("b, c.mp4", "a = [1].mp4"):
        write_video(place / name, [numbered(number) for number in range(30)], [n / 30 for n in range(30)])
    (place / "notes.txt").write_text("no video" * 100)
    (place / ".hidden.mp4").write_bytes(b"")
    return place


def test_a_word_means_a_file_a_folder_or_a_pattern(folder):
    assert sources.find(str(folder / "a = [1].mp4")) == [folder / "a = [1].mp4"]  # not read as a pattern
    assert [path.name for path in sources.find(str(folder))] == ["a = [1].mp4", "b, c.mp4", "notes.txt"]
    assert sources.find(f"{folder.parent}/*/b*.mp4") == [folder / "b, c.mp4"]
    assert sources.find(f"{folder.parent}/**/*c.mp4") == [folder / "b, c.mp4"]
    (folder / "empty").mkdir()
    for word in (f"{folder.parent}/*.mp4", str(folder / "empty"), str(folder / "d.mp4")):
        with pytest.raises(UserError, match="expected a video, found no file"):
            sources.find(word)


def test_files_become_clips_or_reasons_in_their_order(folder):
    files = [folder / "notes.txt", folder / "b, c.mp4", folder / "nowhere.mp4", folder / "a = [1].mp4"]
    parts = [(place, made) for place, made in sources.clips(files, at_once=3)]
    assert [len(made) for _, made in parts] == [3, 1]
    assert not any(place.exists() for place, _ in parts)  # temporary
    text, first, missing, second = [one for _, made in parts for one in made]
    assert (text.reason, missing.reason) == ("not_video", "missing")
    assert [len(one.lines()) for one in (text, missing)] == [1, 1]
    assert (first.source, first.frames) == (str(files[1]), 25)
    assert second.source == str(files[3])


def test_a_long_recording_is_refused_unless_it_may_be_long(tmp_path):
    pictures = [numbered(number) for number in range(3)]
    write_video(tmp_path / "long.mkv", pictures, [0, 1, 650.0])
    [(_, [refused])] = sources.clips([tmp_path / "long.mkv"])
    assert refused.reason == "too_long"
    [(_, [clip])] = sources.clips([tmp_path / "long.mkv"], longest=sources.HOURS)
    assert clip.frames > 600 * 25


# ---- still pictures


def noise(height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
def test_still_pictures_are_read_as_pil_reads_them(suffix, tmp_path):
    path = tmp_path / f"still.{suffix}"
    Image.fromarray(noise()).save(path, **({"lossless": True} if suffix == "webp" else {}))
    [found] = read_pictures(path, 25, 640)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert is_picture(path)
    np.testing.assert_array_equal(found, expected)
    assert suffix == "jpg" or np.array_equal(found, noise())


def test_a_picture_is_turned_as_its_camera_was_and_made_smaller(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to the right
    Image.fromarray(noise()).save(tmp_path / "turned.png", exif=exif)
    [found] = read_pictures(tmp_path / "turned.png", 25, 640)
    np.testing.assert_array_equal(found, np.rot90(noise(), -1))
    Image.fromarray(noise(1200, 900)).save(tmp_path / "large.png")
    [small] = read_pictures(tmp_path / "large.png", 25, 640)
    assert small.shape == (640, 480, 3)


def test_an_animation_keeps_its_time(tmp_path):
    pictures = [Image.fromarray(numbered(number)) for number in range(4)]
    pictures[0].save(tmp_path / "moving.webp", save_all=True, append_images=pictures[1:], duration=200, lossless=True)
    found = list(read_pictures(tmp_path / "moving.webp", 25, 640))
    assert len(found) == 4 * 5
    assert all(np.array_equal(found[5 * number + 2], numbered(number)) for number in range(4))


def test_pictures_that_are_bombs_fragments_or_programs_are_refused(tmp_path):
    side = int(MOST_PIXELS**0.5) + 100
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    Image.new("1", (2 * side, 2 * side)).save(tmp_path / "larger.png")
    Image.fromarray(noise(8, 8)).save(tmp_path / "tiny.png")
    Image.fromarray(noise()).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    (tmp_path / "fake.png").write_bytes(b"\x89PNG" + bytes(500))
    Image.fromarray(noise()).save(tmp_path / "program.eps")
    names = ("bomb.png", "larger.png", "tiny.png", "cut.jpg", "fake.png", "program.eps")
    [(_, made)] = sources.clips([tmp_path / name for name in names])
    reasons = ["dimensions", "dimensions", "dimensions", "broken", "broken", "not_video"]
    assert [one.reason for one in made] == reasons
    with pytest.raises(Unfit, match="dimensions"):
        next(read_pictures(tmp_path / "bomb.png", 25, 640))


# ---- the command's words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["vidoe=x"], "did you mean video?"),
        ([], "run is not given"),
        (["run=/nowhere", "video=README.md"], "run=/nowhere: expected the folder of a run, found none"),
        (["run=conf", "video=nowhere.mp4"], "video=nowhere.mp4: expected a video"),
        (["run=conf", "video=README.md", "mode=look"], "mode=look: expected one of rank, scan, generate"),
        (["run=conf", "video=README.md", "json=1"], "json=1: expected one of yes, no"),
        (["run=conf", "video=README.md", "device=gpu"], "device=gpu: expected one of cpu, cuda"),
        (["run=conf", "video=README.md", "top=0"], "top=0: expected a whole number"),
        (["run=conf", "video=README.md", "window=2"], "window=2: belongs to mode=scan"),
        (["run=conf", "video=README.md", "mode=scan", "top=2"], "top=2: belongs to mode=rank"),
        (["run=conf", "video=README.md", "mode=scan", "window=two"], "window=two: expected a number"),
        (["run=conf", "video=README.md", "mode=scan", "stride=nan"], "stride=nan: expected a number"),
        (["run=conf", "video=README.md", "mode=generate", "beams=0"], "beams=0: expected a whole number"),
        (["run=conf", "video=README.md", "mode=generate", "temperature="], "temperature=: expected a number"),
        (["run=conf", "video=README.md", "mode=generate", "top_p=2", "temperature=1"], "top_p=2: expected a number"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(words, says, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        typed(monkeypatch, *words)
    assert says in str(error.value)


def test_the_command_is_quick_where_nothing_need_be_loaded():
    for words, code in ((["--help"], 0), (["run=conf", "video=nowhere"], 2)):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "slr.predict", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert done.returncode == code
        assert {"torch", "lightning", "transformers"} & imported == set()
    assert done.stderr.splitlines()[-1].startswith("error: video=nowhere")


# ---- answers


@pytest.fixture(scope="module")
def recognizer(demo):
    with slr.load(demo) as opened:
        yield opened


@pytest.fixture(scope="module")
def tested(demo):
    """The demo's first test predictions, and the folder of the clips."""
    _, config, _ = open_run(demo)
    clips = Path(config.data) / config.dataset.place / "clips"
    return read_json(demo / "evaluation" / "evaluation_results.json")["predictions"][:6], clips


def test_several_files_are_ranked_together_as_each_alone(recognizer, tested, tmp_path):
    predictions, clips = tested
    files = [clips / f"{one['clip']}.mp4" for one in predictions]
    files[1] = shutil.copy(files[1], tmp_path / "brought.mp4")  # is encoded once more
    together = recognizer.rank(files, top=3)
    assert [len(ranking) for ranking in together] == [3] * 6
    for file, ranking, one in zip(files, together, predictions, strict=True):
        alone = recognizer.rank(file, top=3)
        assert [gloss for gloss, _ in alone] == [gloss for gloss, _ in ranking]
        np.testing.assert_allclose([p for _, p in alone], [p for _, p in ranking], atol=1e-5)
        if file != files[1]:
            logarithms = np.array([row["log_probability"] for row in one["ranking"]])
            expected = softmax(logarithms / recognizer.calibration.temperature)[:3]
            np.testing.assert_allclose([p for _, p in ranking], expected, atol=1e-5)
    with pytest.raises(UserError, match=r"expected a video at .*none\.mp4, found missing"):
        recognizer.rank([files[0], tmp_path / "none.mp4"])
    with pytest.raises(UserError, match="top=0"):
        recognizer.rank(files[0], top=0)


def test_what_is_unlike_the_training_is_called_unknown(recognizer, tested, tmp_path):
    predictions, clips = tested
    write_video(tmp_path / "bars.mp4", [numbered(n) for n in range(40)], [n / 25 for n in range(40)])
    known = [clips / f"{one['clip']}.mp4" for one in predictions]
    answers = list(recognizer.answers([*known, tmp_path / "bars.mp4"]))
    assert not answers[-1].known
    assert "unknown" in answers[-1].lines()[0]
    assert answers[-1].row()["gloss"] is None
    assert sum(one.known for one in answers[:-1]) >= 5
    assert len(answers[-1].ranking) == 5


def test_probabilities_are_cooled_and_thresholds_kept(recognizer, tested, monkeypatch):
    predictions, clips = tested
    file = clips / f"{predictions[0]['clip']}.mp4"
    logarithms = np.array([row["log_probability"] for row in predictions[0]["ranking"]])
    width = recognizer.calibration.familiarity.means.shape[1]
    nowhere = Familiarity(np.full((1, width), 1e3, np.float32), np.eye(width, dtype=np.float32))
    monkeypatch.setattr(recognizer, "calibration", Calibration(3.0, -1.0, 1.0, 10, nowhere, 1.5))
    [answer] = recognizer.answers([file], top=99)
    np.testing.assert_allclose([p for _, p in answer.ranking], softmax(logarithms / 3.0), atol=1e-5)
    assert not answer.known
    monkeypatch.setattr(recognizer, "calibration", None)
    [answer] = recognizer.answers([file], top=99)
    np.testing.assert_allclose([p for _, p in answer.ranking], softmax(logarithms), atol=1e-5)
    assert answer.known


def test_a_model_writes_what_it_ranks_first(recognizer, tested):
    predictions, clips = tested
    files = [clips / f"{one['clip']}.mp4" for one in predictions]
    written = recognizer.generate(files)
    first = [one["ranking"][0]["gloss"] for one in predictions]
    # The likeliest token at each step need not lead to the likeliest gloss, but with a model this sure it does.
    assert sum(a == b for a, b in zip(written, first, strict=True)) >= 5
    assert recognizer.generate(files[0]) == written[0]
    beams = recognizer.generate(files, decoding=Decoding(beams=4))
    assert beams == first
    with pytest.raises(UserError, match="special token"):
        recognizer.generate(files[0], prompt="<|im_end|>")


def test_beams_of_a_data_sets_clips_begin_as_rankings_do(recognizer, demo, tested):
    from slr.data.manifest import read_manifest
    from slr.evaluation.free_text import exact_match

    predictions, clips = tested
    rows = {row.id: row for row in read_manifest(clips.parent / "manifest.jsonl")}
    chosen = [rows[one["clip"]] for one in predictions]
    texts = recognizer.generated(chosen, beams=3, title="writing")
    assert [len(found) for found in texts] == [3] * 6
    assert [found[0] for found in texts] == [one["ranking"][0]["gloss"] for one in predictions]
    found = exact_match(texts, [clip.gloss for clip in chosen], recognizer.vocabulary)
    assert found["top1"] == np.mean([one["ranking"][0]["gloss"] == one["gloss"] for one in predictions])


def test_an_untrained_model_can_be_asked(demo, tested):
    predictions, clips = tested
    with slr.load(demo, checkpoint="base") as base:
        assert base.calibration is None
        ranking = base.rank(clips / f"{predictions[0]['clip']}.mp4", top=16)
        network = base._model.network
        assert all(not p.any() for name, p in network.named_parameters() if "lora_B" in name)
    assert [gloss for gloss, _ in ranking] != [row["gloss"] for row in predictions[0]["ranking"]]


def test_closing_lets_go_of_the_network(demo, tested):
    predictions, clips = tested
    file = clips / f"{predictions[0]['clip']}.mp4"
    gc.collect()
    with slr.load(demo) as recognizer:
        recognizer.rank(file)
        recognizer.generate(file)
        held = [weakref.ref(recognizer._model), weakref.ref(recognizer._model.network)]
        held += [weakref.ref(parameter) for parameter in recognizer._model.network.parameters()]
        assert all(one() is not None for one in held)
    assert [one() for one in held if one() is not None] == []
    for ask in (lambda: recognizer.rank(file), lambda: recognizer.scan(file), lambda: recognizer.generate(file)):
        with pytest.raises(UserError, match="was closed"):
            ask()
    recognizer.close()  # once more is no harm


# ---- the command's answers


@pytest.mark.slow
def test_each_odd_video_has_an_answer_or_a_line_that_says_why_not(recognizer, shared):
    files = [path for path in sources.find(str(shared / "odd_videos")) if path.suffix != ".json"]
    outcomes = list(recognizer.answers(files))
    assert [one.source for one in outcomes] == files
    assert len(files) >= 60
    answered = [one for one in outcomes if isinstance(one, Ranked)]
    assert len(answered) >= 45
    for one in outcomes:
        assert isinstance(one, Ranked | Refusal)
        assert len(one.lines()) == (6 if isinstance(one, Ranked) else 1)
        assert all("\n" not in line for line in one.lines())
        assert json.loads(json.dumps(one.row()))["video"] == str(one.source)
    assert sum(one.known for one in answered) <= 0.1 * len(answered)  # nobody signs in them


def test_the_command_answers_a_folder_with_json_alone_on_its_output(demo, tested, folder, capfd, monkeypatch):
    predictions, clips = tested
    shutil.copy(clips / f"{predictions[0]['clip']}.mp4", folder / "sign = 1.mp4")
    Image.fromarray(noise()).save(folder / "still, one.png")
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(1000))
    assert typed(monkeypatch, f"run={demo}", f"video={folder}", "json=yes", "top=2") == 0
    out, err = capfd.readouterr()
    rows = {Path(row["video"]).name: row for row in map(json.loads, out.splitlines())}
    assert set(rows) == {"a = [1].mp4", "b, c.mp4", "notes.txt", "sign = 1.mp4", "still, one.png", "broken.mp4"}
    assert rows["sign = 1.mp4"]["gloss"] == predictions[0]["ranking"][0]["gloss"]
    assert [len(row["ranking"]) for row in rows.values() if "ranking" in row] == [2, 2, 2, 2]
    assert {name for name, row in rows.items() if "error" in row} == {"notes.txt", "broken.mp4"}
    assert "a still picture" in err
    assert "4 of 6 files answered" in err


def test_the_command_in_one_process(demo, tested, folder, capsys, monkeypatch):
    predictions, clips = tested
    file = clips / f"{predictions[0]['clip']}.mp4"
    run = f"run={demo}"
    assert typed(monkeypatch, run, f"video={folder / 'notes.txt'}") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line for line in err.splitlines() if "notes.txt: skipped: not_video" in line]
    assert "next: " not in err

    assert typed(monkeypatch, run, f"video={file}", "top=3") == 0
    out, err = capsys.readouterr()
    title, *table = out.splitlines()
    assert title.startswith(str(file))
    assert [line.split()[1] for line in table] == [row["gloss"] for row in predictions[0]["ranking"][:3]]
    assert err.startswith("loading ")
    assert "next: " in err

    assert typed(monkeypatch, run, f"video={file}", "mode=generate", "json=yes", "length=8") == 0
    assert json.loads(capsys.readouterr().out)["text"] == predictions[0]["ranking"][0]["gloss"]
    assert typed(monkeypatch, run, f"video={file}", "mode=scan", "json=yes", "window=1.6") == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert [one["gloss"] for one in segments] == [predictions[0]["ranking"][0]["gloss"]]
