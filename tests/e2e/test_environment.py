"""What commands ask the hub, and what of `.env` they leave behind: nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from entry import ROOT, SMALL, cached, command, only_run

from slr.core import env
from slr.core.files import read_json

TOKEN = "hf_" + "NeverToBeSeen" * 3
# Notes every look-up of a name and every connection that leaves the machine, in all processes.
LISTENING = """
import os, sys

def note(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "localhost", "127.0.0.1", "::1"):
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{event} {host} {sys.argv}\\n")

sys.addaudithook(note)
"""


def test_a_run_keeps_to_the_commit_that_it_began_with(tmp_path, monkeypatch):
    """The branch moves to weights that are no weights; resume, the same command and evaluation do not follow it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cached(tmp_path, "some/model", "a" * 40)
    words = (*SMALL, "model=tiny", "model.checkpoint=some/model", "model.revision=main", "epochs=1")
    run = tmp_path / "run"
    words = (*words, f"hydra.run.dir={run}", f"data={tmp_path / 'data'}")
    command("train.py", *words)
    assert read_json(run / "config.json")["model"]["commit"] == "a" * 40
    assert read_json(run / "result.json")["versions"]["model"] == "a" * 40
    (cached(tmp_path, "some/model", "b" * 40) / "model.safetensors").write_bytes(b"")
    assert "done already" in command("train.py", *words)
    command("train.py", f"resume={run}", "epochs=2")
    assert read_json(run / "config.json")["model"]["commit"] == "a" * 40
    command("evaluate.py", f"run={run}")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_model_of_the_cache_asks_nobody(tmp_path, offline):
    """The tiny one under the 2B's name, as the hub's cache has it: weights, tokenizer and processor, no connection."""
    name = "OpenGVLab/InternVL3_5-2B-HF"
    cached(tmp_path, name, "0" * 40)
    code = f"""
import torch
from slr.models.processor import load_inputs
from slr.models.internvl import load_vlm
load_inputs({name!r}, "main")
load_vlm({name!r}, "main", "pretrained", "none", torch.float32, "cpu", 0)
"""
    (tmp_path / "sitecustomize.py").write_text(LISTENING, encoding="utf-8")
    set_up = {"PYTHONPATH": str(tmp_path), "CONNECTIONS": str(tmp_path / "connections.txt"), "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, env=os.environ | set_up | {"HF_HUB_OFFLINE": offline}, cwd=ROOT, check=True)
    assert not (tmp_path / "connections.txt").exists(), (tmp_path / "connections.txt").read_text()


@pytest.mark.slow
def test_a_token_from_the_file_is_used_and_kept_nowhere_and_nobody_is_phoned(tmp_path):
    """A checkout with `.env` trains, evaluates, answers and is examined; the hub is not switched off."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    clone, connections = tmp_path / "clone", tmp_path / "connections.txt"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, capture_output=True)
    (clone / ".env").write_text(f"HF_TOKEN={TOKEN}\n", encoding="utf-8")
    (tmp_path / "listening").mkdir()
    (tmp_path / "listening" / "sitecustomize.py").write_text(LISTENING, encoding="utf-8")
    unset = (*env.NAMES, *env.QUIET)
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    kept |= {"PYTHONPATH": str(tmp_path / "listening"), "CONNECTIONS": str(connections)}

    def said(*words: str | Path) -> str:
        run = [sys.executable, *map(str, words)]
        done = subprocess.run(run, cwd=clone, env=kept, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout + done.stderr

    told = said("train.py", *SMALL, "epochs=1", f"outputs={tmp_path / 'outputs'}", f"data={tmp_path / 'data'}")
    run = only_run(tmp_path / "outputs")
    told += said("evaluate.py", f"run={run}", "part=val")
    clip = next((tmp_path / "data").rglob("*.mp4"))
    told += said("-m", "slr.predict", f"run={run}", f"video={clip}")
    assert not connections.exists(), connections.read_text()
    examined = said("-m", "slr.doctor", "model=tiny", f"data={tmp_path / 'data'}")
    assert "HF_TOKEN is set" in examined
    assert "huggingface.co" in connections.read_text()  # the doctor asks, so the listening works
    assert TOKEN not in told + examined
    secret = TOKEN.encode()
    for folder in (tmp_path / "outputs", tmp_path / "data"):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 10
        assert [path for path in files if secret in path.read_bytes()] == []
