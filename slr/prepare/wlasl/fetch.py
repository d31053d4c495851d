"""Many addresses → files: hosts in parallel, each with pauses, no address twice."""

import hashlib
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.core.locks import exclusive
from slr.core.signals import next_of
from slr.prepare.ledger import Ledger, Outcome, outcomes_of, read_ledger, show_progress
from slr.prepare.wlasl import urls as addresses
from slr.prepare.wlasl.download import FREE_SPACE, Failure, FetchPolicy, download

HEAD: dict[str, Any] = {"dataset": "downloads", "version": 1}
MOST_THREADS = 32
Get = Callable[[str, Path, FetchPolicy, threading.Event], None]


def file_name(first_id: str, address: str) -> str:
    """What the file of an address is called: the first id that uses it, and a digest; never a name from the network.

    >>> file_name("69241", "http://example.org/../../a.mp4")
    '69241-c282b000'
    """
    return f"{first_id}-{hashlib.sha256(addresses.distinct(address).encode()).hexdigest()[:8]}"


def fetch(wanted: Mapping[str, str], folder: Path, policy: FetchPolicy, get: Get | None = None) -> None:
    """Download the files of distinct addresses into a folder, as far as possible; see `fetched` for the outcomes.

    Files that are there are not asked for again, nor what failed for good (gone, forbidden …); what failed for now is
    tried again by the next call. A killed process loses no file, and parts of files are continued.

    Args:
        wanted: address, as `distinct` spells it, → name of its file.
        folder: Where files go.
        policy: How hosts are asked.
        get: What downloads one address into a file.

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
            if not asked:
                return
            outcomes = _Round(asked, policy, get or _get).run()
            shown = show_progress(outcomes, len(asked), "fetch", "file", lambda pair: "reason" in pair[1])
            with Ledger(folder / "fetched.json", HEAD, known) as ledger, closing(outcomes):
                for address, outcome in shown:
                    if outcome.get("reason") != "stopped":
                        ledger.note(address, outcome)
    except OSError as error:
        raise UserError(f"expected to write downloads to {folder}, found: {error}; {FREE_SPACE}") from None


def fetched(folder: Path) -> dict[str, Outcome]:
    """The outcome of each address: `bytes`, or `reason`, `detail` and whether it is `passing`."""
    try:
        return outcomes_of(read_ledger(folder / "fetched.json"), HEAD)
    except (OSError, ValueError) as error:
        raise UserError(f"expected the notes of downloads in {folder}, found {error}; delete fetched.json") from None


def describe_fetched(wanted: Mapping[str, str], folder: Path) -> list[str]:
    """Files and failures by host, as lines to print."""
    known = fetched(folder)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for address, name in wanted.items():
        reason = "" if (folder / "files" / name).is_file() else known.get(address, {}).get("reason", "not asked for")
        outcomes[addresses.host(address)][reason] += 1
    lines = []
    for host, counts in sorted(outcomes.items()):
        reasons = "".join(f", {reason} {number}" for reason, number in counts.most_common() if reason)
        files = f"{counts['']:>6,} of {counts.total():>6,} files"
        lines.append(f"  {host or '(no host)':<34} {files}{reasons.replace(',', ';', 1)}")
    return lines


class _Host:
    """One host: the addresses that are left, when it may be asked next, and whether it is given up."""

    def __init__(self, waiting: Iterator[str], pause: float) -> None:
        self.waiting = waiting  # shared by the host's lanes
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

    def __init__(self, asked: dict[str, Path], policy: FetchPolicy, get: Get) -> None:
        self._asked, self._policy, self._get = asked, policy, get
        self._stop = threading.Event()
        self._done: queue.SimpleQueue[tuple[str, Outcome] | BaseException] = queue.SimpleQueue()
        by_host: dict[str, list[str]] = defaultdict(list)
        for address in asked:
            by_host[addresses.host(address)].append(address)
        self._hosts = [_Host(iter(waiting), policy.pause) for waiting in by_host.values()]

    def run(self) -> Generator[tuple[str, Outcome], None, None]:
        """Yield (address, outcome) as they come."""
        threads = ThreadPoolExecutor(MOST_THREADS)
        try:
            for host in self._hosts:
                for _ in range(self._policy.per_host):
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
        try:
            for address in host.waiting:
                if self._stop.is_set():
                    return
                self._done.put((address, self._outcome(host, address)))
        except BaseException as error:
            self._done.put(error)

    def _outcome(self, host: _Host, address: str) -> Outcome:
        failure = Failure("parked", host.parked, passing=True)
        for attempt in range(self._policy.attempts):
            if host.parked or self._stop.is_set():
                break
            host.turn(self._stop)
            try:
                self._get(address, self._asked[address], self._policy, self._stop)
                host.failures = 0
                return {"bytes": self._asked[address].stat().st_size}
            except Failure as error:
                failure = error
            if not failure.passing:
                host.failures = 0
                break
            if attempt + 1 < self._policy.attempts:
                wait = max(failure.wait, self._policy.backoff * 2**attempt)
                host.hold(wait if failure.wait else 0.0)
                self._stop.wait(wait)
        else:
            host.failures += 1
            if host.failures >= self._policy.park_after:
                host.parked = f"{host.failures} addresses in a row failed, the last with: {failure.detail}"
        return {"reason": failure.reason, "detail": failure.detail, "passing": failure.passing}


def _get(address: str, target: Path, policy: FetchPolicy, stop: threading.Event) -> None:
    if addresses.youtube_id(address) is None:
        download(address, target, policy, stop)
    else:
        from slr.prepare.wlasl.youtube import download_youtube  # yt-dlp takes a second to import

        download_youtube(address, target, policy, stop)
