"""An optimiser step of training, ours against the plain recipe: `python benchmarks/step.py --quick`.

Both train the very same network on the same clips and frames, in one process, turn by turn: ours with Lightning, as
train.py does, and once more with vision features that were computed beforehand; the other as `plain.py` says. A step
takes everything from the file to the moved adapter. The floor is what the machine would need for the step's
operations, recomputation left out, at the rate that it reaches in large matrix products. Without `--quick` also: how
time and memory grow with frames.
"""

from options import NetworkArgs, StepArgs, read

if __name__ == "__main__":
    ARGS = read(StepArgs)  # before torch is imported

import contextlib
import dataclasses
import io
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure
import torch
from measure import MIB, Cost, Row

from slr import factory
from slr.config import compose, jobs, overrides
from slr.core.errors import UserError, explained

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from slr.core.hardware import Machine
    from slr.data.batches import ClipData
    from slr.data.manifest import Clip
    from slr.training.module import SignModule

CURVE = [1, 2, 4, 8, 16, 32]
AHEAD = 2  # batches more than steps: `Trainer` reads ahead, and the last step of all would be spared its reading
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.02}  # nats
OURS, CACHED, PLAIN = "ours", "ours, features cached", "plain"


@dataclass(frozen=True)
class Case:
    """One step's size."""

    frames: int
    batch: int
    micro: int
    checkpointing: bool

    @property
    def name(self) -> str:
        """As the table calls it."""
        return f"{self.frames} frames, {'with' if self.checkpointing else 'no'} checkpointing"


@dataclass(frozen=True)
class Bench:
    """What both contestants share: clips on disk, the network, the machine."""

    config: Any
    machine: "Machine"
    device: torch.device
    folder: Path
    clips: list["Clip"]
    recognizer: "SignModule"
    processor: Any

    def data(self, case: Case, count: int) -> "ClipData":
        """Our batches of `count` clips, the same few over and over."""

        repeated = [self.clips[number % len(self.clips)] for number in range(count)]
        config = dataclasses.replace(self.config, frames=case.frames, batch=case.batch)
        parts = {"train": repeated}
        return factory.data(
            config, self.folder, parts, self.recognizer.vocabulary, self.machine, self.recognizer.inputs
        )

    def plain_data(self, case: Case, count: int) -> Any:  # noqa: ANN401
        """The plain recipe's samples of the same clips."""
        from plain import PlainClips

        repeated = [self.clips[number % len(self.clips)] for number in range(count)]
        return PlainClips(repeated, self.folder, self.processor, self.config.model.prompt, case.frames)

    @property
    def warming(self) -> int:
        """Steps at a training's start that do not count: in them kernels are chosen and workers' queues run down."""
        return 5 if self.device.type == "cuda" else 1


def main(args: StepArgs) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(args, Path(folder))
        silence()
        about = measure.machine(bench.device, bench.machine.dtype)
        measure.progress(f"{about['device']}: {about['matrix_gflops']} GFLOP/s, {bench.machine.describe()}")
        steps = args.steps or (1 if args.quick else 10 if bench.device.type == "cuda" else 3)
        rows = [same_work(bench)]
        for frames in args.frames or ((8,) if args.quick else (8, 16)):
            for checkpointing in (False, True):
                case = sized(bench, args, frames, checkpointing)
                rows += compare(bench, case, steps, args.rounds, about)
        if not args.quick:
            rows += curve(bench, args, steps)
        about |= {"model": args.model, "quantization": bench.machine.quantization}
        measure.show(rows, args.json, about)


def silence() -> None:
    """Leave the terminal to the figures."""
    import lightning  # noqa: F401  sets its logger's level when imported

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.15
    warnings.filterwarnings("ignore", module="lightning")


