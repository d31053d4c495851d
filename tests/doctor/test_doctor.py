"""What the doctor's checks find here, each in the test's own process; what it counts agrees with transformers."""

import json
import os

import pytest
import torch
from entry import refused
from examined import asked
from huggingface_hub import constants

from slr.core import units
from slr.doctor import isolation
from slr.doctor.finding import DoctorArgs
from slr.doctor.machine import CARDS
from slr.doctor.models import INTERNVL3_5_2B, TOKENS, TOKENS_OF_A_FRAME, WEIGHTS_2B, estimate, numbers, of_option, sizes


def result(name: str, args: DoctorArgs) -> tuple[str, str, str]:
    """What one check says, in this process."""
    finding = isolation.CHECKS[name].run(args)
    return finding.state, finding.found, finding.remedy


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Checks that run in children of their own change their environment."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.filterwarnings("ignore")  # as the children of the doctor do
@pytest.mark.parametrize("name", isolation.CHECKS)
def test_a_check_finds_no_fault_here_or_says_what_to_do(name, tmp_path):
    finding = isolation.CHECKS[name].run(asked(tmp_path))
    assert finding is None or (finding.check == name and finding.state != "fault")
    assert finding is None or finding.state == "ok" or finding.remedy


@pytest.mark.filterwarnings("ignore")
def test_faults_are_found_among_all_checks(tmp_path, monkeypatch):
    def in_this_process(names, wanted):
        findings = [isolation.CHECKS[name].run(wanted) for name in names]
        return [json.dumps(vars(one) if one else None) for one in findings], "ended with 0"

    monkeypatch.setattr(isolation, "run_child", in_this_process)
    found = isolation.examine(asked(tmp_path, model="/no/such/folder", typed=("model",)))
    assert {one.check for one in found if one.state == "fault"} == {"model"}
    assert {one.check for one in found} >= {"torch", "PyAV", "decord", "disk", "hub"}


@pytest.mark.parametrize("words", [["frame=8"], ["frames=0"], ["cuda"], ["hardware=gpu"], ["hardware.memory=much"]])
def test_wrong_use_costs_a_line_and_2(words):
    assert refused("-m", "slr.doctor", *words)


def test_the_2b_is_counted_as_transformers_builds_it():
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.qwen3 import Qwen3Config

    text = Qwen3Config(**INTERNVL3_5_2B["text_config"])
    vision = INTERNVL3_5_2B["vision_config"]
    config = InternVLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    with torch.device("meta"):
        model = InternVLForConditionalGeneration._from_config(config)
    language = model.model.language_model.layers
    matrices = sum(layer.weight.numel() for layer in language.modules() if isinstance(layer, torch.nn.Linear))
    total = sum(parameter.numel() for parameter in model.parameters())
    assert numbers(INTERNVL3_5_2B)[0] == matrices
    assert sum(numbers(INTERNVL3_5_2B)) == pytest.approx(total, rel=1e-3)
    assert pytest.approx(2 * total, rel=0.01) == WEIGHTS_2B


def test_the_2b_is_what_its_own_configuration_says(shared):
    """Prompts of several lengths included, and the packaged numbers too."""
    from slr.models.processor import load_inputs

    folder = shared / "internvl3_5_processor"
    theirs = json.loads((folder / "config.json").read_text())
    assert sizes(theirs) == sizes(INTERNVL3_5_2B)
    assert numbers(theirs) == numbers(INTERNVL3_5_2B)
    inputs = load_inputs(str(folder), None)
    prompt = "You are an expert in American Sign Language. The frames show one person performing one sign, in order of "
    prompt += "time. Which sign is it? Answer with exactly one word, its gloss."
    for frames in (1, 8, 16):
        counted = TOKENS + frames * (sizes(theirs)[1] + TOKENS_OF_A_FRAME)
        assert 0 <= counted - len(inputs.prompt_ids(prompt, frames)) <= 20


def test_the_estimate_asks_less_of_four_bits_and_refuses_what_cannot_fit(tmp_path):
    on_card = estimate(INTERNVL3_5_2B, "cuda", 24 * units.GB, 8, 16)
    in_full = estimate(INTERNVL3_5_2B, "mps", 64 * units.GB, 8, 16)
    weights = [next(iter(plan.parts.values())) for plan in (on_card, in_full)]
    assert weights[0] < weights[1] / 3
    state, said, advice = result("memory", asked(tmp_path, frames=10**6, typed=("frames",)))
    assert (state, "one clip of 1000000 frames needs" in said, "frames=500000" in advice) == ("fault", True, True)
    assert of_option("tiny") == ("tiny", None)


def test_a_place_that_cannot_be_written_is_a_fault(tmp_path):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("needs a user who may not write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    state, said, advice = result("disk", asked(tmp_path, outputs=str(tmp_path / "locked" / "runs")))
    assert (state, "cannot be written, for outputs" in said, "outputs=…" in advice) == ("fault", True, True)


@pytest.mark.parametrize("memory", ["8GB", "24GB"])
def test_a_card_that_is_not_here_is_estimated_from_its_memory(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args = asked(tmp_path, model="no/model", hardware="cuda", hardware__memory=memory, typed=("hardware",))
    plan = estimate(INTERNVL3_5_2B, "cuda", units.parse_bytes(memory), 8, 16)
    state, said, _ = result("memory", args)
    assert state == "ok"
    assert f"on cuda: {units.format_bytes(plan.peak)} estimated with micro-batch {plan.micro_batch}, " in said
    assert said.endswith(f"{units.format_bytes(plan.budget)} given")
    assert plan.peak <= 0.9 * plan.budget


def test_cards_are_listed_by_the_micro_batch_that_fits(tmp_path):
    state, said, _ = result("cards", asked(tmp_path, model="no/model", frames=16))
    assert state == "ok"
    words = said.partition("micro-batch ")[2].split(", ")
    assert [word.partition(" on ")[2] for word in words] == [f"{size} GB" for size in CARDS]
    fitting = [word.partition(" on ")[0] for word in words]
    assert fitting == sorted(fitting, key=lambda micro: -1 if micro == "none" else int(micro))
    assert fitting[-1] == "16"
    said = result("cards", asked(tmp_path, model="no/model", frames=10**6))[1]
    assert said.count("none on ") == len(CARDS)
