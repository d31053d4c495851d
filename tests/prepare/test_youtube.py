import gc
import inspect
import re
import threading
from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from servers import Server
from yt_dlp import YoutubeDL
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.extractor.youtube import _video
from yt_dlp.utils import ExtractorError

import slr.prepare.wlasl.youtube as youtube
from slr.prepare.encode import write_clip
from slr.prepare.verify import checked
from slr.prepare.wlasl.download import Failure, FetchPolicy
from slr.prepare.wlasl.fetch import fetch, fetched
from slr.prepare.wlasl.index import Instance
from slr.prepare.wlasl.prepare import _wanted
from slr.prepare.wlasl.youtube import download_youtube

ADDRESS = "https://www.youtube.com/watch?v=0UsjUE-TXns"
# yt-dlp leaves an answer that it gives up half-way for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

QUICK = FetchPolicy(pause=0, backoff=0.01, attempts=3, timeout=0.5, largest=1024**2, allow_private=True)


@pytest.fixture(autouse=True)
def collected():
    """What yt-dlp left is collected here and not in the next module's test, where a warning fails."""
    yield
    gc.collect()


class Site(InfoExtractor):
    """YouTube as yt-dlp's own extractor sees it: a page of a video that lists formats, here on a loopback server."""

    IE_NAME = "youtube"
    _VALID_URL = r"https://www\.youtube\.com/watch\?v=(?P<id>[\w-]{11})"

    def __init__(self, place, says=""):
        super().__init__()
        self._place, self._says = place, says

    def _real_extract(self, url):
        name = self._match_id(url)
        page = self._download_webpage(f"{self._place}/watch/{name}", name)
        if self._says:
            raise ExtractorError(self._says, expected=True)
        formats = []
        for line in page.splitlines():
            path, protocol, height, has_video = line.split()
            formats.append(
                {
                    "format_id": path[1:],
                    "url": self._place + path,
                    "protocol": protocol,
                    "ext": "mp4",
                    "height": int(height),
                    "vcodec": "avc1" if has_video == "video" else "none",
                    "acodec": "mp4a",
                }
            )
        return {"id": name, "title": "../../a sign/%(id)s", "formats": formats}


@contextmanager
def read_by(*extractors):
    """Within it, these extractors alone read addresses."""

    def program(settings):
        bare = YoutubeDL(settings, auto_init=False)
        for extractor in extractors:
            bare.add_info_extractor(extractor)
        return bare

    with mock.patch.object(youtube, "YoutubeDL", program):
        yield


