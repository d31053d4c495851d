"""Faults of Python and of the libraries, each named with its remedy."""

import importlib.metadata
import importlib.util
import sys

import pytest
import torch
from examined import asked

from slr.doctor import isolation

pytestmark = pytest.mark.filterwarnings("ignore")  # as the doctor's children do


def result(name: str, folder, **words) -> tuple[str, str, str]:
    finding = isolation.CHECKS[name].run(asked(folder, **words))
    return finding.state, finding.found, finding.remedy


def recorded(folder, **versions: str) -> None:
    """Leave the records that pip leaves of packages."""
    for name, version in versions.items():
        (folder / f"{name}-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(text)


def test_a_python_that_slr_does_not_run_with(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    state, _, remedy = result("python", tmp_path)
    assert (state, "uv venv --python 3.12" in remedy) == ("fault", True)


def test_libraries_that_are_compiled_at_every_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))  # as if nothing had been compiled
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert result("bytecode", tmp_path)[0] == "ok"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    state, found, remedy = result("bytecode", tmp_path)
    assert (state, "PYTHONDONTWRITEBYTECODE" in found, "compileall" in remedy) == ("warning", True, True)


def test_without_torch_what_needs_it_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert result("torch", tmp_path)[0] == "fault"
    for name in ("torchvision", "transformers", "NF4 on cpu", "gpu", "hardware"):
        state, found, remedy = result(name, tmp_path)
        assert (state, found, remedy) == ("warning", "not checked: torch cannot be imported", "repair torch first")
    monkeypatch.delitem(sys.modules, "torch")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    assert result("bytecode", tmp_path)[:2] == ("warning", "not checked: torch is not installed")
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_a_torchvision_that_does_not_fit(tmp_path, monkeypatch):
    ops = pytest.importorskip("torchvision.ops")

    def broken(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    assert result("torchvision", tmp_path)[0] == "ok"
    monkeypatch.setattr(ops, "nms", broken)
    state, found, remedy = result("torchvision", tmp_path)
    assert (state, "operator torchvision::nms does not exist" in found) == ("fault", True)
    assert "pip uninstall torchvision" in remedy


def test_a_transformers_that_does_not_take_this_torch(tmp_path, monkeypatch):
    from transformers.utils import import_utils

    recorded(tmp_path, torch="2.4.1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(import_utils, "is_torch_available", lambda: False)
    state, found, remedy = result("transformers", tmp_path)
    assert (state, "too new for torch 2.4.1" in found) == ("fault", True)
    assert "uv pip install 'torch>=2.6'" in remedy


def test_two_packages_of_one_module_and_one_that_is_too_old(tmp_path, monkeypatch):
    assert result("packages", tmp_path)[0] == "ok"
    recorded(tmp_path, av="0.1")
    monkeypatch.syspath_prepend(tmp_path)
    state, found, _ = result("packages", tmp_path)
    assert (state, found.startswith("av: expected >="), found.endswith(", found 0.1")) == ("fault", True, True)
    recorded(tmp_path, decord="3.4.0", decord2="3.4.0")
    monkeypatch.syspath_prepend(tmp_path)
    state, found, remedy = result("packages", tmp_path)
    assert (state, "decord and decord2 are both installed" in found) == ("fault", True)
    assert remedy.startswith("pip uninstall decord decord2")


def test_a_quantisation_that_computes_wrongly_or_not_at_all(tmp_path, monkeypatch):
    functional = pytest.importorskip("bitsandbytes.functional")
    real = functional.dequantize_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *words: 1.5 * real(*words))
    state, found, remedy = result("NF4 on cpu", tmp_path)
    assert (state, "computes wrongly" in found, "quantization=none" in remedy) == ("fault", True, True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    state, found, remedy = result("NF4 on cpu", tmp_path)
    assert (state, "bitsandbytes" in found, "quantization=none" in remedy) == ("fault", True, True)


def test_a_driver_whose_card_torch_does_not_see(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 999.1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert result("gpu", tmp_path)[:2] == ("ok", "none; runs use the CPU")
    monkeypatch.setenv("PATH", str(tmp_path))
    state, found, remedy = result("gpu", tmp_path, typed=("hardware",))
    assert (state, found[:22], "--torch-backend=auto" in remedy) == ("fault", "driver 999.1 is here, ", True)


def test_cuda_is_a_fault_only_where_it_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert result("hardware", tmp_path)[0] == "ok"
    state, found, remedy = result("hardware", tmp_path, hardware="cuda")
    assert (state, "CUDA" in found, "nvidia-smi" in remedy) == ("fault", True, True)
    assert result("hardware", tmp_path, hardware="cuda", hardware__memory="24GB")[0] == "warning"
