"""What git has is enough: every module imports from a clone."""

import os
import subprocess
import sys

import pytest
from entry import ROOT


def test_every_module_imports_from_a_clone(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True, capture_output=True)
    package = tmp_path / "clone" / "slr"
    modules = [
        ".".join(path.relative_to(tmp_path / "clone").with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(package.rglob("*.py"))
    ]
    assert len(modules) > 30
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += "import slr, pathlib; assert pathlib.Path(slr.__file__).is_relative_to(pathlib.Path.cwd()), slr.__file__"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "clone")}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path / "clone",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (package / "models" / "tiny" / "checkpoint" / "model.safetensors").stat().st_size <= 8 * 2**20
