"""Python, the libraries, and whether they go together: asked of them, not of a list."""

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slr.doctor.finding import FAULT, OK, WARNING, Asked, Check, Finding, NotLooked

PROJECT = Path(__file__).resolve().parents[2]
INSTALL = "docs/install.md says how to install this machine's set"
COMPILE = f'{Path(sys.executable).name} -m compileall -q "{sysconfig.get_path("purelib")}"'
TORCHVISION = (
    "pip uninstall torchvision, or take both from one index: uv pip install torch torchvision --torch-backend=auto"
)
STRAY = 0.15  # of NF4's numbers from normal ones, relative; sound kernels give 0.09 to 0.10


def torch_itself() -> Any:  # noqa: ANN401  # the module
    """The module, where it imports."""
    try:
        return importlib.import_module("torch")
    except Exception as error:
        raise NotLooked("torch cannot be imported") from error


def look_at_python(asked: Asked) -> Iterator[Finding]:
    """The version, and on what."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield (
        Finding("python", OK, found)
        if fits
        else Finding("python", FAULT, found, "take Python 3.11, 3.12 or 3.13: uv venv --python 3.12")
    )


def look_at_bytecode(asked: Asked) -> Iterator[Finding]:
    """Whether every start compiles the libraries anew, since what Python compiles is not kept."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise NotLooked("torch is not installed")
    if Path(importlib.util.cache_from_source(torch.origin)).is_file():
        yield Finding("bytecode", OK, "the libraries are compiled")
    elif sys.dont_write_bytecode or not os.access(Path(torch.origin).parent, os.W_OK):
        why = "PYTHONDONTWRITEBYTECODE is set" if sys.dont_write_bytecode else "their folder cannot be written"
        said = f"every start compiles the libraries anew, ten seconds or more, since {why}"
        yield Finding("bytecode", WARNING, said, COMPILE)
    else:
        yield Finding("bytecode", OK, "the libraries are compiled as they are imported")


def look_at_torch(asked: Asked) -> Iterator[Finding]:
    """Version and build."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    yield Finding("torch", OK, f"{torch.__version__}, built {build}")


def look_at_torchvision(asked: Asked) -> Iterator[Finding]:
    """It may be absent; broken, it takes transformers with it."""
    torch = torch_itself()
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("torchvision", OK, "absent, and only tests want it")
        return
    try:
        import torchvision.ops

        boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
        torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.5)
    except Exception as error:
        said = f"{version} does not fit torch {torch.__version__} ({type(error).__name__}: {_first_line(error)})"
        yield Finding("torchvision", FAULT, said, TORCHVISION)
        return
    yield Finding("torchvision", OK, version)


def look_at_torchcodec(asked: Asked) -> Iterator[Finding]:
    """slr does not use it; transformers does where it is, and most of its wheels want CUDA's libraries."""
    try:
        version = importlib.metadata.version("torchcodec")
    except importlib.metadata.PackageNotFoundError:
        return
    torch_itself()
    try:
        importlib.import_module("torchcodec")
        yield Finding("torchcodec", OK, f"{version}; slr does not use it")
    except Exception as error:
        said = f"{version} cannot be imported ({type(error).__name__}: {_first_line(error)})"
        yield Finding("torchcodec", WARNING, said, "pip uninstall torchcodec; slr does not use it")


def look_at_transformers(asked: Asked) -> Iterator[Finding]:
    """Whether it sees torch, which it does not tell pip that it needs newer, and has InternVL."""
    torch = torch_itself()
    import transformers
    from transformers.utils.import_utils import is_torch_available

    version = transformers.__version__
    if not is_torch_available():
        known = importlib.metadata.version("torch")
        yield Finding(
            "transformers",
            FAULT,
            f"{version} is too new for torch {known} and works without it",
            "uv pip install 'torch>=2.6'; with DirectML, whose torch stays 2.4.1: uv pip install 'transformers<5.14'",
        )
        return
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    names = f"{InternVLForConditionalGeneration.__name__} and {AutoProcessor.__name__}"
    yield Finding("transformers", OK, f"{version} with torch {torch.__version__}: {names} import")


