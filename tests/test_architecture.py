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


# A package of slr -> what it may know of the others, in the order in which they stand on each other.
MAY_KNOW = {
    "core": [],
    "config": ["core"],
    "data": ["core"],
    "models": ["core"],
    "prepare": ["core", "data"],
    "tiny_pretraining": ["models", "prepare"],
    "factory": ["core", "config", "data", "models"],
    "predict": ["core", "config", "data", "models", "prepare", "factory"],
    "training": ["core", "config", "data", "models", "factory"],
    "evaluation": ["core", "config", "data", "models", "factory", "predict"],
    "export": ["core", "config", "data", "models", "factory", "predict"],
    "sweeps": ["core", "config"],
    "doctor": ["core", "config", "data", "models", "prepare"],
    "commands": [
        *("core", "config", "data", "models", "prepare", "factory"),
        *("predict", "training", "evaluation", "export", "sweeps", "doctor"),
    ],
}
# Flat files: the package's own name, and `python -m slr.NAME` for commands that have no package of their own.
FLAT = {"slr", "slr.__main__", "slr.factory"}
SHIMS = {"slr.audit", "slr.compare", "slr.ladder"}


def package_of(module: str) -> str | None:
    """Which row of the table a module is in; None for slr itself and for what starts a command."""
    return None if module in {"slr", *SHIMS} or module.endswith(".__main__") else module.split(".")[1]


def arrows() -> set[tuple[str, str]]:
    """(module, package that it knows), of others than its own."""
    found = {
        (module, other)
        for module, path in MODULES.items()
        for name in imported(path)
        if package_of(module) and name in MODULES and (other := package_of(name)) and other != package_of(module)
    }
    return found


def test_arrows_run_one_way():
    assert [arrow for arrow in arrows() if arrow[1] not in MAY_KNOW[str(package_of(arrow[0]))]] == []


def test_the_table_has_an_order():
    rows = list(MAY_KNOW)
    assert all(rows.index(other) < rows.index(package) for package, known in MAY_KNOW.items() for other in known)


def test_few_files_lie_flat():
    assert {module for module in MODULES if module.count(".") < 2} == FLAT | SHIMS | {
        f"slr.{name}" for name in MAY_KNOW
    }


@pytest.mark.parametrize("module", sorted(SHIMS) + sorted(name for name in MODULES if name.endswith(".__main__")))
def test_what_hands_over_to_a_command_does_nothing_else(module):
    assert {name.rpartition(".")[0] for name in imported(MODULES[module]) if name.startswith("slr.")} <= {
        "slr",
        *(("slr.core", "slr.core.errors") if module == "slr.__main__" else ("slr.__main__",)),
    }


CONFIG = ["slr.config.app", "slr.config.compose", "slr.config.jobs", "slr.config.overrides", "slr.config.sweep_name"]
# A heavy library -> the only rooms that may name it.
OWNERS = {
    "hydra": CONFIG,
    "omegaconf": CONFIG,
    "lightning": ["slr.data.datamodule", "slr.training"],
    "transformers": ["slr.models", "slr.tiny_pretraining", "slr.doctor.libraries"],  # the doctor sees whether they work
    "peft": ["slr.models"],
    "bitsandbytes": ["slr.models", "slr.doctor.libraries"],
    "decord": ["slr.data.video", "slr.doctor.files"],
    "optuna": ["slr.sweeps.optuna_study"],
    "matplotlib": ["slr.evaluation.compare.scatter", "slr.evaluation.report.figures"],
    "jinja2": ["slr.evaluation.report.page"],
    "torchvision": ["slr.doctor.libraries"],
}


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_their_rooms(library):
    owners = {name for owner in OWNERS[library] for name in modules(owner)}
    assert [module for module in MODULES if imports(module, library) and module not in owners] == []


# Rooms that never name torch, so that they can stand without it one day; what follows are the exceptions among them.
WITHOUT_TORCH = ["slr.core", "slr.config", "slr.prepare", "slr.sweeps", "slr.commands"]
WITHOUT_TORCH += [f"slr.data.{name}" for name in ("manifest", "split", "signer_split", "coverage", "duplicates")]
WITHOUT_TORCH += [f"slr.models.{name}" for name in ("trie", "hub", "generation_config", "memory_plan")]
WITHOUT_TORCH += [f"slr.predict.{name}" for name in ("sources", "results", "segmentation", "calibration", "bundle")]
WITHOUT_TORCH += [f"slr.training.{name}" for name in ("start", "warm_start", "console_log")]
WITHOUT_TORCH += ["slr.evaluation.compare", "slr.evaluation.ranks"]
WITH_TORCH = {f"slr.core.{name}" for name in ("hardware", "distributed", "directml", "tensorboard")}


def test_who_does_without_torch():
    rooms = {name for room in WITHOUT_TORCH for name in modules(room)}
    assert {module for module in rooms if imports(module, "torch")} == WITH_TORCH


def test_layouts_read_lists_and_open_no_video():
    forbidden = ["av", "slr.prepare.records", "slr.prepare.verify", "slr.prepare.wlasl.fetch", "slr.data.video"]
    rooms = modules("slr.prepare.layouts")
    assert rooms
    assert [(module, name) for module in rooms for other in forbidden for name in imports(module, other)] == []


@pytest.mark.parametrize("package", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_packages_import_nothing_when_imported(package):
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    allowed = {"os", "typing"}
    assert {getattr(node, "module", None) for node in top} <= allowed


def test_nothing_ruled_out_is_called():
    words = ("trust_remote_code=True", "weights_only=False", "pickle.load", "shell=True", "cfg.get(")
    words += ("all_gather_object", "broadcast_object_list")  # which unpickle what another process sends
    sources = [*MODULES.values(), *ROOT.glob("*.py")]
    assert [(path.name, word) for path in sources for word in words if word in path.read_text(encoding="utf-8")] == []


def test_nothing_unpickles():
    error = ["pickle", "pickle.UnpicklingError"]  # of a checkpoint that is read with weights_only=True
    assert [module for module in MODULES if imports(module, "pickle") not in ([], error)] == []


def test_the_doctor_itself_needs_no_library():
    """It has to say what is wrong with them."""
    rooms = [
        "slr.commands.doctor",
        "slr.core.env",
        "slr.core.argv",
        "slr.core.errors",
        "slr.core.units",
        "slr.doctor.finding",
        "slr.doctor.isolation",
    ]
    own = {name.partition(".")[0] for room in rooms for name in imported(MODULES[room])}
    assert own <= sys.stdlib_module_names | {"slr"}
