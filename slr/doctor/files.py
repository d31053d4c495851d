"""What lies on the disk and what would be fetched: decoders, room, the hub, the model, prepared data."""

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from slr.core.errors import UserError, one_line
from slr.core.units import GB, format_bytes
from slr.doctor.finding import FAULT, OK, WARNING, Asked, Check, Finding, NotLooked
from slr.doctor.libraries import INSTALL
from slr.doctor.models import WEIGHTS_2B, found, name_of, of_option

PATIENCE = 5.0  # seconds for the hub
FRAMES, GREYS = 24, (10, 9)  # of the clip that is written: frame n is grey of the first + n x the second
OTHER_PLACE = "name another place: data=…, outputs=…, HF_HOME for models"
ROOM = {"data": 2 * GB, "outputs": 1 * GB}  # prepared clips of WLASL100, generously; checkpoints of a few runs


def _clip(folder: Path) -> Path:
    """A clip written as preparation writes them."""
    import numpy as np

    from slr.prepare.encode import write_clip

    clip = folder / "clip.mp4"
    write_clip(clip, (np.full((64, 96, 3), GREYS[0] + GREYS[1] * number, np.uint8) for number in range(FRAMES)))
    return clip


def _read(reader: str) -> str:
    """Write a clip and read it; what is wrong with the pictures, or nothing."""
    import numpy as np

    from slr.data.video import read

    positions = np.array([0, 7, 23])
    with tempfile.TemporaryDirectory() as folder:
        try:
            clip = _clip(Path(folder))
        except Exception as error:
            if reader == "decord":
                raise NotLooked("no clip could be written, see PyAV") from error
            raise
        pictures = read(clip, positions, reader).astype(float)
    strays = np.abs(pictures.mean((1, 2, 3)) - (GREYS[0] + GREYS[1] * positions))
    return (
        "" if strays.max() <= GREYS[1] / 3 else f"frames are not those that were written, {strays.max():.0f} levels off"
    )


def look_at_pyav(asked: Asked) -> Iterator[Finding]:
    """PyAV, which prepares clips."""
    wrong = _read("pyav")
    import av

    if wrong:
        raise RuntimeError(wrong)
    yield Finding("PyAV", OK, f"{av.__version__} writes a clip and reads it")


def look_at_decord(asked: Asked) -> Iterator[Finding]:
    """decord (the package decord2), which training reads clips with."""
    from slr.data.video import load_decord

    wrong = _read("decord")
    decord = load_decord()
    if wrong:
        raise RuntimeError(wrong)
    yield Finding("decord", OK, f"{decord.__version__} reads the frames that were written")


def look_at_disk(asked: Asked) -> Iterator[Finding]:
    """Room for data, runs and, where it is to be fetched, the model; what shares a disk is added up."""
    disks: dict[int, tuple[Path, list[str], int]] = {}
    for name, (folder, size) in _wanted(asked).items():
        place = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
        if not os.access(place, os.W_OK):
            yield Finding("disk", FAULT, f"{place} cannot be written, for {name}", OTHER_PLACE)
            continue
        disk = place.stat().st_dev
        first, names, total = disks.get(disk, (place, [], 0))
        disks[disk] = (first, [*names, name], total + size)
    for place, names, total in disks.values():
        free = shutil.disk_usage(place).free
        said = f"{format_bytes(free)} free at {place} for {', '.join(names)}, which take about {format_bytes(total)}"
        short = free < total
        yield Finding("disk", FAULT if short else OK, said, f"free some, or {OTHER_PLACE}" if short else "")


def _wanted(asked: Asked) -> dict[str, tuple[Path, int]]:
    """Folder and bytes of what a run writes."""
    wanted = {name: (Path(getattr(asked, name)), size) for name, size in ROOM.items()}
    checkpoint, revision = of_option(asked.model)
    if checkpoint.count("/") == 1 and not Path(checkpoint).is_dir():
        try:
            found(checkpoint, revision, need_weights=True)
        except UserError:
            from huggingface_hub.constants import HF_HUB_CACHE

            wanted["model"] = (Path(HF_HUB_CACHE), WEIGHTS_2B)
    return wanted


