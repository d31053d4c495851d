"""`python -m slr.export`: a run's recognizer as a folder for other machines."""

import sys
from pathlib import Path

from slr.core import argv, env
from slr.core.errors import UserError
from slr.export.export import export, push, shown
from slr.predict.bundle import KINDS

USAGE = (
    "python -m slr.export run=FOLDER [weights=adapter|merged] [to=FOLDER] [clips=N] [push=OWNER/NAME]\n"
    "to: <run>/export/<weights> unless said; clips: of the test part, to compare forms of the weights by; push: to the "
    "model hub, private until you say otherwise there, with the token in HF_TOKEN"
)


DEFAULTS = {"run": None, "weights": "adapter", "to": "beside", "clips": "64", "push": "no"}


def main() -> None:
    """Read the words, export, print the parity."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(f"usage: {USAGE}")
        return
    env.begin()
    words = argv.parse(sys.argv[1:], DEFAULTS, USAGE.splitlines()[0])
    if words["weights"] not in KINDS:
        raise UserError(f"weights={words['weights']}: expected {' or '.join(KINDS)}")
    run = Path(words["run"]).expanduser()
    to = run / "export" / words["weights"] if words["to"] == "beside" else Path(words["to"]).expanduser()
    folder, parity = export(run, words["weights"], to, argv.whole_number("clips", words["clips"], 1))
    print(shown(parity))
    print(f"exported: {folder}")
    if words["push"] != "no":
        print(f"pushed: {push(folder, words['push'])}")
    print(f'next: slr.load("{folder}"), or python -m slr.predict run={folder} video=clip.mp4')
