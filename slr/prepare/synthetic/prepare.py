"""`dataset=synthetic`: drawn signers → a prepared data set of real video files, the same bytes each time."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.files import write_json
from slr.core.locks import exclusive
from slr.data.manifest import Clip, read_manifest, write_manifest, write_rejected
from slr.prepare.ledger import read_source
from slr.prepare.synthetic.clip import DRAWING, Performance
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import Side, Sign, names, signer_seed, signs
from slr.prepare.verify import write_checked

MOST_SIGNERS, MOST_SIGNS, MOST_TAKES = 10_000, 1000, 100  # so that no two takes share a seed
CRF = 23  # drawn edges survive it, and a clip has a quarter of the bytes that 18 gives


@dataclass(frozen=True, slots=True)
class Take:
    """One clip that is to be drawn."""

    id: str  # signer, gloss and number of the take
    sign: Sign
    gloss: str
    signer: str
    signer_seed: int
    seed: int


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
        UserError: `out` holds something else.
    """
    recipe = {"dataset": "synthetic", "drawing": DRAWING, "signs": signs, "signers": signers, "takes": takes}
    recipe |= {"seed": seed, "size": size}
    manifest = out / "manifest.jsonl"
    read_source(out, "synthetic")  # refuses a foreign folder before anything is written there
    (out / "clips").mkdir(parents=True, exist_ok=True)
    with exclusive(out):
        source, whole = read_source(out, "synthetic"), False
        with suppress(UserError):
            whole = all((out / clip.file).is_file() for clip in read_manifest(manifest))
        if whole and source == {**recipe, "complete": True, "outcomes": {}}:
            return manifest
        write_json(out / "source.json", {**recipe, "complete": False})
        manifest.unlink(missing_ok=True)
        for path in (out / "clips").iterdir():  # of an earlier data set
            path.unlink()
        jobs = list(_takes(signs, signers, takes, seed))
        write_rejected(out / "rejected.jsonl", [])
        clips = _draw_all(jobs, out, size, workers)
        write_manifest(manifest, tqdm(clips, total=len(jobs), desc="Drawing clips", unit="clip"))
        write_json(out / "source.json", {**recipe, "complete": True})
    return manifest


def _takes(signs: int, signers: int, takes: int, seed: int) -> Iterator[Take]:
    glosses = vocabulary(signs)
    for number in range(signers):
        signer, place = f"s{number:03d}", seed * MOST_SIGNERS + number
        for rank, (gloss, sign) in enumerate(glosses.items()):
            for take in range(takes):
                own = (place * MOST_SIGNS + rank) * MOST_TAKES + take
                yield Take(f"{signer}_{gloss}_{take}", sign, gloss, signer, signer_seed(Side.DATA_SET, place), own)


def _draw_all(takes: list[Take], out: Path, size: int, workers: int) -> Iterator[Clip]:
    """Clips in the order of the takes, for any number of processes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(_draw, out, size), takes, chunksize=8)


def _draw(out: Path, size: int, take: Take) -> Clip:
    file = f"clips/{take.id}.mp4"
    performance = Performance(take.sign, Signer(take.signer_seed), take.seed)
    facts = write_checked(out / file, (performance.draw(i, size) for i in range(performance.frames)), CRF)
    return Clip(
        id=take.id,
        file=file,
        gloss=take.gloss,
        source=f"drawn: {take.sign}",
        source_sha256=facts.sha256,
        signer=take.signer,
        official_part=None,
        prompt=None,
        **asdict(facts),
    )
