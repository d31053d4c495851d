"""The ladder's words, and what its rungs stand on."""

import pytest
import torch
from entry import refused

from slr.config import compose, jobs, schema
from slr.core.errors import UserError
from slr.core.files import write_json
from slr.core.run_folder import RunFolder
from slr.evaluation.baselines import refuse_mixed

SMALL = ("experiment=demo", "dataset.signs=4", "dataset.signers=8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rungs=lora,zero"], "rungs=zero: expected some of chance, majority"),
        (["frames=4,8"], "expected words of one run, found those of 2"),
    ],
)
def test_mistakes_cost_one_line(words, said):
    assert said in refused("-m", "slr.ladder", *SMALL, *words)


def test_all_language_weights_learn_and_nothing_else():
    from slr.models import internvl, lora

    model = internvl.load_vlm("tiny", None, "pretrained", "none", torch.bfloat16, "cpu", 0)
    trained = lora.add_lora(model, "full", 1, 1, 0.0, [])
    assert trained is model
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("language_model.layers." in name), name
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
    state = lora.adapter_state(model)
    lora.load_adapter_state(model, {name: tensor + 1 for name, tensor in state.items()})
    assert all(torch.equal(tensor, state[name] + 1) for name, tensor in lora.adapter_state(model).items())


def test_rungs_of_two_versions_of_the_model_are_refused(tmp_path):
    compose.register()
    folders = {name: RunFolder(tmp_path / name) for name in ("zero_shot", "lora")}
    for commit, folder in zip("ab", folders.values(), strict=True):
        config = jobs.configurations(["experiment=demo"])[0]
        config.model.commit = commit * 40
        write_json(folder.config, schema.to_plain(config))
        write_json(folder.result, {"status": "done"})
    with pytest.raises(UserError, match=r"of one version.*zero_shot with a.*lora with b.*model\.revision"):
        refuse_mixed(folders)
    refuse_mixed({"zero_shot": folders["zero_shot"]})