def sized(bench: Bench, args: StepArgs, frames: int, checkpointing: bool) -> Case:
    """A step of the batch that was typed, or of 16 clips on the CPU and, as an 8 GB card holds them, 2 on CUDA."""
    on_cuda = bench.device.type == "cuda"
    batch = args.batch or (2 if on_cuda else 16)
    fit = 2 if on_cuda else max(1, 128 // frames)
    micro = min(batch, args.micro or fit)
    if batch % micro:
        raise UserError(f"batch={batch}: expected a multiple of micro={micro}, which `Trainer` needs")
    return Case(frames, batch, micro, checkpointing)


def prepare(args: StepArgs, folder: Path) -> Bench:
    """Draw clips, build the network, and find the processor."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = configuration(args, device)
    from slr.data.manifest import read_manifest
    from slr.models.hub import locate
    from slr.prepare.synthetic.prepare import prepare_synthetic
    from slr.training import assemble

    size = 160 if args.model == "tiny" else 256  # pixels; WLASL's clips are about 256
    manifest = prepare_synthetic(folder / "clips", signs=8, signers=2, takes=1, seed=0, size=size, workers=1)
    clips = read_manifest(manifest)
    machine = factory.machine(config)
    measure.progress("building the network …")
    inputs = factory.inputs(config)
    recognizer = assemble.recognizer(config, sorted({clip.gloss for clip in clips}), machine, inputs)
    recognizer.to(device)
    from plain import load_processor

    processor = load_processor(locate(config.model.checkpoint, config.model.version, need_weights=False))
    return Bench(config, machine, torch.device(device), manifest.parent, clips, recognizer, processor)


def configuration(args: NetworkArgs, device: str) -> Any:  # noqa: ANN401
    """The page's settings for a benchmark: the same frames every time, and one loss that both recipes have."""
    chosen = ["model=tiny"]
    if args.model == "2b":
        chosen = ["model=internvl3_5_2b", f"model.checkpoint={args.config}", "model.weights=random"]
    quantization = args.quantization or ("nf4" if device == "cuda" else "none")
    chosen += [f"hardware={device}", f"model.quantization={quantization}", "dataset=synthetic", "sampling=uniform"]
    # On a few cores a decoding worker takes from the step what it saves; on a card it works beside it.
    chosen += ["hardware.workers=0"] if device == "cpu" else []
    chosen += [f"jitter.{kind}=0" for kind in ("brightness", "contrast", "saturation", "hue")]
    chosen += ["objective.label_smoothing=0", "gradient_checkpointing=false"]
    compose.register()
    [config] = jobs.configurations(overrides.quote_paths(chosen))
    return config


def same_work(bench: Bench) -> Row:
    """One clip's loss by both ways, with dropout off.

    Raises:
        ValueError: they differ, so that comparing their speed would mean nothing.
    """
    from plain import Together, loss

    case = Case(frames=2, batch=1, micro=1, checkpointing=False)
    batch = next(iter(loader(bench, case, len(bench.clips))))
    number = next(n for n, clip in enumerate(bench.clips) if clip.id == batch["clip"][0])
    theirs = Together(0)([bench.plain_data(case, len(bench.clips))[number]])
    if theirs["input_ids"].tolist() != batch["input_ids"].tolist():
        raise ValueError("the plain recipe's tokens differ from ours")
    bench.recognizer.eval()
    with torch.no_grad(), bench.machine.autocast():
        moved = bench.recognizer.transfer_batch_to_device(batch, bench.device, 0)
        ours = bench.recognizer.clip_losses(moved, slice(0, 1)).item()
        plain = loss(bench.recognizer.network, theirs, bench.device).item()
    if abs(ours - plain) > TOLERANCE[bench.machine.dtype]:
        raise ValueError(f"the plain recipe's loss of one clip is {plain}, ours {ours}")
    return Row("the loss of one clip", ours, plain, None, "nats", better="neither")


def loader(bench: Bench, case: Case, steps: int) -> "DataLoader":
    """Our batches for some steps."""
    return bench.data(case, steps * case.batch).train_dataloader()


def compare(bench: Bench, case: Case, steps: int, rounds: int, about: dict[str, Any]) -> list[Row]:
    """Time and memory of a step by every contestant, and what the machine would need at the least."""
    measure.progress(f"{case.name}, {case.batch} clips a step, {case.micro} at once")
    cached = cache(bench, case)
    contestants = {
        OURS: lambda: ours(bench, case, steps),
        CACHED: lambda: ours(bench, case, steps, cached),
        PLAIN: lambda: plain(bench, case, steps),
    }
    costs = measure.in_turns(contestants, rounds)
    rate = 1e9 * about["matrix_gflops"]
    rows = []
    for name, features in ((OURS, None), (CACHED, cached)):
        title = case.name + ("" if features is None else ", features cached")
        floor = rate / clip_operations(bench, case, features)
        speeds = (per_second(case, costs[name]), per_second(case, costs[PLAIN]), floor)
        rows.append(Row(title, *speeds, "clips/s", better="more"))
        rows.append(Row(title, mib(costs[name]), mib(costs[PLAIN]), None, memory_unit(bench)))
    return rows


def per_second(case: Case, cost: Cost) -> float | None:
    """Clips a second."""
    return case.batch / cost.seconds if cost.seconds else None


def mib(cost: Cost) -> float | None:
    """The peak in MiB."""
    return None if cost.memory is None else cost.memory / MIB


def memory_unit(bench: Bench) -> str:
    """What `Cost.memory` is, in the table's words."""
    return "MiB in all" if bench.device.type == "cuda" else "MiB more"


def plain(bench: Bench, case: Case, steps: int) -> Cost:
    """A step of the plain recipe."""
    from plain import train

    def trained(count: int) -> list[float]:
        return train(
            bench.recognizer.network,
            bench.plain_data(case, (count + AHEAD) * case.batch),
            steps=count,
            batch=case.batch,
            micro_batch=case.micro,
            precision=bench.machine.precision,
            checkpointing=case.checkpointing,
            workers=bench.machine.workers,
            device=bench.device,
        )

    stop_checkpointing(bench)
    return step_cost(bench, trained, steps)


def ours(bench: Bench, case: Case, steps: int, cached: Any = None) -> Cost:  # noqa: ANN401
    """A step of ours, from files or from a batch with features."""
    from slr.models import internvl

    def trained(count: int) -> list[float]:
        ahead = count + AHEAD
        batches = loader(bench, case, ahead) if cached is None else again_and_again(cached, ahead)
        return fit(bench, batches, count)

    stop_checkpointing(bench)
    if case.checkpointing:
        internvl.checkpoint_layers(bench.recognizer.network)
    bench.recognizer.train()
    bench.recognizer.micro_batch = case.micro
    return step_cost(bench, trained, steps)


def step_cost(bench: Bench, trained: Callable[[int], list[float]], steps: int) -> Cost:
    """Mean seconds of a step, and the peak of others; `trained` trains for some steps and returns when each ended."""
    with measure.watched(bench.device) as peak:
        trained(2)  # from the second on there are the optimiser's moments
    ends = trained(bench.warming + steps)
    return Cost((ends[-1] - ends[bench.warming - 1]) / steps, peak.bytes)


def again_and_again(batch: Any, times: int) -> "DataLoader":  # noqa: ANN401
    """A loader that gives one batch several times."""
    from torch.utils.data import DataLoader

    batches: Any = [batch] * times
    return DataLoader(batches, batch_size=None, pin_memory=torch.cuda.is_available())


def fit(bench: Bench, batches: "DataLoader", steps: int) -> list[float]:
    """Train with Lightning as train.py does, without logger and checkpoints; returns when each step ended."""
    import lightning as L
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class Clock(L.Callback):
        ends: list[float] = []  # noqa: RUF012  one object of this class

        def on_train_batch_end(self, *_: object, **__: object) -> None:
            self.ends.append(measure.now(bench.device))

    class Staying(SingleDeviceStrategy):
        """Lightning would move the network to the CPU at the end; the next contestant wants it where it is."""

        def teardown(self) -> None:
            pass

    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = L.Trainer(
            accelerator=bench.device.type,
            strategy=Staying(device=bench.device),
            precision=bench.machine.precision,  # pyright: ignore[reportArgumentType]
            max_steps=steps,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(bench.recognizer, batches)
    return clock.ends


def stop_checkpointing(bench: Bench) -> None:
    """Undo what either contestant switched on for the layers that they share, and PEFT's and `Trainer`'s hooks."""
    from slr.models import internvl

    network = internvl.bare(bench.recognizer.network)
    for part in (network, network.model.language_model):
        disable = getattr(part, "activation_checkpointing_disable", None) or part.gradient_checkpointing_disable
        disable()
        part.disable_input_require_grads()


def cache(bench: Bench, case: Case) -> Any:  # noqa: ANN401
    """A batch of ours with features instead of frames, as `cache=features` gives it."""
    batch: Any = dict(next(iter(loader(bench, case, 1))))
    frames = batch.pop("frames")
    with bench.machine.autocast():
        parts = [bench.recognizer.encode(part).cpu() for part in frames.split(case.micro)]
    return batch | {"features": torch.cat(parts)}


def clip_operations(bench: Bench, case: Case, cached: Any) -> int:  # noqa: ANN401
    """Operations that a clip's loss and gradient take at the least: without recomputation."""
    stop_checkpointing(bench)
    bench.recognizer.train()
    batch = next(iter(loader(bench, case, 1))) if cached is None else cached
    moved = bench.recognizer.transfer_batch_to_device(batch, bench.device, 0)
    with bench.machine.autocast():
        count = measure.operations(lambda: bench.recognizer.clip_losses(moved, slice(0, 1)).sum().backward())
    bench.recognizer.zero_grad(set_to_none=True)
    return count


def curve(bench: Bench, args: StepArgs, steps: int) -> list[Row]:
    """A step against the number of frames, with checkpointing, and how it grows. One round: there are many sizes."""
    costs: dict[str, list[Cost]] = {OURS: [], PLAIN: []}
    for frames in CURVE:
        case = sized(bench, args, frames, True)
        measure.progress(f"curve: {case.name}, {case.batch} clips a step, {case.micro} at once")
        contestants: dict[str, Callable[[], Cost]] = {
            OURS: lambda case=case: ours(bench, case, steps),
            PLAIN: lambda case=case: plain(bench, case, steps),
        }
        for name, cost in measure.in_turns(contestants, rounds=1).items():
            costs[name].append(cost)
    return [*curve_rows(costs, "s", lambda cost: cost.seconds), *curve_rows(costs, memory_unit(bench), mib)]


def curve_rows(costs: dict[str, list[Cost]], unit: str, figure: Callable[[Cost], float | None]) -> list[Row]:
    """A row for each number of frames, and one for the growth."""
    ours, plain = ([figure(cost) for cost in costs[name]] for name in (OURS, PLAIN))
    rows = [
        Row(f"a step with frames={frames}", one, other, None, unit)
        for frames, one, other in zip(CURVE, ours, plain, strict=True)
    ]
    exponents = (measure.growth(CURVE, ours), measure.growth(CURVE, plain))
    return [*rows, Row(f"growth of {unit} with frames", *exponents, None, "exponent", better="neither")]


if __name__ == "__main__":
    explained(lambda: main(ARGS))
