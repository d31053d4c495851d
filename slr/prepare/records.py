"""Records of untrusted videos → a prepared data set, resumable, for every data set that comes as files."""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.core.files import sha256
from slr.core.locks import exclusive
from slr.data.manifest import Clip, Rejected, read_manifest, read_rejected, write_manifest, write_rejected
from slr.prepare.decode.video import WHOLE, Unfit
from slr.prepare.labels import ClipRecord
from slr.prepare.ledger import Ledger, Outcome, read_ledger
from slr.prepare.progress import shown
from slr.prepare.verify import ClipJob, Facts, Limits, Prepared, prepare_clips, verify_clips
from slr.prepare.wlasl import urls

VERSION = 2  # of what preparation makes of a file; a new number makes every clip anew
STAGES = ("cut", "verify", "manifest")
LEAST_FRAMES = 8  # of a clip of a published data set, at 25 a second: a third of a second is no sign
STUB = 3  # so many different addresses of one host do not hold the same sign


def prepare_records(
    kind: str,
    records: list[ClipRecord],
    out: Path,
    workers: int,
    longest_side: int = 640,
    least_frames: int = 1,
    limits: Limits | None = None,
    lost: Sequence[Rejected] = (),
    stages: Sequence[str] = STAGES,
) -> Path:
    """Turn the videos of records into verified clips; returns the path of the manifest.

    What `out` already holds is used again where the video has not changed; if nothing has, nothing is written. A video
    that cannot become a clip is listed in rejected.jsonl and counted on standard error. A process that is killed, or
    that finds the disk full, leaves a folder that the same call goes on with.

    Args:
        kind: The kind of data set, so that two kinds never share a folder.
        records: Of videos that are there.
        out: The prepared data set; new, empty, or an earlier one of this kind.
        workers: Processes that decode side by side.
        longest_side: Pixels; larger pictures are made smaller.
        least_frames: Shorter clips, counted at 25 a second, are rejected.
        limits: What one video may take before it is given up.
        lost: What has no video, for the list of rejections.
        stages: Any of cut, verify, manifest; each takes what those before it have left.

    Raises:
        UserError: `out` holds something else, no video became a clip, or the disk is full.
    """
    _refuse_overlap(records, out)
    recipe = {"dataset": kind, "version": VERSION, "longest_side": longest_side, "least_frames": least_frames}
    try:
        _known(out, recipe)  # refuses a folder that holds something else before anything is written there
        (out / "clips").mkdir(parents=True, exist_ok=True)
        with exclusive(out):
            outcomes = _reusable(records, _known(out, recipe), out)
            if _unfinished(records, outcomes, stages):
                in_order = {record.id: outcomes[record.id] for record in records if record.id in outcomes}
                with Ledger(out / "source.json", recipe, in_order) as ledger:
                    if "cut" in stages:
                        _cut(records, out, ledger, longest_side, least_frames, workers, limits)
                    if "verify" in stages:
                        _verify(records, out, ledger, workers, limits)
                    outcomes = ledger.outcomes
            if "manifest" in stages:
                _write_lists(records, outcomes, lost, out)
    except OSError as error:
        raise UserError(f"expected to write the prepared data set to {out}, found: {error}") from error
    return out / "manifest.jsonl"


def _unfinished(records: list[ClipRecord], outcomes: dict[str, Outcome], stages: Sequence[str]) -> bool:
    """Whether a stage has something left to do."""
    for_cut = any(record.id not in outcomes for record in records)
    for_verify = any("clip" in outcome and not outcome["verified"] for outcome in outcomes.values())
    return (for_cut and "cut" in stages) or ((for_verify or for_cut) and "verify" in stages)


