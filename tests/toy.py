"""Jobs that train nothing: a program that does, at its first start, as its folder's `deed` says, and is done then."""

from pathlib import Path

from slr.core.files import write_json
from slr.core.run_folder import RunFolder
from slr.sweeps.runner import SweepJob

ROOT = Path(__file__).resolve().parent.parent
SOURCE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import os, signal, time
from pathlib import Path
from slr.core.locks import Busy, occupied
from slr.core.run_folder import RunFolder, read_json, recorded
from slr.core.signals import listening
from slr.sweeps.runner import BUSY, end_with_sweep

end_with_sweep()
root = Path(sys.argv[1].partition("=")[2])

def work(record):
    with (root.parent / "starts").open("a") as starts:
        starts.write(root.name + "\\n")
    deed = (root / "deed").read_text() if (root / "deed").is_file() else ""
    (root / "deed").unlink(missing_ok=True)
    if deed == "raise":
        raise RuntimeError("first\\nthe last line")
    if deed == "exit":
        sys.exit(3)
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "wait":
        (root / "waits").touch()
        while True:
            time.sleep(0.1)
    record.update({{"val": {{"top1": 0.5}}}})

try:
    with occupied(root), listening() as stopping:
        if read_json(RunFolder(root).result)["status"] == "done":
            sys.exit(0)
        with recorded(RunFolder(root), [], stopping) as record:
            work(record)
except Busy:
    sys.exit(BUSY)
"""


def program(folder: Path) -> Path:
    path = folder / "toy.py"
    path.write_text(SOURCE)
    return path


def laid_out(folder: Path, **deeds: str) -> list[SweepJob]:
    """Jobs by their names, and what each will do at its first start."""
    for name, deed in deeds.items():
        write_json(folder / name / "result.json", {"status": "waiting", "overrides": []})
        if deed:
            (folder / name / "deed").write_text(deed)
    return [SweepJob(RunFolder(folder / name), name) for name in deeds]


def starts(folder: Path) -> list[str]:
    return sorted((folder / "starts").read_text().split())


def told(jobs: list[SweepJob]) -> dict[str, tuple[str, str]]:
    """How each stands, and why."""
    return {job.name: (job.status, job.reason) for job in jobs}
