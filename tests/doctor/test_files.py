"""What the doctor finds on the disk and on the hub."""

import shutil
import sys
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from examined import asked
from huggingface_hub import constants
from servers import Server

from slr.data import video
from slr.doctor import isolation
from slr.models.hub import PACKAGED


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The checks change their own process's environment."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def result(name: str, folder: Path, **words) -> tuple[str, str, str]:
    finding = isolation.CHECKS[name].run(asked(folder, **words))
    return finding.state, finding.found, finding.remedy


@pytest.mark.parametrize("name", ["PyAV", "decord"])
def test_a_reader_that_gives_other_frames_than_it_is_asked_for(tmp_path, monkeypatch, name):
    real = video.read
    monkeypatch.setattr(video, "read", lambda file, positions, reader: real(file, positions - (positions > 1), reader))
    state, found, remedy = result(name, tmp_path)
    assert state == "fault"
    assert abs(int(found.partition(" grey levels off")[0].split()[-1]) - 9) <= 2  # one frame is 9 greys away
    assert "uv pip install --reinstall av decord2" in remedy


def test_a_reader_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    state, found, remedy = result("PyAV", tmp_path)
    assert (state, "av" in found, "reinstall av" in remedy) == ("fault", True, True)


def test_a_full_disk_is_a_fault_and_what_shares_a_disk_is_added_up(tmp_path, monkeypatch):
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=4 * 10**9))
    assert result("disk", tmp_path)[0] == "ok"  # 2 GB of data and 1 GB of runs
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    state, found, remedy = result("disk", tmp_path, model="no/model")  # and 4.7 GB of a model to be downloaded
    assert (state, "data, outputs, model take about" in found) == ("fault", True)
    assert "data=…, outputs=…" in remedy


def test_the_hub_is_there_if_it_says_anything(tmp_path, monkeypatch):
    with Server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        assert result("hub", tmp_path, offline=False)[:2] == ("ok", f"{hub.address} answers")
        assert len(hub.asked) == 1
        assert "not asked" in result("hub", tmp_path)[1]
        assert len(hub.asked) == 1

    def forbidden(url, timeout):
        raise urllib.error.HTTPError(url, 403, "Forbidden", Message(), None)

    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    assert result("hub", tmp_path, offline=False)[0] == "ok"


def test_a_hub_that_cannot_be_asked_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "nowhere")
    state, found, remedy = result("hub", tmp_path, offline=False)
    assert (state, "nowhere" in found, "HF_HUB_OFFLINE=1" in remedy) == ("warning", True, True)


def test_a_model_is_complete_or_lacks_something_or_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(PACKAGED["tiny"], tmp_path / "copy")
    assert result("model", tmp_path, model=str(copy))[:2] == ("ok", f"model={copy}: complete, in {copy}")
    (copy / "model.safetensors").unlink()
    assert result("model", tmp_path, model=str(copy))[0] == "warning"
    assert result("model", tmp_path, model=str(copy), typed=("model",))[0] == "fault"
    state, found, remedy = result("model", tmp_path, model="no/model", offline=False, typed=("model",))
    assert (state, "the first run downloads" in found, "model.checkpoint=FOLDER" in remedy) == ("warning", True, True)
    assert result("model", tmp_path, model="no/model", typed=("model",))[0] == "fault"  # offline


def test_prepared_data_are_counted(tmp_path):
    state, found, remedy = result("data", tmp_path, typed=("data",))
    assert (state, "nothing prepared" in found, "slr prepare" in remedy) == ("fault", True, True)
    for name, lines in (("one", 3), ("two", 1)):
        (tmp_path / "folder" / name).mkdir(parents=True)
        (tmp_path / "folder" / name / "manifest.jsonl").write_text("{}\n" * lines + "\n")
    place = Path("folder")
    words = f"{place / 'one'} (3 clips), {place / 'two'} (1 clips) in {tmp_path}"
    assert result("data", tmp_path)[:2] == ("ok", words)


def test_a_token_is_found_and_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert result("token", tmp_path, token=True)[:2] == ("ok", "HF_TOKEN is set")
    assert result("token", tmp_path)[1].startswith("none")
    (tmp_path / "token").write_text("hf_never")
    state, found, _ = result("token", tmp_path)
    assert (state, "login" in found, "hf_never" in found) == ("ok", True, False)


def test_a_read_clip_has_the_greys_that_were_written(tmp_path):
    """The check above is only as good as its clip: the frames differ by more than the codec's error."""
    from slr.prepare.encode import write_clip

    write_clip(tmp_path / "clip.mp4", (np.full((64, 96, 3), 10 + 9 * number, np.uint8) for number in range(24)))
    means = video.read(tmp_path / "clip.mp4", np.arange(24), "pyav").mean((1, 2, 3))
    assert np.abs(means - (10 + 9 * np.arange(24))).max() < 3
