"""A Qwen3 decoder with a key shift in every layer and memory in some.

Shapes: ``B`` lanes, ``T`` tokens, ``M`` memory tokens, ``H`` query heads, ``G`` key heads, ``D`` head size.

What differs from Qwen3, and nothing else does:

* key shift: the raw key of token t becomes ``(1 - s) k_t + s k_{t-1}`` with ``s = sigmoid(key_shift)``,
  one parameter per key head; the predecessor of a session's first token is zero. Normed and, for
  local attention only, rotated afterwards.
* local attention sees the last ``window`` tokens of the same session, itself included.
* ``positions``: ``rotary``; ``sinusoidal``, a scaled table added to the embeddings (Vaswani et al. 2017, section
  3.5); ``alibi``, a slope for each head times the distance taken from local logits (Press et al. 2022, section 3).
* a memory layer also sees memory tokens, whose keys carry no rotation and no distance:
  ``memory_scale_h * (q . k) + memory_bias_h``. Fusion ``joint`` puts these beside the local logits in
  one softmax; ``gate`` mixes two softmaxes by ``sigmoid(memory_gate_h)``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attend import attend

MASKED = -1e9
POSITIONS = ("rotary", "sinusoidal", "alibi")


@dataclass
class ModelConfig:
    vocab_size: int = 3072
    hidden_size: int = 192
    intermediate_size: int = 512
    layers: int = 4
    heads: int = 4
    kv_heads: int = 1
    head_dim: int = 64
    window: int = 128
    rope_theta: float = 10000.0
    rms_eps: float = 1e-6
    memory_layers: list[int] = field(default_factory=lambda: [2])
    fusion: str = "joint"
    positions: str = "rotary"
    max_position_embeddings: int = 32768

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass
class Memory:
    """What the memory layers may see beside the local window.

    Either ``keys``/``values`` hold one ``[B or 1, G, M, D]`` tensor per memory layer (serving), or they
    are ``None`` and the layer's own keys serve as memory (training): ``lanes[b]`` lists the lanes
    whose tokens lane ``b`` sees, so that ``M = len(lanes[b]) * T``. ``bias`` is added to the memory
    logits, ``MASKED`` where a token must not be seen: ``[B or 1, T, M]``.
    """

    bias: Tensor | None
    keys: list[Tensor] | None = None
    values: list[Tensor] | None = None
    lanes: Tensor | None = None
    recall: "Recall | None" = None


@dataclass
class Recall:
    """Serving's choice of memory: per token, the ``top_k`` chunks holding the largest logits of any head."""

    top_k: int
    chunk_tokens: int
    # One entry per memory layer: attention mass ``[B, T, chunks]``, averaged over heads.
    mass: list[Tensor] = field(default_factory=list)

    def bias(self, logits: Tensor) -> Tensor:
        """``[B, T, M]``: zero in recalled chunks, ``MASKED`` elsewhere; ``logits`` are ``[B, H, T, M]``."""
        best = logits.amax(dim=1)
        tokens = best.shape[-1]
        chunks = F.pad(best, (0, -tokens % self.chunk_tokens), value=MASKED).unflatten(-1, (-1, self.chunk_tokens))
        best = chunks.amax(dim=-1)
        chosen = best.topk(min(self.top_k, best.shape[-1]), dim=-1).indices
        bias = torch.full_like(best, MASKED).scatter_(-1, chosen, 0.0)
        return bias.repeat_interleave(self.chunk_tokens, dim=-1)[..., :tokens]

    def note(self, logits: Tensor, far: Tensor, share: Tensor) -> None:
        weights = (logits - far[..., None]).exp() * share[..., None]
        weights = F.pad(weights.mean(dim=1), (0, -weights.shape[-1] % self.chunk_tokens))
        self.mass.append(weights.unflatten(-1, (-1, self.chunk_tokens)).sum(dim=-1))


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rope_tables(positions: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[positions, head_dim]`` of the rotate-half convention."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * inverse[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """``[..., width]``: sines in even columns, cosines in odd ones, of ``positions`` ``[...]``."""
    inverse = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width)
    angles = positions[..., None].double() * inverse
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :width].float()


def alibi_slopes(heads: int) -> Tensor:
    """``[heads]``: ``2 ** (-8 h / heads)`` for a power of two; else every other slope of twice as many fills up."""
    whole = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (head + 1) / whole) for head in range(whole)]
    slopes += [2 ** (-8 * (2 * head + 1) / (2 * whole)) for head in range(heads - whole)]
    return torch.tensor(slopes)


def local_bias(session: Tensor, window: int, slopes: Tensor | None = None) -> Tensor:
    """Added to the logits of blocked local attention: ``[B, 1, T / window, window, 2 * window]``, or ``H`` for 1 with slopes.

    ``session`` is ``[B, T]`` with ``T`` a multiple of ``window``; block ``n`` of queries sees the keys
    of blocks ``n - 1`` and ``n``, so nothing within the window is out of reach.
    """
    lanes, tokens = session.shape
    blocks = tokens // window
    query = torch.arange(window, device=session.device)[:, None] + window
    key = torch.arange(2 * window, device=session.device)[None, :]
    distance = query - key
    near = (distance >= 0) & (distance < window)
    mine = session.view(lanes, blocks, window)
    before = torch.cat([torch.full_like(mine[:, :1], -1), mine[:, :-1]], dim=1)
    theirs = torch.cat([before, mine], dim=2)
    allowed = near & (mine[:, :, :, None] == theirs[:, :, None, :])
    bias = torch.zeros(allowed.shape, device=session.device).masked_fill_(~allowed, MASKED)[:, None]
    return bias if slopes is None else bias - slopes.to(session.device)[:, None, None, None] * distance


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config = config
        self.memory_index = config.memory_layers.index(layer) if layer in config.memory_layers else None
        width, size = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(width, config.heads * size, bias=False)
        self.k_proj = nn.Linear(width, config.kv_heads * size, bias=False)
        self.v_proj = nn.Linear(width, config.kv_heads * size, bias=False)
        self.o_proj = nn.Linear(config.heads * size, width, bias=False)
        self.q_norm = RmsNorm(size, config.rms_eps)
        self.k_norm = RmsNorm(size, config.rms_eps)
        self.key_shift = nn.Parameter(torch.zeros(config.kv_heads))
        if self.memory_index is not None:
            self.memory_scale = nn.Parameter(torch.full((config.heads,), size**-0.5))
            self.memory_bias = nn.Parameter(torch.zeros(config.heads))
            if config.fusion == "gate":
                self.memory_gate = nn.Parameter(torch.zeros(config.heads))

    @torch.no_grad()
    def begin_as_copier(self) -> None:
        """Starts a layer as an induction head: a token finds its like and copies what followed.

        Queries begin as keys, keys as mostly those of the predecessor, and the output undoes the
        value projection. From a random start the same circuit takes millions of tokens to form.
        """
        c, size = self.config, self.config.head_dim
        nn.init.orthogonal_(self.k_proj.weight, 0.3)
        nn.init.orthogonal_(self.v_proj.weight, 0.3)
        for head in range(c.heads):
            group = head * c.kv_heads // c.heads * size
            rows, noise = slice(head * size, (head + 1) * size), 0.005
            key, value = (p.weight[group:group + size] for p in (self.k_proj, self.v_proj))
            self.q_proj.weight[rows] = key + noise * torch.randn_like(key)
            self.o_proj.weight[:, rows] = value.T / c.heads + noise * torch.randn_like(value.T)
        self.key_shift.fill_(2.0)
        self.q_norm.weight.fill_(2.0)

    def keys_values(self, x: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Shifted, normed keys without position, and values, both ``[B, G, T, D]``."""
        lanes, tokens, _ = x.shape
        groups, size = self.config.kv_heads, self.config.head_dim
        raw = self.k_proj(x).view(lanes, tokens, groups, size)
        previous = F.pad(raw[:, :-1], (0, 0, 0, 0, 1, 0)).masked_fill(starts[:, :, None, None], 0.0)
        share = torch.sigmoid(self.key_shift).to(raw.dtype)[:, None]
        key = self.k_norm((1 - share) * raw + share * previous)
        value = self.v_proj(x).view(lanes, tokens, groups, size)
        return key.transpose(1, 2), value.transpose(1, 2)

    def forward(self, x: Tensor, starts: Tensor, local: Tensor, cos: Tensor, sin: Tensor,
                memory: Memory | None, kept: list | None) -> Tensor:
        c = self.config
        lanes, tokens, _ = x.shape
        window, blocks = c.window, tokens // c.window
        query = self.q_norm(self.q_proj(x).view(lanes, tokens, c.heads, c.head_dim)).transpose(1, 2)
        key, value = self.keys_values(x, starts)
        if kept is not None and self.memory_index is not None:
            kept.append((key, value))

        # Blocked local attention: [B, H, N, window, D] against [B, G, N, 2 * window, D].
        local_query = (rotate(query, cos, sin) * c.head_dim**-0.5).view(lanes, c.heads, blocks, window, c.head_dim)

        def pair(t: Tensor) -> Tensor:
            t = t.reshape(lanes, c.kv_heads, blocks, window, c.head_dim)
            return torch.cat([F.pad(t[:, :, :-1], (0, 0, 0, 0, 1, 0)), t], dim=3)

        mixed, near = attend(local_query, pair(rotate(key, cos, sin)), pair(value), local)
        mixed, near = mixed.view(lanes, c.heads, tokens, c.head_dim), near.view(lanes, c.heads, tokens)

        if self.memory_index is not None and memory is not None:
            memory_key, memory_value = self.memory_of(key, value, memory)
            scaled, bias = query * self.memory_scale[:, None, None].to(query.dtype), memory.bias
            if memory.recall is not None:
                repeated = memory_key.repeat_interleave(c.heads // c.kv_heads, dim=1)
                logits = scaled @ repeated.transpose(-1, -2)
                bias = memory.recall.bias(logits + self.memory_bias[:, None, None])
            recalled, far = attend(scaled, memory_key, memory_value, None if bias is None else bias[:, None])
            if c.fusion == "joint":  # one softmax over both sets is a mixture by their sums of exponents
                share = torch.sigmoid(far + self.memory_bias[:, None] - near)
            else:  # a query that sees no memory at all takes the local context alone
                share = torch.sigmoid(self.memory_gate)[:, None] * (far > MASKED / 2)
            if memory.recall is not None:
                memory.recall.note(logits + bias[:, None], far, share)
            mixed = mixed + share[..., None].to(mixed.dtype) * (recalled - mixed)
        return self.o_proj(mixed.transpose(1, 2).reshape(lanes, tokens, c.heads * c.head_dim))

    def memory_of(self, key: Tensor, value: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        if memory.keys is not None:
            stored = memory.keys[self.memory_index], memory.values[self.memory_index]
            return tuple(t.to(key.dtype).expand(key.shape[0], -1, -1, -1) for t in stored)
        lanes, groups, tokens, size = key.shape

        def gather(t: Tensor) -> Tensor:
            seen = t[memory.lanes]  # [B, lanes seen, G, T, D]
            return seen.transpose(1, 2).reshape(lanes, groups, -1, size)

        return gather(key), gather(value)


class Mlp(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, *rest) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *rest)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "sinusoidal":
            self.position_scale = nn.Parameter(torch.full((1,), 0.02))
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_eps)


class MemoryModel(nn.Module):
    """Parameter names are those of Hugging Face's ``Qwen3ForCausalLM`` plus the extra ones."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        if config.positions not in POSITIONS:
            raise ValueError(f"positions {config.positions!r}; one of {POSITIONS} is needed")
        self.rope: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.data.mul_((2 * config.layers) ** -0.5)
        for layer in {*config.memory_layers, config.layers - 1}:
            self.model.layers[layer].self_attn.begin_as_copier()

    def hidden(self, ids: Tensor, session: Tensor | None = None, memory: Memory | None = None,
               kept: list | None = None) -> Tensor:
        """Final normed states ``[B, T, width]`` of ``ids`` ``[B, T]``.

        ``session`` numbers the sessions of a lane (all one by default); ``kept``, a list, receives
        the ``(key, value)`` of every memory layer, ``[B, G, T, D]``.
        """
        c = self.config
        lanes, tokens = ids.shape
        session = torch.zeros_like(ids) if session is None else session
        spare = -tokens % c.window
        if spare:
            ids, session = F.pad(ids, (0, spare)), F.pad(session, (0, spare), value=-2)
            if memory is not None and memory.bias is not None and memory.bias.shape[-2] == tokens:
                memory = replace(memory, bias=F.pad(memory.bias, (0, 0, 0, spare)))
        padded = tokens + spare
        if self.rope[0].shape[0] < padded or self.rope[0].device != ids.device:
            tables = rope_tables(padded, c.head_dim, c.rope_theta)
            if c.positions != "rotary":  # no rotation at all
                tables = torch.ones_like(tables[0]), torch.zeros_like(tables[1])
            self.rope = tuple(table.to(ids.device) for table in tables)
        cos, sin = self.rope[0][:padded], self.rope[1][:padded]
        starts = torch.ones_like(session, dtype=torch.bool)
        starts[:, 1:] = session[:, 1:] != session[:, :-1]
        local = local_bias(session, c.window, alibi_slopes(c.heads) if c.positions == "alibi" else None)
        x = self.model.embed_tokens(ids)
        if c.positions == "sinusoidal":
            at = torch.arange(padded, device=ids.device)
            at = at - torch.where(starts, at, 0).cummax(dim=1).values  # counted from the start of the session
            x = x + self.model.position_scale * sinusoids(at, c.hidden_size)
        if torch.is_autocast_enabled(ids.device.type):
            x, cos, sin = x.bfloat16(), cos.bfloat16(), sin.bfloat16()
        mine: list | None = None if kept is None else []
        for block in self.model.layers:
            x = block(x, starts, local, cos, sin, memory, mine)
        if kept is not None:
            kept.extend((k[:, :, :tokens], v[:, :, :tokens]) for k, v in mine)
        return self.model.norm(x[:, :tokens])

    def forward(self, ids: Tensor, session: Tensor | None = None, memory: Memory | None = None,
                kept: list | None = None) -> Tensor:
        """Logits ``[B, T, vocab]``; arguments as for ``hidden``."""
        return F.linear(self.hidden(ids, session, memory, kept), self.model.embed_tokens.weight)

    @torch.no_grad()
    def read(self, ids: Tensor) -> Memory:
        """Reads ``[B, T]`` tokens from a fresh state without recall; returns them as memory."""
        kept: list = []
        self.hidden(ids, kept=kept)
        return Memory(None, [k for k, _ in kept], [v for _, v in kept])
