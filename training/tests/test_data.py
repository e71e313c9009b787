"""Lanes, their sessions and what each token may remember."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mnemon_training import tokenizer as bpe
from mnemon_training.data import QUOTE, REPEAT_FAR, UPDATE, TAGS, VALUE_FAR, Lanes, Mix
from mnemon_training.evaluate import history
from mnemon_training.histories import Grammar
from mnemon_training.model import MASKED

GRAMMAR = Path(__file__).resolve().parents[2] / "models" / "default" / "histories.json"


@pytest.fixture(scope="module")
def lanes():
    grammar = Grammar(GRAMMAR)
    words = " ".join(grammar.slots["person"]) * 20 + "\n".join(grammar.turns) * 5
    tokenizer = bpe.train(iter([words]), 700)
    books = np.array(tokenizer.encode("a quiet book about nothing, and then some more. " * 400).ids, dtype=np.uint16)
    return Lanes(tokenizer, grammar, books, 256, seed=5)


def test_the_shipped_tokenizer_is_lossless():
    path = GRAMMAR.parent / "tokenizer.json"
    if not path.exists():
        pytest.skip("no model has been exported")
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(path))
    text = "Zwölf 1234\t naïve\r\n  — ☃ end  "
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode(" 4821").tokens == ["Ġ", "4", "8", "2", "1"]


def test_sessions_are_cut_to_a_length(lanes):
    from mnemon_training.extrapolation import REMEMBERING, cut
    batch = lanes.batch(4, REMEMBERING)
    short = cut(batch, 16)
    for before, after, weights, old in zip(batch.session, short.session, short.weights, batch.weights):
        lengths = torch.unique_consecutive(after, return_counts=True)[1]
        assert lengths.max() <= 16 and len(torch.unique(after)) == len(lengths)
        assert (after[1:] != after[:-1])[before[1:] != before[:-1]].all()  # old borders stay
        border = torch.cat([after[1:] != after[:-1], torch.tensor([False])])
        assert (weights[border] == 0).all() and torch.equal(weights[~border], old[~border])


@pytest.mark.parametrize("kind", ["history", "repeat", "book"])
def test_lanes_are_full_and_consistent(lanes, kind):
    for _ in range(20):
        lane = getattr(lanes, kind)(Mix(1, 1, 1))
        assert len(lane.ids) >= lane.room
        assert len(lane.ids) == len(lane.sessions) == len(lane.weights) == len(lane.tags)
        assert lane.sessions == sorted(lane.sessions)


def test_far_values_stand_in_an_earlier_session(lanes):
    for _ in range(10):
        lane = lanes.history(Mix(1, 0, 0, open_share=0.0))
        asked = [i for i, tag in enumerate(lane.tags) if tag == VALUE_FAR]
        for i in asked[:5]:
            earlier = [lane.ids[j] for j in range(i) if lane.sessions[j] < lane.sessions[i]]
            assert lane.ids[i] in earlier


def test_quotes_and_repeats_return_earlier_tokens(lanes):
    for kind, tag in ((lanes.book, QUOTE), (lanes.repeat, REPEAT_FAR)):
        lane = kind(Mix(1, 1, 1))
        for i in (i for i, t in enumerate(lane.tags) if t == tag):
            assert lane.ids[i] in lane.ids[:i]


def test_memory_is_what_is_out_of_local_reach(lanes):
    window = 32
    batch = lanes.batch(3, Mix(1, 1, 1))
    memory = batch.memory(window, others=1, weight_of_others=4.0)
    tokens = batch.ids.shape[1]
    assert memory.bias.shape == (3, tokens, 2 * tokens)
    assert memory.lanes.tolist() == [[0, 1], [1, 2], [2, 0]]
    for b, t, u in torch.randint(tokens, (200, 3)).tolist():
        b %= 3
        same = batch.session[b, t] == batch.session[b, u]
        seen = u < t and (not same or t - u >= window)
        assert (memory.bias[b, t, u] > MASKED / 2) == seen
    assert torch.allclose(memory.bias[..., tokens:], torch.tensor(4.0).log())


def test_first_tokens_of_sessions_are_not_targets(lanes):
    batch = lanes.batch(4, Mix(1, 1, 1))
    assert batch.tags.max() < len(TAGS)
    starts = batch.session[:, 1:] != batch.session[:, :-1]
    assert (batch.weights[:, :-1][starts] == 0).all()


def test_planted_facts_are_where_the_evaluation_says(lanes):
    ids, planted = history(lanes.grammar, lanes.tokenizer, 3000, 8, seed=2)
    assert len({fact.subject for fact, _, _ in planted}) == 8
    for fact, first, end in planted:
        assert lanes.tokenizer.decode(ids[first:end]) == " " + fact.value


def test_near_misses_differ_in_one_word(lanes):
    for make in (lambda *a: lanes.grammar.fact(lanes.rng, *a), lanes.open_fact):
        for _ in range(50):
            used = set()
            first = make(used)
            second = make(used, first)
            assert second.kind == first.kind
            pairs = list(zip(first.subject.split(), second.subject.split(), strict=True))
            assert sum(a != b for a, b in pairs) == 1


def test_revised_facts_are_answered_with_their_latest_value(lanes):
    tokenizer = lanes.tokenizer
    found = 0
    for _ in range(30):
        lane = lanes.history(Mix(1, 0, 0, update_share=0.5))
        values = [i for i, tag in enumerate(lane.tags) if tag == UPDATE]
        for i in values:
            # What is answered was said before, as what it is "now".
            if i + 1 < len(lane.ids) and lane.tags[i + 1] == UPDATE and lane.tags[i - 1] != UPDATE:
                pair = lane.ids[i:i + 2]
                assert any(lane.ids[j:j + 2] == pair for j in range(i)), tokenizer.decode(lane.ids[i - 20:i + 4])
                found += 1
    assert found > 10
