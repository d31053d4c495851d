"""The tiny InternVL: loads like the 2B, spells everything, and was pretrained on nothing that data sets use."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, InternVLForConditionalGeneration

from slr.models.hub import PACKAGED
from slr.prepare.synthetic.prepare import vocabulary
from slr.prepare.synthetic.signs import SYLLABLES, Side, names, signer_seed, signs
from slr.tiny_pretraining.clips import IMAGE_SIZE, MOVEMENTS, attributes, curriculum, draw_batches, draw_clip, lexicon
from slr.tiny_pretraining.language_stage import ANSWER, DESCRIBE, MOVE, NAME, NAMED, hidden_states, user_turn, write
from slr.tiny_pretraining.tokenizer import build_tokenizer
from slr.tiny_pretraining.vision_stage import CELLS, MEAN, STD, TOKENS_PER_FRAME, cell_labels, project

CHECKPOINT = PACKAGED["tiny"]


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    return InternVLForConditionalGeneration.from_pretrained(CHECKPOINT).eval()


def ask(processor, text, clip):
    content = [{"type": "video"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[prompt], videos=[clip], return_tensors="pt")


@pytest.mark.e2e
def test_it_loads_by_the_auto_classes_offline_without_a_warning(tmp_path):
    """In a process of its own, warnings as errors, and nothing on standard error: transformers warns by logging."""
    code = (
        "import sys\n"
        "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, logging\n"
        "logging.disable_progress_bar()\n"
        "for kind in (AutoConfig, AutoProcessor, AutoModelForImageTextToText):\n"
        "    print(type(kind.from_pretrained(sys.argv[1])).__name__)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(CHECKPOINT)], capture_output=True, text=True, env=environment
    )
    assert done.stdout.split() == ["InternVLConfig", "InternVLProcessor", "InternVLForConditionalGeneration"], (
        done.stderr
    )
    assert done.stderr == ""


def test_the_weights_are_small_and_complete():
    files = list(CHECKPOINT.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 8 * 2**20
    total = 0
    for file in files:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a dictionary)
                tensor = tensors.get_tensor(name)
                assert torch.isfinite(tensor).all(), name
                total += tensor.numel()
    assert total == sum(p.numel() for p in InternVLForConditionalGeneration.from_pretrained(CHECKPOINT).parameters())


def test_the_processor_has_the_sizes_of_the_model(processor, model):
    vision = model.config.vision_config
    for part in (processor.image_processor, processor.video_processor):
        assert (part.size["height"], part.size["width"]) == tuple(vision.image_size) == (IMAGE_SIZE, IMAGE_SIZE)
        assert (tuple(part.image_mean), tuple(part.image_std)) == (MEAN, STD)
    side = vision.image_size[0] // vision.patch_size[0] * model.config.downsample_ratio
    assert processor.image_seq_length == model.config.image_seq_length == TOKENS_PER_FRAME == side**2
    assert processor.image_token_id == model.config.image_token_id
    assert len(processor.tokenizer) == model.config.text_config.vocab_size


def test_a_clip_becomes_a_short_sequence_that_the_model_takes(processor, model):
    clip = np.zeros((8, 160, 160, 3), dtype=np.uint8)
    inputs = ask(processor, "Name the sign.", clip)
    assert (inputs.input_ids == processor.image_token_id).sum() == 8 * TOKENS_PER_FRAME
    assert inputs.input_ids.shape[1] <= 8 * (TOKENS_PER_FRAME + 4) + 16
    assert inputs.pixel_values.shape == (8, 3, IMAGE_SIZE, IMAGE_SIZE)
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_the_chat_template_says_what_that_of_the_2b_says(processor, shared):
    theirs = (shared / "internvl3_5_processor" / "chat_template.jinja").read_text()
    video, image = {"type": "video"}, {"type": "image"}
    text = {"type": "text", "text": "Which <b>sign</b>?\n\n Say so. "}
    conversations = [
        [{"role": "user", "content": [video, text]}],
        [{"role": "user", "content": "plain\n"}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [image, text, video]},
            {"role": "assistant", "content": [text]},
            {"role": "user", "content": [text, text]},
        ],
    ]
    for conversation in conversations:
        for prompt in (True, False):
            ours = processor.apply_chat_template(conversation, add_generation_prompt=prompt)
            assert ours == processor.apply_chat_template(
                conversation, chat_template=theirs, add_generation_prompt=prompt
            )


@pytest.mark.parametrize(
    "text",
    ["hello", "thank you", "Straße", "手話", "I'm", "  two  spaces\n\n", "naïve café", "👋🏽", "all-right!", "x" * 50],
)
def test_anything_can_be_spelled(processor, text):
    ids = processor.tokenizer(text, add_special_tokens=False).input_ids
    assert processor.tokenizer.decode(ids) == text
    assert processor.tokenizer.unk_token_id not in ids


def test_a_gloss_is_its_syllables(processor):
    glosses = [*vocabulary(288), *names(Side.PRETRAINING, 3000)]
    for gloss in glosses:
        assert processor.tokenizer.tokenize(gloss) == [gloss[i : i + 2] for i in range(0, len(gloss), 2)]


def test_every_token_of_a_gloss_was_in_pretraining(processor):
    trained = {token for name in lexicon().values() for token in processor.tokenizer.tokenize(name)}
    assert {token for gloss in vocabulary(288) for token in processor.tokenizer.tokenize(gloss)} <= trained
    assert trained == set(SYLLABLES)


def test_the_tokenizer_is_the_one_that_its_code_builds(processor):
    built = build_tokenizer()
    assert built.get_vocab() == processor.tokenizer.get_vocab()
    assert built.backend_tokenizer.to_str() == processor.tokenizer.backend_tokenizer.to_str()


def test_pretraining_shares_nothing_with_data_sets():
    assert set(curriculum()) == set(signs(Side.PRETRAINING))
    assert not set(curriculum()) & set(vocabulary(288).values())
    assert not set(lexicon().values()) & set(vocabulary(288))
    assert set(lexicon()) <= set(curriculum())
    ours = {signer_seed(Side.DATA_SET, i) for i in range(1000)}
    drawn = [draw_clip(number, 1) for number in range(200)]
    assert not {clip.signer for clip in drawn} & ours
    assert {clip.sign.side for clip in drawn} == {Side.PRETRAINING}
    words = {word for sign in curriculum() for word in str(sign).split()}
    assert not words & set(vocabulary(288))


def test_a_clip_is_the_same_each_time_and_has_its_labels():
    clip, again = draw_clip(7, 8), draw_clip(7, 8)
    np.testing.assert_array_equal(clip.pictures, again.pictures)
    assert clip.pictures.shape == (8, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert clip.pictures.dtype == np.uint8
    assert clip.palms.shape == (8, 2, 2)
    assert MOVEMENTS[attributes(clip.sign)[2]] == clip.sign.movement


@pytest.mark.e2e
def test_batches_of_other_processes_are_the_clips_in_order():
    drawn = list(draw_batches(5, 5, frames=1, workers=1, size=2))
    assert [len(batch) for batch in drawn] == [2, 2, 1]
    for number, clip in enumerate((clip for batch in drawn for clip in batch), start=5):
        np.testing.assert_array_equal(clip.pictures, draw_clip(number, 1).pictures)


def test_cells_hold_the_palms_that_are_in_the_picture():
    clips = [draw_clip(number, 4) for number in range(30)]
    labels = cell_labels(clips)
    palms = np.concatenate([clip.palms for clip in clips])
    for frame in range(len(palms)):
        wanted = {(int(y * CELLS), int(x * CELLS)) for x, y in palms[frame].tolist() if 0 <= x < 1 and 0 <= y < 1}
        assert {divmod(int(cell), CELLS) for cell in labels.palm[frame].nonzero()} == wanted


def test_a_token_sees_its_own_cell(model):
    """Raster order, on which the dense target relies: pixel shuffle gathers the four patches of one cell."""
    shuffled = torch.arange(64).reshape(1, 8, 8, 1).expand(-1, -1, -1, 96).float()
    cells = model.model.pixel_shuffle(shuffled, scale_factor=0.5).reshape(TOKENS_PER_FRAME, -1)
    for cell, patches in enumerate(cells):
        rows, columns = patches.unique().long() // 8, patches.unique().long() % 8
        assert set((rows // 2 * CELLS + columns // 2).tolist()) == {cell}


def test_pretraining_asks_as_the_processor_does(processor):
    """Token ids of our own writing equal those of the processor for the same clip and question."""
    for question in (*NAME, *DESCRIBE, MOVE):
        texts = [user_turn(3), f"{question}<|im_end|>\n<|im_start|>assistant\n"]
        ours = [token for part in processor.tokenizer(texts, add_special_tokens=False).input_ids for token in part]
        theirs = ask(processor, question, np.zeros((3, 96, 96, 3), dtype=np.uint8)).input_ids[0].tolist()
        assert ours == theirs


def test_conversations_mark_answers_and_names(processor):
    drawn = curriculum()[:40]
    ids, kind = write(processor.tokenizer, drawn, 8, np.random.default_rng(0))
    for sign, row, marks in zip(drawn, ids, kind, strict=True):
        answers = processor.tokenizer.decode(row[marks >= ANSWER]).removesuffix("<|im_end|>").split("<|im_end|>")
        name = lexicon().get(sign)
        assert set(answers) == {str(sign), sign.movement} | ({name} if name else set())
        assert processor.tokenizer.decode(row[marks == NAMED]) == (f"{name}<|im_end|>" if name else "")
        before = ((marks[1:] >= ANSWER) & (marks[:-1] < ANSWER)).nonzero()[:, 0].tolist()
        assert len(before) == len(answers)
        for place in before:
            assert processor.tokenizer.decode(row[: place + 1]).endswith("<|im_start|>assistant\n")


def test_our_way_through_the_model_is_transformers_own(processor, model):
    """Features and hidden states of pretraining against the model's own forward on pixels."""
    clip = draw_clip(3, 4)
    inputs = ask(processor, NAME[0], clip.pictures.transpose(0, 2, 3, 1))
    with torch.no_grad():
        features = project(model, [clip]).unsqueeze(0).flatten(1, 2)
        states = hidden_states(model, features, inputs.input_ids)
        torch.testing.assert_close(model.lm_head(states[-1]), model(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_the_checkpoint_folder_is_packaged():
    assert (Path(__file__).parents[2] / "slr" / "models" / "tiny" / "checkpoint").samefile(CHECKPOINT)
