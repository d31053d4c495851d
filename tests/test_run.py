import hashlib
import json
import signal

import pytest

from slr import commandline, schema
from slr.errors import UserError
from slr.run import RunFolder, digest, open_run, provenance, read_json, recorded, write_json

commandline.register()


@pytest.fixture
def config():
    return commandline.configurations(["experiment=demo"])[0]


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_json(path, {"ä": [1, 2]})
    assert read_json(path) == {"ä": [1, 2]}
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    assert read_json(path) == {"ä": [1, 2]}
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def test_a_run_opens_and_anything_else_is_refused(tmp_path, config):
    folder = RunFolder(tmp_path / "run, it's = ä")
    with pytest.raises(UserError, match=r"expected the folder of a run, found no config.json"):
        open_run(folder.root)
    write_json(folder.config, schema.to_plain(config))
    write_json(folder.vocabulary, ["a", "b"])
    write_json(folder.split, {})
    assert open_run(folder.root) == (folder, config, ["a", "b"])
    folder.config.write_text("{")
    with pytest.raises(UserError, match="expected JSON"):
        open_run(folder.root)


def test_checkpoints_by_name_and_path(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for path in (folder.checkpoints / "best.ckpt", tmp_path / "mine.ckpt"):
        path.touch()
    assert folder.checkpoint("best") == folder.checkpoints / "best.ckpt"
    assert folder.checkpoint(str(tmp_path / "mine.ckpt")) == tmp_path / "mine.ckpt"
    with pytest.raises(UserError, match="checkpoint=last: expected a file"):
        folder.checkpoint("last")


def test_digest_ignores_the_order_of_keys_and_nothing_else():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1, "b": 2}) != digest({"a": 2, "b": 1})


def test_provenance_changes_with_configuration_and_data(config, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("x")
    one = provenance(config, manifest, "s")
    assert json.dumps(one)
    assert one["hashes"] == provenance(config, manifest, "s")["hashes"]
    assert one["hashes"]["data"] == hashlib.sha256(b"x").hexdigest()
    config.frames = 4
    assert one["hashes"]["config"] != provenance(config, manifest, "s")["hashes"]["config"]
    assert one["versions"]["torch"]


def test_a_result_says_how_a_run_ended(tmp_path):
    folder = RunFolder(tmp_path)
    status = lambda: read_json(folder.result)["status"]  # noqa: E731
    with recorded(folder, ["frames=8"]) as result:
        assert status() == "running"
        result["top1"] = 0.5
    assert status() == "done"
    assert read_json(folder.result)["top1"] == 0.5
    assert read_json(folder.result)["overrides"] == ["frames=8"]
    assert read_json(folder.result)["seconds"] >= 0

    with pytest.raises(ValueError, match="two"), recorded(folder, []):
        raise ValueError("one\ntwo")
    assert status() == "failed"
    assert read_json(folder.result)["error"] == "ValueError: two"

    for ending, code in ((KeyboardInterrupt(), 130), (SystemExit(1), 130), (SystemExit(143), 143)):
        with pytest.raises(SystemExit) as stopped, recorded(folder, []):
            raise ending
        assert (status(), stopped.value.code) == ("stopped", code)


def test_sigterm_is_a_stop(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, recorded(RunFolder(tmp_path), []):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
