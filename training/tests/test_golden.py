"""The exported default model gives the logits that the Rust runtime computed (runtime/tests/it/memory.rs)."""

import json
from pathlib import Path

import torch

from mnemon_training.export import load_export

HERE = Path(__file__).resolve().parent


def test_logits_equal_those_of_the_runtime():
    golden = json.loads((HERE / "golden_runtime.json").read_text())
    model = load_export(HERE.parents[1] / "models" / "default")
    prompt = torch.tensor([golden["prompt_tokens"]])
    with torch.no_grad():
        memory = model.read(torch.tensor([golden["memory_tokens"]]))
        logits = {"logits_without_memory": model(prompt), "logits_with_memory": model(prompt, memory=memory)}
    for name, computed in logits.items():
        error = (computed[0, :, ::golden["vocabulary_step"]] - torch.tensor(golden[name])).abs().max().item()
        assert error < 1e-3, f"{name}: {error}"
