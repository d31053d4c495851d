"""Clips as training reads them, from videos and from the frame cache: `python benchmarks/loader.py --quick`.

Every way gives eight frames of 448 x 448 with their tokens, on one core, its files out of the page cache before each
turn. Ours decodes and resizes to bytes, or finds those bytes in the cache, as JPEG or raw; the plain recipe of
`plain.py` decodes as often as it is asked and has transformers' processor make float32 of it. The floor is reading the
files' bytes at the rate at which this disk gives one large file. Then: how long training of the tiny model waits for
its batches. Without `--quick` also: how opening a data set and its cache grows with clips.
"""

from options import LoaderArgs, read

if __name__ == "__main__":
    ARGS = read(LoaderArgs)  # before torch is imported

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from measure import Cost, Row
from PIL import Image

from slr import factory
from slr.config import compose, jobs, overrides
from slr.core.errors import explained
from slr.data.cache.frames import FrameCache, fill
from slr.data.cache.store import Pack, writing
from slr.data.manifest import Clip, read_manifest, write_manifest
from slr.data.video import sample_positions
from slr.prepare.encode import write_clip
from slr.prepare.synthetic.prepare import prepare_synthetic
from slr.prepare.verify import checked

SIZES = {"240p": (240, 320), "480p": (480, 640), "1080p": (1080, 1920)}  # height, width
SIDE = 448  # pixels, InternVL3.5's
FRAMES = 8
LENGTH = 60  # frames of a clip
WAYS = {"jpeg": "cache=frames", "raw": "cache=frames, cache.format=raw"}
CURVE = [100, 1000, 5000, 20_000]
PROMPT = "Name the sign."
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """One way to read clips.

    Attributes:
        sample: the position of a clip -> everything that a training wants of it.
        files: what it reads.
    """

    sample: Callable[[int], object]
    files: Sequence[Path]


