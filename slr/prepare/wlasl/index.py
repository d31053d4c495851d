"""The WLASL index: its instances, its subsets, and counts of both."""

import difflib
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.data.manifest import PARTS
from slr.prepare.wlasl import urls

PUBLISHED = "6077d1e4a4ef1e560d38ee3694abe0412f7a6306"  # WLASL_v0.3.json as a git blob, in its authors' repository
PUBLISHED_AT = "https://raw.githubusercontent.com/dxli94/WLASL/master/start_kit/WLASL_v0.3.json"
SUBSETS = ("100", "300", "1000", "2000", "core")
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
LARGEST_INDEX = 200 * 1024**2  # bytes


@dataclass(frozen=True, slots=True)
class Instance:
    """One sign that the index lists: a stretch of a recording, with its gloss."""

    id: str  # safe as a file name
    gloss: str
    address: str  # as listed
    first: int  # the first frame, from 1 on, at 25 a second
    last: int  # the last frame, or -1 for the recording's end
    box: tuple[int, int, int, int]  # the signer: left, top, right, bottom, in pixels of the authors' recording
    collection: str  # who recorded it
    signer: str
    part: str  # train, val or test

    @property
    def segment(self) -> str:
        """The recording and the range: equal for one stretch of video under several glosses."""
        return f"{urls.distinct(self.address)}#{self.first}-{self.last}"


def read_index(path: Path, wanted: str | None = None) -> list[Instance]:
    """The instances of an index, in its order.

    Args:
        path: `WLASL_v0.3.json`, or a list of the same form.
        wanted: SHA-256 or git blob SHA-1 that the file must have; None takes any.

    Raises:
        UserError: the file is no such index, has another hash, or an id could lead out of a folder.
    """
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise ValueError(f"{path.stat().st_size} bytes")
        content = path.read_bytes()
        if wanted is not None and wanted.lower() not in hashes(content):
            remedy = "fetch it again, or set dataset.index_hash to the hash that you trust"
            raise UserError(f"expected an index with the hash {wanted} at {path}, found {hashes(content)[0]}; {remedy}")
        instances = [_instance(entry["gloss"], row) for entry in json.loads(content) for row in entry["instances"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"expected WLASL_v0.3.json at {path}, cannot read it ({error!r}); set dataset.index") from None
    repeated = [name for name, count in Counter(instance.id.casefold() for instance in instances).items() if count > 1]
    if repeated or not instances:
        problem = f"{repeated[0]!r} more than once" if repeated else "no instance"
        raise UserError(f"expected unique video ids in {path}, found {problem}")
    return instances


def hashes(content: bytes) -> tuple[str, str]:
    """The git blob SHA-1 and the SHA-256 of a file's content.

    >>> hashes(b"")[0]  # what `git hash-object` says of an empty file
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return blob.hexdigest(), hashlib.sha256(content).hexdigest()


def _instance(gloss: str, row: dict[str, Any]) -> Instance:
    name, part, box = row["video_id"], row["split"], tuple(row["bbox"])
    if not isinstance(name, str) or not SAFE_ID.fullmatch(name):
        raise UserError(f"expected a video_id of letters, digits, '_' and '-' in the index, found {name!r}")
    if not isinstance(gloss, str) or not gloss.strip() or part not in PARTS:
        raise UserError(f"expected a gloss and split train, val or test for {name}, found {gloss!r} and {part!r}")
    first, last = row["frame_start"], row["frame_end"]
    whole = all(type(number) is int for number in (first, last, *box))
    if not whole or len(box) != 4 or first < 1 or (last != -1 and last < first):
        raise UserError(
            f"expected frames from 1 on and a box of four numbers for {name}, found {first!r} to {last!r}, {box}"
        )
    return Instance(name, gloss, str(row["url"]), first, last, box, str(row["source"]), str(row["signer_id"]), part)  # pyright: ignore[reportArgumentType]


def select(instances: Sequence[Instance], subset: str) -> list[Instance]:
    """The instances of the first 100, 300, 1000 or 2000 glosses, or of those that the core glossary names."""
    glosses = first_glosses(instances, subset)
    chosen = [instance for instance in instances if instance.gloss in glosses]
    if not chosen:
        raise UserError(f"dataset.subset={subset} takes none of the index's {len(instances)} instances")
    return chosen


def first_glosses(instances: Iterable[Instance], subset: str) -> set[str]:
    """The glosses of a subset, as far as the index has them; of `core` the whole core glossary."""
    glosses = dict.fromkeys(instance.gloss for instance in instances)
    return set(core_glossary()) if subset == "core" else set(list(glosses)[: int(subset)])


def core_glossary() -> list[str]:
    """The 319 words of the core glossary, in lower case."""
    return (resources.files("slr.prepare.wlasl") / "glossary_core.txt").read_text(encoding="utf-8").split()


def near_misses(glosses: Collection[str]) -> dict[str, list[str]]:
    """The words of the core glossary that are no gloss, each with up to four similar glosses.

    >>> near_misses(["look at", "office", "post", "book", "drive"])["post-office"]
    ['post', 'office']
    """
    ordered, near = sorted(glosses), {}
    for word in core_glossary():
        if word not in glosses:
            parts = word.split("-")
            alike = [g for part in parts for g in ordered if g == part or (len(parts) == 1 and part in g.split())]
            near[word] = list(dict.fromkeys(alike + difflib.get_close_matches(word, ordered, 3)))[:4]
    return near


def identical_segments(instances: Iterable[Instance]) -> list[list[Instance]]:
    """Groups of two or more instances that are the same stretch of the same address."""
    groups: dict[tuple[str, int, int], list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[instance.address, instance.first, instance.last].append(instance)
    return [group for group in groups.values() if len(group) > 1]


def describe_index(instances: Sequence[Instance]) -> list[str]:
    """What an index holds, as lines to print."""
    groups = identical_segments(instances)
    across, between = (
        sum(len({getattr(instance, field) for instance in group}) > 1 for group in groups)
        for field in ("gloss", "part")
    )
    lines = [f"index     {describe_instances(instances)}"]
    for subset in SUBSETS:
        glosses = first_glosses(instances, subset)
        if subset == "core" or len(glosses) == int(subset):
            lines.append(f"  {subset:<8}{describe_instances([i for i in instances if i.gloss in glosses])}")
    shared = f"{len(groups):,} groups of identical segments ({sum(map(len, groups)):,} instances)"
    return [*lines, f"  {shared}, {across:,} of them across glosses, {between:,} across splits"]


def describe_instances(instances: Sequence[Instance]) -> str:
    """Glosses, instances, their parts, signers and segments as one line."""
    parts = Counter(instance.part for instance in instances)
    signers = len({instance.signer for instance in instances})
    cut = sum((instance.first, instance.last) != (1, -1) for instance in instances)
    counted = " / ".join(f"{part} {parts[part]:,}" for part in PARTS)
    glosses = len({instance.gloss for instance in instances})
    return f"{glosses:,} glosses, {len(instances):,} instances: {counted}; {signers} signers, {cut:,} segments"


def describe_glossary(instances: Sequence[Instance]) -> list[str]:
    """Which words of the core glossary are no glosses, as lines to print."""
    missing, total = near_misses({instance.gloss for instance in instances}), len(core_glossary())
    head = f"core glossary: {total - len(missing)} of {total} words are glosses, {len(missing)} are not:"
    return [head] + [f"  {word:<12} near: {', '.join(near) or 'nothing'}" for word, near in missing.items()]