def look_at_requirements(asked: Asked) -> Iterator[Finding]:
    """Everything that slr asks for, by what is installed."""
    from packaging.requirements import Requirement

    page = PROJECT / "pyproject.toml"
    if page.is_file():
        project = tomllib.loads(page.read_text(encoding="utf-8"))["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    else:
        wanted = importlib.metadata.requires("slr") or []
    wrong = []
    for one in map(Requirement, wanted):
        if one.marker and not one.marker.evaluate({"extra": "train"}):
            continue
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} {version} is not {one.specifier}")
    if wrong:
        yield Finding("packages", FAULT, "; ".join(wrong), INSTALL)
    else:
        yield Finding("packages", OK, f"{len(wanted)} that slr asks for, all of a version that it runs with")
    readers = [name for name in ("decord", "decord2", "eva-decord") if _installed(name)]
    if len(readers) > 1:
        said = f"{' and '.join(readers)} are both installed and overwrite each other's files"
        yield Finding("packages", FAULT, said, f"pip uninstall {' '.join(readers)}, then install slr again")


def look_at_nf4_cpu(asked: Asked) -> Iterator[Finding]:
    """The kernel that every run without a card uses."""
    yield _nf4("cpu", asked)


def look_at_nf4_cuda(asked: Asked) -> Iterator[Finding]:
    """The kernel that runs on a card use, where there is one."""
    if torch_itself().cuda.is_available():
        yield _nf4("cuda", asked)


def _nf4(device: str, asked: Asked) -> Finding:
    """A matrix quantised, read back, multiplied and differentiated through."""
    torch = torch_itself()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes
    from bitsandbytes import matmul_4bit  # pyright: ignore[reportPrivateImportUsage]
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    numbers = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 128, generator=numbers).to(device)
    rows = torch.randn(4, 128, generator=numbers).to(device).requires_grad_()
    packed, state = quantize_4bit(weights, blocksize=64, compress_statistics=True, quant_type="nf4")
    back = dequantize_4bit(packed, state)
    product = matmul_4bit(rows, packed.t(), state)
    product.sum().backward()
    name, version = f"NF4 on {device}", bitsandbytes.__version__
    stray = float((back - weights).norm() / weights.norm())
    computed = [(product, rows @ back.T), (rows.grad, back.sum(0).expand_as(rows))]
    wrong = max(float((one - two).norm() / two.norm()) for one, two in computed)
    if stray > STRAY or wrong > 0.02:
        said = f"bitsandbytes {version} computes wrongly: numbers {stray:.0%} off, products {wrong:.1%}"
        return Finding(name, FAULT, said, f"use model.quantization=none, or another version; {INSTALL}")
    return Finding(name, OK, f"bitsandbytes {version} quantises, multiplies and differentiates")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]


BITSANDBYTES = "uv pip install --reinstall 'bitsandbytes>=0.50', or run with model.quantization=none"
CHECKS = [
    Check("python", look_at_python, INSTALL),
    Check("bytecode", look_at_bytecode, COMPILE),
    Check("packages", look_at_requirements, INSTALL),
    Check("torch", look_at_torch, f"uv pip install --reinstall torch --torch-backend=auto; {INSTALL}"),
    Check("torchvision", look_at_torchvision, TORCHVISION),
    Check("torchcodec", look_at_torchcodec, "pip uninstall torchcodec; slr does not use it"),
    Check("transformers", look_at_transformers, f"mend torchvision first where it has a line; {INSTALL}"),
    Check("NF4 on cpu", look_at_nf4_cpu, BITSANDBYTES),
    Check("NF4 on cuda", look_at_nf4_cuda, BITSANDBYTES),
]