def main(args: LoaderArgs) -> None:
    """Measure and print."""
    clips = args.clips or (3 if args.quick else 8)
    rounds = args.rounds or (2 if args.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        about = measure.machine(CPU, torch.float32)
        rate = disk_rate(place / "large")
        about["disk_mbs"] = round(rate / 1e6)
        rows = []
        with one_core():
            for name, size in SIZES.items():
                rows += compare(place / name, name, size, clips, rounds, rate)
        rows += [waiting(place, cache, args.quick) for cache in ("none", "frames")]
        if not args.quick:
            rows += curve(place)
        measure.show(rows, args.json, about)


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Compute on one core, all threads together, where the system can be told."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if allowed:
        os.sched_setaffinity(0, {max(allowed)})
    yield
    if allowed:
        os.sched_setaffinity(0, allowed)
    torch.set_num_threads(threads)


def disk_rate(path: Path, size: int = 2**28) -> float:
    """Bytes a second of reading one large file, the best of three times."""
    path.write_bytes(np.random.default_rng(0).bytes(size))
    seconds = []
    for _ in range(3):
        forget([path])
        started = measure.now(CPU)
        with path.open("rb", buffering=0) as file:
            while file.read(2**23):
                pass
        seconds.append(measure.now(CPU) - started)
    path.unlink()
    return size / min(seconds)


def forget(files: Sequence[Path]) -> None:
    """Have the system read files from the disk the next time, where it can be told."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(folder: Path, name: str, size: tuple[int, int], count: int, rounds: int, rate: float) -> list[Row]:
    """Clips a second of every way at one size of the videos."""
    measure.progress(f"{name}: encoding {count} clips of {LENGTH} frames")
    ways = prepare(folder, film(folder, size, count))
    costs = measure.in_turns({title: lambda way=way: read_all(way, count) for title, way in ways.items()}, rounds)
    speeds = {title: 1 / one.seconds for title, one in costs.items() if one.seconds}
    rows = []
    for title in ("decoding", *WAYS.values()):
        bytes_each = sum(path.stat().st_size for path in ways[title].files) / count
        rows.append(
            Row(f"{name}: {title}", speeds[title], speeds["plain"], rate / bytes_each, "clips/s", better="more")
        )
        rows.append(Row(f"{name}: {title}", bytes_each / 1e6, None, None, "MB a clip"))
    return rows + [
        Row(f"{name}: {title}, beside decoding", speeds[title], speeds["decoding"], None, "clips/s", better="more")
        for title in WAYS.values()
    ]


def film(folder: Path, size: tuple[int, int], count: int) -> list[Clip]:
    """Clips of a pattern that drifts, before it one that moves otherwise, under a camera's noise."""
    folder.mkdir()
    clips = []
    for number in range(count):
        write_clip(folder / f"{number}.mp4", pictures(size, np.random.default_rng(number)))
        facts = asdict(checked(folder / f"{number}.mp4"))
        about = {"id": str(number), "file": f"{number}.mp4", "gloss": "one", "source": "", "source_sha256": ""}
        clips.append(Clip(**about, **facts, signer=None, official_part=None, prompt=None))
    return clips


def pictures(size: tuple[int, int], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of a clip, uint8 (H, W, 3)."""
    height, width = size
    far = texture((height, width + 2 * LENGTH), rng)
    near = texture((height // 2, width // 3), rng)
    noise = np.rint(rng.normal(0, 4, (height, width, 3))).astype(np.int16)
    for number in range(LENGTH):
        picture = far[:, 2 * number : 2 * number + width].copy()
        top = int((1 + np.sin(number / 5)) * height / 4)
        picture[top : top + height // 2, width // 3 : width // 3 + near.shape[1]] = near
        turned = np.roll(noise, tuple(rng.integers(0, size)), (0, 1))
        yield np.clip(picture + turned, 0, 255).astype(np.uint8)


def texture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Soft blobs with finer ones on them: uint8 (H, W, 3)."""
    height, width = size
    picture = np.zeros((height, width, 3))
    for coarseness, strength in ((4, 0.5), (16, 0.35), (64, 0.15)):
        shape = (coarseness, coarseness * width // height + 1, 3)
        blobs = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        picture += strength * np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC))
    return picture.astype(np.uint8)


def prepare(folder: Path, clips: list[Clip]) -> dict[str, Way]:
    """Every way to read the clips of a folder, its cache filled."""
    from plain import PlainClips, load_processor

    from slr.data.batches import ClipDataset, Decoded
    from slr.models.hub import locate
    from slr.models.processor import load_inputs

    inputs = load_inputs("tiny", None)
    inputs.image_size = (SIDE, SIDE)
    processor = load_processor(locate("tiny", None, need_weights=False))
    processor.video_processor.size = {"height": SIDE, "width": SIDE}
    plainly = PlainClips(clips, folder, processor, PROMPT, FRAMES)
    videos = [folder / clip.file for clip in clips]
    decoded = Decoded(folder, inputs)

    def ours(frames_from: Any) -> Callable[[int], object]:  # noqa: ANN401
        dataset = ClipDataset(
            clips, frames_from, None, None, ["one"], inputs, PROMPT, FRAMES, "uniform", jitter=None, seed=0
        )
        return lambda number: dataset[0, number]

    ways = {"plain": Way(plainly.__getitem__, videos), "decoding": Way(ours(decoded), videos)}
    wanted = [(clip, sample_positions(clip.frames, FRAMES, "uniform")) for clip in clips]
    for format, title in WAYS.items():
        kept = FrameCache(folder, inputs, format)
        with quietly():
            fill(kept, decoded, wanted, workers=0)
        ways[title] = Way(ours(kept), [kept.pack.folder / "data.bin"])
    return ways


def read_all(way: Way, count: int) -> Cost:
    """Seconds of one clip, when all are read after one another."""
    forget(way.files)
    started = measure.now(CPU)
    for number in range(count):
        way.sample(number)
    return Cost((measure.now(CPU) - started) / count, None)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing on standard output, which is the table's."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def waiting(folder: Path, cache: str, quick: bool) -> Row:
    """The share of an epoch of the demo, from asking for its first batch on, in which training waits for a batch."""
    signers = 16 if quick else 64
    clips = prepare_synthetic(folder / "drawn", 16, signers, 1, seed=0, size=160, workers=os.cpu_count() or 1)
    from slr.training import assemble

    compose.register()
    words = ["experiment=demo", "hardware=cpu", "hardware.workers=2", f"cache={cache}", f"data={folder}"]
    [config] = jobs.configurations(overrides.quote_paths(words))
    machine, inputs, rows = factory.machine(config), factory.inputs(config), read_manifest(clips)
    vocabulary, parts = sorted({clip.gloss for clip in rows}), {"train": rows, "val": rows[:1]}
    data = factory.data(config, clips.parent, parts, vocabulary, machine, inputs)
    recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
    recognizer.micro_batch = assemble.plan(config, machine, recognizer, rows).micro_batch
    with quietly():
        assemble.fill_cache(config, machine, recognizer, data)
        waits, seconds = epoch(recognizer, data.train_dataloader())
    share = 100 * sum(waits) / seconds
    measure.progress(
        f"cache={cache}: {len(waits)} steps in {seconds:.1f} s, the first batch came after {waits[0]:.2f} s"
    )
    return Row(f"tiny, 2 workers, cache={cache}: waiting for batches", share, None, None, "% of time")


def epoch(recognizer: Any, batches: Any) -> tuple[list[float], float]:  # noqa: ANN401  their types are slow to import
    """Train for an epoch: seconds of waiting for each batch, and of everything."""
    import lightning as L

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.15
    warnings.filterwarnings("ignore", module="lightning")
    waits: list[float] = []

    class Watched:
        """A loader that is asked with a watch in hand."""

        def __len__(self) -> int:
            return len(batches)

        def __iter__(self) -> Iterator[Any]:
            asked = time.perf_counter()
            for batch in batches:
                waits.append(time.perf_counter() - asked)
                yield batch
                asked = time.perf_counter()

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    started = time.perf_counter()
    trainer.fit(recognizer, Watched())
    return waits, time.perf_counter() - started


def curve(folder: Path) -> list[Row]:
    """What it takes to open a data set and its cache of eight frames a clip, and what lists them on the disk."""
    columns = [opened(folder / f"curve {count}", count) for count in CURVE]
    rows = []
    for title, unit, figures in zip(
        ("manifest", "cache", "lists of both"),
        ("s to open", "s to open", "MB"),
        zip(*columns, strict=True),
        strict=True,
    ):
        rows += [
            Row(f"{title}, {n:,} clips", figure, None, None, unit) for n, figure in zip(CURVE, figures, strict=True)
        ]
        exponent = measure.growth(CURVE, figures)
        rows.append(Row(f"{title}: growth with clips", exponent, None, None, "exponent", better="neither"))
    return rows


def opened(folder: Path, count: int) -> tuple[float, float, float]:
    """Seconds to read the manifest of `count` clips, seconds to open their cache, megabytes of manifest and index."""
    measure.progress(f"{count:,} clips")
    names = [f"{number:064x}" for number in range(count)]
    about = {"gloss": "one", "frames": LENGTH, "fps": 25.0, "width": 640, "height": 480, "source": "a/video.mp4"}
    about |= {"signer": "someone", "official_part": None, "prompt": None}
    with writing(folder) as writer:
        for name in names:
            for position in range(FRAMES):
                writer.append(f"{name} {position}", b"x")  # opening does not look at frames
    path = folder / "manifest.jsonl"
    write_manifest(path, [Clip(id=x, file=f"clips/{x}.mp4", sha256=x, source_sha256=x, **about) for x in names])
    manifest = min(seconds(lambda: read_manifest(path)) for _ in range(3))
    cache = min(seconds(lambda: Pack(folder).has([f"{names[-1]} 0"])) for _ in range(3))
    return manifest, cache, (path.stat().st_size + (folder / "index.bin").stat().st_size) / 1e6


def seconds(work: Callable[[], object]) -> float:
    """What a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    explained(lambda: main(ARGS))
