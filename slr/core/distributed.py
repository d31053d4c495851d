"""The processes of one run: their ranks, starting them, and exchanging values.

Each process has the whole network and a share of the clips. Only the main process (rank 0) writes, prints and decides.
A process that fails leaves its reason in the store, so that it is reported once. Only several processes import torch.
"""

import atexit
import contextlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from slr.core.errors import UserError
from slr.core.signals import CODES, handled

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

Value = TypeVar("Value")

LOST = 69  # exit code of a process that ends because another did: EX_UNAVAILABLE of sysexits.h
GRACE = 10.0  # seconds from a process's failure to SIGTERM for the others, and from there to SIGKILL
PATIENCE = timedelta(days=7)  # preparing data may take long; a process that died is noticed by its closed connection
MEETING = timedelta(minutes=30)  # in which all must have been started
POLL = 0.05  # seconds
REASON = "reason"  # the store's key for why the first process failed


@dataclass(frozen=True)
class Rank:
    """Which one of the processes this is."""

    rank: int = 0  # its number; 0 is the main process
    world: int = 1  # how many there are
    beside: int = 1  # how many of them are on this machine
    index: int = 0  # its number among those
    # Of the command's start, the same for all: runs are named after it.
    moment: datetime = field(default_factory=datetime.now, compare=False)


_place = Rank()
_store: "Store | None" = None
_cards: Any = None  # the group whose GPUs sum gradients


def place() -> Rank:
    """Which one of the processes this is; of one, until `join`."""
    return _place


def is_main() -> bool:
    """Whether this is the process that writes, prints and decides."""
    return _place.rank == 0


