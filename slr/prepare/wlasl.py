"""`dataset=wlasl`: the WLASL index and a folder of `<video_id>.mp4`, already cut → a prepared data set."""

import json
import sys
from pathlib import Path
from typing import Any

from slr.errors import UserError
from slr.prepare.labels import Record
from slr.prepare.records import prepare_records


def prepare_wlasl(index: Path, clips: Path, out: Path, workers: int) -> Path:
    """Turn the clips of WLASL that are here into verified ones; returns the path of the manifest.

    The layout is that of the copy on Kaggle. What the index lists and the folder lacks is counted on standard error.

    Args:
        index: `WLASL_v0.3.json`.
        clips: The folder of `<video_id>.mp4`, each one sign.
        out, workers: See `prepare_records`.

    Raises:
        UserError: The index is none, or none of its clips is in the folder.
    """
    if not clips.is_dir():
        raise UserError(f"expected the folder of the videos at {clips}, found none; set dataset.clips")
    listed = read_index(index, clips)
    here = [record for record in listed if record.file.is_file()]
    if not here:
        raise UserError(f"expected <video_id>.mp4 in {clips}, found none of the {len(listed)} that {index} lists")
    if len(here) < len(listed):
        glosses, all_glosses = ({record.gloss for record in records} for records in (here, listed))
        print(
            f"WLASL: {len(here)} of {len(listed)} listed clips are in {clips}, {len(glosses)} of {len(all_glosses)} "
            "glosses; every number of a run is over these alone",
            file=sys.stderr,
        )
    return prepare_records("wlasl", here, out, workers)


def read_index(index: Path, clips: Path) -> list[Record]:
    """The instances of the index as records, in its order, whether their files are here or not.

    Raises:
        UserError: The file is no WLASL index.
    """
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return [_record(entry["gloss"], instance, clips) for entry in content for instance in entry["instances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"expected WLASL_v0.3.json at {index}, found no index that can be read ({error!r}); set dataset.index"
        ) from None


def _record(gloss: str, instance: dict[str, Any], clips: Path) -> Record:
    name = instance["video_id"]
    return Record(
        id=name,
        file=clips.absolute() / f"{name}.mp4",
        given=f"{name}.mp4",
        gloss=gloss,
        signer=str(instance["signer_id"]),
        official_part=instance["split"],
        prompt=None,
    )
