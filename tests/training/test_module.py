"""The LightningModule on the tiny model: gradients, census, checkpoints. What a whole run does is in test_train."""

import dataclasses
import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from slr.core.errors import UserError
from slr.data.augment import ColorJitter
from slr.data.batches import ClipData, Decoded
from slr.data.collate import Sample, collate_ranking, collate_training
from slr.data.manifest import Clip
from slr.models import internvl, lora
from slr.models.processor import load_inputs
from slr.prepare.encode import write_clip
from slr.training.module import SKIPPED, SignModule, schedule

GLOSSES = ["a", "mokitu", "ÄÖ", "don't want", "tuka", "pelisa", "no", "Zz"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("tiny", None)


def make(inputs, micro_batch=8, quantization="none", dropout=0.0, objective="token"):
    network = internvl.load_vlm("tiny", None, "pretrained", quantization, torch.float32, "cpu", 0)
    torch.manual_seed(0)
    network = lora.add_lora(network, "language", 4, 8, dropout, TARGETS)
    return SignModule(network, inputs, GLOSSES, 1e-3, 0.01, 2, 1.0, objective, 0.1, micro_batch, 0)


@pytest.fixture(scope="module")
def samples(inputs):
    rng = np.random.default_rng(0)
    prompts = ["Name the sign.", "Which sign is it?"]
    return [
        Sample(
            clip=str(number),
            gloss=number,
            frames=torch.from_numpy(rng.integers(0, 256, (2, 3, *inputs.image_size), dtype=np.uint8)),
            prompt=inputs.prompt_ids(prompts[number % 2], 2),
            answer=inputs.answer_ids(gloss),
        )
        for number, gloss in enumerate(GLOSSES)
    ]


def gradients(recognizer, batch):
    """The gradient of a batch, with lora_B moved off zero so that every tensor has one."""
    recognizer.manual_backward = lambda loss: loss.backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in recognizer.network.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    recognizer.train()
    loss = recognizer.backward_batch(batch)
    return loss, {n: p.grad for n, p in recognizer.network.named_parameters() if p.requires_grad}


def distance(one, other):
    """Norm of the difference of two gradients as a share of the second's."""
    difference = torch.cat([(one[name] - other[name]).flatten() for name in other])
    return float(torch.linalg.vector_norm(difference) / torch.cat([x.flatten() for x in other.values()]).norm())


@pytest.mark.parametrize("clips", [8, 5])
def test_gradients_do_not_depend_on_the_micro_batch(inputs, samples, clips):
    batch = collate_training(samples[:clips], inputs.pad_id)
    assert len({len(sample.answer) for sample in samples}) > 2
    loss, whole = gradients(make(inputs, micro_batch=clips), batch)
    for micro_batch in (1, 2, 4):
        other_loss, other = gradients(make(inputs, micro_batch=micro_batch), batch)
        assert float(other_loss) == pytest.approx(float(loss), rel=1e-6)
        assert distance(other, whole) <= 1e-6
        for name in whole:  # of a single tensor the rounding is a larger share
            assert distance({name: other[name]}, {name: whole[name]}) <= 3e-6, name


def test_the_gradient_is_that_of_the_mean_over_clips_of_each_alone(inputs, samples):
    """Against transformers' own `labels=` loss, clip by clip; smoothing off."""
    recognizer = make(inputs)
    recognizer.label_smoothing = 0.0
    loss, ours = gradients(recognizer, collate_training(samples, inputs.pad_id))
    reference = make(inputs)
    total = torch.zeros(())
    gradients(reference, collate_training(samples[:1], inputs.pad_id))  # moves lora_B alike
    reference.zero_grad()
    for sample in samples:
        one = collate_training([sample], inputs.pad_id)
        pixels = inputs.normalise(one["frames"], torch.float32).flatten(0, 1)
        output = internvl.bare(reference.network)(
            pixel_values=pixels,
            input_ids=one["input_ids"],
            attention_mask=one["attention_mask"],
            labels=one["labels"],
        )
        total = total + output.loss / len(samples)
    total.backward()
    assert float(loss) == pytest.approx(float(total.detach()), abs=1e-5)
    for name, parameter in reference.network.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clips", [8, 5])
def test_closed_set_gradients_are_brute_forces_whatever_the_micro_batch(inputs, samples, clips):
    """Against transformers' own forward of every clip with every gloss, summed, and torch's cross-entropy over them."""
    batch = collate_ranking(samples[:clips], inputs.pad_id)
    reference = make(inputs)
    gradients(reference, collate_training(samples[:1], inputs.pad_id))  # moves lora_B alike
    reference.zero_grad()
    rows = []
    for sample in samples[:clips]:
        scores = []
        for gloss in GLOSSES:
            one = collate_training([dataclasses.replace(sample, answer=inputs.answer_ids(gloss))], inputs.pad_id)
            pixels = inputs.normalise(one["frames"], torch.float32).flatten(0, 1)
            output = internvl.bare(reference.network)(
                pixel_values=pixels,
                input_ids=one["input_ids"],
                attention_mask=one["attention_mask"],
                labels=one["labels"],
            )
            scores.append(-output.loss * len(inputs.answer_ids(gloss)))
        rows.append(torch.stack(scores))
    expected = torch.nn.functional.cross_entropy(torch.stack(rows), batch["gloss"], label_smoothing=0.1)
    expected.backward()
    truth = {n: p.grad for n, p in reference.network.named_parameters() if p.requires_grad}
    for micro_batch in (1, 3, clips):
        loss, ours = gradients(make(inputs, micro_batch=micro_batch, objective="closed_set"), batch)
        assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-5)
        assert distance(ours, truth) <= 1e-4


