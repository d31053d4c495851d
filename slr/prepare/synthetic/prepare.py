"""`dataset=synthetic`: drawn signers → a prepared data set of real video files, the same bytes each time."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.files import write_whole
from slr.core.locks import exclusive
from slr.data.manifest import Clip, read_manifest, write_manifest, write_rejected
from slr.prepare.encode import write_clip
from slr.prepare.synthetic.clip import DRAWING, FPS, Performance
from slr.prepare.synthetic.signer import draw_signer
from slr.prepare.synthetic.signs import Side, Sign, names, signer_seed, signs
from slr.prepare.verify import checked

MOST_SIGNS = len(signs(Side.DATA_SET))
MOST_SIGNERS = 10_000
MOST_TAKES = 100
SIZES = range(64, 513)  # pixels
CRF = 23  # drawn edges survive it, and a clip has a quarter of the bytes that 18 gives


@dataclass(frozen=True, slots=True)
class Take:
    """One clip that is to be drawn: what, by whom, which time, and where it goes."""

    sign: Sign
    gloss: str
    signer: int
    take: int
    signer_seed: int
    seed: int
    size: int
    out: Path

    @property
    def id(self) -> str:
        """Name of the clip: signer, gloss and take."""
        return f"{signer_id(self.signer)}_{self.gloss}_{self.take}"


def signer_id(signer: int) -> str:
    """What the manifest calls a signer.

    >>> signer_id(17)
    's017'
    """
    return f"s{signer:03d}"


def vocabulary(number: int) -> dict[str, Sign]:
    """The first signs that data sets may use, by gloss; a pair of opposite movements has neighbouring places.

    >>> [sign.movement for sign in vocabulary(4).values()]
    ['climb', 'fall', 'up', 'down']
    """
    drawn = signs(Side.DATA_SET)[:number]
    return dict(zip(names(Side.DATA_SET, len(drawn)), drawn, strict=True))


def prepare_synthetic(out: Path, signs: int, signers: int, takes: int, seed: int, size: int, workers: int) -> Path:
    """Draw, encode and verify `signs` × `signers` × `takes` clips; returns the path of the manifest.

    A data set that is already there with the same settings is left alone. The manifest is written last, so a run that
    is killed leaves nothing that is taken as whole.

    Args:
        out: The prepared data set; new, empty, or an earlier synthetic one, which is replaced.
        signs: Glosses, 2 to 288; an even number makes whole pairs of opposite movements.
        signers: People, each of whom makes every sign.
        takes: Clips of one sign by one signer.
        seed: Another seed has other signers and other takes of the same signs.
        size: Width and height in pixels.
        workers: Processes that draw side by side.

    Raises:
        UserError: A setting is out of range, or `out` holds something else.
    """
    _check(signs, signers, takes, seed, size)
    recipe = {"dataset": "synthetic", "drawing": DRAWING, "signs": signs, "signers": signers, "takes": takes}
    recipe |= {"seed": seed, "size": size}
    manifest = out / "manifest.jsonl"
    _source(out)  # refuses a folder that holds something else before anything is written there
    (out / "clips").mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        if _source(out) == {**recipe, "complete": True} and _whole(manifest):
            return manifest
        _write_source(out, {**recipe, "complete": False})
        _clear(out)
        jobs = list(_takes(out, signs, signers, takes, seed, size))
        write_rejected(out / "rejected.jsonl", [])
        write_manifest(manifest, tqdm(_draw_all(jobs, workers), total=len(jobs), desc="Drawing clips", unit="clip"))
        _write_source(out, {**recipe, "complete": True})
    return manifest


def _check(signs: int, signers: int, takes: int, seed: int, size: int) -> None:
    limits = {
        "signs": (signs, 2, MOST_SIGNS),
        "signers": (signers, 1, MOST_SIGNERS),
        "takes": (takes, 1, MOST_TAKES),
        "seed": (seed, 0, 2**31),
        "size": (size, SIZES[0], SIZES[-1]),
    }
    for name, (value, least, most) in limits.items():
        if not least <= value <= most:
            raise UserError(f"expected dataset.{name} from {least} to {most}, found {value}; choose one in that range")


def _source(out: Path) -> dict[str, Any]:
    """What the folder says it was made from; empty for a new folder."""
    try:
        source = json.loads((out / "source.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        strange = [path for path in out.glob("**/*") if path.is_file() and path.name != ".lock"]
        if strange:
            raise UserError(
                f"expected a new folder or a synthetic data set, found {strange[0]}; choose another"
            ) from None
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"expected a prepared data set in {out}, found {error}; delete it or choose another") from None
    if not isinstance(source, dict) or source.get("dataset") != "synthetic":
        raise UserError(f"expected a synthetic data set in {out}, found another kind; choose another folder")
    return source


def _whole(manifest: Path) -> bool:
    try:
        return all((manifest.parent / clip.file).is_file() for clip in read_manifest(manifest))
    except UserError:
        return False


def _write_source(out: Path, source: dict[str, Any]) -> None:
    write_whole(out / "source.json", json.dumps(source, indent=1) + "\n")


def _clear(out: Path) -> None:
    """Remove what an earlier data set left here, its manifest first."""
    (out / "manifest.jsonl").unlink(missing_ok=True)
    for path in (out / "clips").iterdir():
        path.unlink()


def _takes(out: Path, signs: int, signers: int, takes: int, seed: int, size: int) -> Iterator[Take]:
    for signer in range(signers):
        person = signer_seed(Side.DATA_SET, seed * MOST_SIGNERS + signer)
        for number, (gloss, sign) in enumerate(vocabulary(signs).items()):
            for take in range(takes):
                own = ((seed * MOST_SIGNERS + signer) * 1000 + number) * MOST_TAKES + take
                yield Take(sign, gloss, signer, take, person, own, size, out)


def _draw_all(jobs: list[Take], workers: int) -> Iterator[Clip]:
    """Clips in the order of the jobs, whatever the number of processes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_draw, jobs, chunksize=8)


def _draw(job: Take) -> Clip:
    file = f"clips/{job.id}.mp4"
    performance = Performance(job.sign, draw_signer(job.signer_seed), job.seed)
    written = write_clip(job.out / file, (performance.draw(i, job.size) for i in range(performance.frames)), FPS, CRF)
    facts = checked(job.out / file)
    if facts.frames != written:
        raise RuntimeError(f"expected {written} frames in {job.out / file}, found {facts.frames} on reading it back")
    return Clip(
        id=job.id,
        file=file,
        gloss=job.gloss,
        source=f"drawn: {job.sign}",
        source_sha256=facts.sha256,
        signer=signer_id(job.signer),
        official_part=None,
        prompt=None,
        **asdict(facts),
    )
