"""The synthetic data set: real files, the same each time, whole or not there, and no cheat."""

import json

import av
import numpy as np
import pytest

from slr.config import compose, jobs
from slr.core.errors import UserError
from slr.data.manifest import read_manifest
from slr.prepare.synthetic.clip import Performance
from slr.prepare.synthetic.prepare import prepare_synthetic, vocabulary
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import Side, names, signer_seed, signs
from slr.prepare.verify import sha256


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "a, b = 'ü'"
    return prepare_synthetic(out, signs=4, signers=3, takes=2, seed=0, size=96, workers=1)


def test_the_manifest_tells_what_the_files_are(prepared):
    clips = read_manifest(prepared)
    assert len(clips) == 4 * 3 * 2
    assert len({clip.id for clip in clips}) == len(clips)
    assert {clip.gloss for clip in clips} == set(vocabulary(4))
    assert {clip.signer for clip in clips} == {"s000", "s001", "s002"}
    assert len({clip.sha256 for clip in clips}) == len(clips)
    for clip in clips:
        with av.open(str(prepared.parent / clip.file)) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            assert container.streams.video[0].codec_context.name == "h264"
        assert (len(pictures), *pictures[0].shape) == (clip.frames, clip.height, clip.width, 3)
        assert clip.fps == 25
        assert sha256(prepared.parent / clip.file) == clip.sha256


def test_a_file_shows_the_sign_that_its_gloss_names(prepared):
    """The last clip of the manifest, drawn here once more and compared with the decoded file."""
    clip = read_manifest(prepared)[-1]
    person = Signer(signer_seed(Side.DATA_SET, 2))
    performance = Performance(vocabulary(4)[clip.gloss], person, seed=(2 * 1000 + 3) * 100 + 1)
    with av.open(str(prepared.parent / clip.file)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == performance.frames
    for i in range(0, len(decoded), 5):
        assert np.abs(decoded[i].astype(int) - performance.draw(i, 96)).mean() < 8


def test_the_same_settings_give_the_same_bytes_with_any_number_of_workers(prepared, tmp_path):
    again = prepare_synthetic(tmp_path / "b", signs=4, signers=3, takes=2, seed=0, size=96, workers=2)
    assert again.read_bytes() == prepared.read_bytes()
    for clip in read_manifest(again):
        assert (again.parent / clip.file).read_bytes() == (prepared.parent / clip.file).read_bytes()


def test_a_current_data_set_is_left_alone_and_another_is_made_anew(tmp_path):
    settings = {"signs": 2, "signers": 1, "takes": 1, "size": 64, "workers": 1}
    manifest = prepare_synthetic(tmp_path, seed=0, **settings)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    first = manifest.read_bytes()
    prepare_synthetic(tmp_path, seed=0, **settings)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"} == before
    assert prepare_synthetic(tmp_path, seed=1, **settings).read_bytes() != first
    assert json.loads((tmp_path / "source.json").read_text())["seed"] == 1


def test_what_a_killed_run_left_is_not_taken_as_whole(tmp_path):
    settings = {"signs": 2, "signers": 1, "takes": 1, "seed": 0, "size": 64, "workers": 1}
    manifest = prepare_synthetic(tmp_path, **settings)
    whole = manifest.read_bytes()
    source = tmp_path / "source.json"
    source.write_text(source.read_text().replace("true", "false"))
    manifest.unlink()
    (tmp_path / "clips" / ".s000_half.mp4.1.part").write_bytes(b"half")
    assert prepare_synthetic(tmp_path, **settings).read_bytes() == whole
    assert not list((tmp_path / "clips").glob(".*"))
    (tmp_path / read_manifest(manifest)[0].file).unlink()
    prepare_synthetic(tmp_path, **settings)
    assert all((tmp_path / clip.file).is_file() for clip in read_manifest(manifest))


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        prepare_synthetic(tmp_path, signs=2, signers=1, takes=1, seed=0, size=64, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


LIMITS = {"signs": (2, 288), "signers": (1, 10_000), "takes": (1, 100), "size": (64, 512), "seed": (0, 2**31 - 1)}


@pytest.mark.parametrize("name", LIMITS)
def test_settings_out_of_range_are_refused_in_one_line(name):
    compose.register()
    low, high = LIMITS[name]
    for value in (low, high):
        assert getattr(jobs.configurations(["dataset=synthetic", f"dataset.{name}={value}"])[0].dataset, name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(UserError, match=rf"dataset\.{name}={value}: expected") as error:
            jobs.configurations(["dataset=synthetic", f"dataset.{name}={value}"])
        assert "\n" not in str(error.value)


def test_the_vocabulary_is_in_whole_pairs_and_from_the_data_sets_side():
    for number in (2, 16, 40, 288):
        glosses = vocabulary(number)
        assert len(glosses) == number
        drawn = list(glosses.values())
        assert all(sign.reverse == other for sign, other in zip(drawn[::2], drawn[1::2], strict=True))
        assert not set(drawn) & set(signs(Side.PRETRAINING))
        assert not set(glosses) & set(names(Side.PRETRAINING, 3000))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_linear_probe_on_pixels_does_not_read_the_signs():
    """scikit-learn on 8 frames of 24×24 pixels, trained on other signers than it is tested on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels, labels = [], []
    for signer in range(64):
        person = Signer(signer_seed(Side.DATA_SET, signer))
        for number, sign in enumerate(vocabulary(16).values()):
            performance = Performance(sign, person, seed=signer * 100_000 + number * 100)
            positions = ((np.arange(8) + 0.5) * performance.frames / 8).astype(int)
            clip = [performance.draw(int(i), 96).reshape(24, 4, 24, 4, 3).mean(axis=(1, 3)) for i in positions]
            pixels.append(np.ravel(clip))
            labels.append(number)
    pixels, labels = np.array(pixels), np.array(labels)
    train, test = slice(0, 45 * 16), slice(54 * 16, None)
    for strength in (1e-3, 1.0):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=200))
        assert probe.fit(pixels[train], labels[train]).score(pixels[test], labels[test]) <= 0.5
