"""The container and the workflow, as far as they can be read: what goes in, who runs it, that named files are there."""

import fnmatch
import re
import shlex

import pytest
import yaml
from entry import ROOT

LINES = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
INSTRUCTIONS = [tuple(line.split(None, 1)) for line in LINES if line.strip() and not line.startswith("#")]
STAGES = [number for number, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM"]
FINAL = INSTRUCTIONS[STAGES[-1] :]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


def kept_out(path: str) -> bool:
    """What `.dockerignore` says of a path: the last pattern that matches it, or a folder of its own, decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = path.split("/")
        starts = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            matches = any(fnmatch.fnmatch(start, pattern) and "/" not in start for start in starts)
        if matches:
            out = not line.startswith("!")
    return out


def test_the_last_stage_installs_nothing_and_is_not_root():
    assert len(STAGES) == 2
    words = [word for kind, text in FINAL if kind == "RUN" for word in shlex.split(text)]
    assert not {"apt-get", "pip", "uv", "gcc", "curl"} & set(words)
    assert [text for kind, text in FINAL if kind == "USER"] == ["slr"]
    kinds = [kind for kind, _ in FINAL]
    assert "RUN" not in kinds[kinds.index("USER") :]
    assert "useradd" in words


def test_everything_that_is_copied_is_here_and_goes_in():
    sources = [
        source
        for kind, text in INSTRUCTIONS
        if kind == "COPY" and not text.startswith("--from=")
        for source in shlex.split(text)[:-1]
    ]
    assert {"train.py", "evaluate.py", "prepare_data.py", "slr", "conf", "hydra_plugins"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists() or kept_out(source)] == []
    assert not kept_out("slr/models/tiny/checkpoint/model.safetensors")


@pytest.mark.parametrize(
    "path", [".env", ".git/config", "data/x/clip.mp4", "outputs/run/log.txt", "slr/__pycache__/a.pyc"]
)
def test_nothing_private_goes_in(path):
    assert kept_out(path)


def test_no_secret_is_built_in():
    assert [text for kind, text in INSTRUCTIONS if kind in ("ARG", "ENV") and "TOKEN" in text.upper()] == []


def test_the_command_is_one_that_is_there():
    [command] = [text for kind, text in FINAL if kind == "CMD"]
    _, module = yaml.safe_load(command)
    assert (ROOT / module.replace(".", "/") / "__main__.py").is_file()


def test_what_lasts_lies_in_volumes_that_the_user_may_write():
    [volumes] = [yaml.safe_load(text) for kind, text in FINAL if kind == "VOLUME"]
    owned = next(text for kind, text in FINAL if kind == "RUN").partition("chown slr:slr ")[2].split()
    assert volumes == owned == ["/app/data", "/app/outputs", "/models"]
    assert "HF_HOME=/models" in next(text for kind, text in FINAL if kind == "ENV").split()


def test_the_workflow_runs_on_three_systems_what_is_here():
    jobs = WORKFLOW["jobs"]
    systems = {name for job in jobs.values() for name in job.get("strategy", {}).get("matrix", {}).get("system", [])}
    assert systems | {jobs["linux"]["runs-on"]} == {"ubuntu-latest", "macos-latest", "windows-latest"}
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert "bash .ci/run" in runs
    files = [word for run in runs for word in run.split() if word.startswith(".ci/") or word.endswith(".py")]
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert WORKFLOW["permissions"] == {"contents": "read"}
