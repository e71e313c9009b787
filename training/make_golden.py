"""Golden fixtures: what a runtime must compute, in f32, on tiny random models.

    python make_golden.py            # writes ../runtime/tests/fixtures/memory_* and */adapter.*

Memory is every token of ``memory_tokens``, read from a fresh state with the window and without recall.
The prompt is a fresh session (no local state, positions from 0) that sees all memory tokens in every
memory layer. The weights are large and every scalar is random, so that an omission shows.

Adapters are for the fixtures of pretrained families, with memory in their last layer: ``logits[t]`` are those after
token t of one text, when every token out of the window is memory.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from mnemon_training import adapt
from mnemon_training.export import export_weights
from mnemon_training.model import MemoryModel, ModelConfig

FIXTURES = Path(__file__).resolve().parent.parent / "runtime" / "tests" / "fixtures"


def random_model(config: ModelConfig, seed: int) -> MemoryModel:
    generator = torch.Generator().manual_seed(seed)
    model = MemoryModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 2:
                weight.copy_(noise * (1.0 if "embed" in name else 1.5 * weight.shape[1] ** -0.5))
            elif "norm" in name:
                weight.copy_(1.0 + 0.2 * noise)
            elif "memory_scale" in name:
                weight.copy_(config.head_dim**-0.5 * (1.2 + 0.3 * noise))
            else:  # key_shift, memory_bias, memory_gate
                weight.copy_(0.5 * noise)
    return model.eval()


def write(name: str, config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    memory_tokens = torch.randint(config.vocab_size, (1, 40), generator=generator)
    prompt_tokens = torch.randint(config.vocab_size, (1, 21), generator=generator)
    with torch.no_grad():
        memory = model.read(memory_tokens)
        without = model(prompt_tokens)[0]
        beside = model(prompt_tokens, memory=memory)[0]
    out = FIXTURES / name
    export_weights(model, out, torch.float32, None)
    (out / "golden.json").write_text(json.dumps({
        "memory_tokens": memory_tokens[0].tolist(),
        "prompt_tokens": prompt_tokens[0].tolist(),
        "logits_without_memory": [[round(x, 7) for x in row] for row in without.tolist()],
        "logits_with_memory": [[round(x, 7) for x in row] for row in beside.tolist()],
    }) + "\n")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{name}: {size / 1e3:.0f} kB, memory changes logits by up to {(beside - without).abs().max():.3f}")


def write_adapter(name: str, fusion: str, lora_rank: int, seed: int, window: int = 8) -> None:
    folder = FIXTURES / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layers = [model.config.num_hidden_layers - 1]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapt.add_memory(model, layers, window, fusion, lora_rank):
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        attention = model.model.layers[-1].self_attn
        (attention.memory_gate if fusion == "gate" else attention.memory_bias).add_(4.0)
        tokens = torch.randint(model.config.vocab_size, (1, 30), generator=generator)
        with_memory = model(tokens).logits[0]
        adapt.recalling(model, False)
        without = model(tokens).logits[0]
    adapt.write(model, layers, window, fusion, folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps({
        "tokens": tokens[0].tolist(), "logits": [[round(x, 7) for x in row] for row in with_memory.tolist()]}) + "\n")
    print(f"{name}: memory changes logits by up to {(with_memory - without).abs().max():.3f}")


def main() -> None:
    shared = dict(vocab_size=64, hidden_size=32, intermediate_size=48, layers=3, heads=4, kv_heads=2,
                  head_dim=8, window=16)
    write("memory_joint", ModelConfig(**shared, memory_layers=[1, 2], fusion="joint"), seed=11)
    write("memory_gate", ModelConfig(**shared, memory_layers=[1], fusion="gate"), seed=12)
    write("memory_sinusoidal", ModelConfig(**shared, memory_layers=[1], fusion="joint", positions="sinusoidal"), seed=13)
    write("memory_alibi", ModelConfig(**shared, memory_layers=[2], fusion="gate", positions="alibi"), seed=14)
    write_adapter("llama", "joint", lora_rank=2, seed=21)
    write_adapter("mistral", "gate", lora_rank=0, seed=22)
    write_adapter("qwen2", "gate", lora_rank=3, seed=23)
    write_adapter("qwen3", "joint", lora_rank=2, seed=24)


if __name__ == "__main__":
    main()
