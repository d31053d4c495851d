"""An exported recognizer ranks as the run did, on a machine that has neither the run nor its data."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from entry import ROOT, cached, command

import slr
from slr.core.files import read_json, write_json

FRESH = """
import json, sys
import slr
rows = slr.load(sys.argv[1]).rank(sys.argv[2:], top=99)
print("RANKED", json.dumps([dict(row) for row in rows]), slr.__file__)
"""


def fresh_machine(folder: Path) -> Path:
    """The Python of a new environment: the libraries that slr needs, and slr as a wheel would put it there."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    place = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    # A line of a .pth adds a folder, but reads no .pth in it: this checkout, installed there in place, is not found.
    (place / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    for package in ("slr", "hydra_plugins"):
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    return python


def test_a_fresh_environment_ranks_identically(demo, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(demo, run)
    command("-m", "slr.export", f"run={run}", "clips=4")
    predictions = read_json(run / "evaluation" / "evaluation_results.json")["predictions"][:2]
    clips = next(Path(read_json(run / "config.json")["data"]).glob("synthetic/*/clips"))
    elsewhere = tmp_path / "elsewhere, = ü"
    shutil.copytree(run / "export" / "adapter", elsewhere)
    files = [str(shutil.copy(clips / f"{one['clip']}.mp4", tmp_path)) for one in predictions]
    script = tmp_path / "fresh.py"
    script.write_text(FRESH)
    found = subprocess.run(
        [str(fresh_machine(tmp_path / "venv")), str(script), str(elsewhere), *files],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-3000:]
    [line] = [line for line in found.stdout.splitlines() if line.startswith("RANKED")]
    ranked, end = json.JSONDecoder().raw_decode(line[len("RANKED ") :])
    assert str(tmp_path) in line[len("RANKED ") + end :], "slr came from the new environment"
    # What somebody brings is encoded once more, so the run itself is asked for the same files.
    own = slr.load(run).rank(files, top=99)
    for mine, theirs in zip(own, ranked, strict=True):
        assert [gloss for gloss, _ in mine] == list(theirs)
        assert [p for _, p in mine] == pytest.approx(list(theirs.values()), abs=1e-12)


def test_another_base_is_not_asked_for_the_runs_commit(demo, tmp_path, monkeypatch):
    """An adapter of a run that was pinned, on a mirror of its base model, which has commits of its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cached(tmp_path, "some/mirror", "b" * 40)
    run = tmp_path / "run"
    shutil.copytree(demo, run)
    command("-m", "slr.export", f"run={run}", "clips=2")
    exported = run / "export" / "adapter" / "slr.json"
    content = read_json(exported)
    content["config"]["model"] |= {"checkpoint": "some/model", "revision": "main", "commit": "a" * 40}
    write_json(exported, content)
    clips = next(Path(read_json(run / "config.json")["data"]).glob("synthetic/*/clips"))
    video = next(clips.iterdir())
    said = command("-m", "slr.predict", f"run={exported.parent}", f"video={video}", "base=some/mirror", "json=yes")
    [answer] = map(json.loads, said.splitlines())
    assert answer["video"] == str(video)
