"""`dataset=wlasl`: the WLASL index and the recordings that still exist → a prepared data set."""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from slr.core.errors import UserError
from slr.data.manifest import Rejected
from slr.prepare.decode.crop import Crop
from slr.prepare.decode.video import Cut
from slr.prepare.labels import ABSENT, ClipRecord, require
from slr.prepare.records import LEAST_FRAMES, prepare_records
from slr.prepare.wlasl import index as wlasl_index
from slr.prepare.wlasl import report, urls
from slr.prepare.wlasl.download import Failure, FetchPolicy, download
from slr.prepare.wlasl.fetch import describe_fetched, fetch, fetched, file_name
from slr.prepare.wlasl.index import Instance

STAGES = ("index", "select", "fetch", "cut", "verify", "manifest", "report")


@dataclass(frozen=True, slots=True)
class WlaslOptions:
    """What is to be prepared of WLASL, and from where."""

    index: str | None = None  # path or address of WLASL_v0.3.json; None: where its authors publish it
    index_hash: str | None = None  # git blob SHA-1 or SHA-256 that it must have; None: that of v0.3 if it is fetched
    clips: Path | None = None  # folder of <video_id>.mp4
    subset: str = "2000"
    local: str = "cut"  # cut: files of the folder are cut already; source: the index's ranges are still to be applied
    crop: float | None = None  # keep the signer's box with this margin on each side, as a share of the box
    fetch: bool | None = None  # ask the network for what the folder lacks; None: only where there is no folder
    policy: FetchPolicy = field(default_factory=FetchPolicy)


def prepare_wlasl(
    options: WlaslOptions, downloads: Path, out: Path, workers: int, stages: Sequence[str] = STAGES
) -> Path:
    """Turn the available WLASL recordings into verified clips and report what is missing; returns the manifest's path.

    Args:
        options: What, and from where.
        downloads: Where recordings from the network are kept, for every subset.
        out, workers: See `prepare_records`.
        stages: Any of `STAGES`; each takes what those before it have left.

    Raises:
        UserError: There is no index, none of its clips is available, or the disk is full.
    """
    listed = _index(options, downloads)
    if "index" in stages:
        print("\n".join(wlasl_index.describe_index(listed)))
    chosen = wlasl_index.select(listed, options.subset)
    if "select" in stages:
        print(f"selected  {options.subset}: {wlasl_index.describe_instances(chosen)}")
        print("\n".join(wlasl_index.describe_glossary(listed) if options.subset == "core" else ()))
    local = {}  # files by the id that they are named after
    if options.clips is not None:
        require(options.clips)
        local = {path.stem: path for path in options.clips.glob("*.mp4")}
    ask_network = options.clips is None if options.fetch is None else options.fetch
    names = _wanted(listed, chosen, local) if ask_network else {}
    if "fetch" in stages and names:
        fetch(names, downloads, options.policy)
        print("fetched\n" + "\n".join(describe_fetched(names, downloads)))
    last = [stage for stage in stages if stage in ("cut", "verify", "manifest")]
    if last:
        records, lost = _records(options, listed, chosen, local, names, downloads)
        if options.clips is not None and not ask_network:
            _check_folder(options.clips, chosen, records)
        prepare_records("wlasl", records, out, workers, LEAST_FRAMES, lost, last)
    if "report" in stages:
        print(report.write_report(listed, chosen, out))
    return out / "manifest.jsonl"


def _index(options: WlaslOptions, downloads: Path) -> list[Instance]:
    """The index, fetched first where it is an address."""
    place = options.index or wlasl_index.PUBLISHED_AT
    if not place.startswith(("http://", "https://")):
        return wlasl_index.read_index(Path(place), options.index_hash)
    path = downloads / f"index-{file_name('0', place)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            download(place, path, options.policy, Event())
    except OSError as error:
        raise UserError(f"expected to write downloads to {downloads}, found: {error}") from None
    except Failure as failure:
        remedy = "set dataset.index to a copy of WLASL_v0.3.json"
        raise UserError(f"expected the index at {place}, found {failure.detail}; {remedy}") from None
    try:
        return wlasl_index.read_index(path, options.index_hash or wlasl_index.PUBLISHED)
    except UserError:
        path.unlink()  # the next run fetches it again
        raise


def _wanted(listed: Sequence[Instance], chosen: Sequence[Instance], local: Mapping[str, object]) -> dict[str, str]:
    """The distinct addresses that the network is asked for, with the names of their files, the same for any subset."""
    first_ids: dict[str, str] = {}
    for instance in listed:
        first_ids.setdefault(urls.distinct(instance.address), instance.id)
    places = dict.fromkeys(urls.distinct(instance.address) for instance in chosen if instance.id not in local)
    return {place: file_name(first_ids[place], place) for place in places}


def _records(
    options: WlaslOptions,
    listed: Sequence[Instance],
    chosen: Sequence[Instance],
    local: Mapping[str, Path],
    names: Mapping[str, str],
    downloads: Path,
) -> tuple[list[ClipRecord], list[Rejected]]:
    """Records of the files that are there, rejections of the others, with the reason."""
    records, lost = [], []
    known, heights = fetched(downloads) if names else {}, _heights(listed)
    for instance in chosen:
        place, file = urls.distinct(instance.address), local.get(instance.id)
        crop = None if options.crop is None else Crop(instance.box, heights[instance.collection], options.crop)
        cut = Cut(instance.first, instance.last, crop)
        if file is not None:
            given, cut = file.name, Cut(1, -1, crop) if options.local == "cut" else cut
            why = "symlink", "it is a link, which may lead anywhere; put the file there"
        elif names:
            given, file = instance.address, downloads / "files" / names[place]
            outcome = known.get(place, {})
            why = outcome.get("reason", "pending"), outcome.get("detail", "it has not been asked for yet")
        else:
            given, file = f"{instance.id}.mp4", ABSENT
            why = "missing", f"it is not in {options.clips}"
        record = ClipRecord(
            id=instance.id,
            file=file.absolute(),
            given=given,
            gloss=instance.gloss,
            signer=instance.signer,
            official_part=instance.part,
            cut=cut,
            segment=instance.segment,
            address=instance.address,
        )
        if (instance.id in local or file.is_file()) and not file.is_symlink():
            records.append(record)
        else:
            lost.append(record.rejected(*why))
    return records, lost


def _heights(listed: Sequence[Instance]) -> dict[str, tuple[int, ...]]:
    """By collection, the heights that pictures had when boxes were measured: where many boxes end at the lower edge."""
    bottoms: dict[str, Counter[int]] = defaultdict(Counter)
    for instance in listed:
        bottoms[instance.collection][instance.box[3]] += 1
    return {
        name: tuple(sorted(height for height, times in counts.items() if times >= 0.02 * counts.total()))
        for name, counts in bottoms.items()
    }


def _check_folder(folder: Path, chosen: Sequence[Instance], records: Sequence[ClipRecord]) -> None:
    """Refuse a folder with none of the clips; warn where some are missing."""
    if not records:
        raise UserError(f"expected <video_id>.mp4 in {folder}, found none of the {len(chosen)} that are listed")
    if len(records) < len(chosen):
        glosses, all_glosses = ({item.gloss for item in items} for items in (records, chosen))
        message = f"WLASL: {len(records)} of {len(chosen)} listed clips are in {folder}, {len(glosses)} of "
        print(f"{message}{len(all_glosses)} glosses; results are over these clips only", file=sys.stderr)
