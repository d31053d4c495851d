"""Name the signs in your own videos: `slr predict run=outputs/… video=clip.mp4`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slr.config import schema
from slr.core import argv, env
from slr.core.argv import Option
from slr.core.errors import UserError
from slr.core.units import counted
from slr.models.generation_config import Decoding
from slr.predict import sources
from slr.predict.results import GeneratedText, Ranked, Refusal, Scanned

MODES = {"rank": "one sign", "scan": "all signs of a recording", "generate": "free text"}
MODE_OF = {"top": "rank", "window": "scan", "stride": "scan"}
MODE_OF |= dict.fromkeys(("prompt", "length", "temperature", "top_p", "beams", "seed"), "generate")
LONG = 3.0  # times as long as the run's clips: probably more than one sign


@dataclass(frozen=True)
class PredictArgs(argv.Arguments):
    """Name the signs in your own videos or pictures."""

    command = "slr predict"
    run: Annotated[Path, Option("folder of a run or of an export", shown="FOLDER")]
    video: Annotated[str, Option("a file, a folder, or a pattern in quotes such as 'clips/*.mp4'", shown="FILE")]
    mode: Annotated[str, Option("what to look for", MODES)] = "rank"
    json: Annotated[bool, Option("one line of JSON for each file")] = False
    checkpoint: Annotated[str, Option("best, last, base (the model before training) or a path")] = "best"
    device: Annotated[str | None, Option("where to compute", schema.DEVICES, shown="as trained")] = None
    base: Annotated[str | None, Option("base model of an exported adapter, folder or name", shown="its own")] = None
    top: Annotated[int, Option("mode=rank: number of glosses to list", least=1)] = 5
    window: Annotated[float | None, Option("mode=scan: seconds looked at together", shown="a clip's length")] = None
    stride: Annotated[float | None, Option("mode=scan: seconds between windows", shown="a quarter window")] = None
    prompt: Annotated[str | None, Option("mode=generate: the question", shown="as trained")] = None
    length: Annotated[int, Option("mode=generate: most tokens of an answer", least=1)] = 32
    temperature: Annotated[float, Option("mode=generate: 0 takes the likeliest token, more draws")] = 0.0
    top_p: Annotated[float, Option("mode=generate: draw among the likeliest tokens of this probability")] = 1.0
    beams: Annotated[int, Option("mode=generate: width of a beam search", least=1)] = 1
    seed: Annotated[int, Option("mode=generate: of drawing")] = 0

    def decoding(self) -> Decoding:
        """How free text is generated; refuses values out of range."""
        return Decoding(self.length, self.temperature, self.top_p, self.beams, self.seed)


def read() -> PredictArgs:
    """What was typed, checked without importing torch.

    Raises:
        UserError: an unknown key or value, one of another mode, or no such run.
    """
    args = argv.read(PredictArgs)
    for word in sys.argv[1:]:
        if (mode := MODE_OF.get(word.partition("=")[0], args.mode)) != args.mode:
            raise UserError(f"{word}: belongs to mode={mode}, found mode={args.mode}; add mode={mode}")
    args.decoding()
    if not args.run.is_dir():
        raise UserError(f"run={args.run}: expected the folder of a run, found none; runs are in outputs/")
    return args


def note(text: str) -> None:
    """Print for a person, apart from the answers."""
    print(text, file=sys.stderr, flush=True)


def show(answer: Ranked | Scanned | GeneratedText | Refusal, args: PredictArgs, usual_seconds: float) -> None:
    """Print an answer, or why there is none, and a warning where it is doubtful."""
    if args.json:
        print(json.dumps(answer.row(), ensure_ascii=False), flush=True)
    else:
        print("\n".join(answer.lines()), file=sys.stderr if isinstance(answer, Refusal) else sys.stdout, flush=True)
    if isinstance(answer, Refusal):
        return
    if answer.frames == 1:
        note(f"{answer.source}: warning: a still picture, and signs are movements")
    elif args.mode == "rank" and answer.seconds > LONG * usual_seconds:
        note(f"{answer.source}: warning: much longer than one sign; mode=scan finds each sign of a recording")


def main() -> int:
    """Answer what the command line names; 1 where no file could be answered."""
    args = read()
    env.begin()
    files = sources.find(args.video)
    note(f"loading {args.run} for {counted(len(files), 'file')}; this takes some seconds")
    from slr.predict import recognizer as predict

    answered = 0
    with predict.load(args.run, args.checkpoint, args.device, args.base) as recognizer:
        if recognizer.calibration is None and args.mode != "generate":
            note("not calibrated: probabilities are the model's own, and no sign is called unknown")
        answers = {
            "rank": lambda: recognizer.answers(files, args.top),
            "scan": lambda: recognizer.scans(files, args.window, args.stride),
            "generate": lambda: recognizer.texts(files, args.prompt, args.decoding()),
        }
        for answer in answers[args.mode]():
            show(answer, args, recognizer.usual_seconds())
            answered += not isinstance(answer, Refusal)
    if len(files) > 1:
        note(f"{answered} of {len(files)} files answered")
    if answered:
        note(HINTS[args.mode])
    return 0 if answered else 1


HINTS = {
    "rank": "next: video='folder/*.mp4', json=yes, or mode=scan for a recording of several signs",
    "scan": "next: window= near the length of one sign, stride= for finer times, or json=yes",
    "generate": "next: beams=5, or temperature=0.7 seed=1; checkpoint=base asks the untrained model",
}
