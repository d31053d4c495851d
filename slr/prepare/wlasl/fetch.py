"""Many addresses → files: side by side over hosts, politely to each, and no address twice."""

import hashlib
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.core.locks import exclusive
from slr.core.signals import next_of
from slr.prepare.ledger import Ledger, Outcome, read_ledger
from slr.prepare.progress import shown
from slr.prepare.wlasl import urls as addresses
from slr.prepare.wlasl.download import Failure, FetchPolicy, download

HEAD: dict[str, Any] = {"dataset": "downloads", "version": 1}
MOST_THREADS = 32
Get = Callable[[str, Path, FetchPolicy, threading.Event], None]


def file_name(first_id: str, address: str) -> str:
    """What the file of an address is called: the first id that uses it, and a digest; nothing that the network says.

    >>> file_name("69241", "http://example.org/../../a.mp4")
    '69241-c282b000'
    """
    return f"{first_id}-{hashlib.sha256(addresses.distinct(address).encode()).hexdigest()[:8]}"


def fetch(wanted: Mapping[str, str], folder: Path, manners: FetchPolicy, get: Get | None = None) -> None:
    """Bring the files of distinct addresses into a folder, as far as they can be had; `fetched` tells what came.

    What is there is not asked for again, nor what cannot pass (gone, forbidden …); what can is tried again by the next
    call. A process that is killed loses at most the note of files that are there, and goes on within files.

    Args:
        wanted: address, as `distinct` spells it, → name of its file.
        folder: Where files go.
        manners: How hosts are asked.
        get: What brings one address into a file.

    Raises:
        UserError: The folder cannot be written, or holds something else.
    """
    if folder.is_symlink() or (folder / "files").is_symlink():
        raise UserError(f"expected a folder for downloads at {folder}, found a link; remove it")
    try:
        (folder / "files").mkdir(parents=True, exist_ok=True)
        with exclusive(folder):
            known = fetched(folder)
            asked = {
                address: folder / "files" / name
                for address, name in wanted.items()
                if not (folder / "files" / name).exists() and known.get(address, {}).get("passing", True)
            }
            if asked:
                _fetch_all(asked, folder, known, manners, get or _get)
    except OSError as error:
        raise UserError(f"expected to write downloads to {folder}, found: {error}; make room and go on") from None


def _fetch_all(asked: dict[str, Path], folder: Path, known: dict[str, Outcome], manners: FetchPolicy, get: Get) -> None:
    with Ledger(folder / "fetched.json", HEAD, known) as ledger, closing(_Round(asked, manners, get).run()) as came:
        for address, outcome in shown(came, len(asked), "fetch", "file", lambda pair: "reason" in pair[1]):
            if outcome.get("reason") != "stopped":
                ledger.note(address, outcome)


def fetched(folder: Path) -> dict[str, Outcome]:
    """What became of each address: `bytes`, or `reason`, `detail` and whether it is `passing`."""
    try:
        kept = read_ledger(folder / "fetched.json")
    except (OSError, ValueError) as error:
        raise UserError(f"expected the notes of downloads in {folder}, found {error}; delete fetched.json") from None
    return kept["outcomes"] if kept and {name: kept.get(name) for name in HEAD} == HEAD else {}


def describe_fetched(wanted: Mapping[str, str], folder: Path) -> list[str]:
    """What came and what did not, by host, as lines to print."""
    known = fetched(folder)
    asked: Counter[str] = Counter(addresses.host(address) for address in wanted)
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    for address, name in wanted.items():
        if not (folder / "files" / name).is_file():
            lost[addresses.host(address)][known.get(address, {}).get("reason", "not asked for")] += 1
    lines = []
    for host, count in sorted(asked.items()):
        reasons = ", ".join(f"{reason} {number}" for reason, number in lost[host].most_common())
        came = count - lost[host].total()
        lines.append(f"  {host or '(no host)':<34} {came:>6,} of {count:>6,} files{'; ' if reasons else ''}{reasons}")
    return lines


class _Host:
    """One host: what is still to be asked of it, when it may be asked next, and whether it is left alone."""

    def __init__(self, pause: float) -> None:
        self.waiting: deque[str] = deque()
        self.parked = ""  # why
        self.failures = 0  # addresses in a row
        self._pause = pause
        self._next = 0.0
        self._lock = threading.Lock()

    def turn(self, stop: threading.Event) -> None:
        """Wait until the host may be asked again."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._pause
        stop.wait(max(0.0, start - time.monotonic()))

    def hold(self, seconds: float) -> None:
        """Ask nothing more for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class _Round:
    """One pass over addresses."""

    def __init__(self, asked: dict[str, Path], manners: FetchPolicy, get: Get) -> None:
        self._asked, self._manners, self._get = asked, manners, get
        self._hosts: dict[str, _Host] = {}
        self._stop = threading.Event()
        self._done: queue.SimpleQueue[tuple[str, Outcome] | BaseException] = queue.SimpleQueue()
        for address in asked:
            self._hosts.setdefault(addresses.host(address), _Host(manners.pause)).waiting.append(address)

    def run(self) -> Generator[tuple[str, Outcome], None, None]:
        """Yield (address, outcome) as they come."""
        threads = ThreadPoolExecutor(MOST_THREADS)
        try:
            for host in self._hosts.values():
                for _ in range(self._manners.per_host):
                    threads.submit(self._lane, host)
            for _ in self._asked:
                done = next_of(self._done)
                if isinstance(done, BaseException):
                    raise done
                yield done
        finally:
            self._stop.set()
            threads.shutdown(cancel_futures=True)

    def _lane(self, host: _Host) -> None:
        """Ask one host for one address after the other."""
        while not self._stop.is_set():
            try:
                address = host.waiting.popleft()
            except IndexError:
                return
            try:
                self._done.put((address, self._outcome(host, address)))
            except BaseException as error:
                self._done.put(error)
                return

    def _outcome(self, host: _Host, address: str) -> Outcome:
        failure = Failure("parked", host.parked, passing=True)
        for attempt in range(self._manners.attempts):
            if host.parked or self._stop.is_set():
                break
            host.turn(self._stop)
            try:
                self._get(address, self._asked[address], self._manners, self._stop)
                host.failures = 0
                return {"bytes": self._asked[address].stat().st_size}
            except Failure as error:
                failure = error
            if not failure.passing:
                host.failures = 0
                break
            if attempt + 1 < self._manners.attempts:
                wait = max(failure.wait, self._manners.backoff * 2**attempt)
                host.hold(wait if failure.wait else 0.0)
                self._stop.wait(wait)
        else:
            host.failures += 1
            if host.failures >= self._manners.park_after:
                host.parked = f"{host.failures} addresses in a row failed, the last with: {failure.detail}"
        return {"reason": failure.reason, "detail": failure.detail, "passing": failure.passing}


def _get(address: str, target: Path, manners: FetchPolicy, stop: threading.Event) -> None:
    if addresses.youtube_id(address) is None:
        download(address, target, manners, stop)
    else:
        from slr.prepare.wlasl.youtube import download_youtube  # yt-dlp takes a second to import

        download_youtube(address, target, manners, stop)
