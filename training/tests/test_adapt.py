"""Adapters for pretrained models, on tiny random ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from mnemon_training import tokenizer as bpe
from mnemon_training.adapt import PROJECTIONS, add_memory, recalling

ROOT = Path(__file__).resolve().parents[1]
SHAPE = dict(vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=512, tie_word_embeddings=True)
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def tiny(family):
    torch.manual_seed(5)
    config, model = FAMILIES[family]
    return model(config(**SHAPE)).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_without_recall_and_a_wide_window_nothing_changes(family):
    model, ids = tiny(family), torch.randint(400, (2, 40))
    with torch.no_grad():
        before = model(ids).logits
        add_memory(model, [1], window=64, fusion="joint")
        recalling(model, False)
        assert (model(ids).logits - before).abs().max() < 1e-4
        recalling(model, True)  # nothing is out of the window
        assert (model(ids).logits - before).abs().max() < 1e-4


@pytest.mark.parametrize("fusion,rank", (("joint", 0), ("gate", 0), ("joint", 2)))
def test_an_adapter_is_trained_and_written(tmp_path, fusion, rank):
    folder, text, out = tmp_path / "model", tmp_path / "text", tmp_path / "adapter.safetensors"
    text.mkdir()
    (text / "a.txt").write_text("The harbour was quiet. Nobody had seen the old ferry since Monday evening. " * 200)
    tiny("llama").save_pretrained(folder)
    tokenizer = bpe.train(iter([(text / "a.txt").read_text()]), 400)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    done = subprocess.run(
        [sys.executable, "-m", "mnemon_training.adapt", "--model", folder, "--text", text, "--out", out, "--fusion", fusion,
         "--memory-layers", "1,2", "--window", "16", "--length", "96", "--steps", "50", "--lora-rank", str(rank)],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, last = (float(line.split("held out ")[1].split()[0]) for line in
                   (next(l for l in done.stdout.splitlines() if l.startswith("step 25")),
                    next(l for l in done.stdout.splitlines() if l.startswith("step 50"))))
    assert min(first, last) < float(done.stdout.split("untrained ")[1].split()[0])
    names = ["memory_scale", "memory_bias"] + (["memory_gate"] if fusion == "gate" else [])
    if rank:
        names += [f"{name}.lora_{side}" for name in PROJECTIONS for side in "AB"]
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["mnemon_adapter"])
        assert sorted(file.keys()) == sorted(f"model.layers.{n}.self_attn.{name}" for n in (1, 2) for name in names)
        assert file.get_tensor("model.layers.1.self_attn.memory_scale").shape == (4,)
        if rank:
            assert file.get_tensor("model.layers.2.self_attn.k_proj.lora_B").shape == (16, rank)
            assert file.get_tensor("model.layers.2.self_attn.k_proj.lora_B").abs().max() > 0
    assert (about["model_type"], about["memory_layers"], about["fusion"], about["window"]) == ("llama", [1, 2], fusion, 16)
