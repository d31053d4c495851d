import dataclasses
import json

import pytest

from slr.core.errors import UserError
from slr.data.manifest import Clip, Rejected, read_manifest, read_rejected, write_manifest, write_rejected, write_whole

CLIP = Clip(
    id="a1",
    file="clips/a1.mp4",
    gloss="don't want",
    frames=30,
    fps=25.0,
    width=320,
    height=240,
    sha256="ab",
    source="/videos/with, comma = ü.mov",
    source_sha256="cd",
    signer=None,
    official_part="val",
    prompt=None,
)


def test_rows_survive_writing_and_reading(tmp_path):
    strange = dataclasses.replace(CLIP, id="b", gloss='line\u2028separator\nand "quotes" ß', signer="7", fps=25)
    write_manifest(tmp_path / "manifest.jsonl", [CLIP, strange])
    assert read_manifest(tmp_path / "manifest.jsonl") == [CLIP, strange]
    rejected = [Rejected("c", "/x/c.mp4", "hello", "not_video", "an HTML page")]
    write_rejected(tmp_path / "rejected.jsonl", rejected)
    assert read_rejected(tmp_path / "rejected.jsonl") == rejected


def test_each_line_is_plain_json(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [CLIP])
    assert json.loads((tmp_path / "manifest.jsonl").read_text(encoding="utf-8")) == dataclasses.asdict(CLIP)


def test_an_empty_manifest_is_empty(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [])
    assert read_manifest(tmp_path / "manifest.jsonl") == []


@pytest.mark.parametrize("file", ["../a.mp4", "clips/../../a.mp4", "/etc/a.mp4", "C:/a.mp4", "clips\\a.mp4", ""])
def test_no_manifest_leads_out_of_its_folder(file, tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(dataclasses.asdict(CLIP) | {"file": file}) + "\n")
    with pytest.raises(UserError, match="inside the manifest's folder"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "line 1"),
        ("[]\n", "found list"),
        (json.dumps({"id": "a"}), "found id"),
        (json.dumps(dataclasses.asdict(CLIP) | {"frames": "30"}), "frames"),
        (json.dumps(dataclasses.asdict(CLIP) | {"frames": 0}), "at least 1 frame"),
        (json.dumps(dataclasses.asdict(CLIP) | {"official_part": "dev"}), "dev"),
        (json.dumps(dataclasses.asdict(CLIP)) + "\n" + json.dumps(dataclasses.asdict(CLIP)), "more than once"),
        (b"\xff\xfe", "none readable"),
    ],
)
def test_a_malformed_manifest_is_named_in_one_line(text, named, tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as refusal:
        read_manifest(path)
    assert named in str(refusal.value)
    assert str(path) in str(refusal.value) or "a1" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_manifest_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="prepare"):
        read_manifest(tmp_path / "manifest.jsonl")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_not_followed(tmp_path):
    (tmp_path / "data" / "clips").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    write_manifest(tmp_path / "data" / "manifest.jsonl", [CLIP])
    assert read_manifest(tmp_path / "data" / "manifest.jsonl") == [CLIP]
    (tmp_path / "data" / "clips" / "a1.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(UserError, match="found a link"):
        read_manifest(tmp_path / "data" / "manifest.jsonl")
    (tmp_path / "data" / "clips" / "a1.mp4").unlink()
    (tmp_path / "data" / "clips").rmdir()
    (tmp_path / "data" / "clips").symlink_to(tmp_path)
    with pytest.raises(UserError, match="found a link"):
        read_manifest(tmp_path / "data" / "manifest.jsonl")


def test_a_manifest_from_before_a_field_with_a_default_is_read(tmp_path):
    row = {name: value for name, value in dataclasses.asdict(CLIP).items() if name != "segment"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    assert read_manifest(tmp_path / "manifest.jsonl") == [CLIP]
