"""Several processes that work on one run: who they are, how they are started, and what they tell one another.

They share the numbers of a step and little else: each has the whole network and a share of the clips. One of them, the
main process, writes, prints and decides; the others are silent. A process that fails leaves its reason where the others
find it, so that one of them speaks and none waits for ever. Knows torch only once processes are several.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from slr.core.errors import UserError
from slr.core.signals import CODES

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

Value = TypeVar("Value")

LOST = 69  # exit code of a process that ends because another did: EX_UNAVAILABLE of sysexits.h
GRACE = 10.0  # seconds in which the others notice that a process is gone, before they are told, and then made, to end
PATIENCE = timedelta(days=7)  # preparing data may take long; that a process died is noticed by its connection
MEETING = timedelta(minutes=30)  # in which all must have been started
POLL = 0.05  # seconds
REASON = "reason"  # the key under which the first process that fails leaves why


@dataclass(frozen=True)
class Rank:
    """Which one of the processes this is.

    Attributes:
        rank: its number; 0 is the main process.
        world: how many there are.
        beside: how many of them are on this machine.
        index: its number among those.
    """

    rank: int = 0
    world: int = 1
    beside: int = 1
    index: int = 0


ALONE = Rank()
_place = ALONE
_store: "Store | None" = None
_cards: Any = None  # by which GPUs add up
_moment = datetime.now()


def place() -> Rank:
    """Which one of the processes this is; of one, until `join`."""
    return _place


def is_main() -> bool:
    """Whether this is the process that writes, prints and decides."""
    return _place.rank == 0


def moment() -> datetime:
    """When the command was started, the same for all processes: runs are named after it."""
    return _moment


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

    Signals are handed on. Where one process fails, the others notice and end; where they cannot, they are ended.

    Args:
        count: of processes.
        tie: the environment's variable by which a process knows to end with the one that holds its standard input.

    Returns:
        The exit code: of the process that failed first, 128 and more where it was killed, as a shell has it; or 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), tie: "1"}
    if sys.platform == "linux":
        shared.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it asks what the machine's name resolves to
    with _heard() as heard:
        children = [
            subprocess.Popen(
                [sys.executable, *sys.orig_argv[1:]],
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches it through this process alone, and once
            )
            for rank in range(count)
        ]
        return _wait(children, heard)


@contextlib.contextmanager
def _heard() -> Iterator[list[int]]:
    """Within it, signals that ask for the end are gathered instead of heeded."""
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, _: heard.append(number)) for number in CODES}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen], heard: list[int]) -> int:
    ended: dict[int, int] = {}  # rank -> exit code, in the order of their ends
    failed_at: float | None = None
    while len(ended) < len(children):
        time.sleep(POLL)
        running = {rank: child for rank, child in enumerate(children) if rank not in ended}
        for number in heard[:]:
            heard.remove(number)
            for child in running.values():
                child.send_signal(number)
        late = 0.0 if failed_at is None else time.monotonic() - failed_at
        for rank, child in running.items():
            if (code := child.poll()) is not None:
                ended[rank] = code
                failed_at = failed_at or (time.monotonic() if code else None)
            elif late > 2 * GRACE:
                child.kill()
            elif late > GRACE:
                child.terminate()
    return _verdict(ended)


def _verdict(ended: Mapping[int, int]) -> int:
    """One exit code for all; says which process was killed, since that one cannot.

    >>> _verdict({0: 0, 1: 0}), _verdict({1: 69, 0: 2}), _verdict({0: 143, 1: 143})
    (0, 2, 143)
    """
    bad = {rank: code for rank, code in ended.items() if code}
    causes = {rank: code for rank, code in bad.items() if code != LOST} or bad
    if not causes:
        return 0
    rank, code = next(iter(causes.items()))
    if code < 0 and -code not in CODES:
        name = signal.Signals(-code).name
        print(
            f"error: process {rank} of {len(ended)} was killed ({name}), perhaps for want of memory; the others have "
            "ended too; resume=FOLDER goes on with the run",
            file=sys.stderr,
        )
    return code if code > 0 else 128 - code


def join(device: str) -> None:
    """Become one of the processes that were started; alone, nothing happens.

    Args:
        device: cpu, or cuda, where each process has a card of its own.

    Raises:
        UserError: the others do not come.
    """
    global _place, _store, _cards, _moment
    rank, world = given(os.environ) or (0, 1)
    if world == 1:
        return
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    _name_for_torch(rank, world)
    try:
        _store, rank, world = next(rendezvous("env://", timeout=MEETING))
        dist.init_process_group("gloo", store=_store, rank=rank, world_size=world, timeout=PATIENCE)
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        why = str(error).strip().splitlines()[0]
        raise UserError(f"expected {world} processes to meet at {address}, found that they cannot: {why}") from error
    _place = Rank(rank, world)
    names = gather(socket.gethostname())
    _place = Rank(rank, world, names.count(names[rank]), names[:rank].count(names[rank]))
    if device == "cuda":
        _cards = dist.new_group(backend="nccl")
    _moment = gather(_moment)[0]


def _name_for_torch(rank: int, world: int) -> None:
    """Say in torch's words what Slurm says in its own."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = first_host(os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    job = int(os.environ.get("SLURM_JOB_ID", "0")) + int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.setdefault("MASTER_PORT", str(15000 + job % 10000))


