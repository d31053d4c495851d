"""What is on the disk and what would be downloaded: decoders, room, the hub, the model, prepared data."""

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from slr.core.errors import UserError, one_line
from slr.core.units import GB, format_bytes
from slr.doctor.finding import WARNING, Check, DoctorArgs, Problem
from slr.doctor.libraries import INSTALL
from slr.doctor.models import WEIGHTS_2B, is_hub_name, local_folder

PATIENCE = 5.0  # seconds for the hub
FRAMES, GREYS = 24, (10, 9)  # of the clip that is written: frame n has the grey of the first + n x the second
OTHER_PLACE = "name another place: data=…, outputs=…, HF_HOME for models"
OFFLINE = "HF_HUB_OFFLINE=1 skips the question; models then come from a folder or the cache"
ROOM = {"data": 2 * GB, "outputs": 1 * GB}  # prepared clips of WLASL100, generously; checkpoints of a few runs


def look_at_decoder(args: DoctorArgs, reader: str) -> str:
    """Write a clip as preparation does, read some of its frames, and compare them."""
    import av
    import numpy as np

    from slr.data.video import load_decord, read
    from slr.prepare.encode import write_clip

    version = load_decord().__version__ if reader == "decord" else av.__version__
    positions = np.array([0, 7, 23])
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, (np.full((64, 96, 3), GREYS[0] + GREYS[1] * number, np.uint8) for number in range(FRAMES)))
        frames = read(clip, positions, reader).astype(float)
    off = np.abs(frames.mean((1, 2, 3)) - (GREYS[0] + GREYS[1] * positions)).max()
    if off > GREYS[1] / 3:
        raise Problem(f"{version}: the frames read are not those that were written, {off:.0f} grey levels off")
    return f"{version} reads the frames that were written"


def look_at_disk(args: DoctorArgs) -> str:
    """Room for data, runs and, if it must be downloaded, the model; what shares a disk is added up."""
    folders = {name: (Path(getattr(args, name)), size) for name, size in ROOM.items()}
    if is_hub_name(args.model):
        try:
            local_folder(args.model, need_weights=True)
        except UserError:
            from huggingface_hub.constants import HF_HUB_CACHE

            folders["model"] = (Path(HF_HUB_CACHE), WEIGHTS_2B)
    disks: dict[int, tuple[Path, list[str], int]] = {}
    for name, (folder, size) in folders.items():
        place = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
        if not os.access(place, os.W_OK):
            raise Problem(f"{place} cannot be written, for {name}")
        first, names, total = disks.get(place.stat().st_dev, (place, [], 0))
        disks[place.stat().st_dev] = (first, [*names, name], total + size)
    lines = []
    for place, names, total in disks.values():
        free = shutil.disk_usage(place).free
        lines.append(f"{format_bytes(free)} free at {place}; {', '.join(names)} take about {format_bytes(total)}")
        if free < total:
            raise Problem(lines[-1], f"free some, or {OTHER_PLACE}")
    return "; ".join(lines)


def look_at_hub(args: DoctorArgs) -> str:
    """Whether models can be downloaded now."""
    from huggingface_hub.constants import ENDPOINT

    if args.offline:
        return "not asked: HF_HUB_OFFLINE is set"
    from slr.models.hub import within

    try:
        within(PATIENCE, lambda: urllib.request.urlopen(ENDPOINT, timeout=PATIENCE).close())
    except urllib.error.HTTPError:
        pass  # any answer will do
    except (OSError, ValueError) as error:
        raise Problem(f"{ENDPOINT} gives no answer ({getattr(error, 'reason', error)})", state=WARNING) from error
    return f"{ENDPOINT} answers"


def look_at_model(args: DoctorArgs) -> str:
    """Whether the checkpoint is here."""
    try:
        folder = local_folder(args.model, need_weights=True)
    except UserError as error:
        if is_hub_name(args.model) and "neither" in str(error):
            found = f"model={args.model} is not in the local cache; the first run downloads {format_bytes(WEIGHTS_2B)}"
            remedy = "be online then, or copy it here and set model.checkpoint=FOLDER"
            raise Problem(found, remedy, args.lacking("model") if args.offline else WARNING) from error
        raise Problem(f"model={args.model}: {one_line(error)}", state=args.lacking("model")) from error
    return f"model={args.model}: complete, in {folder}"


def look_at_data(args: DoctorArgs) -> str:
    """Which data sets are prepared."""
    folder = Path(args.data)
    counts = []
    for manifest in sorted(folder.glob("*/*/manifest.jsonl")):
        clips = sum(1 for line in manifest.read_bytes().splitlines() if line.strip())
        counts.append(f"{manifest.parent.relative_to(folder)} ({clips} clips)")
    if not counts:
        remedy = "slr prepare dataset=wlasl dataset.subset=100, or slr train experiment=demo, which needs none"
        raise Problem(f"nothing prepared in {folder}", remedy, args.lacking("data"))
    return f"{', '.join(counts[:8])}{' …' if len(counts) > 8 else ''} in {folder}"


def look_at_token(args: DoctorArgs) -> str:
    """Whether there is one; it is neither read nor shown."""
    from huggingface_hub.constants import HF_TOKEN_PATH

    if args.token:
        return "HF_TOKEN is set"
    here = Path(HF_TOKEN_PATH).is_file()
    return "kept by huggingface_hub's login" if here else "none; public models such as InternVL3.5 need none"


DECODER = "uv pip install --reinstall av decord2"
CHECKS = [
    Check("PyAV", partial(look_at_decoder, reader="pyav"), DECODER),  # prepares clips
    Check("decord", partial(look_at_decoder, reader="decord"), DECODER),  # the package decord2; training reads with it
    Check("disk", look_at_disk, OTHER_PLACE),
    Check("hub", look_at_hub, OFFLINE),
    Check("token", look_at_token, f"uv pip install --reinstall huggingface-hub; {INSTALL}"),
    Check("model", look_at_model, f"use model=tiny, or a complete checkpoint; {INSTALL}"),
    Check("data", look_at_data, "slr prepare prepares it again"),
]
