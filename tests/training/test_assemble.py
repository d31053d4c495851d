"""The parts of a training, made from a configuration."""

import torch
from entry import SMALL

from slr import factory
from slr.commands import validate
from slr.config import compose, jobs
from slr.data import video
from slr.data.split import PARTS
from slr.training import assemble
from slr.training.start import decide_hardware, divide, vocabulary_of


def test_training_reads_features_from_the_cache_and_opens_no_clip(workplace, monkeypatch):
    compose.register()
    [config] = jobs.configurations([*SMALL, "frames=2", "hardware=cpu", "cache=features"])
    config.data = str(workplace / "data")
    validate.check(config, here=False)
    config = decide_hardware(config)
    clips, machine, inputs = factory.clips(config), factory.machine(config), factory.inputs(config)
    parts = {part: divide(clips, config).select(clips, part)[:2] for part in PARTS}
    vocabulary = vocabulary_of(config, clips)
    data = factory.data(config, factory.prepared(config), parts, vocabulary, machine, inputs)
    module = assemble.recognizer(config, vocabulary, machine, inputs)
    before = data.training_set()[0, 0]
    assemble.fill_cache(config, machine, module, data)

    def refuse(*words):
        raise AssertionError("expected no clip to be read")

    monkeypatch.setattr(video, "read", refuse)
    after = data.training_set()[0, 0]
    assert (after.clip, after.gloss, after.prompt) == (before.clip, before.gloss, before.prompt)
    assert after.frames is None
    module.eval()
    with torch.no_grad():
        own = module.encode(before.frames[None])[0].float()
    assert torch.allclose(after.features.float(), own, rtol=1e-2, atol=1e-2)
