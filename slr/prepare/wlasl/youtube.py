"""One YouTube address → one file with video in it, through yt-dlp."""

import logging
import re
import threading
from collections.abc import Sequence
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

from yt_dlp import YoutubeDL
from yt_dlp.networking.exceptions import HTTPError, RequestError
from yt_dlp.utils import DownloadError

from slr.core.errors import UserError
from slr.prepare.wlasl.download import FREE_SPACE, Failure, FetchPolicy

# One file, since joining two takes an ffmpeg; no larger than clips become; plain http, which can be continued.
FORMAT = "bv*[height<=720][protocol~='^https?$']/bv*[protocol~='^https?$']"
RUNTIMES = ("deno", "node", "bun", "quickjs")
REMEDY = (
    "YouTube needs a JavaScript runtime and none was found; install Deno 2, Node 20, Bun or QuickJS so that it is on "
    "the PATH, then run the same command again"
)
# Messages of yt-dlp and YouTube: pattern, reason code, whether it can pass.
MESSAGES = (
    (r"private video|is private", "private", False),
    (r"not a bot|too many requests|rate.?limit|try again later", "rate_limited", True),
    (r"confirm your age|age.restricted|members.only|join this channel|sign in|log ?in|paid|rent", "forbidden", False),
    (r"not (made this video )?available in your country|geo.?restrict", "forbidden", False),
    (r"unavailable|removed|terminated|no longer|does not exist|deleted|copyright", "gone", False),
    (r"no space left|file too large", "disk", False),
)


def download_youtube(address: str, target: Path, policy: FetchPolicy, stop: threading.Event) -> None:
    """Download one video in one attempt, which continues after a cut connection.

    Raises:
        Failure: There is no video, or not now.
        UserError: The file cannot be written.
    """
    # Another process may have left a part of another format under this name.
    for left in (target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.ytdl")):
        left.unlink(missing_ok=True)
    messages, logger = BufferingHandler(1000), logging.Logger("yt-dlp", logging.WARNING)
    logger.addHandler(messages)
    with YoutubeDL(_settings(target, policy, logger, stop)) as program:  # pyright: ignore[reportArgumentType]
        try:
            program.extract_info(address)
        except (DownloadError, RequestError) as error:
            warnings = [record.getMessage() for record in messages.buffer if record.levelno == logging.WARNING]
            raise _explained(error, warnings, target) from None
    if not target.is_file():
        raise Failure("too_large", f"it has more than {policy.largest} bytes", passing=False)


def _settings(target: Path, policy: FetchPolicy, logger: logging.Logger, stop: threading.Event) -> dict[str, Any]:
    def watch(state: dict[str, Any]) -> None:
        if stop.is_set():
            raise Failure("stopped", "preparation was stopped", passing=True)
        if state.get("downloaded_bytes", 0) > policy.largest:
            raise Failure("too_large", f"it goes on after {policy.largest} bytes", passing=False)

    return {
        "outtmpl": {"default": str(target.absolute()).replace("%", "%%")},
        "format": FORMAT,
        "allowed_extractors": ["youtube"],
        "noplaylist": True,
        "js_runtimes": {name: {} for name in RUNTIMES},
        "fixup": "never",  # it would take an ffmpeg, and every clip is written anew
        "socket_timeout": policy.timeout,
        "retries": policy.attempts,
        "max_filesize": policy.largest,
        "progress_hooks": [watch],
        "logger": logger,
        "noprogress": True,
        "cachedir": False,
    }


def _explained(error: Exception, warnings: Sequence[str], target: Path) -> Exception:
    """The failure that an error of yt-dlp amounts to."""
    message = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(str(error).split())).removeprefix("ERROR: ")[:300]
    missing = any("JavaScript runtime" in warning for warning in warnings)
    runtime = Failure("javascript_runtime", f"{REMEDY} ({message})", passing=True) if missing else None
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, RequestError):
        info = getattr(cause, "exc_info", None)  # where yt-dlp keeps what it met
        cause = (info and info[1]) or getattr(cause, "cause", None) or cause.__context__
    status = cause.status if isinstance(cause, HTTPError) else None
    if status in (404, 410):
        return Failure("gone", message, passing=False)
    if status:  # 403 is how YouTube slows down whom it mistrusts, or who cannot run its scripts
        return runtime or Failure("server_error" if status >= 500 else "rate_limited", message, passing=True)
    for pattern, reason, passing in MESSAGES:
        if re.search(pattern, message, re.IGNORECASE):
            if reason == "disk":
                return UserError(f"expected to write downloads to {target.parent}, found: {message}; {FREE_SPACE}")
            return Failure(reason, message, passing)
    return runtime or Failure("unreachable" if cause else "youtube", message, passing=True)
