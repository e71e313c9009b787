"""Gives memory to a pretrained model: trains the memory parameters alone, and writes them as an adapter.

    python -m mnemon_training.adapt --model DIR --text DIR --out adapter.safetensors [--memory-layers 8,12] [--lora-rank 8]

``DIR`` is a Llama, Mistral, Qwen2 or Qwen3 model in the Hugging Face layout, ``--text`` a folder of ``.txt`` files. The
model's own weights stay as they are; with ``--lora-rank`` a low-rank product is added to the four projections of the
memory layers (Hu et al. 2021), which the server merges when it loads them. ``mnemon serve --model DIR --memory-adapter adapter.safetensors`` uses the result.

Every layer attends, as when it is served, to the last ``window`` tokens, with rotary positions. A memory layer also sees
the tokens before them, by their keys without positions: ``memory_scale_h * (q . k) + memory_bias_h``, in the same softmax
(``joint``), or in one of its own, mixed by ``sigmoid(memory_gate_h)`` (``gate``).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from .model import rotate

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


class LowRank(nn.Module):
    """A frozen projection plus ``lora_B @ lora_A``, which is zero at first."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * base.in_features**-0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


class Windowed(nn.Module):
    """Stands in for a pretrained attention module; the pretrained projections are its own, frozen."""

    def __init__(self, base: nn.Module, config, window: int, fusion: str | None):
        super().__init__()
        self.base, self.window, self.fusion = base, window, fusion
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size, self.recalling = base.head_dim, True
        if fusion is not None:
            self.memory_scale = nn.Parameter(torch.full((self.heads,), self.size**-0.5))
            self.memory_bias = nn.Parameter(torch.full((self.heads,), -4.0))
            if fusion == "gate":
                self.memory_gate = nn.Parameter(torch.full((self.heads,), -4.0))

    def forward(self, hidden_states: Tensor, position_embeddings, **_):
        base, (lanes, tokens, _) = self.base, hidden_states.shape

        def split(x: Tensor, heads: int, norm=None) -> Tensor:
            x = x.view(lanes, tokens, heads, self.size)
            return (x if norm is None else norm(x)).transpose(1, 2)

        repeat = self.heads // self.kv_heads
        query = split(base.q_proj(hidden_states), self.heads, getattr(base, "q_norm", None))
        key = split(base.k_proj(hidden_states), self.kv_heads, getattr(base, "k_norm", None)).repeat_interleave(repeat, 1)
        value = split(base.v_proj(hidden_states), self.kv_heads).repeat_interleave(repeat, 1)
        cos, sin = (t.unsqueeze(1) for t in position_embeddings)
        at = torch.arange(tokens, device=hidden_states.device)
        distance = at[:, None] - at[None, :]
        local = rotate(query, cos, sin) @ rotate(key, cos, sin).transpose(-1, -2) * self.size**-0.5
        near = (distance >= 0) & (distance < self.window)
        local = local.masked_fill(~near, float("-inf"))
        if self.fusion is None or not self.recalling:
            mixed = local.softmax(-1) @ value
        else:
            far = distance >= self.window
            memory = query @ key.transpose(-1, -2) * self.memory_scale[:, None, None] + self.memory_bias[:, None, None]
            if self.fusion == "joint":
                mixed = torch.where(far, memory, local).softmax(-1) @ value
            else:
                some = far.any(-1)[:, None]
                recalled = torch.where(some, memory.masked_fill(~far & some, float("-inf")).softmax(-1), 0.0) @ value
                share = torch.sigmoid(self.memory_gate)[:, None, None] * some
                mixed = local.softmax(-1) @ value * (1 - share) + recalled * share
        return base.o_proj(mixed.transpose(1, 2).reshape(lanes, tokens, -1)), None


def add_memory(model: nn.Module, layers: list[int], window: int, fusion: str, lora_rank: int = 0) -> list[nn.Parameter]:
    """Replaces every attention module; returns the parameters to train."""
    config = model.config
    if config.model_type not in FAMILIES:
        raise SystemExit(f"a model of type {config.model_type!r} is not supported; {', '.join(FAMILIES)} are")
    if not layers or not all(0 <= layer < config.num_hidden_layers for layer in layers):
        raise SystemExit(f"--memory-layers {layers}: the model has layers 0 to {config.num_hidden_layers - 1}")
    model.requires_grad_(False)
    for index, block in enumerate(model.model.layers):
        if lora_rank and index in layers:
            for name in PROJECTIONS:
                setattr(block.self_attn, name, LowRank(getattr(block.self_attn, name), lora_rank))
        block.self_attn = Windowed(block.self_attn, config, window, fusion if index in layers else None)
    return [weight for weight in model.parameters() if weight.requires_grad]


