"""The doctor's checks in children of their own, which import no torch here."""

import os

from examined import asked

from slr.doctor import isolation


def lane(monkeypatch, folder, planted: dict[str, str], *names: str) -> list[tuple[str, str, str]]:
    """What the named checks find one after the other, in children that import modules with the planted text."""
    folder.mkdir()
    for name, text in planted.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    found = isolation.run_lane([isolation.CHECKS[name] for name in names], asked(folder, data=str(folder)))
    return [(finding.check, finding.state, finding.found) for finding in found]


def test_a_check_that_ends_its_process_costs_its_own_line_and_the_next_begins_in_a_new_child(tmp_path, monkeypatch):
    aborting = {"huggingface_hub.py": "import os\nos.abort()"}  # the token's check imports it
    found = lane(monkeypatch, tmp_path / "planted", aborting, "python", "token", "data")
    assert [name for name, _, _ in found] == ["python", "token", "data"]
    assert [state for _, state, _ in found] == ["ok", "fault", "warning"]
    assert "its process was ended by SIGABRT" in found[1][2] or os.name != "posix"
    assert "nothing prepared" in found[2][2]


def test_a_child_that_cannot_even_start_is_a_fault_of_every_check(tmp_path, monkeypatch):
    found = lane(monkeypatch, tmp_path / "planted", {"sitecustomize.py": "import os\nos._exit(7)"}, "python", "token")
    assert found == [("python", "fault", "its process ended with 7"), ("token", "fault", "its process ended with 7")]


def test_what_libraries_print_is_no_finding_and_no_child_knows_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_never")
    printing = {
        "sitecustomize.py": "import os\nprint('finding' + ' of a library', os.environ.get('HF_TOKEN'), flush=True)\n"
        "assert 'HF_TOKEN' not in os.environ\n",
        "huggingface_hub.py": "import os\nos.write(1, b'finding: []\\n')\nraise ImportError(repr(dict(os.environ)))",
    }
    [(_, state, found)] = lane(monkeypatch, tmp_path / "planted", printing, "token")
    assert (state, found[:11], "hf_never" in found) == ("fault", "ImportError", False)


def test_a_check_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "PATIENCE", 0.001)
    hanging = {"sitecustomize.py": "while True: pass"}
    assert lane(monkeypatch, tmp_path / "planted", hanging, "python") == [
        ("python", "fault", "its process gave no answer for 0 s")
    ]
