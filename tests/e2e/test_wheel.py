"""A wheel in an empty environment: everything that a clone does, without the clone and without a network."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from entry import ROOT, SMALL


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of an environment that has the wheel, and of the others' packages what this one has."""
    if not (uv := shutil.which("uv")):
        pytest.skip("needs uv")
    place = tmp_path_factory.mktemp("wheel")
    build = [uv, "build", "--wheel", "--offline", "--quiet", "--out-dir", place, ROOT]
    if error := subprocess.run(build, capture_output=True, text=True, check=False).stderr:
        pytest.skip(f"needs hatchling in uv's cache: {error.splitlines()[0]}")
    [wheel] = place.glob("*.whl")
    venv = place / "venv"
    subprocess.run([uv, "venv", "--offline", "--quiet", "--python", sys.executable, venv], check=True)
    subprocess.run([uv, "pip", "install", "--offline", "--quiet", "--no-deps", "--python", venv, wheel], check=True)
    [packages] = [path.parent for path in venv.rglob("slr") if path.is_dir()]
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return venv


def said(installed: Path, folder: Path, *words: str | Path) -> str:
    """What a command of the environment prints, given in a folder."""
    program = installed / ("Scripts" if os.name == "nt" else "bin") / words[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_wheel_trains_sweeps_loads_and_predicts(installed, tmp_path):
    file = said(installed, tmp_path, "python", "-c", "import slr; print(slr.__file__)")
    assert Path(file.strip()).is_relative_to(installed)
    assert "slr train experiment=demo" in said(installed, tmp_path, "slr", "train", "--help")
    small = [*SMALL, "epochs=1", "frames=1"]
    said(installed, tmp_path, "slr", "train", "-m", *small, "seed=3", "sweep=one")
    [run] = [file.parent for file in (tmp_path / "outputs" / "synthetic-tiny" / "sweeps" / "one").glob("*/config.json")]
    clip = next((tmp_path / "data").rglob("*.mp4"))
    assert "done already" in said(installed, tmp_path, "slr", "train", f"resume={run}")
    named = said(installed, tmp_path, "python", "-m", "slr.predict", f"run={run}", f"video={clip}")
    assert clip.name in named
    code = f"import slr; print(slr.load({str(run)!r}).rank({str(clip)!r}, top=1)[0][0])"
    assert said(installed, tmp_path, "python", "-c", code).strip() in named
