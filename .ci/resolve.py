#!/usr/bin/env python3
"""Can slr be installed everywhere it says? Asks uv for every system, Python and set of extras, by metadata alone.

    python .ci/resolve.py [python=3.11,3.12] [system=linux,arm,macos,windows] [set=uv,optuna,ray,slurm,directml,cpu]

Prints a table of the versions that would be installed. A cell is a fault where nothing can be resolved, where something
would have to be compiled, or where a version is not one of those that slr is known to run with: a resolver goes back to
releases of years ago, without a word, rather than give up. Exit code: 0 all well, 1 faults, 2 wrong use or no uv.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "linux": "x86_64-manylinux_2_28",
    "arm": "aarch64-manylinux_2_28",
    "macos": "aarch64-apple-darwin",
    "windows": "x86_64-pc-windows-msvc",
}
# As a person asks for them: `uv run`, with an extra, the DirectML set, and PyTorch without CUDA.
PROJECT = str(ROOT / "pyproject.toml")
GROUPS = ["--group", f"{PROJECT}:dev", "--group", f"{PROJECT}:newest"]
SETS = {
    "uv": [PROJECT, "--extra", "train", *GROUPS],
    "optuna": [PROJECT, "--extra", "train", "--extra", "optuna"],
    "ray": [PROJECT, "--extra", "train", "--extra", "ray"],
    "slurm": [PROJECT, "--extra", "train", "--extra", "slurm"],
    "directml": [PROJECT, "--group", f"{PROJECT}:dev", "--extra", "directml"],
    "cpu": [PROJECT, "--extra", "train", "--torch-backend", "cpu"],
}
# The one dependency that comes as source: Hydra's parser, plain Python, which needs no compiler.
SOURCE = "antlr4-python3-runtime"
# Older ones exist for some system and would be taken; known to run: docs/install.md.
LEAST = {
    "torch": "2.6",
    "transformers": "5.13",
    "lightning": "2.6",
    "peft": "0.21",
    "bitsandbytes": "0.50",
    "av": "17",
    "hydra-core": "1.3.8",
    "omegaconf": "2.3.1",
    "huggingface-hub": "1.0",
    "numpy": "1.26",
}
OF_A_SET = {"uv": {"transformers": "5.20", "optuna": "5", "ray": "2.50", "torchvision": "0.21"}}
OF_A_SET |= {"optuna": {"optuna": "5"}, "ray": {"ray": "2.50"}, "slurm": {"submitit": "1.5"}}
AT_ONCE = 4  # they wait for the index, not for a processor
SHOWN = ("torch", "transformers", "bitsandbytes", "av")


@dataclass(frozen=True)
class Answer:
    """What came of one cell: ok, refused as it has to be, not asked, or a fault; and why, or which versions."""

    state: str
    text: str


def number(version: str) -> tuple[int, ...]:
    """The digits that two versions are compared by."""
    return tuple(int(part) for part in re.match(r"[0-9.]+", version)[0].strip(".").split("."))


def resolve(system: str, python: str, extras: str) -> tuple[dict[str, str], str]:
    """Package -> version, and what uv said where there is no solution."""
    words = ["uv", "pip", "compile", *SETS[extras], "--python-platform", SYSTEMS[system], "--python-version", python]
    words += ["--only-binary", ":all:", "--no-binary", SOURCE, "--no-header", "--no-annotate", "--quiet"]
    # bitsandbytes has wheels for macOS 14; uv would ask for 13.
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = re.findall(r"^([a-z0-9-]+)==(\S+)", done.stdout, re.MULTILINE)
    return (dict(found) if done.returncode == 0 else {}), done.stderr


def directml(system: str, python: str) -> str:
    """What torch-directml has for a machine: a wheel, none, or nothing since its marker leaves it out."""
    if python == "3.13":
        return "left out"
    return "wheel" if system in ("linux", "windows") else "none"


def faults(found: dict[str, str], system: str, python: str, extras: str) -> list[str]:
    """What is wrong with the versions of a cell."""
    least = LEAST | OF_A_SET.get(extras, {})
    if extras == "directml" and directml(system, python) == "wheel":
        least |= {"torch": "2.4.1", "torch-directml": "0.2.5"}
    said = [
        f"{name} {found.get(name, 'absent')} < {version}"
        for name, version in least.items()
        if name not in found or number(found[name]) < number(version)
    ]
    if [name for name in ("decord", "decord2", "eva-decord") if name in found] != ["decord2"]:
        said.append("expected decord2 alone")
    if "torch-directml" in found and (found["torch"] != "2.4.1" or number(found["transformers"]) >= (5, 15)):
        said.append("torch-directml beside another torch, or a transformers that does not see it")
    if extras == "cpu" and any(name.startswith("nvidia-") for name in found):
        said.append("CUDA's libraries in a set without CUDA")
    return said


def answer(system: str, python: str, extras: str) -> Answer:
    """Ask uv, and judge."""
    found, said = resolve(system, python, extras)
    impossible = extras == "directml" and directml(system, python) == "none"
    if not found:
        why = next((line.strip() for line in said.splitlines() if "cause:" in line), said.strip().splitlines()[0])
        if "error sending request" in said or "dns error" in said:
            return Answer("not asked", "index out of reach")
        if impossible and "torch-directml" in said:
            return Answer("refused", "no wheel of torch-directml")
        return Answer("FAULT", why)
    wrong = faults(found, system, python, extras)
    if impossible:
        wrong.append("expected no solution")
    if wrong:
        return Answer("FAULT", "; ".join(wrong))
    text = " ".join(f"{name} {found[name]}," for name in SHOWN) + f" {len(found)} packages"
    if extras == "directml" and "torch-directml" not in found:
        return Answer("left out", f"no torch-directml for Python {python}: {text}")
    return Answer("ok", text)


def chosen(words: list[str]) -> dict[str, list[str]]:
    """Which cells the words ask for."""
    allowed = {"python": PYTHONS, "system": tuple(SYSTEMS), "set": tuple(SETS)}
    asked = {key: list(values) for key, values in allowed.items()}
    for word in words:
        key, _, values = word.partition("=")
        if key not in allowed or not set(values.split(",")) <= set(allowed[key]):
            known = " or ".join(f"{name}={','.join(values)}" for name, values in allowed.items())
            raise SystemExit(f"{word}: expected {known}")
        asked[key] = values.split(",")
    return asked


def main() -> int:
    """Print the table; the exit code."""
    try:
        asked = chosen(sys.argv[1:])
        if not shutil.which("uv"):
            raise SystemExit("uv is not installed: pip install uv")
    except SystemExit as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    cells = [(one, two, three) for three in asked["set"] for one in asked["system"] for two in asked["python"]]
    wrong = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (system, python, extras), found in zip(cells, pool.map(lambda cell: answer(*cell), cells), strict=True):
            wrong += found.state == "FAULT"
            print(f"{extras:9}{system:8}{python:5} {found.state:10}{found.text}", flush=True)
    print(f"{wrong} faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
