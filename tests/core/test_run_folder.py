import dataclasses
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import slr
from slr import factory
from slr.config import compose, jobs, schema
from slr.config.provenance import _code, provenance, refuse_other_base
from slr.config.saved_run import open_run
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.locks import Busy, occupied
from slr.core.run_folder import RunFolder, digest, hashes_of, recorded, status_of
from slr.core.signals import Stopping, listening

compose.register()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config():
    return jobs.configurations(["experiment=demo"])[0]


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
    with pytest.raises(UserError, match=r"expected the folder of a run at .*, found no config.json"):
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
    one = provenance(config, "b", manifest, "s", ["no", "yes"])
    assert json.dumps(one)
    assert one["hashes"] == provenance(config, "b", manifest, "s", ["no", "yes"])["hashes"]
    assert one["hashes"] != provenance(config, "b", manifest, "s", ["yes", "no"])["hashes"]
    assert one["hashes"]["data"] == hashlib.sha256(b"x").hexdigest()
    config.frames = 4
    assert one["hashes"]["config"] != provenance(config, "b", manifest, "s", ["no", "yes"])["hashes"]["config"]
    assert one["versions"]["torch"]
    assert one["hashes"]["base"] == "b"


def installed(folder):
    """A package called slr as it lies in a checkout or among installed packages, with what is no part of it."""
    for name in ("run.py", "report/page.html", "models/tiny/checkpoint/config.json"):
        (folder / "slr" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "slr" / name).write_text(name)
    for name in ("slr/__pycache__/run.cpython-311.pyc", "slr/models/tiny/checkpoint/model.safetensors", "train.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("made, or somebody else's")
    for name in ("slr_sweeps", "others"):
        (folder / "hydra_plugins" / name).mkdir(parents=True)
        (folder / "hydra_plugins" / name / "__init__.py").write_text(name)
    return folder / "slr"


def test_the_code_hash_covers_the_package_wherever_it_lies_and_nothing_else(tmp_path, monkeypatch):
    package = installed(tmp_path / "site-packages")
    monkeypatch.setattr(slr, "__file__", str(package / "__init__.py"))
    before = _code()
    shutil.copytree(package.parent, tmp_path / "elsewhere")
    monkeypatch.setattr(slr, "__file__", str(tmp_path / "elsewhere" / "slr" / "__init__.py"))
    assert _code() == before

    def changes(name):
        """Whether another content of a file makes another hash."""
        file = tmp_path / "elsewhere" / name
        own, one = file.read_text(), _code()
        file.write_text("another")
        other = _code()
        file.write_text(own)
        return one != other

    for name in (
        "run.py",
        "report/page.html",
        "models/tiny/checkpoint/config.json",
        "../hydra_plugins/slr_sweeps/__init__.py",
    ):
        assert changes(f"slr/{name}"), name
    for name in (
        "slr/__pycache__/run.cpython-311.pyc",
        "slr/models/tiny/checkpoint/model.safetensors",
        "hydra_plugins/others/__init__.py",
        "train.py",
    ):
        assert not changes(name), name
    (tmp_path / "elsewhere" / "pyproject.toml").touch()  # a checkout, whose entry points are slr's
    assert changes("train.py")
    (tmp_path / "elsewhere" / "slr" / "run.py").rename(tmp_path / "elsewhere" / "slr" / "moved.py")
    assert _code() != before


def test_going_on_keeps_the_hashes_until_new_ones_are_told(tmp_path):
    """A run that fails before it can tell them, such as one on another base, would forget what it stands on."""
    folder = RunFolder(tmp_path)
    write_json(folder.result, {"status": "stopped", "hashes": {"base": "b"}})
    with pytest.raises(ValueError), recorded(folder, [], Stopping()):  # noqa: PT011
        raise ValueError
    assert hashes_of(folder) == {"base": "b"}


def test_a_result_says_how_a_run_ended(tmp_path):
    folder = RunFolder(tmp_path)
    status = lambda: read_json(folder.result)["status"]  # noqa: E731
    with recorded(folder, ["frames=8"], Stopping()) as record:
        assert status() == "running"
        record.update({"top1": 0.5})
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
        record.update({"status": "pruned"})
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
        assert "press Ctrl-C again" in capsys.readouterr().err
        signal.raise_signal(number)  # as a wrapper passes it on: the same request, not another
        monkeypatch.setattr("slr.core.signals.ECHO", 0.0)
        with pytest.raises(SystemExit):
            signal.raise_signal(number)

    with listening() as stopping:
        stopping.raise_if_asked()  # nobody asked
        stopping.deferred = True
        signal.raise_signal(number)
        with pytest.raises(SystemExit) as stopped:
            stopping.raise_if_asked()
        assert stopped.value.code == code


def test_a_run_that_says_running_and_has_no_process_was_killed(tmp_path):
    folder = RunFolder(tmp_path)
    assert status_of(folder) == "missing"
    write_json(folder.result, {"status": "running"})
    assert status_of(folder) == "killed"
    code = "import sys; from pathlib import Path; from slr.core.locks import occupied; p = Path(sys.argv[1])\n"
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


@pytest.mark.parametrize(
    ("hashes", "changes", "outcome"),
    [
        ({"base": "mine"}, {"checkpoint": "a/b"}, "taken"),
        ({"base": "other"}, {"checkpoint": "a/b", "commit": "c" * 40}, "refused"),
        ({"base": "other"}, {"checkpoint": "tiny"}, "refused"),
        ({}, {"checkpoint": "tiny"}, "refused"),  # one of before, whose weights are known
        ({}, {"checkpoint": "tiny", "weights": "random"}, "doubted"),
        ({}, {"checkpoint": "a/b", "commit": "c" * 40}, "taken"),  # the commit says it
        ({}, {"checkpoint": "a/b"}, "doubted"),
    ],
)
def test_another_base_is_refused_and_an_unknown_one_told(config, hashes, changes, outcome, capsys):
    model = dataclasses.replace(config.model, **changes)
    if outcome == "refused":
        with pytest.raises(UserError, match=r"^run=x: expected the base model .* SHA-256 \w+, found one of mine; put"):
            refuse_other_base(model, hashes, "mine", "run=x")
    else:
        refuse_other_base(model, hashes, "mine", "run=x")
    said = capsys.readouterr().err
    assert said.count("\n") == ("it is not known whether" in said) == (outcome == "doubted")


def test_the_packaged_model_is_still_that_of_the_runs_from_before(config):
    refuse_other_base(config.model, {}, factory.base_of(config), "run=x")
