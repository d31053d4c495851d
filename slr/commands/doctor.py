"""`slr doctor`: will it run here, and if not, what to do. Imports no library but Python's own."""

import dataclasses
import json
import os
import sys
import time

from slr.core import argv, units
from slr.core.env import begin
from slr.doctor.finding import FAULT, WARNING, DoctorArgs
from slr.doctor.isolation import SECRET, examine


def main() -> int:
    """Check everything and print what was found, a line each; 1 where there is a fault."""
    begin()
    words = ["json=yes" if word == "--json" else word for word in sys.argv[1:]]
    args = argv.read(DoctorArgs, words)
    units.parse_bytes(args.hardware__memory or "1GB")  # refuses what is no size
    folders = {name: os.path.abspath(os.path.expanduser(getattr(args, name))) for name in ("data", "outputs")}
    args = dataclasses.replace(  # folders as seen from here: the checks run elsewhere
        args,
        **folders,
        model=os.path.abspath(args.model) if os.path.isdir(args.model) else args.model,
        typed=[word.partition("=")[0] for word in words],
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        token=any(os.environ.get(name) for name in SECRET),
    )
    started = time.monotonic()
    findings, seconds = examine(args), time.monotonic() - started
    states = [finding.state for finding in findings]
    if args.json:
        print(json.dumps({"findings": [dataclasses.asdict(one) for one in findings], "seconds": round(seconds, 1)}))
    else:
        width = max(len(finding.check) for finding in findings)
        print("\n".join(finding.line(width) for finding in findings))
        counts = [units.counted(states.count(state), state) for state in (FAULT, WARNING)]
        print(f"{', '.join(counts)}, in {seconds:.0f} s")
    return 1 if FAULT in states else 0