def first_host(hosts: str) -> str:
    """The first of Slurm's list of hosts.

    >>> first_host("gpu[07-09,12],login"), first_host("a1,b"), first_host("n[3]-x")
    ('gpu07', 'a1', 'n3-x')
    """
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", hosts).partition(",")[0]


def leave() -> None:
    """Part in peace, once everybody has come to the end."""
    if _place.world > 1:
        import torch.distributed as dist

        barrier()
        dist.destroy_process_group()


class Lost(SystemExit):
    """This process ends because another one of the run did, which has said why; it adds nothing.

    Attributes:
        stopped: the exit code where the other was asked to end.
        reason: the other's error, in a line; None where it was killed.
    """

    def __init__(self, stopped: int | None, reason: str | None) -> None:
        super().__init__(stopped or LOST)
        self.stopped = stopped
        self.reason = reason


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it, all but the main process are silent, and an error leaves its reason for the others.

    Raises:
        Lost: the others' error.
    """
    if _place.world == 1:
        yield
        return
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
            if not _is_first(error):
                raise _lost() from error
            raise


def _is_first(error: BaseException) -> bool:
    """Leave an error's reason for the others; whether none was there before."""
    stopped = error.code if isinstance(error, SystemExit) and error.code in CODES.values() else None
    lines = str(error).strip().splitlines() or [""]
    reason = f"{type(error).__name__}: {lines[-1]} (process {_place.rank})"
    said = json.dumps({"stopped": stopped, "reason": None if stopped else reason})
    try:
        assert _store is not None
        return _store.compare_set(REASON, "", said).decode() == said
    except RuntimeError:  # the store has ended with the main process
        return True


def _lost() -> "Lost":
    """What this process ends with because another one has ended."""
    with contextlib.suppress(RuntimeError):
        if _store is not None and _store.check([REASON]):
            found = json.loads(_store.get(REASON))
            return Lost(found["stopped"], found["reason"])
    return Lost(None, None)


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Within it, whatever torch's connections raise means that another process is gone.

    Raises:
        Lost: in place of that.
    """
    try:
        yield
    except RuntimeError as error:
        raise _lost() from error


def gather(value: Value) -> list[Value]:
    """What every process has to say, in the order of their ranks. All must ask."""
    if _place.world == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * _place.world
    with _connected():
        dist.all_gather_object(values, value)
    return values


def gather_tensors(tensor: "Tensor", group: object = None) -> "list[Tensor]":
    """Everybody's tensor, of whatever length, on this process's device; as torchmetrics asks for it."""
    return [other.to(tensor.device) for other in gather(tensor.cpu())]


def on_main(do: Callable[[], Value]) -> Value:
    """What the main process gets by doing something that the others wait for, and get too. All must ask."""
    if _place.world == 1:
        return do()
    import torch.distributed as dist

    answer: list[Any] = [do() if is_main() else None]
    with _connected():
        dist.broadcast_object_list(answer)
    return answer[0]


def barrier() -> None:
    """Wait until all are here."""
    gather(None)


def all_reduce_sum(tensors: "Sequence[Tensor]") -> None:
    """Put the sum over all processes in place of each tensor, by one message for all of them."""
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
    """See that all processes have the same.

    Raises:
        UserError: they differ.
    """
    found = gather(value)
    if other := next((rank for rank, one in enumerate(found) if one != found[0]), None):
        raise UserError(
            f"expected the same {what} in all processes, found another one in process {other} than in process 0; see "
            "that all machines have the same packages and the same files"
        )
