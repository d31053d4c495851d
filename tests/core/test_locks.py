import errno
import os
import subprocess
import sys

import pytest

from slr.core.errors import UserError
from slr.core.locks import OCCUPIED, exclusive, is_occupied, occupied

WAIT = "import sys, pathlib\nfrom slr.core.locks import exclusive\n"
WAIT += "with exclusive(pathlib.Path(sys.argv[1])): print((pathlib.Path(sys.argv[1]) / 'word').read_text(), flush=True)"
CRASH = "import sys, os, pathlib\nfrom slr.core.locks import exclusive\n"
CRASH += "with exclusive(pathlib.Path(sys.argv[1])): os._exit(0)"


def test_a_second_process_waits_and_says_so(tmp_path):
    with exclusive(tmp_path):
        second = subprocess.Popen(
            [sys.executable, "-c", WAIT, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert "Waiting for another process" in second.stderr.readline()
        (tmp_path / "word").write_text("done before the second came in")
    said, _ = second.communicate(timeout=300)
    assert said == "done before the second came in\n"


@pytest.mark.skipif(os.name != "posix", reason="a crash lets go at once on POSIX only")
def test_a_crashed_process_locks_nothing(tmp_path, capfd):
    subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], check=True)
    with exclusive(tmp_path):
        pass
    assert capfd.readouterr() == ("", "")


OCCUPY = "import sys, pathlib\nfrom slr.core.locks import occupied\n"
OCCUPY += "with occupied(pathlib.Path(sys.argv[1])): print('came in')"


def test_asking_about_the_folder_that_one_occupies_does_not_give_it_away(tmp_path):
    with occupied(tmp_path):
        assert not is_occupied(tmp_path)  # by another
        second = subprocess.run([sys.executable, "-c", OCCUPY, str(tmp_path)], capture_output=True, text=True)
    assert "Busy" in second.stderr
    assert second.stdout == ""
    third = subprocess.run([sys.executable, "-c", OCCUPY, str(tmp_path)], capture_output=True, text=True)
    assert third.stdout == "came in\n"


@pytest.mark.skipif(os.name != "posix", reason="Windows has other locks")
def test_a_file_system_without_locks_is_told_from_a_lock_that_is_held(tmp_path, monkeypatch):
    import fcntl

    (tmp_path / OCCUPIED).touch()
    answers = []

    def lacking(*words):
        answers.append(words)
        if len(answers) < 9:  # not for ever: whoever waits would do so
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    for call, enter in [("flock", lambda: exclusive(tmp_path).__enter__()), ("lockf", lambda: is_occupied(tmp_path))]:
        answers.clear()
        monkeypatch.setattr(fcntl, call, lacking)
        with pytest.raises(UserError, match="No locks available"):
            enter()
        assert len(answers) == 1
