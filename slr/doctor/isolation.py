"""Checks in child processes: one that aborts or hangs fails alone, and the next ones run in a new child.

`python -m slr.doctor.isolation ARGUMENTS NAME …` is such a child: it prints what each check finds, a line of JSON each.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from slr.core.env import PROJECT
from slr.doctor import files, libraries, machine
from slr.doctor.finding import FAULT, Check, DoctorArgs, Finding

# Two at a time: what imports torch, which takes most of the time, and what does not.
LANES = ([*libraries.CHECKS, *machine.CHECKS], files.CHECKS)
CHECKS = {check.name: check for lane in LANES for check in lane}
SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # no child needs their values, so none can print them
# The libraries' own warnings are not shown; what counts is a finding.
QUIET = {"PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
SIGNALS = {-number.value: f"was ended by {number.name}" for number in signal.Signals}  # by exit code
MARK = "finding: "  # begins a line of ours; what starts before a child's first line may print too
PATIENCE = 90.0  # seconds for the checks of one child: torch from a cold disk is slow


def examine(args: DoctorArgs) -> list[Finding]:
    """Everything that is found, in the order of the checks."""
    with ThreadPoolExecutor(len(LANES)) as pool:
        lanes = list(pool.map(lambda lane: run_lane(lane, args), LANES))
    return [finding for lane in lanes for finding in lane]


def run_lane(lane: Sequence[Check], args: DoctorArgs) -> list[Finding]:
    """What the checks find, in one child, or in a new one after each that ended it."""
    findings: list[Finding] = []
    waiting = list(lane)
    while waiting:
        lines, ending = run_child([check.name for check in waiting], args)
        findings += [Finding(**fields) for fields in map(json.loads, lines) if fields]
        waiting = waiting[len(lines) :]
        if waiting:
            broken = waiting.pop(0)
            findings.append(Finding(broken.name, FAULT, f"its process {ending}", broken.remedy))
    return findings


def run_child(names: Sequence[str], args: DoctorArgs) -> tuple[list[str], str]:
    """What a child has printed, a line for each check that it finished, and how it ended."""
    try:
        child = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "slr.doctor.isolation", json.dumps(asdict(args)), *names],
            env={name: value for name, value in os.environ.items() if name not in SECRET} | QUIET,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
        )
        output, ending = child.stdout, SIGNALS.get(child.returncode, f"ended with {child.returncode}")
    except subprocess.TimeoutExpired as error:
        output, ending = error.stdout or b"", f"gave no answer for {PATIENCE:.0f} s"
    lines = output.decode("utf-8", "replace").splitlines()
    return [line.removeprefix(MARK) for line in lines if line.startswith(MARK)], ending


def main(words: Sequence[str]) -> None:
    """Run the named checks. What libraries print goes to standard error, which is discarded."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    args = DoctorArgs(**json.loads(words[0]))
    for name in words[1:]:
        finding = CHECKS[name].run(args)
        print(f"\n{MARK}{json.dumps(asdict(finding) if finding else None)}", file=output, flush=True)
    os._exit(0)  # a library that breaks at exit would spoil what was found


if __name__ == "__main__":
    main(sys.argv[1:])