def _refuse_overlap(records: list[ClipRecord], out: Path) -> None:
    """Sources inside the prepared data set would be overwritten or cleaned away; a link would lead out of it."""
    inside = [record.file for record in records if record.file.resolve().is_relative_to(out.resolve())]
    if inside:
        raise UserError(f"expected videos outside of {out}, where clips are written, found {inside[0]}; choose another")
    if (out / "clips").is_symlink():
        raise UserError(f"expected a folder at {out / 'clips'}, found a link, which leads out of the data; remove it")


def _known(out: Path, recipe: dict[str, Any]) -> dict[str, Outcome]:
    """What an earlier preparation made of which file, by clip id; empty if it was by another recipe."""
    try:
        source = read_ledger(out / "source.json")
        if source is None and (strange := _strange(out)):
            # Again: another process may have begun here while the folder was listed.
            source = read_ledger(out / "source.json")
            if source is None:
                raise UserError(f"expected a new folder or a prepared data set, found {strange[0]}; choose another")
    except (OSError, ValueError) as error:
        raise UserError(f"expected a prepared data set in {out}, found {error}; delete it or choose another") from None
    if source is None:
        return {}
    if source.get("dataset") != recipe["dataset"]:
        raise UserError(
            f"expected a prepared data set of the kind {recipe['dataset']} in {out}, found another; choose another"
        )
    return source["outcomes"] if {name: source.get(name) for name in recipe} == recipe else {}


def _strange(out: Path) -> list[Path]:
    """Files that no preparation leaves in a folder that it has not begun."""
    files = [path for path in out.glob("**/*") if path.is_file() and path.name != ".lock"]
    # A disk that was full before the first line could be written leaves its beginning.
    return [path for path in files if not path.name.startswith(".source.json.")]


def _reusable(records: list[ClipRecord], known: dict[str, Outcome], out: Path) -> dict[str, Outcome]:
    """The outcomes that still hold: the video has not changed since, and its clip is there or was refused."""
    return {
        record.id: known[record.id]
        for record in records
        if record.id in known
        and known[record.id].get("stamp") == _stamp(record)
        and ("rejected" in known[record.id] or _clip_path(out, record).is_file())
    }


