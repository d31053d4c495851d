"""Python, the libraries, and whether they work together: tried, not looked up in a list of versions."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import sysconfig
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from slr.core.env import INSTALLED, PROJECT
from slr.doctor.finding import WARNING, Check, DoctorArgs, Problem, describe_error

INSTALL = "docs/install.md says how to install this machine's set"
COMPILE = f'{Path(sys.executable).name} -m compileall -q "{sysconfig.get_path("purelib")}"'
TORCHVISION = "pip uninstall torchvision, or both from one index: uv pip install torch torchvision --torch-backend=auto"
STRAY = 0.15  # of NF4's numbers from normal ones, relative; sound kernels give 0.09 to 0.10


def torch_itself() -> Any:  # noqa: ANN401  # the module
    """The module; raises `Problem` where it cannot be imported."""
    try:
        return importlib.import_module("torch")
    except Exception as error:
        raise Problem("not checked: torch cannot be imported", "repair torch first", WARNING) from error


def look_at_python(args: DoctorArgs) -> str:
    """Its version and system."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise Problem(found, "take Python 3.11, 3.12 or 3.13: uv venv --python 3.12")
    return found


def look_at_bytecode(args: DoctorArgs) -> str:
    """Whether Python keeps what it compiles, or compiles the libraries at every start."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise Problem("not checked: torch is not installed", "install torch first", WARNING)
    if Path(importlib.util.cache_from_source(torch.origin)).is_file():
        return "the libraries are compiled"
    if sys.dont_write_bytecode or not os.access(Path(torch.origin).parent, os.W_OK):
        why = "PYTHONDONTWRITEBYTECODE is set" if sys.dont_write_bytecode else "their folder cannot be written"
        raise Problem(f"every start compiles the libraries, ten seconds or more, because {why}", state=WARNING)
    return "the libraries are compiled when they are imported"


def look_at_torch(args: DoctorArgs) -> str:
    """Version and build."""
    import torch

    return f"{torch.__version__}, built {f'for CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'}"


def look_at_torchvision(args: DoctorArgs) -> str:
    """It may be absent; a broken one breaks transformers."""
    torch = torch_itself()
    version = _version("torchvision")
    if version is None:
        return "absent; only tests need it"
    try:
        import torchvision.ops

        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2), torch.tensor([1.0, 0.5]), 0.5)
    except Exception as error:
        raise Problem(f"{version} does not fit torch {torch.__version__} ({describe_error(error)})") from error
    return version


def look_at_transformers(args: DoctorArgs) -> str:
    """Whether it takes this torch (pip does not know which it needs), and has InternVL."""
    torch = torch_itself()
    import transformers
    from transformers.utils.import_utils import is_torch_available

    version = transformers.__version__
    if not is_torch_available():
        raise Problem(
            f"{version} is too new for torch {_version('torch')} and works without it",
            "uv pip install 'torch>=2.6'; with DirectML, whose torch stays 2.4.1: uv pip install 'transformers<5.14'",
        )
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    names = f"{InternVLForConditionalGeneration.__name__} and {AutoProcessor.__name__}"
    return f"{version} with torch {torch.__version__}: {names} import"


def look_at_requirements(args: DoctorArgs) -> str:
    """Whether everything that slr needs is installed, in a version that it runs with."""
    from packaging.requirements import Requirement

    readers = [name for name in ("decord", "decord2", "eva-decord") if _version(name)]
    if len(readers) > 1:
        found = f"{' and '.join(readers)} are both installed and overwrite each other's files"
        raise Problem(found, f"pip uninstall {' '.join(readers)}, then install slr again")
    if INSTALLED:
        lines = importlib.metadata.requires("slr") or []
    else:  # what a clone asks for now, not when it was installed
        project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    needed = [one for one in map(Requirement, lines) if not one.marker or one.marker.evaluate({"extra": "train"})]
    if wrong := [
        f"{one.name}: expected {one.specifier or 'any version'}, found {version or 'none'}"
        for one in needed
        if not ((version := _version(one.name)) and one.specifier.contains(version, prereleases=True))
    ]:
        raise Problem("; ".join(wrong))
    return f"all {len(needed)} that slr needs are installed, in versions that it runs with"


def look_at_nf4(args: DoctorArgs, device: str = "cpu") -> str | None:
    """Quantise a matrix, read it back, multiply and differentiate with it, as every run in 4 bits does."""
    torch = torch_itself()
    if device == "cuda" and not torch.cuda.is_available():
        return None
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes
    from bitsandbytes import matmul_4bit  # pyright: ignore[reportPrivateImportUsage]
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 128, generator=generator).to(device)
    rows = torch.randn(4, 128, generator=generator).to(device).requires_grad_()
    packed, state = quantize_4bit(weights, blocksize=64, compress_statistics=True, quant_type="nf4")
    back = dequantize_4bit(packed, state)
    product = matmul_4bit(rows, packed.t(), state)
    product.sum().backward()
    stray = float((back - weights).norm() / weights.norm())
    pairs = [(product, rows @ back.T), (rows.grad, back.sum(0).expand_as(rows))]
    wrong = max(float((computed - exact).norm() / exact.norm()) for computed, exact in pairs)
    if stray > STRAY or wrong > 0.02:
        found = f"bitsandbytes {bitsandbytes.__version__} computes wrongly: {stray:.0%} off, products {wrong:.1%}"
        raise Problem(found, f"use model.quantization=none, or another version; {INSTALL}")
    return f"bitsandbytes {bitsandbytes.__version__} quantises, multiplies and differentiates"


def _version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)


BITSANDBYTES = "uv pip install --reinstall 'bitsandbytes>=0.50', or run with model.quantization=none"
CHECKS = [
    Check("python", look_at_python, INSTALL),
    Check("bytecode", look_at_bytecode, COMPILE),
    Check("packages", look_at_requirements, INSTALL),
    Check("torch", look_at_torch, f"uv pip install --reinstall torch --torch-backend=auto; {INSTALL}"),
    Check("torchvision", look_at_torchvision, TORCHVISION),
    Check("transformers", look_at_transformers, f"repair torchvision first if it has a fault; {INSTALL}"),
    Check("NF4 on cpu", look_at_nf4, BITSANDBYTES),
    Check("NF4 on cuda", partial(look_at_nf4, device="cuda"), BITSANDBYTES),
]
