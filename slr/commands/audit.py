"""What the parts of a split share, as a table and as files: `slr audit run=outputs/…`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from slr import factory
from slr.config.saved_run import open_run
from slr.core import argv
from slr.core.argv import Option
from slr.core.errors import UserError
from slr.core.files import write_json
from slr.data.audit import FILES, NEAR, SEGMENTS, Entry, audit, describe_audit
from slr.data.duplicates.groups import identical_files, identical_segments, sharing
from slr.data.manifest import read_manifest
from slr.data.split import read_split
from slr.prepare.wlasl.index import SUBSETS, read_index, select


@dataclass(frozen=True)
class AuditArgs(argv.Arguments):
    """Count the clips that the parts of a split share: the same recording, the same signer, the same gloss."""

    command = "slr audit run=FOLDER | data=FOLDER | index=FILE"
    run: Annotated[Path | None, Option("a run: its clips and its split", shown="FOLDER")] = None
    data: Annotated[Path | None, Option("a prepared data set, in its official parts", shown="FOLDER")] = None
    split: Annotated[Path | None, Option("with data=: the parts of this split.json instead", shown="FILE")] = None
    index: Annotated[Path | None, Option("WLASL_v0.3.json, without its videos", shown="FILE")] = None
    subset: Annotated[str, Option("with index=", SUBSETS)] = "2000"
    out: Annotated[Path | None, Option("where to write; with index= nothing is else written", shown="FOLDER")] = None


def audit_prepared(prepared: Path, split: Path | None) -> dict[str, Any]:
    """The audit of a prepared data set, in the parts of a split's file or in its own; keeps the clips' fingerprints.

    Raises:
        UserError: no prepared data set, or the split divides other clips.
    """
    from slr.data.duplicates.near_duplicates import find_near_duplicates  # half a second that the index does not need

    clips = read_manifest(prepared / "manifest.jsonl")
    parts = read_split(split, clips).parts if split else {clip.id: clip.official_part for clip in clips}
    segments = identical_segments(clips) if any(clip.segment for clip in clips) else None
    near = find_near_duplicates(prepared, clips, os.cpu_count() or 1)
    entries = [Entry(clip.id, clip.gloss, clip.signer, parts.get(clip.id)) for clip in clips]
    return audit(entries, {FILES: identical_files(clips), SEGMENTS: segments, NEAR: near})


def audit_index(index: Path, subset: str) -> dict[str, Any]:
    """The audit of what a WLASL index lists, in its own parts, without a picture.

    Raises:
        UserError: it is no index.
    """
    instances = select(read_index(index), subset)
    entries = [Entry(instance.id, instance.gloss, instance.signer, instance.part) for instance in instances]
    segments = sharing((instance.id, instance.segment) for instance in instances)
    return audit(entries, {FILES: None, SEGMENTS: segments, NEAR: None})


def main() -> None:
    """Audit what the command line names, print the table, write the files."""
    args = argv.read(AuditArgs)
    given = [name for name in ("run", "data", "index") if getattr(args, name)]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise UserError(f"expected one of run=, data= and index=, found {found}; {argv.usage(AuditArgs)}")
    if args.index:
        results = audit_index(args.index, args.subset)
    elif args.data:
        results = audit_prepared(args.data, args.split)
    else:
        folder, config, _ = open_run(cast(Path, args.run))
        results = audit_prepared(factory.prepared(config), folder.split)
    print(describe_audit(results))
    place = args.run or args.data
    if out := args.out or (place and place / "audit"):
        conflicts = results.pop("label_conflicts")
        write_json(out / "audit.json", results)
        write_json(out / "label_conflicts.json", conflicts)
        print(f"written: {out / 'audit.json'} and {out / 'label_conflicts.json'}")
    print("next: split=signer, or split.drop_leaks=true with split=official, keeps such clips in one part")