def given(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Rank and number of processes, where torchrun, srun or `start` has started this one; else None.

    A batch script that Slurm starts has SLURM_NTASKS too, but is one process; only `srun` counts a step's tasks.

    >>> given({"RANK": "1", "WORLD_SIZE": "2"}), given({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    ((1, 2), None)
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if "SLURM_PROCID" in environment and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    return None


def start(count: int, tie: str) -> int:
    """Start this very command `count` times, as processes of one run on this machine, and wait for them.

    Signals are passed on. Where one process fails, the others notice and end; those that do not are killed.

    Args:
        count: of processes.
        tie: the environment variable that makes a process end with the one that holds its standard input.

    Returns:
        The exit code: of the process that failed first, 128 and more where it was killed, as a shell has it; or 0.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), tie: "1"}
    asked: list[int] = []
    with handled(lambda number, _: asked.append(number)):
        children = [
            subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches it through this process alone, and once
            )
            for rank in range(count)
        ]
        return _exit_code(_wait(children, asked))


def _wait(children: Sequence[subprocess.Popen], asked: list[int]) -> dict[int, int]:
    """Pass on the signals in `asked` until all have ended; returns rank -> exit code, in the order of the ends."""
    ended: dict[int, int] = {}
    failed_at = math.inf
    while len(ended) < len(children):
        time.sleep(POLL)
        numbers = [asked.pop(0) for _ in range(len(asked))]
        late = time.monotonic() - failed_at
        for rank, child in enumerate(children):
            for number in numbers + [signal.SIGTERM] * (late > GRACE):
                child.send_signal(number)  # does nothing where it has ended
            if late > 2 * GRACE:
                child.kill()
            if rank not in ended and (code := child.poll()) is not None:
                ended[rank] = code
                failed_at = min(failed_at, time.monotonic()) if code else failed_at
    return ended


def _exit_code(ended: Mapping[int, int]) -> int:
    """One exit code for all; reports a process that was killed, since it cannot do so itself.

    >>> _exit_code({0: 0, 1: 0}), _exit_code({1: 69, 0: 2}), _exit_code({0: 143, 1: 143})
    (0, 2, 143)
    """
    bad = {rank: code for rank, code in ended.items() if code}
    rank, code = next(((rank, code) for rank, code in bad.items() if code != LOST), (0, LOST if bad else 0))
    if code < 0 and -code not in CODES:
        print(
            f"error: process {rank} of {len(ended)} was killed ({signal.Signals(-code).name}), perhaps because memory "
            "ran out; the other processes have ended too; to continue: train.py resume=FOLDER",
            file=sys.stderr,
        )
    return code if code >= 0 else 128 - code


def join(device: str) -> None:
    """Join the other processes of the run; does nothing if there is only one.

    Args:
        device: cpu, or cuda, where each process has a card of its own.

    Raises:
        UserError: the others did not join in time.
    """
    global _place, _store, _cards
    rank, world = given(os.environ) or (0, 1)
    if world == 1:
        return
    import torch.distributed as dist

    host, port = _address(os.environ)
    try:
        _store = _meet(host, port, rank, world)
        dist.init_process_group("gloo", store=_store, rank=rank, world_size=world, timeout=PATIENCE)
    except (RuntimeError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"expected {world} processes to meet at {host}:{port}, but they cannot: {why}") from error
    _place = replace(_place, rank=rank, world=world)
    names, moments = zip(*gather([socket.gethostname(), _place.moment.isoformat()]), strict=True)
    beside, index = names.count(names[rank]), names[:rank].count(names[rank])
    _place = Rank(rank, world, beside, index, datetime.fromisoformat(moments[0]))
    if device == "cuda":
        _cards = dist.new_group(backend="nccl")


def _address(environment: Mapping[str, str]) -> tuple[str, int]:
    """Where the main process listens: as torchrun's variables say, else by Slurm's list of hosts and job number.

    >>> _address({"SLURM_STEP_NODELIST": "gpu[07-09,12],login", "SLURM_JOB_ID": "20007", "SLURM_STEP_ID": "1"})
    ('gpu07', 15008)
    >>> _address({"SLURM_STEP_NODELIST": "gpu07"})  # one machine
    ('127.0.0.1', 15000)
    """
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    several = re.search(r"[\[,]", nodes)
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).partition(",")[0] if several else "127.0.0.1"
    job = int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
    return environment.get("MASTER_ADDR", first), int(environment.get("MASTER_PORT", 15000 + job % 10000))


def _meet(host: str, port: int, rank: int, world: int) -> "Store":
    """The store of all processes. On one machine it listens on loopback only: torch's own listens everywhere."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.rendezvous import rendezvous

    loopback = host in ("127.0.0.1", "localhost")
    if loopback and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it listens on what the machine's name resolves to
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun has a store already
        return next(rendezvous("env://", timeout=MEETING))[0]
    listener = socket.create_server((host, port)).detach() if loopback and rank == 0 else None
    return TCPStore(host, port, world, rank == 0, MEETING, master_listen_fd=listener)


def leave() -> None:
    """Wait for all processes, then destroy the process group."""
    if _place.world > 1:
        import torch.distributed as dist

        gather(None)
        dist.destroy_process_group()


def end() -> None:
    """Leave the other processes, and end this one; do nothing if there is only one.

    Threads of gloo may outlive their group (torch 2.15), and C++'s destructors, skipped here, then abort the process.
    """
    if _place.world > 1:
        leave()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Lost(SystemExit):
    """This process ends because another process of the run did, which has reported why.

    Attributes:
        stopped: the exit code where the other was asked to end.
        reason: the other's error, in a line; None where it was killed.
    """

    def __init__(self, stopped: int | None = None, reason: str | None = None) -> None:
        super().__init__(stopped or LOST)
        self.stopped = stopped
        self.reason = reason


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Silence all but the main process within the block; an error leaves its reason for the others.

    Raises:
        Lost: another process has failed before.
    """
    with contextlib.ExitStack() as stack:
        if not is_main():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield
        except Lost:
            raise
        except BaseException as error:
            if _store is not None and not _is_first(error, _store):
                raise _lost() from error
            raise


def _is_first(error: BaseException, store: "Store") -> bool:
    """Leave an error's reason for the others; returns whether no process had left one."""
    stopped = error.code if isinstance(error, SystemExit) and error.code in CODES.values() else None
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[-1]} (process {_place.rank})"
    own = json.dumps({"stopped": stopped, "reason": None if stopped else reason})
    try:
        return store.compare_set(REASON, "", own).decode() == own
    except RuntimeError:  # the store has ended with the main process
        return True


def _lost() -> Lost:
    """The error of this process after another one has ended."""
    with contextlib.suppress(RuntimeError):
        if _store is not None and _store.check([REASON]):
            return Lost(**json.loads(_store.get(REASON)))
    return Lost()


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Raise `Lost` for an error of torch's connections, which means that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise _lost() from error


def gather(value: Value) -> list[Value]:
    """The values of all processes, in the order of their ranks. All must call it.

    Args:
        value: what JSON can hold, and NumPy arrays anywhere in it; of several processes, tuples come as lists.
    """
    if _place.world == 1:
        return [value]
    import torch
    import torch.distributed as dist

    own = torch.frombuffer(bytearray(_packed(value)), dtype=torch.uint8)
    with _connected():
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(_place.world)]
        dist.all_gather(lengths, torch.tensor([len(own)]))
        longest = int(max(lengths))
        contents = [torch.empty(longest, dtype=torch.uint8) for _ in lengths]
        dist.all_gather(contents, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [_unpacked(content[:length].numpy().tobytes()) for content, length in zip(contents, lengths, strict=True)]


def _packed(value: object) -> bytes:
    """A value as safetensors, its JSON being one of the arrays: unlike a pickle, it can run no code.

    >>> _unpacked(_packed({"a": [1, None], "b": (0.1, "ä")}))
    {'a': [1, None], 'b': [0.1, 'ä']}
    """
    import numpy as np
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}

    def name_of(array: object) -> dict[str, str]:
        arrays[name := str(len(arrays))] = np.asarray(array, order="C")
        return {"array": name}

    text = json.dumps(value, default=name_of)
    return save(arrays | {"json": np.frombuffer(text.encode(), np.uint8)})


def _unpacked(content: bytes) -> Any:  # noqa: ANN401
    from safetensors.numpy import load

    arrays = load(content)
    text = arrays.pop("json").tobytes()
    return json.loads(text, object_hook=lambda part: arrays[part["array"]] if part.keys() == {"array"} else part)


def gather_tensors(tensor: "Tensor", group: object = None) -> "list[Tensor]":
    """Every process's tensor, of whatever length, on this process's device; the signature is torchmetrics'."""
    import torch

    return [torch.tensor(array, device=tensor.device) for array in gather(tensor.cpu().numpy())]


def on_main(do: Callable[[], Value]) -> Value:
    """The result of `do` in the main process, for which the others wait. All must call it; values as of `gather`."""
    return gather(do() if is_main() else None)[0]  # pyright: ignore[reportReturnType]


def main_first(do: Callable[[], Value]) -> Value:
    """The result of `do`, called by the main process first: the others read what it has written."""
    value = do() if is_main() else None
    gather(None)
    return value if is_main() else do()  # pyright: ignore[reportReturnType]


def all_reduce_sum(tensors: "Sequence[Tensor]") -> None:
    """Replace each tensor by its sum over all processes, in one message."""
    if _place.world == 1:
        return
    import torch
    import torch.distributed as dist

    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    with _connected():
        dist.all_reduce(flat, group=_cards if flat.is_cuda else None)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def assert_same_on_all_ranks(what: str, value: object) -> None:
    """Check that all processes have the same value.

    Raises:
        UserError: they differ.
    """
    values = gather(value)
    if other := next((rank for rank, value in enumerate(values) if value != values[0]), None):
        raise UserError(
            f"expected the same {what} in all processes, found another one in process {other} than in process 0; check "
            "that all machines have the same packages and the same files"
        )
