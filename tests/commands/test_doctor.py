"""The doctor's command: what it hands to the checks, and what it prints of their findings."""

import json
import sys

import pytest

from slr.commands import doctor
from slr.core.errors import UserError
from slr.doctor.finding import Finding

FINDINGS = [Finding("disk", "ok", "much"), Finding("a longer name", "warning", "little", "do this")]


@pytest.fixture
def run(monkeypatch, capsys):
    """The command with given words and findings: its exit code, output, and what the checks were asked."""

    def call(words: list[str], findings: list[Finding]) -> tuple[int, str, object]:
        asked = []
        monkeypatch.setattr(sys, "argv", ["doctor", *words])
        monkeypatch.setattr(doctor, "examine", lambda args: asked.append(args) or findings)
        return doctor.main(), capsys.readouterr().out, *asked

    return call


def test_findings_are_lines_with_their_remedies_and_counts(run):
    code, out, _ = run([], FINDINGS)
    assert code == 0
    assert out.splitlines()[:2] == ["ok       disk           much", "warning  a longer name  little → do this"]
    assert out.splitlines()[2].startswith("0 faults, 1 warning, in ")
    code, out, _ = run([], [*FINDINGS, Finding("gpu", "fault", "none", "buy one")])
    assert code == 1
    assert "1 fault, 1 warning" in out


@pytest.mark.parametrize("word", ["json=yes", "--json"])
def test_programs_get_the_same_as_json(run, word):
    code, out, _ = run([word], FINDINGS)
    assert code == 0
    assert [list(finding.values()) for finding in json.loads(out)["findings"]] == [
        ["disk", "ok", "much", ""],
        ["a longer name", "warning", "little", "do this"],
    ]


def test_checks_get_what_was_typed_and_folders_as_seen_from_here(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_TOKEN", "hf_never")
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    (tmp_path / "model").mkdir()
    _, _, args = run(["data=here", "outputs=~/runs", "model=model", "frames=4"], FINDINGS)
    assert (args.data, args.outputs) == (str(tmp_path / "here"), str(tmp_path / "home" / "runs"))
    assert (args.model, args.frames) == (str(tmp_path / "model"), 4)
    assert list(args.typed) == ["data", "outputs", "model", "frames"]
    assert (args.offline, args.token) == (True, True)
    assert "hf_never" not in repr(args)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    _, _, args = run(["model=tiny"], FINDINGS)
    assert (args.model, args.offline, args.token) == ("tiny", False, False)


def test_a_size_that_is_none_is_refused_before_anything_is_checked(run):
    with pytest.raises(UserError, match="much"):
        run(["hardware.memory=much"], FINDINGS)
