"""`.env`: what is taken from it, that the environment wins, and that a token goes nowhere; nobody is phoned."""

import os
import subprocess
from pathlib import Path

import pytest
from entry import ROOT

from slr.core import env
from slr.core.errors import UserError

TOKEN = "hf_" + "NeverToBeSeen" * 3


@pytest.fixture
def clean(monkeypatch):
    """None of the names is set, and none stays set."""
    for name in (*env.NAMES, *env.QUIET):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def read(folder: Path, text: str) -> dict[str, str]:
    (folder / ".env").write_text(text, encoding="utf-8")
    env.begin(folder)
    return {name: os.environ[name] for name in env.NAMES if name in os.environ}


@pytest.mark.usefixtures("clean")
def test_lines_as_people_write_them(tmp_path):
    text = f"\ufeff# mine\n\nexport HF_TOKEN = '{TOKEN}'\nHF_HOME=\"/a b/c=d\"\n  HF_HUB_OFFLINE=1\r\n"
    assert read(tmp_path, text) == {"HF_TOKEN": TOKEN, "HF_HOME": "/a b/c=d", "HF_HUB_OFFLINE": "1"}


@pytest.mark.usefixtures("clean")
def test_what_is_for_others_is_left_alone(tmp_path):
    assert read(tmp_path, "PATH=/evil\nLD_PRELOAD=/evil.so\n#HF_TOKEN=x\nHF_TOKENS=y\nno line of ours\n") == {}
    assert "/evil" not in os.environ["PATH"]


@pytest.mark.usefixtures("clean")
def test_the_environment_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "from outside")
    assert read(tmp_path, f"HF_TOKEN={TOKEN}\nHF_HOME=/x") == {"HF_TOKEN": "from outside", "HF_HOME": "/x"}


@pytest.mark.usefixtures("clean")
def test_no_file_is_no_mistake(tmp_path):
    env.begin(tmp_path)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("text", ["HF_HOME=x\nHF_TOKEN=\n", "HF_HOME=x\nHF_TOKEN ''\nHF_TOKEN=''"])
def test_a_name_without_a_value_is_told_by_its_line(tmp_path, text):
    with pytest.raises(UserError, match=rf"line {len(text.splitlines())}: expected HF_TOKEN=VALUE"):
        read(tmp_path, text)


@pytest.mark.usefixtures("clean")
def test_a_file_that_is_no_text_is_refused_without_its_content(tmp_path):
    (tmp_path / ".env").write_bytes(b"HF_TOKEN=\xff" + TOKEN.encode())
    with pytest.raises(UserError, match="cannot be read") as error:
        env.begin(tmp_path)
    assert TOKEN not in str(error.value)


def test_git_does_not_see_it():
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    assert subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False).returncode == 0
