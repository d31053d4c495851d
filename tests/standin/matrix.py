"""Every hardware x lora x objective x quantization: a tiny step, or the line that refuses it; as JSON, one a line."""

import itertools
import json

from slr import factory
from slr.config import compose, jobs
from slr.core.errors import UserError
from slr.models import lora
from slr.models.processor import load_inputs
from slr.training import assemble, start
from slr.training.preflight import steps

GROUPS = {
    "hardware": ["auto", "cpu", "cuda", "directml", "mps"],
    "lora": ["language", "full", "none"],
    "objective": ["token", "closed_set"],
    "model.quantization": ["auto", "nf4", "none"],
}


def tried(words: list[str]) -> dict:
    """What a combination gives, read from the tensors after the step."""
    try:
        config = start.decide_hardware(jobs.configurations(["experiment=demo", *words])[0])
        machine = factory.machine(config)
        made = assemble.recognizer(config, assemble.TRIED, machine, load_inputs("tiny", None)).to(machine.device)
        found = steps(made, lora.adapter_state(made.network))
    except UserError as error:
        return {"refused": str(error)}
    parameters = list(made.network.parameters())
    return {
        "kind": machine.kind,
        "devices": sorted({one.device.type for one in parameters}),
        "frozen": sorted({str(one.dtype) for one in parameters if not one.requires_grad}),
        "learns": sum(one.numel() for one in parameters if one.requires_grad),
        "four_bit": sum(hasattr(one, "quant_state") for one in parameters),
        "said": machine.describe(),
        "numbers": {name: tensor.flatten()[:12].tolist() for name, tensor in found.items() if name != "gradients"},
    }


compose.register()
for values in itertools.product(*GROUPS.values()):
    words = [f"{group}={value}" for group, value in zip(GROUPS, values, strict=True)]
    print(json.dumps({"words": values, **tried(words)}), flush=True)
