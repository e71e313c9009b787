"""A Hugging Face folder from a checkpoint.

    python -m mnemon_training.export --checkpoint runs/default/last.pt --tokenizer FILE --out ../models/default

With ``--dtype int8`` a matrix is stored as bytes ``[rows, columns]`` beside ``NAME.scale`` ``[rows]``, float32,
and stands for ``(byte - 128) * scale[row]``; everything else is float16.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .model import MemoryModel, ModelConfig
from .tokenizer import END_OF_TEXT

CHUNK_TOKENS = 64
RECALL_TOP_K = 16


def hugging_face_config(config: ModelConfig, dtype: str, end_of_text: int | None) -> dict:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_types": ["sliding_attention"] * config.layers,
        "max_position_embeddings": config.max_position_embeddings,
        "max_window_layers": 0,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.rms_eps,
        "rope_scaling": None,
        "rope_theta": config.rope_theta,
        "sliding_window": config.window,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_sliding_window": True,
        "vocab_size": config.vocab_size,
        "mnemon": {
            "memory_layers": config.memory_layers,
            "fusion": config.fusion,
            "position": config.positions,
            "key_shift": True,
            "window": config.window,
            "sinks": 0,
            "chunk_tokens": CHUNK_TOKENS,
            "entry_policy": "per_token",
            "recall_top_k": RECALL_TOP_K,
        },
    }


def quantised(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices in 8 bits with a scale for each row, rounded to the nearest; the rest in float16."""
    made = {}
    for name, weight in tensors.items():
        if weight.dim() != 2:
            made[name] = weight.half()
            continue
        scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
        made[name] = ((weight.float() / scale[:, None]).round() + 128).to(torch.uint8)
        made[f"{name}.scale"] = scale
    return made


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of an exported folder, float32."""
    stored = load_file(folder / "model.safetensors")
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(".scale")}
    return {name: (weight.float() - 128) * scales[f"{name}.scale"][:, None] if weight.dtype == torch.uint8 else weight.float()
            for name, weight in stored.items()}


def load_export(folder: Path) -> MemoryModel:
    """A model from its exported folder."""
    config = json.loads((folder / "config.json").read_text())
    memory = config["mnemon"]
    model = MemoryModel(ModelConfig(
        vocab_size=config["vocab_size"], hidden_size=config["hidden_size"], intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"], heads=config["num_attention_heads"], kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"], window=memory["window"], rope_theta=config["rope_theta"],
        rms_eps=config["rms_norm_eps"], memory_layers=memory["memory_layers"], fusion=memory["fusion"],
        positions=memory.get("position", "rotary"), max_position_embeddings=config["max_position_embeddings"]))
    model.load_state_dict(load_weights(folder))
    return model.eval()


def export_weights(model: MemoryModel, out: Path, dtype: torch.dtype, end_of_text: int | None) -> None:
    """Writes ``config.json`` and ``model.safetensors``; the tied output matrix is not repeated."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().contiguous() for name, weight in model.state_dict().items()}
    eight_bits = dtype == torch.int8
    tensors = quantised(tensors) if eight_bits else {name: weight.to(dtype) for name, weight in tensors.items()}
    for name, weight in tensors.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{name} does not fit into {dtype}")
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    config = hugging_face_config(model.config, "float16" if eight_bits else str(dtype).removeprefix("torch."), end_of_text)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_checkpoint(path: Path) -> MemoryModel:
    """The averaged weights of a checkpoint, where it has them; else the weights of its last step."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = MemoryModel(ModelConfig(**saved["config"]))
    model.load_state_dict(saved.get("average") or saved["model"])
    return model.eval()


def export_folder(model: MemoryModel, tokenizer: Path, out: Path, dtype: torch.dtype) -> None:
    """Everything that the Hugging Face layout asks for."""
    end_of_text = 0  # the first special token of the tokenizer's trainer
    export_weights(model, out, dtype, end_of_text)
    if tokenizer.resolve() != (out / "tokenizer.json").resolve():
        shutil.copyfile(tokenizer, out / "tokenizer.json")
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT,
        "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.max_position_embeddings,
    }, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps({
        "bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text,
        "do_sample": False,
    }, indent=2) + "\n")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {size / 1e6:.1f} MB -> {out}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", choices=("float16", "float32", "int8"), default="float16")
    args = parser.parse_args()
    export_folder(load_checkpoint(args.checkpoint), args.tokenizer, args.out, getattr(torch, args.dtype))


if __name__ == "__main__":
    main()