PAGE = b"""/sound https 0 sound
/small https 360 video
/right https 720 video
/large https 1080 video
/list m3u8_native 720 video
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("youtube") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    write_clip(path, frames)
    return path.read_bytes()


def site(manner, clip, page=PAGE):
    return Server(manner, {"/watch/0UsjUE-TXns": page, "/right": clip, "/small": b"small", "/large": b"large"})


def get(server, target, says="", policy=QUICK, stop=None):
    with read_by(Site(server.address, says)):
        download_youtube(ADDRESS, target, policy, stop or threading.Event())


def test_one_file_with_video_no_larger_than_clips_become(tmp_path, clip):
    with site("plain", clip) as server:
        get(server, tmp_path / "00335-abcdef01")
        assert [path for path, _ in server.asked] == ["/watch/0UsjUE-TXns", "/right"]
    assert [path.name for path in tmp_path.iterdir()] == ["00335-abcdef01"]
    assert checked(tmp_path / "00335-abcdef01").frames == 40


def test_a_large_picture_is_better_than_none(tmp_path, clip):
    with site("plain", clip, b"/sound https 0 sound\n/large https 1080 video\n") as server:
        get(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"large"


def test_a_cut_connection_goes_on(tmp_path, clip):
    with Server("plain", {"/watch/0UsjUE-TXns": PAGE}) as page, Server("cut", {"/right": clip}) as videos:

        class Elsewhere(Site):
            """The page is whole; the videos lie on a host that cuts."""

            def _real_extract(self, url):
                found = super()._real_extract(url)
                for one in found["formats"]:
                    one["url"] = one["url"].replace(page.address, videos.address)
                return found

        with read_by(Elsewhere(page.address)):
            download_youtube(ADDRESS, tmp_path / "file", QUICK, threading.Event())
        asked = [wanted for path, wanted in videos.asked if path == "/right"]
    assert (tmp_path / "file").read_bytes() == clip
    assert len(asked) == 3
    assert all(re.fullmatch(r"bytes=\d+-", wanted) for wanted in asked[1:])


@pytest.mark.parametrize(
    ("says", "reason", "passing"),
    [
        ("Private video. Sign in if you've been granted access to this video", "private", False),
        ("Video unavailable", "gone", False),
        (
            "Video unavailable. This video is no longer available because the account has been terminated.",
            "gone",
            False,
        ),
        ("This video has been removed by the uploader", "gone", False),
        ("Sign in to confirm you're not a bot. Use --cookies", "rate_limited", True),
        ("Sign in to confirm your age. This video may be inappropriate", "forbidden", False),
        ("The uploader has not made this video available in your country", "forbidden", False),
        ("Something that nobody has seen yet", "youtube", True),
    ],
)
def test_what_youtube_says_is_told_apart(tmp_path, clip, says, reason, passing):
    with site("plain", clip) as server, pytest.raises(Failure) as failure:
        get(server, tmp_path / "file", says)
    assert (failure.value.reason, failure.value.passing) == (reason, passing)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("manner", "reason"),
    [("gone", "gone"), ("broken", "server_error"), ("forbidden", "rate_limited"), ("stall", "unreachable")],
)
def test_what_the_network_does_is_told_apart(tmp_path, clip, manner, reason):
    with site(manner, clip) as server, pytest.raises(Failure) as failure:
        get(server, tmp_path / "file")
    assert failure.value.reason == reason


def test_a_missing_runtime_is_named_with_its_remedy(tmp_path, clip):
    class Scriptless(Site):
        def _real_extract(self, url):
            self.report_warning("No supported JavaScript runtime could be found. Only deno is enabled by default")
            return super()._real_extract(url) | {"formats": []}

    with site("plain", clip) as server, read_by(Scriptless(server.address)), pytest.raises(Failure) as failure:
        download_youtube(ADDRESS, tmp_path / "file", QUICK, threading.Event())
    assert failure.value.reason == "javascript_runtime"
    assert "install Deno" in failure.value.detail


def test_yt_dlp_still_warns_of_a_missing_runtime_in_these_words():
    """The sign that the remedy is told by, in the source of the extractor that is installed."""
    assert "No supported JavaScript runtime could be found" in inspect.getsource(_video)


def test_too_much_is_given_up(tmp_path, clip):
    with site("plain", bytes(2 * 1024**2)) as server, pytest.raises(Failure) as failure:
        get(server, tmp_path / "file")
    assert failure.value.reason == "too_large"
    assert not (tmp_path / "file").exists()


def test_a_stop_is_heeded(tmp_path, clip):
    stop = threading.Event()
    stop.set()
    with site("plain", clip) as server, pytest.raises(Failure) as failure:
        get(server, tmp_path / "file", stop=stop)
    assert failure.value.reason == "stopped"


def test_other_sites_are_not_read_by_youtubes_way(tmp_path):
    with read_by(), pytest.raises(Failure):
        download_youtube("https://example.org/a.mp4", tmp_path / "file", QUICK, threading.Event())
    assert list(tmp_path.iterdir()) == []


def test_many_instances_of_one_video_are_one_download(tmp_path, clip):
    """The stage as WLASL uses it: both spellings of an address, a file named by an id, its range cut by others."""
    with site("plain", clip) as server, read_by(Site(server.address)):
        rows = [
            Instance(str(n), "x", a, 1, -1, (0, 0, 9, 9), "aslu", "1", "train")
            for n, a in enumerate([ADDRESS, "https://youtu.be/0UsjUE-TXns"])
        ]
        wanted = _wanted(rows, rows, {})
        fetch(wanted, tmp_path, QUICK)
        assert [path for path, _ in server.asked] == ["/watch/0UsjUE-TXns", "/right"]
    (file,) = (tmp_path / "files").iterdir()
    assert file.name.startswith("0-")
    assert fetched(tmp_path) == {ADDRESS: {"bytes": len(clip)}}
