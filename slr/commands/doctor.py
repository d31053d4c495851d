"""`python -m slr.doctor`: will it run here, and if not, what to do. Imports no library but Python's own."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict

from slr.core import argv
from slr.core.env import PROJECT, begin
from slr.doctor.finding import FAULT, WARNING, Asked, Finding
from slr.doctor.isolation import SECRET, examine

USAGE = (
    "python -m slr.doctor [hardware=auto] [model=internvl3_5_2b] [data=FOLDER] [outputs=FOLDER] [frames=8] [batch=16] "
    "[--json]"
)
DEFAULTS = {
    "data": str(PROJECT / "data"),
    "outputs": str(PROJECT / "outputs"),
    "model": "internvl3_5_2b",
    "hardware": "auto",
    "frames": "8",
    "batch": "16",
}


def understand(typed: Sequence[str]) -> Asked:
    """What was typed, folders as seen from here.

    Raises:
        UserError: an unknown key, or a number that is none.
    """
    words = argv.parse(typed, DEFAULTS, USAGE)
    counts = {key: argv.whole_number(key, words[key], 1) for key in ("frames", "batch")}
    model = words["model"]
    return Asked(
        data=os.path.abspath(os.path.expanduser(words["data"])),
        outputs=os.path.abspath(os.path.expanduser(words["outputs"])),
        model=os.path.abspath(model) if os.path.isdir(model) else model,
        hardware=words["hardware"],
        typed=tuple(word.partition("=")[0] for word in typed),
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        token=any(os.environ.get(name) for name in SECRET),
        **counts,
    )


def report(findings: Sequence[Finding], seconds: float) -> str:
    """For a person: a line a check, and what it comes to."""
    width = max(len(finding.check) for finding in findings)
    count = {state: sum(finding.state == state for finding in findings) for state in (FAULT, WARNING)}
    total = f"{count[FAULT]} faults, {count[WARNING]} warnings, in {seconds:.0f} s"
    return "\n".join([*(finding.line(width) for finding in findings), total])


def main(typed: Sequence[str]) -> int:
    """Read the words, look at everything, print it; 1 where there is a fault."""
    if any(word in ("-h", "--help") for word in typed):
        print(f"usage: {USAGE}")
        return 0
    begin()
    asked = understand([word for word in typed if word != "--json"])
    started = time.monotonic()
    findings = examine(asked)
    seconds = time.monotonic() - started
    if "--json" in typed:
        print(json.dumps({"findings": [asdict(finding) for finding in findings], "seconds": round(seconds, 1)}))
    else:
        print(report(findings, seconds))
    return 1 if any(finding.state == FAULT for finding in findings) else 0
