"""Checks in child processes: one that aborts or hangs costs its own line, and the next begin in a new child.

`python -m slr.doctor.isolation ASKED NAME …` is such a child.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from slr.doctor import files, libraries, machine
from slr.doctor.finding import FAULT, Asked, Check, Finding, tell, told

# Two at a time: what imports torch, which takes most of the time, and what does not.
LANES = ([*libraries.CHECKS, *machine.CHECKS], files.CHECKS)
CHECKS = {check.name: check for lane in LANES for check in lane}
SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # no child needs their values, so none can print them
PATIENCE = 90.0  # seconds for the checks of one child: torch from a cold disk is slow


def examine(asked: Asked) -> list[Finding]:
    """Everything that is found, in the order of the checks."""
    with ThreadPoolExecutor(len(LANES)) as pool:
        lanes = list(pool.map(lambda lane: run_lane(lane, asked), LANES))
    return [finding for lane in lanes for finding in lane]


def run_lane(lane: Sequence[Check], asked: Asked) -> list[Finding]:
    """What the checks find, in one child, or in as many as it takes."""
    findings: list[Finding] = []
    waiting = list(lane)
    while waiting:
        output, ending = run_child([check.name for check in waiting], asked)
        done, broken = told(output)
        for check in list(waiting):
            if check.name in done:
                findings += done[check.name]
                waiting.remove(check)
            elif check.name == broken:
                findings.append(Finding(check.name, FAULT, f"the process {ending} in the middle of it", check.remedy))
                waiting.remove(check)
        if not done and broken is None:
            findings += [
                Finding(check.name, FAULT, f"the process {ending} before it", check.remedy) for check in waiting
            ]
            break
    return findings


def run_child(names: Sequence[str], asked: Asked) -> tuple[str, str]:
    """A child's standard output, whole or cut off, and how it ended."""
    words = [sys.executable, "-W", "ignore", "-m", "slr.doctor.isolation", json.dumps(asdict(asked)), *names]
    environment = {name: value for name, value in os.environ.items() if name not in SECRET}
    # PyTorch's and FFmpeg's complaints are no news; what counts is printed.
    quiet = {"PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    child = subprocess.Popen(
        words,
        env=environment | quiet,
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        output = child.communicate(timeout=PATIENCE)[0]
        ending = _ending(child.returncode)
    except subprocess.TimeoutExpired:
        child.kill()
        output, ending = child.communicate()[0], f"gave no answer for {PATIENCE:.0f} s"
    return output.decode("utf-8", "replace"), ending


def _ending(code: int) -> str:
    """How a process ended, for a person.

    >>> _ending(-6), _ending(3)
    ('was ended by SIGABRT', 'ended with 3')
    """
    if code < 0 and -code in {one.value for one in signal.Signals}:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"


def main(typed: Sequence[str]) -> None:
    """Look at the checks of these names, and tell."""
    asked = json.loads(typed[0])
    for name in typed[1:]:
        tell(CHECKS[name], Asked(**asked | {"typed": tuple(asked["typed"])}))
    sys.stdout.flush()
    os._exit(0)  # a library that breaks when it is taken down would spoil what has been said


if __name__ == "__main__":
    main(sys.argv[1:])
