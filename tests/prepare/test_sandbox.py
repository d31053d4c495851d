import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from slr.core.errors import UserError
from slr.prepare.decode.sandbox import Guard, Limits, Unfit

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a system with pipes in folders and limits on processes")
HANG = "__import__('threading').Event().wait()"


def run(*expressions, workers=1, limits=None):
    """What became of each expression, evaluated in guarded children."""
    with Guard(eval, workers, limits or Limits(wall=120)) as guard:
        values = dict(guard.run([(expression,) for expression in expressions]))
    return {n: (value.reason, value.detail) if isinstance(value, Unfit) else value for n, value in values.items()}


def test_values_come_back_under_their_number():
    values = run(*[f"{number} ** 2" for number in range(20)], workers=2)
    assert values == {number: number**2 for number in range(20)}


def test_a_child_is_kept_and_is_not_this_process():
    one, two = run("__import__('os').getpid()", "__import__('os').getpid()").values()
    assert one == two != os.getpid()


@POSIX
def test_children_work_side_by_side(tmp_path):
    os.mkfifo(tmp_path / "meeting")  # opening either end waits for the other end
    meeting = str(tmp_path / "meeting")
    assert run(f"open({meeting!r}).close()", f"open({meeting!r}, 'w').close()", workers=2) == {0: None, 1: None}


@pytest.mark.parametrize("stuck", [HANG, "__import__('math').factorial(10**9)"])
def test_a_child_that_hangs_is_replaced(stuck):
    values = run("1 + 1", stuck, "2 + 2", limits=Limits(wall=1))  # the sums too have no longer
    assert (values[0], values[2]) == (2, 4)
    assert values[1] == ("timeout", "it took more than 1 seconds")


@POSIX
def test_a_child_that_burns_its_processor_is_replaced():
    values = run("sum(__import__('itertools').repeat(0))", "2 + 2", limits=Limits(wall=120, cpu=1))
    assert values == {0: ("timeout", "it took more than 1 seconds of CPU time"), 1: 4}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system that limits address space")
def test_a_child_that_swells_is_replaced():
    values = run("len(bytearray(10**10))", "2 + 2", "len(bytearray(10**6))")
    assert values[0][0] == "memory"
    assert (values[1], values[2]) == (4, 10**6)


@POSIX
def test_a_child_that_crashes_is_replaced():
    values = run("__import__('os').abort()", "2 + 2", "__import__('os')._exit(3)", "3 + 3")
    assert values == {
        0: ("crashed", "its process ended with SIGABRT"),
        1: 4,
        2: ("crashed", "its process ended with exit code 3"),
        3: 6,
    }


def test_what_a_child_prints_forges_no_reply_and_floods_no_terminal(capfd):
    noise = "[__import__('os').write(stream, b'{\"value\": 7}\\n' * 9) for stream in (1, 2)] and print('x') or 5"
    assert run(noise, "6") == {0: 5, 1: 6}
    assert capfd.readouterr() == ("", "")


def test_an_error_of_the_system_is_told_and_stops_the_run(tmp_path):
    with pytest.raises(UserError, match="No such file") as refusal:
        run(f"open({str(tmp_path / 'absent')!r})")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("fault", ["1 / 0", "object()"])
def test_any_other_error_is_a_fault_of_the_program(fault):
    with pytest.raises(RuntimeError, match="raised in its child process"):
        run(fault)


def test_children_need_nothing_heavy():
    code = "[name for name in ('torch', 'transformers', 'lightning', 'hydra') if name in __import__('sys').modules]"
    with Guard(eval, workers=1) as guard:
        assert dict(guard.run([("__import__('slr.prepare.folder') and 0",), (code,)])) == {0: 0, 1: []}


@POSIX
def test_ctrl_c_ends_the_children(tmp_path):
    os.mkfifo(tmp_path / "pids")
    told = f"open({str(tmp_path / 'pids')!r}, 'w').write(str(__import__('os').getpid()) + '\\n')"
    calls = [(f"[{told}, {HANG}]",)]
    code = f"from slr.prepare.decode.sandbox import Guard\nwith Guard(eval, 1) as guard: list(guard.run({calls!r}))"
    # Whatever runs the tests may itself ignore Ctrl-C, which children inherit.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, preexec_fn=heed)
    child = int((tmp_path / "pids").read_text())
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=300)
    assert b"KeyboardInterrupt" in said
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@POSIX
def test_a_signal_that_another_thread_takes_is_heard_before_the_call_ends(tmp_path, monkeypatch):
    """Which thread gets a process's signal is the system's choice; the main thread, which handles it, is not woken."""
    os.mkfifo(tmp_path / "pids")
    told = f"open({str(tmp_path / 'pids')!r}, 'w').write(str(__import__('os').getpid()))"
    child, alive = [], []

    def take() -> None:
        child.append(int((tmp_path / "pids").read_text()))
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    def heard(number, frame):
        alive.append(Path(f"/proc/{child[0]}").exists() if sys.platform == "linux" else True)
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, heard)
    thread = threading.Thread(target=take)
    thread.start()
    try:
        with pytest.raises(InterruptedError):
            run(f"[{told}, {HANG}]", limits=Limits(wall=20))
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert alive == [True]


@POSIX
def test_what_a_child_started_ends_with_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    words = ["sh", "-c", f"exec >{shlex.quote(str(tmp_path / 'pipe'))}; echo in; sleep 20; echo survived"]
    with Guard(eval, workers=1) as guard:
        outcomes = guard.run([("1",), (f"__import__('subprocess').run({words!r})",)])
        assert next(outcomes) == (0, 1)
        said = (tmp_path / "pipe").open()
        assert said.readline() == "in\n"
    with said:
        assert said.read() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_killed_parent_takes_its_children_along(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    pipe = f"open({str(tmp_path / 'pipe')!r}, 'w', 1)"
    late = "__import__('time').sleep(20)"
    calls = [(f"[pipe.write('in\\n') + ({late} or pipe.write('survived')) for pipe in [{pipe}]]",)]
    code = f"from slr.prepare.decode.sandbox import Guard\nwith Guard(eval, 1) as guard: list(guard.run({calls!r}))"
    with subprocess.Popen([sys.executable, "-c", code]) as parent, (tmp_path / "pipe").open() as said:
        assert said.readline() == "in\n"
        parent.kill()
        assert said.read() == ""


@POSIX
def test_a_consumer_that_stops_early_leaves_no_child(tmp_path):
    os.mkfifo(tmp_path / "pids")
    told = f"open({str(tmp_path / 'pids')!r}, 'w').write(str(__import__('os').getpid()))"
    with Guard(eval, workers=1) as guard:
        outcomes = guard.run([("1",), (f"[{told}, {HANG}]",), ("3",)])
        assert next(outcomes) == (0, 1)
        child = int((tmp_path / "pids").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
