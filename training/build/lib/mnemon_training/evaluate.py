"""What a checkpoint remembers, with recall done as the service does it.

    python -m mnemon_training.evaluate --checkpoint FILE --tokenizer FILE --grammar FILE [--novels DIR]

* facts: a generated history is read once; each planted fact is asked in a fresh session. An answer is
  exact when greedy decoding would give the whole sentence, value included; a citation is right when
  the chunk with most attention mass over the value's tokens holds the statement's value. As many
  questions about facts that were never planted should be denied.
* perplexity: a passage far into a held-out novel, with the local window alone and with memory of
  everything before the passage.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .data import UNKNOWN
from .export import CHUNK_TOKENS, RECALL_TOP_K, load_checkpoint
from .histories import Grammar
from .model import Memory, MemoryModel, Recall


def history(grammar: Grammar, tokenizer: Tokenizer, tokens: int, facts: int, seed: int):
    """Ids of a history of ``tokens`` tokens, and ``(fact, first value token, end of value)`` of each planted fact."""
    rng = random.Random(seed)
    used: set[str] = set()
    ids: list[int] = []
    planted = []
    newline = tokenizer.encode("\n").ids
    while len(ids) < tokens:
        if len(planted) < facts and len(ids) >= (len(planted) + rng.random()) * tokens / (facts + 1):
            fact = grammar.fact(rng, used)
            line = rng.choice(fact.statements)
            before = line[:line.rindex(fact.value)].rstrip(" ")
            ids += tokenizer.encode(before).ids
            first = len(ids)
            ids += tokenizer.encode(line[len(before):]).ids + newline
            planted.append((fact, first, first + len(tokenizer.encode(" " + fact.value).ids)))
        else:
            ids += tokenizer.encode(grammar.filler(rng)).ids + newline
    return ids[:max(tokens, planted[-1][2] + 1)], planted


@torch.no_grad()
def facts_score(model: MemoryModel, tokenizer: Tokenizer, grammar: Grammar, tokens: int, facts: int,
                seed: int, asked: int = 60, top_k: int = RECALL_TOP_K) -> dict:
    """``asked`` of the ``facts`` planted in a history of ``tokens`` tokens; the others are distractors."""
    ids, planted = history(grammar, tokenizer, tokens, facts, seed)
    everything, planted_count = planted, len(planted)
    planted = random.Random(seed).sample(planted, min(asked, planted_count))
    read = model.read(torch.tensor([ids]))
    rng, used = random.Random(seed + 1), {fact.subject for fact, _, _ in everything}
    absent = [grammar.fact(rng, used) for _ in range(min(asked, planted_count))]
    unknown = tokenizer.encode(" " + UNKNOWN).ids[0]
    denied = 0
    for fact in absent:
        whole = torch.tensor([tokenizer.encode(fact.questions[0]).ids + tokenizer.encode(fact.lead).ids])
        guess = model(whole, memory=replace(read, recall=Recall(top_k, CHUNK_TOKENS)))[0, -1].argmax().item()
        denied += guess == unknown
    tally = {"exact": 0, "value": 0, "cited": 0, "value_without_memory": 0}
    kinds: dict[str, list[int]] = {}
    failures = []
    for fact, first, end in planted:
        question = tokenizer.encode(fact.questions[0]).ids
        lead, value = tokenizer.encode(fact.lead).ids, tokenizer.encode(" " + fact.value).ids
        whole = torch.tensor([question + lead + value])
        recall = Recall(top_k, CHUNK_TOKENS)
        guess = model(whole[:, :-1], memory=replace(read, recall=recall))[0].argmax(dim=-1)
        blind = model(whole[:, :-1])[0].argmax(dim=-1)
        target, at = whole[0, 1:], len(question) - 1
        right = (guess == target)[at + len(lead):].all().item()
        tally["value"] += right
        tally["exact"] += (guess == target)[at:].all().item()
        tally["value_without_memory"] += (blind == target)[at + len(lead):].all().item()
        mass = sum(layer[0, at + len(lead):len(target)].sum(dim=0) for layer in recall.mass)
        tally["cited"] += mass.argmax().item() in range(first // CHUNK_TOKENS, (end - 1) // CHUNK_TOKENS + 1)
        line = tokenizer.decode(ids[max(0, first - 24):first])
        kinds.setdefault("digits" if fact.value.isdigit() else "word", []).append(right)
        kinds.setdefault("same_words_before" if line.endswith(fact.lead) else "subject_first", []).append(right)
        if not right and len(failures) < 4:
            failures.append((fact.answer, tokenizer.decode(guess[at:].tolist())))
    return {"tokens": len(ids), "planted": planted_count, "asked": len(planted), "absent_denied": round(denied / len(absent), 3), **{k: round(v / len(planted), 3) for k, v in tally.items()},
            **{f"value_{k}": round(sum(v) / len(v), 3) for k, v in kinds.items()}, "failures": failures}


@torch.no_grad()
def perplexity(model: MemoryModel, tokenizer: Tokenizer, text: str, before: int, passage: int, top_k: int = RECALL_TOP_K) -> dict:
    ids = tokenizer.encode(text[:8 * (before + passage)]).ids[:before + passage]
    if len(ids) < before + passage:
        raise ValueError(f"the text has only {len(ids)} tokens")
    read = model.read(torch.tensor([ids[:before]]))
    asked = torch.tensor([ids[before:]])
    rows = {}
    for name, memory in (("window", None), ("memory", replace(read, recall=Recall(top_k, CHUNK_TOKENS)))):
        loss = F.cross_entropy(model(asked[:, :-1], memory=memory)[0], asked[0, 1:])
        rows[name] = round(loss.exp().item(), 2)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--grammar", type=Path, required=True)
    parser.add_argument("--novels", type=Path)
    parser.add_argument("--histories", nargs="*", default=["8000:40", "8000:300", "100000:40", "100000:2000"],
                        help="tokens:facts of each history")
    parser.add_argument("--asked", type=int, default=60)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--before", type=int, default=24000)
    parser.add_argument("--passage", type=int, default=2048)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, grammar = Tokenizer.from_file(str(args.tokenizer)), Grammar(args.grammar)
    model = load_checkpoint(args.checkpoint)
    for size in args.histories:
        tokens, facts = map(int, size.split(":"))
        print(json.dumps(facts_score(model, tokenizer, grammar, tokens, facts, args.seed, args.asked)), flush=True)
    if args.novels:
        if not args.novels.is_dir():
            print(f"skipped perplexity: {args.novels} is absent")
            return
        for path in sorted(args.novels.glob("*.txt")):
            text = path.read_text(encoding="utf-8", errors="replace")
            print(path.stem, json.dumps(perplexity(model, tokenizer, text, args.before, args.passage)), flush=True)


if __name__ == "__main__":
    main()
