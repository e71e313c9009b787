"""A byte-level BPE trained on books and generated histories.

Digits stand alone, nothing is normalised, and decoding gives back every byte. One special token,
``<|endoftext|>``, begins and ends documents.

    python -m mnemon_training.tokenizer --books DIR --grammar ../models/default/histories.json --out FILE
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .histories import Grammar

END_OF_TEXT = "<|endoftext|>"


def untrained() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    tokenizer = untrained()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return tokenizer


def sample(books: Path, grammar: Grammar, seed: int) -> Iterator[str]:
    """About 40 kB of each book, 4 MB of history lines, and the slot words so often that each becomes a token."""
    rng = random.Random(seed)
    for path in sorted(books.glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        at = rng.randrange(max(1, len(text) - 40_000))
        yield text[at:at + 40_000]
    for _ in range(1500):
        used: set[str] = set()
        lines = []
        for _ in range(16):
            fact = grammar.fact(rng, used)
            lines += [grammar.filler(rng), rng.choice(fact.statements), rng.choice(fact.questions) + fact.answer]
        yield "\n".join(lines)
    words = [word for slot in grammar.slots.values() for word in slot]
    for _ in range(1200):
        yield " " + " ".join(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--grammar", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=3072)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tokenizer = train(sample(args.books, Grammar(args.grammar), args.seed), args.vocab_size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out))
    print(f"{tokenizer.get_vocab_size()} tokens -> {args.out}")


if __name__ == "__main__":
    main()