def fit(recognizer, samples, folder, epochs=1, plugins=None):
    pad = recognizer.inputs.pad_id
    training = DataLoader(samples, batch_size=4, collate_fn=lambda rows: collate_training(rows, pad))
    ranking = DataLoader(samples, batch_size=4, collate_fn=lambda rows: collate_ranking(rows, pad))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        plugins=plugins,
    )
    trainer.fit(recognizer, training, ranking)
    return trainer


quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*is not properly set up.*")


@quiet
def test_four_bit_training_learns_and_its_checkpoint_holds_the_adapter_alone(inputs, samples, tmp_path):
    recognizer = make(inputs, quantization="nf4", dropout=0.1)
    before = {n: p.detach().clone() for n, p in recognizer.network.named_parameters() if p.dtype.is_floating_point}
    trainer = fit(recognizer, samples, tmp_path, epochs=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert content["state_dict"]
    assert all("lora_" in name for name in content["state_dict"])
    assert {"loss", "top1", "top5", "mrr"} <= set(content["metrics"])
    for name, parameter in recognizer.network.named_parameters():
        if name in before:
            assert ("lora_" in name) == (not torch.equal(parameter.cpu(), before[name])), name

    fresh = make(inputs, quantization="nf4")
    assert fresh.restore(tmp_path / "x.ckpt") == content["metrics"]
    batch = collate_ranking(samples, inputs.pad_id)
    assert torch.equal(fresh.eval().rank(batch), recognizer.eval().rank(batch))


@quiet
def test_a_detached_layer_stops_the_run_and_is_named(inputs, samples, tmp_path):
    recognizer = make(inputs)
    layer = internvl.bare(recognizer.network).model.language_model.layers[1].mlp.down_proj
    forward = layer.forward
    layer.forward = lambda x: forward(x).detach()
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.down_proj\.lora_B.*detached"):
        fit(recognizer, samples, tmp_path)


@quiet
def test_a_layer_whose_first_matrix_gets_no_gradient_is_named_once_it_should(inputs, samples, tmp_path):
    recognizer = make(inputs)
    layer = internvl.bare(recognizer.network).model.language_model.layers[0].self_attn.q_proj
    inner = layer.lora_A["default"]
    forward = inner.forward
    inner.forward = lambda x: forward(x).detach() + 0 * inner.weight.sum()
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.q_proj\.lora_A"):
        fit(recognizer, samples, tmp_path)


def test_what_is_no_checkpoint_of_this_network_is_refused(inputs, tmp_path):
    recognizer = make(inputs)
    state = {n: p.detach() for n, p in recognizer.named_parameters() if p.requires_grad}
    whole = {"state_dict": state, "vocabulary": GLOSSES, "metrics": {"top1": 0.5}}
    narrow = {name: tensor[:1] for name, tensor in state.items()}
    cases = {
        "good": whole,
        "other glosses": whole | {"vocabulary": GLOSSES[::-1]},
        "no layers": whole | {"state_dict": {}},
        "another rank": whole | {"state_dict": narrow},
        "foreign": {"state_dict": state},
        "a list": [1, 2],
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "empty").touch()
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-200])
    assert recognizer.restore(tmp_path / "good") == {"top1": 0.5}
    for name in [*cases, "empty", "junk", "cut"]:
        if name != "good":
            with pytest.raises(UserError, match="expected"):
                recognizer.restore(tmp_path / name)