def _stamp(record: ClipRecord) -> dict[str, Any]:
    """What an outcome depends on."""
    stat = record.file.stat()
    stamp = {"file": str(record.file), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if record.cut == WHOLE:
        return stamp
    crop = record.cut.crop
    place = crop and [*crop.box, list(crop.heights), crop.margin]
    return stamp | {"cut": [record.cut.first, record.cut.last, place]}


def _clip_path(out: Path, record: ClipRecord) -> Path:
    return out / "clips" / f"{record.id}.mp4"


def _cut(
    records: list[ClipRecord],
    out: Path,
    ledger: Ledger,
    longest_side: int,
    least_frames: int,
    workers: int,
    limits: Limits | None,
) -> None:
    fresh = [record for record in records if record.id not in ledger.outcomes]
    # Taken before a file is opened: one that changes meanwhile is prepared again by the next run.
    stamps = [_stamp(record) for record in fresh]
    jobs = [ClipJob(record.file, _clip_path(out, record), longest_side, least_frames, record.cut) for record in fresh]
    made = prepare_clips(jobs, workers, limits) if jobs else ()
    for number, outcome in shown(made, len(jobs), "cut", "clip", lambda pair: isinstance(pair[1], Unfit)):
        record = fresh[number]
        if isinstance(outcome, Prepared):
            facts = {**asdict(outcome.facts), "source_sha256": outcome.source_sha256}
            told = {"clip": facts, "verified": False} | ({"lacking": outcome.lacking} if outcome.lacking > 0 else {})
        else:
            told = _rejection(outcome.reason, outcome.detail, record)
        ledger.note(record.id, {"stamp": stamps[number], **told})


def _rejection(reason: str, detail: str, record: ClipRecord) -> Outcome:
    content = {"source_sha256": sha256(record.file)} if record.address and record.file.is_file() else {}
    return {"rejected": {"reason": reason, "detail": detail}, **content}


def _verify(records: list[ClipRecord], out: Path, ledger: Ledger, workers: int, limits: Limits | None) -> None:
    waiting = [
        (record, Facts(**{name: value for name, value in outcome["clip"].items() if name != "source_sha256"}))
        for record in records
        if "clip" in (outcome := ledger.outcomes.get(record.id, {})) and not outcome["verified"]
    ]
    read = verify_clips([(_clip_path(out, record), facts) for record, facts in waiting], workers, limits)
    for number, wrong in shown(read, len(waiting), "verify", "clip", lambda pair: pair[1] is not None):
        name = waiting[number][0].id
        outcome = ledger.outcomes[name]
        if wrong is None:
            ledger.note(name, {**outcome, "verified": True})
        else:
            told = _rejection(wrong.reason, wrong.detail, waiting[number][0])
            ledger.note(name, {"stamp": outcome["stamp"], **told})


def _stubs(records: list[ClipRecord], outcomes: dict[str, Outcome]) -> dict[str, str]:
    """By id, what is one content under several addresses of a host: its answer to whatever it is asked for."""
    sharing: dict[tuple[str, str], list[ClipRecord]] = defaultdict(list)
    for record in records:
        outcome = outcomes.get(record.id, {})
        content = outcome.get("clip", outcome).get("source_sha256")
        if record.address and content:
            sharing[urls.host(record.address), content].append(record)
    found = {}
    for (host, _), group in sharing.items():
        places = len({urls.distinct(record.address) for record in group if record.address})
        if places >= STUB:
            found |= {record.id: f"{host} gives this one file under {places} addresses" for record in group}
    return found


def _write_lists(records: list[ClipRecord], outcomes: dict[str, Outcome], lost: Sequence[Rejected], out: Path) -> None:
    """Write manifest.jsonl and rejected.jsonl, the manifest last, unless they already say this."""
    clips, rejected, stubs = [], [], _stubs(records, outcomes)
    for record in records:
        outcome = outcomes.get(record.id, {})
        if record.id in stubs:
            rejected.append(_rejected(record, "stub", stubs[record.id]))
        elif outcome.get("verified"):
            clips.append(_clip(record, outcome["clip"]))
        else:
            told = outcome.get("rejected") or {"reason": "pending", "detail": "it is not cut and verified yet"}
            rejected.append(_rejected(record, **told))
    rejected += lost
    if not _already(out, clips, rejected):
        write_rejected(out / "rejected.jsonl", rejected)
        write_manifest(out / "manifest.jsonl", clips)
        _remove_strangers(out / "clips", {record.id for record in records if "clip" in outcomes.get(record.id, {})})
        _tell(rejected, len(records) + len(lost), out)
    if not clips:
        total = len(records) + len(lost)
        raise UserError(f"expected a video among {total} files, found none; {out / 'rejected.jsonl'} says why")


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


def _rejected(record: ClipRecord, reason: str, detail: str) -> Rejected:
    return Rejected(record.id, record.given, record.gloss, reason, detail, record.official_part, record.segment)


def _already(out: Path, clips: list[Clip], rejected: list[Rejected]) -> bool:
    try:
        return read_manifest(out / "manifest.jsonl") == clips and read_rejected(out / "rejected.jsonl") == rejected
    except UserError:
        return False


def _remove_strangers(folder: Path, wanted: set[str]) -> None:
    """Remove clips that are no longer asked for, and what a killed run left half-written."""
    for path in folder.iterdir():
        if path.suffix != ".mp4" or path.stem not in wanted:
            path.unlink()


def _tell(rejected: list[Rejected], total: int, out: Path) -> None:
    if rejected:
        reasons = Counter(row.reason for row in rejected).most_common()
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons)
        why = f"{out / 'rejected.jsonl'} says why"
        print(f"Rejected {len(rejected)} of {total} videos ({counts}); {why}", file=sys.stderr, flush=True)
