import json
import shutil

import pytest

from slr.data.manifest import read_manifest
from slr.errors import UserError
from slr.prepare.wlasl import prepare_wlasl, read_index


def test_the_real_index_has_its_known_counts(shared, tmp_path):
    records = read_index(shared / "wlasl" / "index" / "WLASL_v0.3.json", tmp_path)
    assert len(records) == 21_083
    assert len({record.id for record in records}) == 21_083
    assert len({record.gloss for record in records}) == 2_000
    assert len({record.signer for record in records}) == 119
    parts = [record.official_part for record in records]
    assert [parts.count(part) for part in ("train", "val", "test")] == [14_289, 3_916, 2_878]


def test_clips_that_are_here_are_prepared_and_the_rest_is_counted(shared, tmp_path, capsys):
    listed = json.loads((shared / "wlasl" / "clips.json").read_text())
    names = sorted(listed)[:4]
    (tmp_path / "videos").mkdir()
    for name in names:
        shutil.copy(shared / "wlasl" / "clips" / f"{name}.mp4", tmp_path / "videos")
    index = shared / "wlasl" / "index" / "WLASL_v0.3.json"
    clips = read_manifest(prepare_wlasl(index, tmp_path / "videos", tmp_path / "out", workers=2))
    found = {clip.id: (clip.gloss, clip.signer, clip.official_part) for clip in clips}
    assert found == {n: (listed[n]["gloss"], str(listed[n]["signer_id"]), listed[n]["split"]) for n in names}
    assert "4 of 21083 listed clips" in capsys.readouterr().err


def test_refusals(tmp_path):
    index = tmp_path / "index.json"
    with pytest.raises(UserError, match=r"expected WLASL_v0.3.json"):
        prepare_wlasl(index, tmp_path, tmp_path / "out", 1)
    index.write_text('{"a": 1}')
    with pytest.raises(UserError, match="no index that can be read"):
        prepare_wlasl(index, tmp_path, tmp_path / "out", 1)
    index.write_text('[{"gloss": "a", "instances": [{"video_id": "1", "signer_id": 1, "split": "val"}]}]')
    with pytest.raises(UserError, match="none of the 1"):
        prepare_wlasl(index, tmp_path, tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"set dataset\.clips"):
        prepare_wlasl(index, tmp_path / "nowhere", tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