@quiet
def test_order_and_frames_change_from_epoch_to_epoch_under_lightning(inputs, tmp_path):
    """Lightning finds `set_epoch` of our batches, with workers too."""
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    clips = []
    for number in range(6):
        write_clip(tmp_path / f"clips/{number}.mp4", rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8))
        clips.append(Clip(f"{number}", f"clips/{number}.mp4", "a", 30, 25, 32, 32, "", "", "", None, None, None))
    data = ClipData(
        parts={"train": clips, "val": clips[:1]},
        frames_from=Decoded(tmp_path, inputs),
        vocabulary=["a", "b"],
        inputs=inputs,
        prompt="Which?",
        frames=2,
        sampling="segment",
        jitter=ColorJitter(0, 0, 0, 0),
        answers=True,
        batch=3,
        ranking_batch=3,
        workers=1,
        pin_memory=False,
        seed=0,
    )
    seen = []

    class Watching(SignModule):
        def training_step(self, batch, index):
            seen.append((self.current_epoch, dict(zip(batch["clip"], batch["frames"], strict=True))))

    recognizer = make(inputs)
    recognizer.__class__ = Watching
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recognizer, data.train_dataloader(), data.val_dataloader())
    orders = [[name for epoch, batch in seen if epoch == number for name in batch] for number in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == [str(number) for number in range(6)]
    assert orders[0] != orders[1]
    frames = [{k: v for epoch, batch in seen if epoch == number for k, v in batch.items()} for number in (0, 1)]
    assert not all(torch.equal(frames[0][name], frames[1][name]) for name in frames[0])


@quiet
def test_a_gradient_that_overflows_stops_the_run(inputs, samples, tmp_path):
    recognizer = make(inputs)
    norm = internvl.bare(recognizer.network).model.language_model.norm
    forward = norm.forward
    norm.forward = lambda x: forward(x) * float("inf")
    with pytest.raises(UserError, match=r"no usable gradient|not finite"):
        fit(recognizer, samples, tmp_path)


class Scaled(MixedPrecision):
    """16-bit training's scaler as on a card, without the arithmetic, which CPUs do not have."""

    def __init__(self):
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu"))

    def forward_context(self):
        return nullcontext()


def overflowing(recognizer, steps):
    """Have the gradient of one tensor overflow in so many first steps."""
    count = itertools.count()
    one = next(p for n, p in recognizer.network.named_parameters() if "lora_B" in n)
    one.register_hook(lambda gradient: gradient * float("inf") if next(count) < steps else gradient)


skips = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # which knows no skipped step


@quiet
@skips
def test_in_16_bits_the_scalers_first_steps_may_overflow(inputs, samples, tmp_path):
    """Here more than the first epoch has, of two steps."""
    recognizer = make(inputs)
    overflowing(recognizer, 3)
    trainer = fit(recognizer, samples, tmp_path, epochs=3, plugins=[Scaled()])
    assert trainer.precision_plugin.scaler.get_scale() == 2.0**13
    assert recognizer.skipped == 0
    assert recognizer.pending_census == {"lora_B": False, "lora_A": False}
    assert all(parameter.any() for name, parameter in recognizer.network.named_parameters() if "lora_B" in name)


@quiet
@skips
@pytest.mark.parametrize(("epochs", "says"), [(1, "in any of the 2 steps"), (2, "in 3 steps in a row")])
def test_in_16_bits_a_training_without_a_step_is_no_finished_run(inputs, samples, tmp_path, monkeypatch, epochs, says):
    assert torch.amp.GradScaler("cpu").get_scale() == 2.0**SKIPPED, "where it begins; it halves at each"
    monkeypatch.setattr("slr.training.module.SKIPPED", 2)
    recognizer = make(inputs)
    overflowing(recognizer, 99)
    with pytest.raises(UserError, match=f"^the gradient (is|was) not finite {says}: .*hardware.precision=32-true$"):
        fit(recognizer, samples, tmp_path, epochs, [Scaled()])


@quiet
def test_in_16_bits_a_loss_that_is_not_finite_stops_the_first_step(inputs, samples, tmp_path):
    recognizer = make(inputs)
    norm = internvl.bare(recognizer.network).model.language_model.norm
    forward = norm.forward
    norm.forward = lambda x: forward(x) * (float("nan") if recognizer.network.training else 1)
    with pytest.raises(UserError, match=r"^the loss is not finite: .*hardware.precision=32-true$"):
        fit(recognizer, samples, tmp_path, plugins=[Scaled()])
    assert recognizer.global_step == 0


def test_skipped_steps_are_counted_across_processes(inputs):
    recognizer, other = make(inputs), make(inputs)
    recognizer.skipped = 3
    recognizer._trainer = other._trainer = SimpleNamespace(callback_metrics={}, precision="16-mixed")
    state = {}
    recognizer.on_save_checkpoint(state)
    other.on_load_checkpoint(state)
    assert other.skipped == 3
    del state["skipped"]  # as states of old
    other.on_load_checkpoint(state)
    assert other.skipped == 0


def test_two_glosses_with_one_spelling_are_refused(inputs):
    network = internvl.load_vlm("tiny", None, "pretrained", "none", torch.float32, "cpu", 0)
    with pytest.raises(UserError, match="same tokens"):
        SignModule(network, inputs, ["a", "b", "a"], 1e-3, 0.01, 2, 1.0, "token", 0.1, 1, 0)


def test_the_schedule_equals_transformers_cosine_but_for_its_first_step():
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = get_cosine_schedule_with_warmup(optimizer, 10, 100).lr_lambdas[0]
    for step in range(10, 100):
        assert schedule(step, 10, 100) == pytest.approx(reference(step))
    assert [schedule(step, 10, 100) for step in range(10)] == pytest.approx([reference(step + 1) for step in range(10)])


def test_the_census_counts_what_learns(inputs):
    recognizer = make(inputs)
    trained = sum(p.numel() for p in recognizer.network.parameters() if p.requires_grad)
    assert f"{trained:,} trainable parameters" in recognizer.describe()
    assert "vision" in recognizer.describe()