def look_at_hub(asked: Asked) -> Iterator[Finding]:
    """Whether models could be fetched now."""
    from huggingface_hub.constants import ENDPOINT

    if asked.offline:
        yield Finding("hub", OK, "not asked: HF_HUB_OFFLINE is set")
        return
    if not ENDPOINT.startswith(("https://", "http://")):
        yield Finding("hub", WARNING, f"HF_ENDPOINT={ENDPOINT} is no address", "unset HF_ENDPOINT")
        return
    from slr.models.hub import within

    try:
        within(PATIENCE, lambda: urllib.request.urlopen(ENDPOINT, timeout=PATIENCE).close())
    except urllib.error.HTTPError:
        pass  # whatever it says, it is there
    except OSError as error:
        said = f"{ENDPOINT} gives no answer ({getattr(error, 'reason', error)})"
        yield Finding(
            "hub", WARNING, said, "HF_HUB_OFFLINE=1 skips the question; models then come from a folder or the cache"
        )
        return
    yield Finding("hub", OK, f"{ENDPOINT} answers")


def look_at_model(asked: Asked) -> Iterator[Finding]:
    """Whether the checkpoint is here."""
    checkpoint, revision = of_option(asked.model)
    try:
        folder = found(checkpoint, revision, need_weights=True)
    except UserError as error:
        if checkpoint.count("/") == 1 and "neither" in str(error):
            said = f"{name_of(asked.model)}: {checkpoint} is not in the local cache; the first run fetches it"
            remedy = (
                f"be online then, or copy it here and set model.checkpoint=FOLDER; about {format_bytes(WEIGHTS_2B)}"
            )
            yield Finding("model", WARNING if not asked.offline else asked.lacking("model"), said, remedy)
        else:
            said, _, remedy = one_line(error).partition("; do ")
            yield Finding(
                "model", asked.lacking("model"), f"{name_of(asked.model)}: {said}", remedy or "use model=tiny"
            )
        return
    yield Finding("model", OK, f"{name_of(asked.model)}: whole, in {folder}")


def look_at_data(asked: Asked) -> Iterator[Finding]:
    """What is prepared."""
    folder = Path(asked.data)
    lists = sorted(folder.glob("*/*/manifest.jsonl"))
    if not lists:
        remedy = (
            "python prepare_data.py dataset=wlasl dataset.subset=100, or train.py experiment=demo, which needs none"
        )
        yield Finding("data", asked.lacking("data"), f"nothing prepared in {folder}", remedy)
        return
    counts = []
    for listed in lists:
        with listed.open(encoding="utf-8") as file:
            counts.append(f"{listed.parent.relative_to(folder)} ({sum(1 for line in file if line.strip())} clips)")
    yield Finding("data", OK, f"{', '.join(counts[:8])}{' …' if len(counts) > 8 else ''} in {folder}")


def look_at_token(asked: Asked) -> Iterator[Finding]:
    """Whether there is one; it is neither read nor shown."""
    from huggingface_hub.constants import HF_TOKEN_PATH

    if asked.token:
        yield Finding("token", OK, "HF_TOKEN is set")
    elif Path(HF_TOKEN_PATH).is_file():
        yield Finding("token", OK, "kept by huggingface_hub's login")
    else:
        yield Finding("token", OK, "none; public models such as InternVL3.5 need none")


DECODER = "uv pip install --reinstall av decord2"
CHECKS = [
    Check("PyAV", look_at_pyav, DECODER),
    Check("decord", look_at_decord, DECODER),
    Check("disk", look_at_disk, OTHER_PLACE),
    Check("hub", look_at_hub, "HF_HUB_OFFLINE=1 skips the question"),
    Check("token", look_at_token, f"uv pip install --reinstall huggingface-hub; {INSTALL}"),
    Check("model", look_at_model, f"use model=tiny, or a whole checkpoint; {INSTALL}"),
    Check("data", look_at_data, "python prepare_data.py prepares it again"),
]
