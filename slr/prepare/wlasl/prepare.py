"""`dataset=wlasl`: the WLASL index and whatever can still be had of its recordings → a prepared data set."""

import os
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
from slr.prepare.labels import ClipRecord
from slr.prepare.records import LEAST_FRAMES, prepare_records
from slr.prepare.verify import Limits
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
    manners: FetchPolicy = field(default_factory=FetchPolicy)

    @property
    def asks_network(self) -> bool:
        """Whether recordings come from the network."""
        return self.clips is None if self.fetch is None else self.fetch


def prepare_wlasl(
    wish: WlaslOptions,
    downloads: Path,
    out: Path,
    workers: int,
    stages: Sequence[str] = STAGES,
    limits: Limits | None = None,
) -> Path:
    """Turn what can be had of WLASL into verified clips, and say what became of the rest; returns the manifest's path.

    Args:
        wish: What, and from where.
        downloads: Where recordings from the network are kept, for every subset.
        out, workers, limits: See `prepare_records`.
        stages: Any of `STAGES`; each takes what those before it have left.

    Raises:
        UserError: There is no index, none of its clips can be had, or the disk is full.
    """
    listed = _index(wish, downloads)
    if "index" in stages:
        print("\n".join(wlasl_index.describe_index(listed)))
    chosen = wlasl_index.select(listed, wish.subset)
    if "select" in stages:
        print(f"selected  {wish.subset}: {wlasl_index.describe_instances(chosen)}")
        print("\n".join(wlasl_index.describe_glossary(listed) if wish.subset == "core" else ()))
    local = _local_files(wish)
    names = _wanted(listed, chosen, local) if wish.asks_network else {}
    if "fetch" in stages and names:
        fetch(names, downloads, wish.manners)
        print("fetched\n" + "\n".join(describe_fetched(names, downloads)))
    last = [stage for stage in stages if stage in ("cut", "verify", "manifest")]
    if last:
        records, lost = _records(wish, listed, chosen, local, names, downloads)
        _refuse_nothing(wish, chosen, records)
        prepare_records("wlasl", records, out, workers, 640, LEAST_FRAMES, limits, lost, last)
    if "report" in stages:
        print(report.write_report(listed, chosen, out))
    return out / "manifest.jsonl"


def _index(wish: WlaslOptions, downloads: Path) -> list[Instance]:
    """The index, fetched first where it is an address."""
    place = wish.index or wlasl_index.PUBLISHED_AT
    if not place.startswith(("http://", "https://")):
        return wlasl_index.read_index(Path(place), wish.index_hash)
    path = downloads / f"index-{file_name('0', place)}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            download(place, path, wish.manners, Event())
    except OSError as error:
        raise UserError(f"expected to write downloads to {downloads}, found: {error}") from None
    except Failure as failure:
        raise UserError(
            f"expected the index at {place}, found {failure.detail}; set dataset.index to a copy of WLASL_v0.3.json"
        ) from None
    try:
        return wlasl_index.read_index(path, wish.index_hash or wlasl_index.PUBLISHED)
    except UserError:
        path.unlink()  # asked for anew by the next run
        raise


def _local_files(wish: WlaslOptions) -> dict[str, os.DirEntry[str]]:
    """The folder's files by the id that they are named after."""
    if wish.clips is None:
        return {}
    if not wish.clips.is_dir():
        raise UserError(f"expected the folder of the videos at {wish.clips}, found none; set dataset.clips")
    with os.scandir(wish.clips) as entries:
        return {entry.name.removesuffix(".mp4"): entry for entry in entries if entry.name.endswith(".mp4")}


def _wanted(listed: Sequence[Instance], chosen: Sequence[Instance], local: Mapping[str, object]) -> dict[str, str]:
    """The distinct addresses that the network is asked for, with the names of their files, the same for any subset."""
    first_ids: dict[str, str] = {}
    for instance in listed:
        first_ids.setdefault(urls.distinct(instance.address), instance.id)
    places = dict.fromkeys(urls.distinct(instance.address) for instance in chosen if instance.id not in local)
    return {place: file_name(first_ids[place], place) for place in places}


def _records(
    wish: WlaslOptions,
    listed: Sequence[Instance],
    chosen: Sequence[Instance],
    local: Mapping[str, os.DirEntry[str]],
    names: Mapping[str, str],
    downloads: Path,
) -> tuple[list[ClipRecord], list[Rejected]]:
    """What there is a file for, and what there is none for, with the reason."""
    records, lost = [], []
    known, heights = fetched(downloads) if names else {}, _heights(listed)
    for instance in chosen:
        place = urls.distinct(instance.address)
        crop = None if wish.crop is None else Crop(instance.box, heights[instance.collection], wish.crop)
        if instance.id in local:
            file, given = Path(local[instance.id].path), local[instance.id].name
            cut = Cut(1, -1, crop) if wish.local == "cut" else Cut(instance.first, instance.last, crop)
            outcome = {"reason": "symlink", "detail": "it is a link, which may lead anywhere; put the file there"}
            here = not local[instance.id].is_symlink()
        else:
            given = instance.address if names else f"{instance.id}.mp4"
            file, cut = downloads / "files" / names.get(place, ""), Cut(instance.first, instance.last, crop)
            outcome = known.get(place, {}) if names else {"reason": "missing", "detail": f"it is not in {wish.clips}"}
            here = place in names and file.is_file() and not file.is_symlink()
        if here:
            records.append(_record(instance, file, given, cut))
        else:
            reason, detail = outcome.get("reason", "pending"), outcome.get("detail", "it has not been asked for yet")
            lost.append(Rejected(instance.id, given, instance.gloss, reason, detail, instance.part, instance.segment))
    return records, lost


def _record(instance: Instance, file: Path, given: str, cut: Cut) -> ClipRecord:
    return ClipRecord(
        id=instance.id,
        file=file.absolute(),
        given=given,
        gloss=instance.gloss,
        signer=instance.signer,
        official_part=instance.part,
        prompt=None,
        cut=cut,
        segment=instance.segment,
        address=instance.address,
    )


def _heights(listed: Sequence[Instance]) -> dict[str, tuple[int, ...]]:
    """By collection, the heights that pictures had when boxes were measured: where many boxes end at the lower edge."""
    bottoms: dict[str, Counter[int]] = defaultdict(Counter)
    for instance in listed:
        bottoms[instance.collection][instance.box[3]] += 1
    return {
        name: tuple(sorted(height for height, times in counts.items() if times >= 0.02 * counts.total()))
        for name, counts in bottoms.items()
    }


def _refuse_nothing(wish: WlaslOptions, chosen: Sequence[Instance], records: Sequence[ClipRecord]) -> None:
    """A folder with none of the clips is a wrong folder; one that lacks some is told."""
    if wish.clips is None or wish.asks_network:
        return
    if not records:
        raise UserError(f"expected <video_id>.mp4 in {wish.clips}, found none of the {len(chosen)} that are listed")
    if len(records) < len(chosen):
        glosses, all_glosses = ({item.gloss for item in items} for items in (records, chosen))
        print(
            f"WLASL: {len(records)} of {len(chosen)} listed clips are in {wish.clips}, {len(glosses)} of "
            f"{len(all_glosses)} glosses; every number of a run is over these alone",
            file=sys.stderr,
        )
