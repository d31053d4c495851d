"""What the README tells people to type works, and what it shows is what is printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slr.commands import evaluate
from slr.config import compose, jobs, overrides
from slr.core import argv

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ").removeprefix("uv run ").removeprefix("python ")
    for block in re.findall(r"```\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.removeprefix("$ ").startswith(("uv run ", "python "))
]


def test_the_readme_names_every_command():
    names = {command.split()[0] for command in COMMANDS}
    assert {"train.py", "evaluate.py", "prepare_data.py", "pytest"} <= names
    assert "train.py experiment=demo" in COMMANDS  # which test_train runs


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("train.py", "prepare_data.py"))])
def test_training_commands_compose(command):
    compose.register()
    words = overrides.quote_paths(shlex.split(command)[1:])
    if "frame=8" in words:
        pytest.skip("is shown because it is refused; see below")
    assert jobs.configurations(words)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("evaluate.py")])
def test_evaluation_commands_parse(command):
    assert argv.read(evaluate.EvaluateArgs, shlex.split(command)[1:]).run


def test_the_error_shown_is_the_error_printed():
    shown = next(line for line in README.splitlines() if line.startswith("error: "))
    result = subprocess.run(
        [sys.executable, "train.py", "frame=8"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() == shown


def test_links_and_paths_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
    for name in ("conf/train.yaml", "docs"):
        assert (ROOT / name).exists()
