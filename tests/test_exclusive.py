import os
import subprocess
import sys

import pytest

from slr.exclusive import exclusive, is_occupied, occupied

WAIT = "import sys, pathlib\nfrom slr.exclusive import exclusive\n"
WAIT += "with exclusive(pathlib.Path(sys.argv[1])): print((pathlib.Path(sys.argv[1]) / 'word').read_text(), flush=True)"
CRASH = "import sys, os, pathlib\nfrom slr.exclusive import exclusive\n"
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


OCCUPY = "import sys, pathlib\nfrom slr.exclusive import occupied\n"
OCCUPY += "with occupied(pathlib.Path(sys.argv[1])): print('came in')"


def test_asking_about_the_folder_that_one_occupies_does_not_give_it_away(tmp_path):
    with occupied(tmp_path):
        assert not is_occupied(tmp_path)  # by another
        second = subprocess.run([sys.executable, "-c", OCCUPY, str(tmp_path)], capture_output=True, text=True)
    assert "Busy" in second.stderr
    assert second.stdout == ""
    third = subprocess.run([sys.executable, "-c", OCCUPY, str(tmp_path)], capture_output=True, text=True)
    assert third.stdout == "came in\n"
