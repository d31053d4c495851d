"""What is imported: no torch where none is needed, no trainer to load a model."""

import os
import subprocess
import sys

import pytest
from entry import OWN, ROOT

WITHOUT_TORCH = [
    *("slr.core", "slr.config", "slr.prepare"),
    *(f"slr.data.{name}" for name in ("manifest", "split", "signer_split", "coverage")),
    "slr.models.trie",
    *(f"slr.predict.{name}" for name in ("sources", "results", "segmentation", "calibration", "bundle")),
]
WITH_TORCH = {f"slr.core.{name}" for name in ("hardware", "directml", "tensorboard")}


def python(code: str, *words: object) -> str:
    """The output of a new interpreter."""
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | OWN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def modules(room: str) -> list[str]:
    """A package's modules, or the module itself."""
    path = ROOT / room.replace(".", "/")
    files = [path.with_suffix(".py")] if not path.is_dir() else sorted(path.rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not name.endswith("__main__")]


def test_what_needs_no_torch_is_imported_without():
    names = [name for room in WITHOUT_TORCH for name in modules(room) if name not in WITH_TORCH]
    assert len(names) > 50
    code = (
        "import importlib, sys; sys.modules['torch'] = None; [importlib.import_module(name) for name in sys.argv[1:]]"
    )
    python(code, *names)


LOAD = """
import gc, sys
for name in ("lightning", "lightning_fabric", "pytorch_lightning"):
    sys.modules[name] = None
import slr
vocabulary = slr.load(sys.argv[1]).vocabulary
import torch, bitsandbytes
print(len(vocabulary), gc.isenabled(), torch.compile.__module__, *sys.modules)
"""


@pytest.mark.parametrize("place", ["demo", "4cc3ba9/export"])
def test_a_model_is_loaded_without_a_trainer(place):
    count, collects, compiler, *loaded = python(LOAD, ROOT / "tests/fixtures" / place).split()
    assert (int(count) > 1, collects, compiler) == (True, "True", "torch")
    assert {"torchmetrics", "sklearn", "matplotlib", "torch._inductor.compile_fx"}.isdisjoint(loaded)
    assert not [name for name in loaded if name.startswith(("slr.training", "slr.evaluation"))]
