"""A Slurm of this machine alone: its commands, as far as a batch script and submitit use them, really run the jobs.

`install` puts them into a folder for PATH. Each array, or single job, has a process that starts its elements, at most
as many at the same time as `%N` says, and each element a folder below $FAKE_SLURM that its state is read from.
"""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")
KILL_WAIT = 5.0  # seconds between SIGTERM and SIGKILL, where a job is to go
NEWS = 1.0  # seconds from the request to put a job into the queue again to its SIGTERM
PATIENCE = 900.0  # seconds after which whatever is left is killed
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


def install(folder: Path, signals: str = "tasks") -> dict[str, str]:
    """Make the commands; what the environment must say so that they are found.

    Args:
        folder: for them, and for what they remember.
        signals: tasks or all: whether signals reach each step's tasks alone, or their children too, as Slurm has it
            with SignalChildrenProcesses, or without control groups.
    """
    (folder / "bin").mkdir(parents=True)
    for name in COMMANDS:
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {name} "$@"\n')
        script.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "FAKE_SLURM": str(folder), "FAKE_SLURM_SIGNALS": signals}


def end(folder: Path) -> None:
    """Kill whatever is left."""
    for file in folder.glob("*/controller"):
        try:
            controller = psutil.Process(int(file.read_text()))
            left = [*controller.children(recursive=True), controller]
        except psutil.NoSuchProcess:
            continue
        for process in left:
            kill(process, signal.SIGKILL)