def recalling(model: nn.Module, on: bool) -> None:
    for block in model.model.layers:
        block.self_attn.recalling = on


def loss_of(model: nn.Module, ids: Tensor, window: int) -> Tensor:
    """Mean loss of the tokens that have something out of their window to remember."""
    logits = model(ids[:, :-1]).logits
    return F.cross_entropy(logits[:, window:].flatten(0, 1).float(), ids[:, 1 + window:].flatten())


def write(model: nn.Module, layers: list[int], window: int, fusion: str, out: Path) -> None:
    config = model.config
    tensors = {}
    for layer in layers:
        attention = model.model.layers[layer].self_attn
        for name in ("memory_scale", "memory_bias", "memory_gate"):
            if hasattr(attention, name):
                tensors[f"model.layers.{layer}.self_attn.{name}"] = getattr(attention, name)
        for name in PROJECTIONS:
            if isinstance(projection := getattr(attention.base, name), LowRank):
                tensors[f"model.layers.{layer}.self_attn.{name}.lora_A"] = projection.lora_A
                tensors[f"model.layers.{layer}.self_attn.{name}.lora_B"] = projection.lora_B
    tensors = {name: weight.detach().float().contiguous() for name, weight in tensors.items()}
    about = {"version": 1, "model_type": config.model_type, "hidden_size": config.hidden_size,
             "layers": config.num_hidden_layers, "heads": config.num_attention_heads,
             "kv_heads": config.num_key_value_heads, "head_dim": model.model.layers[0].self_attn.size,
             "memory_layers": layers, "fusion": fusion, "window": window}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, metadata={"mnemon_adapter": json.dumps(about)})
    out.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--memory-layers", help="numbers from 0; default: the upper middle third, as the server's")
    parser.add_argument("--fusion", choices=("joint", "gate"), default="joint")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a piece of text; a part of what is before the "
                        "window of its end is its memory")
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=0.02, help="of scale, bias and gate")
    parser.add_argument("--lora-rank", type=int, default=0, help="0: the projections stay as they are")
    parser.add_argument("--lora-lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(args.model, local_files_only=True, dtype=torch.float32).to(args.device)
    depth = model.config.num_hidden_layers
    layers = ([int(n) for n in args.memory_layers.split(",")] if args.memory_layers
              else list(range(depth // 2, min(depth, depth // 2 + max(1, depth // 3)))))
    trained = add_memory(model, layers, args.window, args.fusion, args.lora_rank)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(args.text.glob("*.txt"))]
    pieces = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    pieces = [ids for ids in pieces if len(ids) > 3 * args.length]
    if not pieces:
        raise SystemExit(f"{args.text}: no .txt file of more than {3 * args.length} tokens")
    # The last tenth of every text is kept for measuring.
    held_out = torch.stack([ids[-args.length - 1:] for ids in pieces[:8]]).to(args.device)
    pieces = [ids[:-max(args.length + 1, len(ids) // 10)] for ids in pieces]

    def measure() -> float:
        with torch.no_grad():
            return sum(loss_of(model, one[None], args.window).item() for one in held_out) / len(held_out)

    recalling(model, False)
    without = measure()
    recalling(model, True)
    print(f"{sum(p.numel() for p in trained)} parameters in layers {layers}; loss without memory {without:.4f}, "
          f"with it, untrained {measure():.4f}", flush=True)
    best = float("inf")
    groups = [{"params": [w for w in trained if w.dim() == 1], "lr": args.lr},
              {"params": [w for w in trained if w.dim() == 2], "lr": args.lora_lr}]
    tuned = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    for step in range(1, args.steps + 1):
        batch = []
        for _ in range(args.lanes):
            ids = rng.choice(pieces)
            start = rng.randrange(len(ids) - args.length)
            batch.append(ids[start:start + args.length + 1])
        loss = loss_of(model, torch.stack(batch).to(args.device), args.window)
        loss.backward()
        tuned.step()
        tuned.zero_grad(set_to_none=True)
        if step % 25 == 0 or step == args.steps:
            held = measure()
            print(f"step {step}: loss {loss.item():.4f}, held out {held:.4f}", flush=True)
            if held < best:
                best = held
                write(model, layers, args.window, args.fusion, args.out)
    print(f"held out {without:.4f} without memory, {best:.4f} with it -> {args.out}")
    if best >= without:
        print("warning: this adapter does not help on the held-out text; do not serve it, train longer or on other text")


if __name__ == "__main__":
    main()
