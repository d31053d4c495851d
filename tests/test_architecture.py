"""Arrows run one way: held by reading import statements, without importing anything."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "slr").rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(module: str, prefix: str) -> list[str]:
    names = imported(MODULES[module])
    return sorted(name for name in names if name == prefix or name.startswith(prefix + "."))


def modules(prefix: str) -> list[str]:
    return [name for name in MODULES if name == prefix or name.startswith(prefix + ".")]


# A room -> the rooms that it may not know.
FORBIDDEN = {
    "slr.data": [
        "slr.models",
        "slr.prepare",
        "slr.training.module",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
    ],
    "slr.models": [
        "slr.data",
        "slr.training.module",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
    ],
    "slr.prepare": [
        "slr.models",
        "slr.training.module",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
        "slr.data.datamodule",
    ],
    "slr.prepare.layouts": [
        "av",
        "slr.prepare.records",
        "slr.prepare.verify",
        "slr.prepare.wlasl.fetch",
        "slr.data.video",
    ],
    "slr.report": ["slr.models", "slr.training.module", "slr.prepare", "slr.training.assemble", "slr.data.datamodule"],
    "slr.compare": [
        "slr.models",
        "slr.data",
        "slr.training.module",
        "slr.prepare",
        "slr.training.assemble",
        "slr.models.metrics",
        "torch",
    ],
    "slr.core.run_folder": [
        "slr.models",
        "slr.data",
        "slr.training.module",
        "slr.prepare",
        "slr.report",
        "slr.training.assemble",
        "torch",
    ],
    "slr.training.start": [
        "torch",
        "hydra",
        "slr.training.module",
        "slr.prepare",
        "slr.report",
        "slr.training.assemble",
    ],
    "slr.commands.validate": ["torch", "slr.training.module", "slr.report", "slr.training.loop"],
    "slr.predict.predictor": ["slr.prepare", "slr.core.run_folder", "slr.evaluation.report.page", "slr.training.loop"],
    "slr.training.warm_start": [
        "torch",
        "slr.models",
        "slr.training.module",
        "slr.prepare",
        "slr.report",
        "slr.training.assemble",
    ],
    "slr.training.loop": ["slr.prepare", "slr.report", "slr.data.datamodule"],
    "slr.core.checkpoints": ["torch", "slr.core.run_folder", "slr.training.loop"],
    "slr.training.module": [
        "slr.prepare",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
        "slr.data.datamodule",
    ],
    "slr.predict.saliency": [
        "slr.prepare",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
        "slr.data.datamodule",
    ],
    "slr.predict.segmentation": [
        "torch",
        "slr.data",
        "slr.models",
        "slr.prepare",
        "slr.training.module",
        "slr.core.run_folder",
        "slr.training.assemble",
    ],
    "slr.predict.results": [
        "torch",
        "slr.data",
        "slr.models",
        "slr.prepare",
        "slr.training.module",
        "slr.core.run_folder",
        "slr.training.assemble",
    ],
    "slr.predict.sources": [
        "torch",
        "slr.models",
        "slr.training.module",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
    ],
    "slr.predict.stream": ["slr.prepare", "slr.core.run_folder", "slr.report", "slr.training.assemble"],
    "slr.health": [
        "slr.training.module",
        "slr.training.assemble",
        "slr.core.run_folder",
        "slr.report",
        "hydra",
        "omegaconf",
    ],
    "slr.config.overrides": ["slr.config.compose", "slr.config.sweep_name", "slr.config.jobs"],
    "slr.config.compose": ["slr.config.sweep_name", "slr.config.jobs", "torch"],
    "slr.config.sweep_name": ["slr.config.jobs", "torch"],
    "slr.core.env": ["torch", "huggingface_hub"],
    "slr.core": ["slr.data", "slr.models", "slr.training"],
    "slr.training.preflight": [
        "slr.prepare",
        "slr.core.run_folder",
        "slr.report",
        "slr.training.assemble",
        "slr.core.hardware",
        "slr.data.datamodule",
    ],
    "slr.config.schema": ["slr.models", "slr.data", "slr.prepare", "torch", "hydra", "omegaconf"],
}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_run_one_way(room):
    assert modules(room)
    offences = {
        f"{module} imports {name}"
        for module in modules(room)
        for other in FORBIDDEN[room]
        for name in imports(module, other)
        # The tiny model learns from drawn signs: the drawing, not the data set.
        if not (module.startswith("slr.models.tiny") and name.startswith("slr.prepare"))
    }
    assert offences == set()


HYDRA = ["slr.config.overrides", "slr.config.compose", "slr.config.sweep_name", "slr.config.jobs"]
# A heavy library -> the only rooms that may name it.
OWNERS = {
    "hydra": HYDRA,
    "omegaconf": HYDRA,
    "lightning": ["slr.data.datamodule", "slr.training.module", "slr.training.loop", "slr.training.directml"],
    "transformers": ["slr.models", "slr.health"],  # the doctor sees whether they work
    "peft": ["slr.models"],
    "bitsandbytes": ["slr.models", "slr.health"],
    "decord": ["slr.data.video", "slr.health"],
    "optuna": ["slr.sweeps.optuna_study"],
    "matplotlib": ["slr.evaluation.compare.scatter", "slr.evaluation.report.figures"],
    "jinja2": ["slr.evaluation.report.page"],
    "torchvision": ["slr.health"],
}


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_their_rooms(library):
    owners = {name for owner in OWNERS[library] for name in modules(owner)}
    assert [module for module in MODULES if imports(module, library) and module not in owners] == []


def test_preparation_and_manifest_do_not_know_torch():
    rooms = [*modules("slr.prepare"), "slr.data.manifest", "slr.data.split"]
    assert [module for module in rooms if imports(module, "torch")] == []


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_packages_import_nothing_when_imported(package):
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    allowed = {"os", "typing"}
    assert {getattr(node, "module", None) for node in top} <= allowed


def test_nothing_ruled_out_is_called():
    words = ("trust_remote_code=True", "weights_only=False", "pickle.load", "shell=True", "cfg.get(")
    sources = [*MODULES.values(), *ROOT.glob("*.py")]
    assert [(path.name, word) for path in sources for word in words if word in path.read_text(encoding="utf-8")] == []


def test_the_doctor_itself_needs_no_library():
    """It has to say what is wrong with them."""
    rooms = [
        "slr.doctor",
        "slr.core.env",
        "slr.core.argv",
        "slr.core.errors",
        "slr.doctor.finding",
        "slr.doctor.isolation",
    ]
    own = {name.partition(".")[0] for room in rooms for name in imported(MODULES[room])}
    assert own <= sys.stdlib_module_names | {"slr"}
