"""`slr COMMAND …`: the list of commands, their help, and what a wrong word costs."""

import os
import subprocess
import sys

import pytest
from entry import ROOT, called, output_of, refused

from slr.__main__ import COMMANDS

OWN = [name for name in COMMANDS if name != "train"]  # whose words and help are Hydra's
SHIMS = ("predict", "compare", "ladder", "audit", "export", "doctor")


def test_each_command_has_a_module_and_a_line():
    for words in ((), ("--help",), ("-h",)):
        lines = output_of("-m", "slr", *words).splitlines()
        assert lines[0].startswith("usage: slr COMMAND")
        assert {line.split()[0] for line in lines if line.startswith("  ")} == set(COMMANDS)
    modules = {path.stem for path in (ROOT / "slr" / "commands").glob("*.py")}
    assert set(COMMANDS) <= modules


def test_a_wrong_command_is_one_line_with_the_nearest_name():
    assert refused("-m", "slr", "evalute", "run=x") == "evalute: no such command; did you mean evaluate?"
    assert "expected one of train, evaluate" in refused("-m", "slr", "zzz")


@pytest.mark.parametrize(("command", "shim"), [(name, f"slr.{name}") for name in SHIMS] + [("evaluate", None)])
def test_the_words_behind_a_command_are_its_own(command, shim):
    ways = [("-m", "slr", command), ("-m", shim) if shim else ("evaluate.py",)]
    for words in ways:
        assert output_of(*words, "--help").startswith(f"usage: slr {command}")
    if command != "ladder":  # whose other words are train's
        assert [called(*words, "nonsense")[0] for words in ways] == [2, 2]


def test_help_and_refusals_import_no_torch():
    program = f"""
import contextlib, io, runpy, sys
for command in {OWN!r}:
    for word, code in (("--help", None), ("run=/nowhere", 2)):
        sys.argv = ["slr", command, word]
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            try:
                runpy.run_module("slr", run_name="__main__")
            except SystemExit as end:
                assert (end.code or None) == code, (command, word, end.code)
    assert not {{"torch", "lightning", "transformers"}} & set(sys.modules), command
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
