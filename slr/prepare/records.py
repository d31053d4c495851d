"""Records of untrusted videos → a prepared data set, resumable, for every data set that comes as files."""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.core.files import sha256
from slr.core.locks import exclusive
from slr.data.manifest import Clip, Rejected, read_manifest, read_rejected, write_manifest, write_rejected
from slr.prepare.decode.sandbox import Unfit
from slr.prepare.decode.video import WHOLE
from slr.prepare.labels import ClipRecord
from slr.prepare.ledger import Note, Outcome, open_ledger, outcomes_of, read_source, show_progress
from slr.prepare.verify import LONGEST_SIDE, ClipJob, Prepared, prepare_clips, verify_clips
from slr.prepare.wlasl import urls

VERSION = 2  # of what preparation makes of a file; a new number makes every clip anew
STAGES = ("cut", "verify", "manifest")
LEAST_FRAMES = 8  # of a clip of a published data set, at 25 a second: a third of a second is no sign
STUB = 3  # this many addresses of one host with the same content are its answer to every request


def prepare_records(
    kind: str,
    records: list[ClipRecord],
    out: Path,
    workers: int,
    least_frames: int = 1,
    lost: Sequence[Rejected] = (),
    stages: Sequence[str] = STAGES,
) -> Path:
    """Turn the videos of records into verified clips; returns the path of the manifest.

    Clips in `out` whose video has not changed are kept; if nothing has changed, nothing is written. A video that
    cannot become a clip is listed in rejected.jsonl and counted on standard error. After a kill or on a full disk, the
    same call continues.

    Args:
        kind: The kind of data set, so that two kinds never share a folder.
        records: Of videos that are there.
        out: The prepared data set; new, empty, or an earlier one of this kind.
        workers: Processes that decode side by side.
        least_frames: Shorter clips, counted at 25 a second, are rejected.
        lost: What has no video, for the list of rejections.
        stages: Any of cut, verify, manifest; each takes what those before it have left.

    Raises:
        UserError: `out` holds something else, no video became a clip, or the disk is full.
    """
    _refuse_overlap(records, out)
    recipe = {"dataset": kind, "version": VERSION, "longest_side": LONGEST_SIDE, "least_frames": least_frames}
    try:
        read_source(out, kind)  # refuses a foreign folder before anything is written there
        (out / "clips").mkdir(parents=True, exist_ok=True)
        with exclusive(out):
            outcomes = _reusable(records, outcomes_of(read_source(out, kind), recipe), out)
            fresh = [record for record in records if record.id not in outcomes] if "cut" in stages else []
            verify = "verify" in stages and any(not outcome.get("verified", True) for outcome in outcomes.values())
            if fresh or verify:
                with open_ledger(out / "source.json", recipe, outcomes) as note:
                    if fresh:
                        _cut(fresh, out, note, least_frames, workers)
                    if "verify" in stages:
                        _verify(records, out, outcomes, note, workers)
            if "manifest" in stages:
                _write_lists(records, outcomes, lost, out)
    except OSError as error:
        raise UserError(f"expected to write the prepared data set to {out}, found: {error}") from error
    return out / "manifest.jsonl"


def _refuse_overlap(records: list[ClipRecord], out: Path) -> None:
    """Sources inside the prepared data set would be overwritten or cleaned away; a link would lead out of it."""
    inside = [record.file for record in records if record.file.resolve().is_relative_to(out.resolve())]
    if inside:
        raise UserError(f"expected videos outside of {out}, where clips are written, found {inside[0]}; choose another")
    if (out / "clips").is_symlink():
        raise UserError(f"expected a folder at {out / 'clips'}, found a link, which leads out of the data; remove it")


def _reusable(records: list[ClipRecord], known: dict[str, Outcome], out: Path) -> dict[str, Outcome]:
    """The outcomes that are still valid: the video has not changed, and its clip is there or was rejected."""
    return {
        record.id: outcome
        for record in records
        if (outcome := known.get(record.id))
        and outcome.get("stamp") == _stamp(record)
        and ("rejected" in outcome or _clip_path(out, record).is_file())
    }


