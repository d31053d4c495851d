import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slr import commandline, composing, schema
from slr.errors import UserError
from slr.exclusive import Busy, occupied
from slr.run import RunFolder, digest, open_run, provenance, read_json, recorded, status_of, write_json
from slr.stopping import Stopping, listening

composing.register()
ROOT = Path(__file__).resolve().parent.parent


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
    one = provenance(config, manifest, "s", ["no", "yes"])
    assert json.dumps(one)
    assert one["hashes"] == provenance(config, manifest, "s", ["no", "yes"])["hashes"]
    assert one["hashes"] != provenance(config, manifest, "s", ["yes", "no"])["hashes"]
    assert one["hashes"]["data"] == hashlib.sha256(b"x").hexdigest()
    config.frames = 4
    assert one["hashes"]["config"] != provenance(config, manifest, "s", ["no", "yes"])["hashes"]["config"]
    assert one["versions"]["torch"]


def test_a_result_says_how_a_run_ended(tmp_path):
    folder = RunFolder(tmp_path)
    status = lambda: read_json(folder.result)["status"]  # noqa: E731
    with recorded(folder, ["frames=8"], Stopping()) as record:
        assert status() == "running"
        record.tell({"top1": 0.5})
        assert read_json(folder.result)["top1"] == 0.5
    assert status() == "done"
    assert read_json(folder.result)["overrides"] == ["frames=8"]
    before = read_json(folder.result)["seconds"]
    assert before >= 0

    with pytest.raises(ValueError, match="two"), recorded(folder, [], Stopping()):
        raise ValueError("one\ntwo")
    assert status() == "failed"
    assert read_json(folder.result)["error"] == "ValueError: two"
    assert read_json(folder.result)["seconds"] >= before  # of all processes that have worked on it

    with pytest.raises(SystemExit) as left, recorded(folder, [], Stopping()):
        raise SystemExit(3)
    assert (status(), left.value.code) == ("failed", 3)
    assert read_json(folder.result)["error"] == "SystemExit: 3"
    with pytest.raises(SystemExit) as stopped, recorded(folder, [], Stopping()):
        raise KeyboardInterrupt
    assert (status(), stopped.value.code) == ("stopped", 130)
    with recorded(folder, [], Stopping()) as record:
        record.tell({"status": "pruned"})
    assert status() == "pruned"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_stop_at_once_or_when_a_step_has_ended(tmp_path, number, code, capsys, monkeypatch):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped, listening() as stopping, recorded(RunFolder(tmp_path), [], stopping):
        signal.raise_signal(number)
    assert stopped.value.code == code
    assert read_json(RunFolder(tmp_path).result)["status"] == "stopped"
    assert signal.getsignal(number) is before

    with listening() as stopping:
        stopping.deferred = True
        signal.raise_signal(number)
        assert stopping.code == code
        assert "once more stops at once" in capsys.readouterr().err
        signal.raise_signal(number)  # as a wrapper passes it on: the same request, not another
        monkeypatch.setattr("slr.stopping.ECHO", 0.0)
        with pytest.raises(SystemExit):
            signal.raise_signal(number)

    with listening() as stopping:
        stopping.heed()  # nobody asked
        stopping.deferred = True
        signal.raise_signal(number)
        with pytest.raises(SystemExit) as stopped:
            stopping.heed()
        assert stopped.value.code == code


def test_a_run_that_says_running_and_has_no_process_was_killed(tmp_path):
    folder = RunFolder(tmp_path)
    assert status_of(folder) == "missing"
    write_json(folder.result, {"status": "running"})
    assert status_of(folder) == "killed"
    code = "import sys; from pathlib import Path; from slr.exclusive import occupied; p = Path(sys.argv[1])\n"
    code += "with occupied(p): print('in', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    with other:
        assert other.stdout.readline() == b"in\n"
        assert status_of(folder) == "running"
        with pytest.raises(Busy, match="expected no other process"), occupied(tmp_path):
            pass
        other.kill()
    assert status_of(folder) == "killed"
    with occupied(tmp_path):
        pass
