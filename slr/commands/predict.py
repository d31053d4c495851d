"""`python -m slr.predict run=outputs/… video=clip.mp4`: own videos, on the command line."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slr.config import schema
from slr.core import argv, env
from slr.core.errors import UserError
from slr.models.generation_config import Decoding
from slr.predict import sources
from slr.predict.results import GeneratedText, Ranked, Refusal, Scanned

if TYPE_CHECKING:
    from slr.predict.recognizer import SignRecognizer

USAGE = (
    "python -m slr.predict run=FOLDER video=FILE|FOLDER|'PATTERN' [top=5] [json=yes] [checkpoint=best|last|base|PATH] "
    "[device=cpu|cuda|directml|mps] [base=MODEL of an exported adapter]  "
    "[mode=scan [window=SECONDS] [stride=SECONDS]]  "
    "[mode=generate [prompt=…] [length=32] [temperature=0] [top_p=1] [beams=1] [seed=0]]"
)
OF_A_MODE = {
    "rank": {"top": "5"},
    "scan": {"window": "", "stride": ""},
    "generate": {"prompt": "", "length": "32", "temperature": "0", "top_p": "1", "beams": "1", "seed": "0"},
}
EVERYWHERE = {"run": None, "video": None, "mode": "rank", "json": "no", "checkpoint": "best", "device": "as trained"}
EVERYWHERE |= {"base": ""}  # of an exported adapter, where its own base model is not to be had
DEFAULTS = EVERYWHERE | {key: value for options in OF_A_MODE.values() for key, value in options.items()}
LONG = 3.0  # times as long as the run's clips: probably more than one sign


@dataclass(frozen=True)
class PredictArgs:
    """What was typed, checked."""

    words: dict[str, str]
    files: list[Path]

    @property
    def mode(self) -> str:
        """One of `OF_A_MODE`."""
        return self.words["mode"]

    @property
    def json(self) -> bool:
        """Whether standard output is for a program."""
        return self.words["json"] == "yes"


def understand(typed: list[str]) -> PredictArgs:
    """What was typed, without importing torch.

    Raises:
        UserError: an unknown key or value, one of another mode, or no such files.
    """
    words = argv.parse(typed, DEFAULTS, USAGE)
    allowed = {"mode": tuple(OF_A_MODE), "json": ("yes", "no"), "device": (*schema.DEVICES, DEFAULTS["device"])}
    for key, values in allowed.items():
        if words[key] not in values:
            raise UserError(f"{key}={words[key]}: expected {' or '.join(map(str, values))}")
    for mode, options in OF_A_MODE.items():
        for key in options:
            if mode != words["mode"] and any(word.startswith(f"{key}=") for word in typed):
                raise UserError(
                    f"{key}={words[key]}: belongs to mode={mode}, found mode={words['mode']}; add mode={mode}"
                )
    argv.whole_number("top", words["top"], 1)
    for key in ("window", "stride"):
        _seconds(key, words[key])
    decoding(words)
    if not Path(words["run"]).expanduser().is_dir():
        raise UserError(f"run={words['run']}: expected the folder of a run, found none; runs lie under outputs/")
    return PredictArgs(words, sources.find(words["video"]))


def _number(key: str, value: str) -> float:
    """The number that a word spells."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise UserError(f"{key}={value}: expected a number of at least 0")
    return number


def _seconds(key: str, value: str) -> float | None:
    """As `_number`; None where nothing was typed, which leaves it to the recognizer."""
    return _number(key, value) if value else None


def answers(recognizer: "SignRecognizer", wish: PredictArgs) -> Iterator[Ranked | Scanned | GeneratedText | Refusal]:
    """What is said of each file, as the files were found."""
    words = wish.words
    if wish.mode == "rank":
        return recognizer.answers(wish.files, int(words["top"]))
    if wish.mode == "scan":
        return recognizer.scans(wish.files, _seconds("window", words["window"]), _seconds("stride", words["stride"]))
    return recognizer.texts(wish.files, words["prompt"] or None, decoding(words))


def decoding(words: Mapping[str, str]) -> Decoding:
    """How text is to be chosen.

    Raises:
        UserError: a value that cannot be.
    """
    return Decoding(
        length=argv.whole_number("length", words["length"], 1),
        temperature=_number("temperature", words["temperature"]),
        top_p=_number("top_p", words["top_p"]),
        beams=argv.whole_number("beams", words["beams"], 1),
        seed=argv.whole_number("seed", words["seed"], 0),
    )


def say(wish: PredictArgs, one: Ranked | Scanned | GeneratedText | Refusal) -> None:
    """Print an answer, or why there is none."""
    if wish.json:
        print(json.dumps(one.row(), ensure_ascii=False), flush=True)
        return
    to = sys.stderr if isinstance(one, Refusal) else sys.stdout
    print("\n".join(one.lines()), file=to, flush=True)


def note(text: str) -> None:
    """Say something to a person, beside the answers."""
    print(text, file=sys.stderr, flush=True)


def warn(recognizer: "SignRecognizer", wish: PredictArgs, one: Ranked | Scanned | GeneratedText | Refusal) -> None:
    """Say what makes an answer doubtful."""
    if isinstance(one, Refusal):
        return
    if one.frames == 1:
        note(f"{one.source}: warning: a still picture, and signs are movements")
    elif wish.mode == "rank" and one.seconds > LONG * recognizer.usual_seconds():
        note(f"{one.source}: warning: much longer than one sign; mode=scan finds each sign of a recording")


def main(typed: list[str]) -> int:
    """Read the words, answer, and return the exit code: 1 where no file could be answered."""
    if any(word in ("-h", "--help") for word in typed):
        print(f"usage: {USAGE}")
        return 0
    env.begin()
    wish = understand(typed)
    count = len(wish.files)
    note(f"loading {wish.words['run']} for {count} file{'' if count == 1 else 's'}; that takes some seconds")
    from slr.predict import recognizer as predict

    device = None if wish.words["device"] == EVERYWHERE["device"] else wish.words["device"]
    answered = 0
    words = wish.words
    with predict.load(words["run"], words["checkpoint"], device, words["base"] or None) as recognizer:
        if recognizer.calibration is None and wish.mode != "generate":
            note("not calibrated: probabilities are the model's own, and no sign is called unknown")
        for one in answers(recognizer, wish):
            say(wish, one)
            warn(recognizer, wish, one)
            answered += not isinstance(one, Refusal)
    if count > 1:
        note(f"{answered} of {count} files answered")
    note(hint(wish))
    return 0 if answered else 1


def hint(wish: PredictArgs) -> str:
    """What one might do next."""
    if wish.mode == "scan":
        return "next: mode=scan json=yes for a program; window= nearer to what a sign lasts, stride= for finer times"
    if wish.mode == "generate":
        return "next: beams=5 or temperature=0.7 seed=1 for other answers; checkpoint=base asks the untrained model"
    return "next: video='folder/*.mp4' for many, json=yes for a program, mode=scan for a recording of several signs"
