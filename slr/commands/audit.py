"""What the parts of a split share, as a table and as files: `python -m slr.audit run=outputs/…`."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slr.config.saved_run import open_run
from slr.core import argv
from slr.core.errors import UserError
from slr.core.files import write_json
from slr.data.audit import FILES, NEAR, SEGMENTS, Entry, audit, describe_audit
from slr.data.duplicates.groups import Link, identical_files, identical_segments, sharing
from slr.data.manifest import Clip, read_manifest
from slr.data.split import read_split

USAGE = (
    "python -m slr.audit run=FOLDER | data=FOLDER_OF_A_MANIFEST [split=split.json] | index=WLASL_v0.3.json "
    "[subset=100|300|1000|2000|core]  [out=FOLDER]"
)
GIVEN = ("run", "data", "index")
DEFAULTS = dict.fromkeys((*GIVEN, "split", "out"), "") | {"subset": "2000"}


def audit_run(run: Path) -> dict[str, Any]:
    """The audit of a run's clips and of its split.

    Raises:
        UserError: no such run, or its clips are no longer those that it divided.
    """
    folder, config, _ = open_run(run)
    prepared = Path(config.data) / config.dataset.place
    clips = read_manifest(prepared / "manifest.jsonl")
    return audit_clips(prepared, clips, read_split(folder.split, clips).parts)


def audit_prepared(prepared: Path, split: Path | None) -> dict[str, Any]:
    """The audit of a prepared data set, in the parts of a split's file or in the data set's own.

    Raises:
        UserError: no prepared data set, or the split divides other clips.
    """
    clips = read_manifest(prepared / "manifest.jsonl")
    own = {clip.id: clip.official_part for clip in clips if clip.official_part is not None}
    return audit_clips(prepared, clips, own if split is None else read_split(split, clips).parts)


def audit_clips(prepared: Path, clips: Sequence[Clip], parts: Mapping[str, str]) -> dict[str, Any]:
    """The audit of prepared clips; looks at their pictures, which is kept for the next time.

    Args:
        prepared: the manifest's folder.
        clips: of it.
        parts: clip id -> part; clips that are not there are in none.
    """
    from slr.data.duplicates.fingerprint import look_for_copies  # half a second that the index does not need

    copies: dict[str, Iterable[Link] | None] = {
        FILES: identical_files(clips),
        SEGMENTS: identical_segments(clips) if any(clip.segment for clip in clips) else None,
        NEAR: look_for_copies(prepared, clips, os.cpu_count() or 1),
    }
    return audit([Entry(clip.id, clip.gloss, clip.signer, parts.get(clip.id)) for clip in clips], copies)


def audit_index(index: Path, subset: str) -> dict[str, Any]:
    """The audit of what a WLASL index lists, in its own parts, without a picture.

    Raises:
        UserError: it is no index.
    """
    from slr.prepare.wlasl.index import read_index, select

    instances = select(read_index(index), subset)
    entries = [Entry(instance.id, instance.gloss, instance.signer, instance.part) for instance in instances]
    segments = sharing((instance.id, instance.segment) for instance in instances)
    return audit(entries, {FILES: None, SEGMENTS: segments, NEAR: None})


def main() -> None:
    """Read the words, audit, print the table, write the files."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(f"usage: {USAGE}")
        return
    words = argv.parse(sys.argv[1:], DEFAULTS, USAGE)
    given = [name for name in GIVEN if words[name]]
    if len(given) != 1:
        raise UserError(
            f"expected one of run=, data= and index=, found {' and '.join(given) or 'none'}; usage: {USAGE}"
        )
    out = Path(words["out"] or (Path(words[given[0]]) / "audit" if given != ["index"] else ""))
    match given[0]:
        case "run":
            found = audit_run(Path(words["run"]))
        case "data":
            found = audit_prepared(Path(words["data"]), Path(words["split"]) if words["split"] else None)
        case _:
            found = audit_index(Path(words["index"]), words["subset"])
    print(describe_audit(found))
    if words["out"] or given != ["index"]:
        conflicts = found.pop("label_conflicts")
        write_json(out / "audit.json", found)
        write_json(out / "label_conflicts.json", conflicts)
        print(f"written: {out / 'audit.json'} and {out / 'label_conflicts.json'}")
