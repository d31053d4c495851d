"""Finding checkpoints: folders as they are, the hub only through its cache or one short question."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import pytest

from slr.core.errors import UserError
from slr.models import hub
from slr.models.hub import PATIENCE, base_hash, locate

NAME = "OpenGVLab/InternVL3_5-2B-HF"


@pytest.fixture
def folder(tmp_path):
    """A folder that looks complete, weights aside."""
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def ask_for_the_2b(tmp_path, patience=PATIENCE, **environment):
    """What is said in a process of its own, without a cache: the hub's address is read at an import."""
    code = f"""
from slr.core.errors import UserError
from slr.models import hub
hub.PATIENCE = {patience}
try:
    hub.locate({NAME!r}, None)
except UserError as error:
    print(error)
import sys
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    kept.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HF_HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


def check_remedies(said):
    assert said.count("\n") == 1
    for word in (NAME, "connect", "model.checkpoint=", "HF_HUB_OFFLINE", "model=tiny"):
        assert word in said


def test_packaged_and_whole_folders_are_taken_as_they_are(folder):
    assert (locate("tiny", None) / "config.json").is_file()
    assert locate(str(folder), None, need_weights=False) == folder
    (folder / "model.safetensors").write_bytes(b"")
    assert locate(str(folder), "any revision") == folder


def test_shards_are_all_needed(folder):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-1.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"no model-2\.safetensors"):
        locate(str(folder), None)


def test_a_base_is_told_by_its_weights_and_nothing_beside_them(folder, monkeypatch):
    """Against `sha256sum`'s algorithm on the bytes, written down by hand."""
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights" * 99_999)
    assert base_hash(str(folder), None, "pretrained", 0) == hashlib.sha256(b"weights" * 99_999).hexdigest()
    (folder / "config.json").write_text("[]")
    assert base_hash(str(folder), None, "pretrained", 1) == hashlib.sha256(b"weights" * 99_999).hexdigest()
    weights.write_bytes(b"weights" * 99_998 + b"WEIGHTS")  # of the same length
    other = hashlib.sha256(weights.read_bytes()).hexdigest()
    os.utime(weights, ns=(0, 1))  # however coarse the clock of the disk is
    assert base_hash(str(folder), None, "pretrained", 0) == other
    monkeypatch.setattr(hub, "sha256", None)
    assert base_hash(str(folder), None, "pretrained", 0) == other  # not read again


def test_shards_are_told_by_name_and_content(folder):
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(b"%d" % number)
    rows = [[f"model-{number}.safetensors", hashlib.sha256(b"%d" % number).hexdigest()] for number in (1, 2)]
    assert base_hash(str(folder), None, "pretrained", 0) == hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def test_random_weights_are_told_by_architecture_and_seed(folder):
    (folder / "config.json").write_text('{"b": 1,  "a": 2}')
    one = base_hash(str(folder), None, "random", 0)
    assert one == hashlib.sha256(b'[{"a": 2, "b": 1}, 0, "random"]').hexdigest()
    assert base_hash(str(folder), None, "random", 1) != one
    (folder / "config.json").write_text('{"b": 1, "a": 3}')
    assert base_hash(str(folder), None, "random", 0) != one


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_folder_without_a_file_is_refused_by_that_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")) as error:
        locate(str(folder), None, need_weights=False)
    assert "\n" not in str(error.value)


def test_pickled_weights_do_not_count(folder):
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        locate(str(folder), None)


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/none-at-all", "InternVL3_5-2B-HF", "a/b/c", "../x"])
def test_what_is_neither_folder_nor_hub_name_is_refused_at_once(name):
    with pytest.raises(UserError, match="no folder here"):
        locate(name, None)


def test_a_name_that_the_hub_could_not_have():
    with pytest.raises(UserError, match="a--b/c"):
        locate("a--b/c", None)


def test_refused_connection_fails_fast_with_remedies(tmp_path):
    check_remedies(ask_for_the_2b(tmp_path, HF_ENDPOINT="http://127.0.0.1:9"))


def test_silent_server_fails_within_the_time_limit(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        said = ask_for_the_2b(tmp_path, patience=1, HF_ENDPOINT=endpoint)
    check_remedies(said)
    assert "no answer within 1 s" in said or "timed out" in said


def test_offline_mode_asks_no_one(tmp_path):
    check_remedies(ask_for_the_2b(tmp_path, HF_HUB_OFFLINE="1"))


def test_a_cached_snapshot_needs_no_network_but_a_partial_one_does(tmp_path):
    repository = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "tokenizer.json", "preprocessor_config.json"):
        (snapshot / name).write_text("{}")
    said = ask_for_the_2b(tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    check_remedies(said)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert ask_for_the_2b(tmp_path, HF_ENDPOINT="http://127.0.0.1:9") == ""
