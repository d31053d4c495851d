"""Records of untrusted videos → a prepared data set, resumable, for every data set that comes as files."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slr.data.manifest import Clip, Rejected, read_manifest, read_rejected, write_manifest, write_rejected
from slr.errors import UserError
from slr.files import write_whole
from slr.prepare.exclusive import exclusive
from slr.prepare.labels import Record
from slr.prepare.verify import Job, Limits, Prepared, prepare_clips

VERSION = 1  # of what preparation makes of a file; a new number makes every clip anew

Outcome = dict[str, Any]  # as source.json keeps it: `stamp`, and either `clip` or `rejected`


def prepare_records(
    kind: str,
    records: list[Record],
    out: Path,
    workers: int,
    longest_side: int = 640,
    least_frames: int = 1,
    limits: Limits | None = None,
) -> Path:
    """Turn the videos of records into verified clips; returns the path of the manifest.

    What `out` already holds is used again where the video has not changed; if nothing has, nothing is written. A video
    that cannot become a clip is listed in rejected.jsonl and counted on standard error.

    Args:
        kind: The kind of data set, so that two kinds never share a folder.
        records: Of videos that are there.
        out: The prepared data set; new, empty, or an earlier one of this kind.
        workers: Processes that decode side by side.
        longest_side: Pixels; larger pictures are made smaller.
        least_frames: Shorter clips, counted at 25 a second, are rejected.
        limits: What one video may take before it is given up.

    Raises:
        UserError: `out` holds something else, no video became a clip, or the disk is full.
    """
    _refuse_overlap(records, out)
    recipe = {"dataset": kind, "version": VERSION, "longest_side": longest_side, "least_frames": least_frames}
    try:
        _known(out, recipe)  # refuses a folder that holds something else before anything is written there
        (out / "clips").mkdir(parents=True, exist_ok=True)
        with exclusive(out):
            _bring_up_to_date(records, out, recipe, workers, limits)
    except OSError as error:
        raise UserError(f"expected to write the prepared data set to {out}, found: {error}") from error
    return out / "manifest.jsonl"


def _bring_up_to_date(
    records: list[Record], out: Path, recipe: dict[str, Any], workers: int, limits: Limits | None
) -> None:
    outcomes = _reusable(records, _known(out, recipe), out)
    fresh = [record for record in records if record.id not in outcomes]
    if fresh:
        _write_source(out, recipe, records, outcomes)
        try:
            for name, outcome in _prepare(fresh, out, recipe, workers, limits):
                outcomes[name] = outcome
        finally:  # an interrupted run keeps what it has made
            _write_source(out, recipe, records, outcomes)
    _write_lists(records, outcomes, out)


def _refuse_overlap(records: list[Record], out: Path) -> None:
    """Sources inside the prepared data set would be overwritten or cleaned away."""
    inside = [record.file for record in records if record.file.resolve().is_relative_to(out.resolve())]
    if inside:
        raise UserError(f"expected videos outside of {out}, where clips are written, found {inside[0]}; choose another")


def _known(out: Path, recipe: dict[str, Any]) -> dict[str, Outcome]:
    """What an earlier preparation made of which file, by clip id; empty if it was by another recipe."""
    try:
        source = json.loads((out / "source.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        strange = [path for path in out.glob("**/*") if path.is_file() and path.name != ".lock"]
        if strange:
            raise UserError(
                f"expected a new folder or a prepared data set, found {strange[0]}; choose another"
            ) from None
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"expected a prepared data set in {out}, found {error}; delete it or choose another") from None
    if not isinstance(source, dict) or source.get("dataset") != recipe["dataset"] or "outcomes" not in source:
        raise UserError(
            f"expected a prepared data set of the kind {recipe['dataset']} in {out}, found another; choose another"
        )
    return source["outcomes"] if {name: source.get(name) for name in recipe} == recipe else {}


def _write_source(out: Path, recipe: dict[str, Any], records: list[Record], outcomes: dict[str, Outcome]) -> None:
    in_order = {record.id: outcomes[record.id] for record in records if record.id in outcomes}
    write_whole(out / "source.json", json.dumps({**recipe, "outcomes": in_order}, indent=1) + "\n")


def _reusable(records: list[Record], known: dict[str, Outcome], out: Path) -> dict[str, Outcome]:
    """The outcomes that still hold: the video has not changed since, and its clip is there or was refused."""
    return {
        record.id: known[record.id]
        for record in records
        if record.id in known
        and known[record.id].get("stamp") == _stamp(record.file)
        and ("rejected" in known[record.id] or _clip_path(out, record).is_file())
    }


def _stamp(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"file": str(file), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _clip_path(out: Path, record: Record) -> Path:
    return out / "clips" / f"{record.id}.mp4"


def _prepare(
    records: list[Record], out: Path, recipe: dict[str, Any], workers: int, limits: Limits | None
) -> Iterator[tuple[str, Outcome]]:
    longest_side, least_frames = recipe["longest_side"], recipe["least_frames"]
    jobs = [Job(record.file, _clip_path(out, record), longest_side, least_frames) for record in records]
    # Taken before a file is opened: one that changes meanwhile is prepared again by the next run.
    stamps = [_stamp(record.file) for record in records]
    prepared = prepare_clips(jobs, workers, limits)
    for number, outcome in tqdm(prepared, total=len(jobs), desc="Preparing clips", unit="clip"):
        if isinstance(outcome, Prepared):
            told = {"clip": {**asdict(outcome.facts), "source_sha256": outcome.source_sha256}}
        else:
            told = {"rejected": {"reason": outcome.reason, "detail": outcome.detail}}
        yield records[number].id, {"stamp": stamps[number], **told}


def _write_lists(records: list[Record], outcomes: dict[str, Outcome], out: Path) -> None:
    """Write manifest.jsonl and rejected.jsonl, the manifest last, unless they already say this."""
    clips, rejected = [], []
    for record in records:
        outcome = outcomes[record.id]
        if "rejected" in outcome:
            rejected.append(Rejected(record.id, record.given, record.gloss, **outcome["rejected"]))
        else:
            clips.append(_clip(record, outcome["clip"]))
    if not _already(out, clips, rejected):
        write_rejected(out / "rejected.jsonl", rejected)
        write_manifest(out / "manifest.jsonl", clips)
        _remove_strangers(out / "clips", {Path(clip.file).name for clip in clips})
        _tell(rejected, len(records), out)
    if not clips:
        raise UserError(f"expected a video among {len(records)} files, found none; {out / 'rejected.jsonl'} says why")


def _clip(record: Record, facts: dict[str, Any]) -> Clip:
    return Clip(
        id=record.id,
        file=f"clips/{record.id}.mp4",
        gloss=record.gloss,
        source=record.given,
        signer=record.signer,
        official_part=record.official_part,
        prompt=record.prompt,
        **facts,
    )


def _already(out: Path, clips: list[Clip], rejected: list[Rejected]) -> bool:
    try:
        return read_manifest(out / "manifest.jsonl") == clips and read_rejected(out / "rejected.jsonl") == rejected
    except UserError:
        return False


def _remove_strangers(folder: Path, wanted: set[str]) -> None:
    """Remove clips that the manifest no longer names, and what a killed run left half-written."""
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()


def _tell(rejected: list[Rejected], total: int, out: Path) -> None:
    if rejected:
        reasons = Counter(row.reason for row in rejected).most_common()
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons)
        why = f"{out / 'rejected.jsonl'} says why"
        print(f"Rejected {len(rejected)} of {total} videos ({counts}); {why}", file=sys.stderr, flush=True)