def _stamp(record: ClipRecord) -> dict[str, Any]:
    """What an outcome depends on."""
    stat = record.file.stat()
    stamp = {"file": str(record.file), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if record.cut == WHOLE:
        return stamp
    crop = record.cut.crop
    return stamp | {"cut": [record.cut.first, record.cut.last, crop and [*crop.box, list(crop.heights), crop.margin]]}


def _clip_path(out: Path, record: ClipRecord) -> Path:
    return out / "clips" / f"{record.id}.mp4"


def _cut(fresh: list[ClipRecord], out: Path, note: Note, least_frames: int, workers: int) -> None:
    # Taken before a file is opened: one that changes meanwhile is prepared again by the next run.
    stamps = [_stamp(record) for record in fresh]
    jobs = [ClipJob(record.file, _clip_path(out, record), least_frames, record.cut) for record in fresh]
    made = prepare_clips(jobs, workers)
    for number, result in show_progress(made, len(jobs), "cut", "clip", lambda pair: isinstance(pair[1], Unfit)):
        if isinstance(result, Prepared):
            outcome = {"clip": {**asdict(result.facts), "source_sha256": result.source_sha256}, "verified": False}
            outcome |= {"lacking": result.lacking} if result.lacking > 0 else {}
        else:
            outcome = _rejection(result, fresh[number])
        note(fresh[number].id, {"stamp": stamps[number], **outcome})


def _rejection(unfit: Unfit, record: ClipRecord) -> Outcome:
    content = {"source_sha256": sha256(record.file)} if record.address and record.file.is_file() else {}
    return {"rejected": {"reason": unfit.reason, "detail": unfit.detail}, **content}


def _verify(records: list[ClipRecord], out: Path, outcomes: dict[str, Outcome], note: Note, workers: int) -> None:
    cut = [record for record in records if "clip" in outcomes.get(record.id, {})]
    waiting = [record for record in cut if not outcomes[record.id]["verified"]]
    results = verify_clips([(_clip_path(out, record), outcomes[record.id]["clip"]) for record in waiting], workers)
    for number, unfit in show_progress(results, len(waiting), "verify", "clip", lambda pair: pair[1] is not None):
        record, outcome = waiting[number], outcomes[waiting[number].id]
        if unfit is None:
            note(record.id, {**outcome, "verified": True})
        else:
            note(record.id, {"stamp": outcome["stamp"], **_rejection(unfit, record)})


def _stubs(records: list[ClipRecord], outcomes: dict[str, Outcome]) -> dict[str, str]:
    """By id, files that a host gives under several addresses: its answer to every request."""
    sharing: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # host and content -> id -> address
    for record in records:
        outcome = outcomes.get(record.id, {})
        content = outcome.get("clip", outcome).get("source_sha256")
        if record.address and content:
            sharing[urls.host(record.address), content][record.id] = urls.distinct(record.address)
    stubs = {}
    for (host, _), places in sharing.items():
        count = len(set(places.values()))
        if count >= STUB:
            stubs |= dict.fromkeys(places, f"{host} gives this one file under {count} addresses")
    return stubs


def _write_lists(records: list[ClipRecord], outcomes: dict[str, Outcome], lost: Sequence[Rejected], out: Path) -> None:
    """Write manifest.jsonl and rejected.jsonl, the manifest last, unless they already say this."""
    clips, rejected, stubs = [], [], _stubs(records, outcomes)
    for record in records:
        outcome = outcomes.get(record.id, {})
        if record.id in stubs:
            rejected.append(record.rejected("stub", stubs[record.id]))
        elif outcome.get("verified"):
            clips.append(_clip(record, outcome["clip"]))
        else:
            why = outcome.get("rejected") or {"reason": "pending", "detail": "it is not cut and verified yet"}
            rejected.append(record.rejected(**why))
    rejected += lost
    total, explanation = len(records) + len(lost), f"the reasons are in {out / 'rejected.jsonl'}"
    written = False
    with suppress(UserError):
        written = read_manifest(out / "manifest.jsonl") == clips and read_rejected(out / "rejected.jsonl") == rejected
    if not written:
        write_rejected(out / "rejected.jsonl", rejected)
        write_manifest(out / "manifest.jsonl", clips)
        wanted = {f"{record.id}.mp4" for record in records if "clip" in outcomes.get(record.id, {})}
        for path in (out / "clips").iterdir():
            if path.name not in wanted:  # no longer asked for, or left half-written by a killed run
                path.unlink()
        if rejected:
            reasons = Counter(row.reason for row in rejected).most_common()
            counts = ", ".join(f"{reason} {count}" for reason, count in reasons)
            message = f"Rejected {len(rejected)} of {total} videos ({counts}); {explanation}"
            print(message, file=sys.stderr, flush=True)
    if not clips:
        raise UserError(f"expected a video among {total} files, found none; {explanation}")


def _clip(record: ClipRecord, facts: dict[str, Any]) -> Clip:
    return Clip(
        id=record.id,
        file=f"clips/{record.id}.mp4",
        gloss=record.gloss,
        source=record.given,
        signer=record.signer,
        official_part=record.official_part,
        prompt=record.prompt,
        segment=record.segment,
        **facts,
    )