def kill(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def home() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def states(folder: Path) -> dict[str, str]:
    """Of every element of every job."""
    return {file.parent.name: file.read_text() for file in sorted(folder.glob("*/state"))}


def write(file: Path, text: object) -> None:
    """Whole or not at all."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.write_text(str(text))
    part.replace(file)


def sbatch(words: list[str]) -> None:
    [script] = [word for word in words if not word.startswith("-")]
    lines = [line for line in Path(script).read_text().splitlines() if line.startswith("#SBATCH ")]
    given = [word for line in lines for word in shlex.split(line)[1:]]
    options = dict(re.fullmatch(r"--([a-z-]+)(?:=(.*))?", word).groups() for word in given)
    job = 1000 * (1 + len(list(home().glob("*000"))))
    (home() / str(job)).mkdir()
    array = re.fullmatch(r"0-(\d+)%(\d+)", options.get("array", ""))
    names = [f"{job}_{index}" for index in range(int(array[1]) + 1)] if array else [str(job)]
    for name in names:
        (home() / name).mkdir(exist_ok=True)
        write(home() / name / "state", "PENDING")
    facts = {"names": names, "room": int(array[2]) if array else 1, "script": script, "options": options}
    write(home() / str(job) / "job", json.dumps(facts))
    with (home() / str(job) / "log").open("w") as log:
        controller = subprocess.Popen(
            [sys.executable, __file__, "control", str(job)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    write(home() / str(job) / "controller", controller.pid)
    print(f"Submitted batch job {job}")


def control(words: list[str]) -> None:
    """Run an array to its end."""
    facts = json.loads((home() / words[0] / "job").read_text())
    waiting, running, started = list(facts["names"]), {}, time.monotonic()
    while waiting or running:
        for name in list(running):
            step(name, running, waiting)
        for name in waiting[:]:
            if (home() / name / "cancel").exists():
                write(home() / name / "state", "CANCELLED")
                waiting.remove(name)
            elif len(running) < facts["room"]:
                waiting.remove(name)
                running[name] = begin(name, facts)
        if time.monotonic() - started > PATIENCE:
            return end(home())
        time.sleep(0.05)


def begin(name: str, facts: dict) -> dict:
    """Start an element's batch script."""
    job, _, index = name.partition("_")
    folder, options = home() / name, facts["options"]
    restarts = int((folder / "restarts").read_text()) if (folder / "restarts").exists() else 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {
        "SLURM_JOB_ID": str(int(job) + int(index or 0)),
        "SLURM_JOB_NAME": options.get("job-name", "batch"),
        "SLURM_NTASKS": options.get("ntasks-per-node", "1"),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "FAKE_SLURM_NAME": name,
    }
    environment |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": index} if index else {}
    environment |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
    (folder / "tasks").unlink(missing_ok=True)
    write(folder / "state", "RUNNING")
    log = Path(expanded(options.get("output", str(folder / "out")), name))
    log.parent.mkdir(parents=True, exist_ok=True)  # submitit makes it too, as soon as sbatch has returned
    with log.open("a") as out:
        batch = subprocess.Popen(
            ["bash", facts["script"]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return {"batch": batch, "asked": None}


def expanded(pattern: str, name: str, rank: int = 0) -> str:
    job, _, index = name.partition("_")
    return pattern.replace("%A", job).replace("%a", index).replace("%j", job).replace("%t", str(rank))


def step(name: str, running: dict, waiting: list) -> None:
    """Look after a running element: what it is asked, whether it has ended."""
    folder, one = home() / name, running[name]
    requeued, cancelled = (folder / "requeue").exists(), (folder / "cancel").exists()
    if one["batch"].poll() is None:
        news = requeued and time.time() - (folder / "requeue").stat().st_mtime > NEWS
        if (news or cancelled) and one["asked"] is None:
            one["asked"] = time.monotonic()
            one["batch"].send_signal(signal.SIGTERM)
            signal_steps(name, signal.SIGTERM)
        elif one["asked"] and time.monotonic() - one["asked"] > KILL_WAIT:
            for process in psutil.Process(one["batch"].pid).children(recursive=True):
                kill(process, signal.SIGKILL)
            one["batch"].kill()
        return
    if any(alive(pid) for pid in tasks(name)):  # the batch shell has gone, its steps are ending
        if one["asked"] and time.monotonic() - one["asked"] > KILL_WAIT:
            signal_steps(name, signal.SIGKILL, everybody=True)
        return
    del running[name]
    if requeued:
        (folder / "requeue").unlink()
        count = int((folder / "restarts").read_text()) if (folder / "restarts").exists() else 0
        write(folder / "restarts", count + 1)
        write(folder / "state", "PENDING")
        waiting.append(name)
    else:
        write(folder / "state", "CANCELLED" if cancelled else "FAILED" if one["batch"].returncode else "COMPLETED")


def tasks(name: str) -> list[int]:
    file = home() / name / "tasks"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def signal_steps(name: str, number: int, everybody: bool = False) -> None:
    for pid in tasks(name):
        if alive(pid):
            process = psutil.Process(pid)
            everybody = everybody or os.environ["FAKE_SLURM_SIGNALS"] == "all"
            for other in process.children(recursive=True) if everybody else []:
                kill(other, number)
            kill(process, number)


def srun(words: list[str]) -> None:
    count, name = int(os.environ["SLURM_NTASKS"]), os.environ["FAKE_SLURM_NAME"]
    files = {"--output": None, "--error": None}
    while words[0].startswith("-"):
        word = words.pop(0)
        if word in files:
            files[word] = words.pop(0)
    places = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}
    started = []
    for rank in range(count):
        environment = os.environ | places | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"}
        with contextlib.ExitStack() as stack:
            paths = [Path(expanded(path, name, rank)) if path else None for path in files.values()]
            out, error = (stack.enter_context(path.open("a")) if path else None for path in paths)
            started.append(subprocess.Popen(words, env=environment, stdout=out, stderr=error or out))
    write(home() / name / "tasks", " ".join(str(task.pid) for task in started))
    codes = [task.wait() for task in started]
    sys.exit(max(code if code >= 0 else 128 - code for code in codes))


def sacct(words: list[str]) -> None:
    print("JobID|State|NodeList")
    for job in [word for before, word in itertools.pairwise(words) if before == "-j"]:
        file = home() / job / "job"
        if not file.exists():
            continue
        facts = json.loads(file.read_text())
        found = {name: (home() / name / "state").read_text() for name in facts["names"]}
        pending = [name.partition("_")[2] for name, state in found.items() if state == "PENDING" and "_" in name]
        if pending:
            print(f"{job}_[{','.join(pending)}%{facts['room']}]|PENDING|None assigned")
        for name, state in found.items():
            if state != "PENDING" or "_" not in name:
                shown = "CANCELLED by 0" if state == "CANCELLED" else state
                print(f"{name}|{shown}|localhost\n{name}.batch|{shown}|localhost\n{name}.0|{shown}|localhost")


def scancel(words: list[str]) -> None:
    name, number = None, None
    while words:
        word, _, value = words.pop(0).partition("=")
        if word in ("--signal", "-s"):
            number = value or words.pop(0)
        else:
            name = word
    if number:
        signal_steps(name, signal.Signals[f"SIG{number.removeprefix('SIG')}"])
    else:
        write(home() / name / "cancel", "")


def scontrol(words: list[str]) -> None:
    assert words[0] == "requeue"
    numbers = {str(int(name.partition("_")[0]) + int(name.partition("_")[2] or 0)): name for name in states(home())}
    name = words[1] if "_" in words[1] else numbers[words[1]]
    if (home() / name / "state").read_text() not in ENDED:
        write(home() / name / "requeue", "")


if __name__ == "__main__":
    {name: globals()[name] for name in (*COMMANDS, "control")}[sys.argv[1]](sys.argv[2:])
