"""Many addresses → files: hosts in parallel, each with pauses, no address twice."""

import hashlib
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from slr.core.errors import UserError
from slr.core.locks import exclusive
from slr.core.signals import next_of
from slr.prepare.ledger import Outcome, open_ledger, outcomes_of, read_ledger, show_progress
from slr.prepare.wlasl import urls as addresses
from slr.prepare.wlasl.download import FREE_SPACE, Failure, FetchPolicy, download

HEAD: dict[str, Any] = {"dataset": "downloads", "version": 1}


def file_name(first_id: str, address: str) -> str:
    """What the file of an address is called: the first id that uses it, and a digest; never a name from the network.

    >>> file_name("69241", "http://example.org/../../a.mp4")
    '69241-c282b000'
    """
    return f"{first_id}-{hashlib.sha256(addresses.distinct(address).encode()).hexdigest()[:8]}"


def download_any(address: str, target: Path, policy: FetchPolicy, stop: threading.Event) -> None:
    """Download one address, of YouTube or any other host, in one attempt; see `download`."""
    if addresses.youtube_id(address) is None:
        download(address, target, policy, stop)
    else:
        from slr.prepare.wlasl.youtube import download_youtube  # yt-dlp takes a second to import

        download_youtube(address, target, policy, stop)


def fetch(wanted: Mapping[str, str], folder: Path, policy: FetchPolicy) -> None:
    """Download the files of distinct addresses into a folder, as far as possible; see `fetched` for the outcomes.

    Files that are there are not asked for again, nor addresses that failed for good (gone, forbidden …); those that
    failed for now are tried again by the next call. A killed process loses no file; parts of files are continued.

    Args:
        wanted: address, as `distinct` spells it, → name of its file.
        folder, policy: Where files go, and how hosts are asked.

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
            outcomes = _outcomes(asked, policy)
            shown = show_progress(outcomes, len(asked), "fetch", "file", lambda pair: "reason" in pair[1])
            with open_ledger(folder / "fetched.json", HEAD, known) as note, closing(outcomes):
                for address, outcome in shown:
                    note(address, outcome)
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
    """One host: its threads, when it may be asked next, and whether it is given up."""

    def __init__(self, policy: FetchPolicy, stop: threading.Event) -> None:
        self.threads = ThreadPoolExecutor(policy.per_host)
        self._policy, self._stop = policy, stop
        self._parked = ""  # why
        self._failures = 0  # addresses in a row
        self._next = 0.0
        self._lock = threading.Lock()

    def fetch(self, address: str, target: Path) -> Outcome:
        """Download one address, in several attempts."""
        failure = Failure("parked", self._parked, passing=True)
        for attempt in range(self._policy.attempts):
            if self._parked or self._stop.is_set():
                break
            self._wait_turn()
            try:
                download_any(address, target, self._policy, self._stop)
                self._failures = 0
                return {"bytes": target.stat().st_size}
            except Failure as error:
                failure = error
            if not failure.passing:
                self._failures = 0
                break
            if attempt + 1 < self._policy.attempts:
                if failure.wait:
                    with self._lock:
                        self._next = max(self._next, time.monotonic() + failure.wait)
                self._stop.wait(max(failure.wait, self._policy.backoff * 2**attempt))
        else:
            self._failures += 1
            if self._failures >= self._policy.park_after:
                self._parked = f"{self._failures} addresses in a row failed, the last with: {failure.detail}"
        return {"reason": failure.reason, "detail": failure.detail, "passing": failure.passing}

    def _wait_turn(self) -> None:
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._policy.pause
        self._stop.wait(max(0.0, start - time.monotonic()))


def _outcomes(asked: Mapping[str, Path], policy: FetchPolicy) -> Generator[tuple[str, Outcome], None, None]:
    """Download addresses, all hosts side by side; yields (address, outcome) when done."""
    stop = threading.Event()
    finished: queue.SimpleQueue[Future[Outcome]] = queue.SimpleQueue()
    hosts = {name: _Host(policy, stop) for name in {addresses.host(address) for address in asked}}
    try:
        pending: dict[Future[Outcome], str] = {}
        for address, target in asked.items():
            host = hosts[addresses.host(address)]
            pending[host.threads.submit(host.fetch, address, target)] = address
        for future in list(pending):
            future.add_done_callback(finished.put)
        while pending:
            done = next_of(finished)
            yield pending.pop(done), done.result()
    finally:
        stop.set()
        for host in hosts.values():
            host.threads.shutdown(cancel_futures=True)
