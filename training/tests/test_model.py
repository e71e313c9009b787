"""The blocked, masked forward pass against a plain one written token by token."""

import math

import pytest
import torch

from mnemon_training.model import MASKED, Memory, MemoryModel, ModelConfig, rope_tables, rotate

CONFIG = dict(vocab_size=40, hidden_size=24, intermediate_size=32, layers=3, heads=4, kv_heads=2,
              head_dim=8, window=8, memory_layers=[1, 2])


def make(fusion="joint", **changes):
    torch.manual_seed(3)
    model = MemoryModel(ModelConfig(**{**CONFIG, **changes}, fusion=fusion))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model.eval()


def plain(model, ids, memory=None):
    """Logits of one lane, one token and one head at a time, straight from the formulas."""
    c = model.config
    norm = lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + c.rms_eps) * w
    cos, sin = rope_tables(len(ids), c.head_dim, c.rope_theta)
    x = model.model.embed_tokens.weight[ids]
    slope = [2 ** (-8 * (h + 1) / c.heads) if c.positions == "alibi" else 0.0 for h in range(c.heads)]
    if c.positions == "sinusoidal":
        table = [[(math.cos if i % 2 else math.sin)(t / 10000 ** (2 * (i // 2) / c.hidden_size))
                  for i in range(c.hidden_size)] for t in range(len(ids))]
        x = x + model.model.position_scale * torch.tensor(table)
    for block in model.model.layers:
        a = block.self_attn
        y = norm(x, block.input_layernorm.weight)
        q = norm((y @ a.q_proj.weight.T).view(-1, c.heads, c.head_dim), a.q_norm.weight)
        raw = (y @ a.k_proj.weight.T).view(-1, c.kv_heads, c.head_dim)
        s = torch.sigmoid(a.key_shift)[:, None]
        k = norm(torch.stack([(1 - s) * raw[t] + s * (raw[t - 1] if t else torch.zeros_like(raw[t]))
                              for t in range(len(ids))]), a.k_norm.weight)
        v = (y @ a.v_proj.weight.T).view(-1, c.kv_heads, c.head_dim)
        out = torch.zeros(len(ids), c.heads, c.head_dim)
        for t in range(len(ids)):
            for h in range(c.heads):
                g = h // (c.heads // c.kv_heads)
                seen = range(max(0, t - c.window + 1), t + 1)
                turned = lambda x, at: rotate(x, cos[at], sin[at]) if c.positions == "rotary" else x
                near = torch.stack([turned(q[t, h], t) @ turned(k[u, g], u) / math.sqrt(c.head_dim) - slope[h] * (t - u)
                                    for u in seen])
                near_values = v[list(seen), g]
                if a.memory_index is None or memory is None:
                    out[t, h] = torch.softmax(near, 0) @ near_values
                    continue
                far_keys = memory.keys[a.memory_index][0, g]
                far_values = memory.values[a.memory_index][0, g]
                far = a.memory_scale[h] * (far_keys @ q[t, h]) + a.memory_bias[h]
                if c.fusion == "joint":
                    out[t, h] = torch.softmax(torch.cat([near, far]), 0) @ torch.cat([near_values, far_values])
                else:
                    m = torch.sigmoid(a.memory_gate[h])
                    out[t, h] = (1 - m) * torch.softmax(near, 0) @ near_values + m * torch.softmax(far, 0) @ far_values
        x = x + out.reshape(len(ids), -1) @ a.o_proj.weight.T
        y = norm(x, block.post_attention_layernorm.weight)
        m = block.mlp
        x = x + (torch.nn.functional.silu(y @ m.gate_proj.weight.T) * (y @ m.up_proj.weight.T)) @ m.down_proj.weight.T
    return norm(x, model.model.norm.weight) @ model.model.embed_tokens.weight.T


@pytest.mark.parametrize("fusion,positions", [("joint", "rotary"), ("gate", "rotary"), ("joint", "sinusoidal"), ("gate", "alibi")])
@torch.no_grad()
def test_forward_is_the_formulas(fusion, positions):
    model = make(fusion, positions=positions)
    past, ids = torch.randint(40, (1, 29)), torch.randint(40, (1, 19))
    memory = model.read(past)
    torch.testing.assert_close(model(ids)[0], plain(model, ids[0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(ids, memory=memory)[0], plain(model, ids[0], memory), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fusion,positions", [("joint", "rotary"), ("gate", "alibi"), ("joint", "sinusoidal")])
@torch.no_grad()
def test_training_form_equals_reading_then_asking(fusion, positions):
    """One pass over [document | break | question] gives what serving computes in two."""
    model = make(fusion, memory_layers=[1], positions=positions)
    past, ids = torch.randint(40, (1, 24)), torch.randint(40, (1, 16))
    served = model(ids, memory=model.read(past))
    both = torch.cat([past, ids], 1)
    session = torch.tensor([[0] * 24 + [1] * 16])
    seen = (session[:, :, None] != session[:, None, :]) & torch.ones(40, 40, dtype=torch.bool).tril()
    memory = Memory(torch.zeros(1, 40, 40).masked_fill_(~seen, MASKED), lanes=torch.tensor([[0]]))
    trained = model(both, session, memory)
    torch.testing.assert_close(trained[:, 24:], served, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trained[:, :24], model(past), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_qwen3_agrees_when_nothing_is_shifted(tmp_path):
    transformers = pytest.importorskip("transformers")
    from mnemon_training.export import export_weights
    model = make()
    for block in model.model.layers:
        block.self_attn.key_shift.fill_(-40.0)
    export_weights(model, tmp_path, torch.float32, 0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.randint(40, (2, 21))
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bias_heads,whole_groups", ((1, False), (4, False), (1, True), (4, True)))
def test_gradients_of_attend(bias_heads, whole_groups):
    from mnemon_training.attend import attend
    shapes = (2, 4, 5, 3), (2, 2, 7, 3), (2, 2, 7, 3)
    inputs = [torch.randn(s, requires_grad=True) for s in shapes]
    bias = torch.randn(2, bias_heads, 5, 7)

    def plain_attend(q, k, v):
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        logits = q @ k.transpose(-1, -2) + bias
        return torch.softmax(logits, -1) @ v, torch.logsumexp(logits, -1)

    cotangents = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5)
    mine = torch.autograd.grad(attend(*inputs, bias, whole_groups), inputs, cotangents)
    theirs = torch.autograd.grad(plain_attend(*inputs), inputs, cotangents)
    for a, b in zip(mine, theirs):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
