"""Lanes of tokens with session breaks: the only thing the trainer sees.

A lane is one memory: everything before a token, and out of its local reach, is memory to it. A break
starts a new session, whose local window is empty: this is how questions are asked when the model
serves. Three kinds of lane:

* histories: facts planted among filler lines and pieces of books, some revised later, and asked
  later still, mostly right after a break
* repeats: random tokens of a small or large alphabet, pieces of which return; the smaller the
  alphabet, the longer the n-gram that a key must stand for
* books: running text with breaks, or pieces from anywhere in one book, sometimes with an earlier
  passage quoted again

Each target has a weight (unpredictable tokens weigh little, the values of answers much) and a tag
that says which skill it measures.
"""

from __future__ import annotations

import argparse
import math
import random
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from .histories import NOW, Fact, Grammar
from .model import MASKED, Memory

TAGS = ("other", "value_far", "value_near", "repeat_far", "book", "quote", "unknown", "update")
OTHER, VALUE_FAR, VALUE_NEAR, REPEAT_FAR, BOOK, QUOTE, UNKNOWN_FAR, UPDATE = range(len(TAGS))

# The value of a fact that memory does not hold.
UNKNOWN = "not known"


@dataclass
class Mix:
    """Shares of lanes, and how the lanes are made; the curriculum interpolates between two."""

    histories: float
    repeats: float
    books: float
    value_weight: float = 8.0
    break_share: float = 0.75
    filler_most: float = 0.6
    open_share: float = 0.3
    lead_weight: float = 2.0
    unknown_share: float = 0.15
    near_miss_share: float = 0.5
    update_share: float = 0.2
    prose_share: float = 0.25
    scattered_share: float = 0.4

    def towards(self, other: "Mix", share: float) -> "Mix":
        return Mix(*(a + share * (b - a) for a, b in zip(vars(self).values(), vars(other).values())))


class Lane:
    """Tokens, the session of each, and the weight and tag of each as a target."""

    def __init__(self, room: int):
        self.room, self.session = room, 0
        self.ids: list[int] = []
        self.sessions: list[int] = []
        self.weights: list[float] = []
        self.tags: list[int] = []

    def add(self, ids: list[int], weight: float, tag: int = OTHER) -> None:
        self.ids += ids
        self.sessions += [self.session] * len(ids)
        self.weights += [weight] * len(ids)
        self.tags += [tag] * len(ids)

    def cut(self) -> None:
        self.session += 1

    @property
    def full(self) -> bool:
        return len(self.ids) >= self.room


class Lanes:
    def __init__(self, tokenizer: Tokenizer, grammar: Grammar, books: np.ndarray, tokens: int, seed: int):
        self.tokenizer, self.grammar, self.books, self.tokens = tokenizer, grammar, books, tokens
        self.rng = random.Random(seed)
        self.end_of_text = tokenizer.token_to_id("<|endoftext|>")
        self.vocab = tokenizer.get_vocab_size()
        self.newline = tokenizer.encode("\n").ids
        sample = tokenizer.decode(books[:400_000].tolist()) if len(books) else ""
        borders = np.unique([0, *np.flatnonzero(books == self.end_of_text), len(books)])
        self.works = [(int(a), int(b)) for a, b in zip(borders, borders[1:]) if b - a > tokens // 2]
        self.words = sorted(set(re.findall(r"(?<= )[A-Za-z]{3,11}(?= )", sample))) or ["word"]

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def begin(self, lane: Lane) -> None:
        """A session begins with the special token or, as often, without it."""
        if self.rng.random() < 0.5:
            lane.add([self.end_of_text], 0.0)

    def open_fact(self, used: set[str], like: Fact | None = None) -> Fact:
        """A fact about anything: words of books, so that the model does not live on the grammar's alone.

        ``like`` makes it a near miss: the same kind, and all but one word of the subject.
        """
        rng = self.rng
        words = lambda least, most: " ".join(rng.choices(self.words, k=rng.randint(least, most)))
        kind = words(1, 2) if like is None else like.kind
        subject = rng.choice(("the ", "")) + words(1, 3)
        while subject in used or like is not None:
            if like is None:
                subject = words(2, 3)
                continue
            parts = like.subject.split()
            parts[rng.randrange(parts[0] == "the" and len(parts) > 1, len(parts))] = words(1, 1)
            subject = " ".join(parts)
            if subject not in used:
                break
        used.add(subject)
        value = self.grammar.value("digits:4", rng) if rng.random() < 0.3 else words(1, 2)
        lead = f" the {kind} of {subject} is"
        statements = (f"Note:{lead} {value}.", f"User: I think{lead} {value}.", f"T{lead[2:]} {value}.",
                      f"Note: for {subject}, the {kind} is {value}.")
        questions = (f"Question: what is{lead[:-3]}?\nAnswer:", f"Question: tell me{lead[:-3]}.\nAnswer:")
        updates = (f"Note:{lead} now {{value}}.", f"User: from today{lead} now {{value}}.")
        return Fact(kind, subject, value, statements, questions, lead, ".", updates)

    def revise(self, fact: Fact) -> tuple[Fact, str]:
        rng = self.rng
        if fact.kind in self.grammar.kind_names:
            value = self.grammar.new_value(fact, rng)
        elif fact.value.isdigit():
            value = self.grammar.value("digits:4", rng)
        else:
            value = " ".join(rng.choices(self.words, k=rng.randint(1, 2)))
        return self.grammar.update(fact, value, rng)

    def prose(self, least: int, most: int) -> list[int]:
        """Some tokens from anywhere in the books."""
        at = self.rng.randrange(len(self.books) - most)
        return self.books[at:at + self.rng.randint(least, most)].tolist()

    def ask(self, lane: Lane, fact: Fact, mix: Mix, tag: int) -> None:
        """Adds a question and its answer, mostly as a session of their own, which then ends."""
        apart = self.rng.random() < mix.break_share
        if apart:
            lane.cut()
            self.begin(lane)
        lane.add(self.encode(self.rng.choice(fact.questions)), 0.1)
        lane.add(self.encode(fact.lead), mix.lead_weight)
        if fact.revised:
            lane.add(self.encode(NOW), mix.value_weight, UPDATE)
            tag = UPDATE if tag == VALUE_FAR else tag
        lane.add(self.encode(" " + fact.value), mix.value_weight, VALUE_NEAR if tag == VALUE_FAR and not apart else tag)
        lane.add(self.encode(fact.tail), 0.5)
        if apart:
            lane.add([self.end_of_text], 0.5)
            lane.cut()
            self.begin(lane)
        else:
            lane.add(self.newline, 0.5)

    def history(self, mix: Mix) -> Lane:
        rng, lane = self.rng, Lane(self.tokens + 1)
        used: set[str] = set()
        unasked, asked = [], []

        def new_fact() -> Fact:
            told = unasked + asked
            like = rng.choice(told) if told and rng.random() < mix.near_miss_share else None
            is_open = rng.random() < mix.open_share if like is None else like.kind not in self.grammar.kind_names
            return self.open_fact(used, like) if is_open else self.grammar.fact(rng, used, like)

        filler = rng.uniform(0.0, mix.filler_most)
        eager = rng.uniform(0.3, 0.7)
        self.begin(lane)
        while not lane.full:
            if rng.random() < filler:
                if len(self.books) > 80 and rng.random() < mix.prose_share:
                    lane.add(self.prose(16, 80) + self.newline, 0.3, BOOK)
                else:
                    lane.add(self.encode(self.grammar.filler(rng)) + self.newline, 0.15)
                continue
            if rng.random() < mix.unknown_share * eager:
                fact = new_fact()
                self.ask(lane, replace(fact, value=UNKNOWN), mix, UNKNOWN_FAR)
                continue
            # A fact is revised once: nothing but the word "now" tells which line is the latest.
            first = [(told, at) for told in (unasked, asked) for at, fact in enumerate(told) if not fact.revised]
            if first and rng.random() < mix.update_share:
                told, at = rng.choice(first)
                fact, line = self.revise(told.pop(at))
                unasked.append(fact)
                lane.add(self.encode(line) + self.newline, 0.1)
                continue
            again = asked and rng.random() < 0.1
            if again or (unasked and rng.random() < eager):
                fact = rng.choice(asked) if again else unasked.pop(rng.randrange(len(unasked)))
                asked.append(fact)
                self.ask(lane, fact, mix, VALUE_FAR)
            else:
                fact = new_fact()
                unasked.append(fact)
                line = rng.choice(fact.statements)
                lane.add(self.encode(line) + self.newline, 0.1)
        return lane

    def repeat(self, mix: Mix) -> Lane:
        rng, lane = self.rng, Lane(self.tokens + 1)
        size = int(math.exp(rng.uniform(math.log(8), math.log(self.vocab - 1))))
        alphabet = rng.sample(range(1, self.vocab), size)
        order = math.ceil(math.log(4 * self.tokens) / math.log(size))  # tokens that tell a place apart
        while not lane.full:
            length = rng.randint(6, 40)
            past = len(lane.ids)
            if past > 64 and rng.random() < 0.6:
                if rng.random() < mix.break_share:
                    lane.cut()
                at = rng.randrange(past - length - order)
                piece = lane.ids[at:at + length + order]
                lane.add(piece[:order], 0.02)
                lane.add(piece[order:], 1.0, REPEAT_FAR)
            else:
                lane.add(rng.choices(alphabet, k=length), 0.02)
        return lane

    def book(self, mix: Mix) -> Lane:
        rng, lane = self.rng, Lane(self.tokens + 1)
        if self.works and rng.random() < mix.scattered_share:
            return self.scattered(mix)
        at = rng.randrange(len(self.books) - self.tokens - 1)
        text = self.books[at:at + self.tokens + 1].tolist()
        self.begin(lane)
        if rng.random() < 0.3:  # quote an earlier passage
            first = rng.randint(self.tokens // 3, self.tokens * 3 // 4)
            lane.add(text[:first], 0.6, BOOK)
            while not lane.full:
                length = rng.randint(24, min(120, first // 2))
                start = rng.randrange(first - length)
                lane.cut()
                self.begin(lane)
                lane.add(text[start:start + 4], 0.1)
                lane.add(text[start + 4:start + length], 0.6, QUOTE)
            return lane
        cuts = sorted(rng.randrange(1, self.tokens) for _ in range(rng.choice((0, 0, 1, 2, 3))))
        for begin, end in zip([0, *cuts], [*cuts, len(text)]):
            if begin:
                lane.cut()
            lane.add(text[begin:end], 0.6, BOOK)
        return lane

    def scattered(self, mix: Mix) -> Lane:
        """Sessions from anywhere in one book: what a memory of a whole book is to one of its pages."""
        rng, lane = self.rng, Lane(self.tokens + 1)
        first, last = rng.choice(self.works)
        while not lane.full:
            length = rng.randint(self.tokens // 4, self.tokens // 2)
            at = rng.randint(first, last - length)
            lane.cut()
            self.begin(lane)
            lane.add(self.books[at:at + length].tolist(), 0.6, BOOK)
        return lane

    def batch(self, lanes: int, mix: Mix) -> "Batch":
        # Shares are met on average; rounding is random, so that small batches are not biased.
        kinds = self.rng.choices((self.history, self.repeat, self.book),
                                 (mix.histories, mix.repeats, mix.books), k=lanes)
        made = [kind(mix) for kind in kinds]
        room = self.tokens + 1

        def stack(field: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([getattr(lane, field)[:room] for lane in made], dtype=dtype)

        ids, sessions = stack("ids", torch.long), stack("sessions", torch.long)
        weights, tags = stack("weights", torch.float32), stack("tags", torch.long)
        # The first token of a session cannot be foreseen from another session.
        weights[:, 1:].masked_fill_(sessions[:, 1:] != sessions[:, :-1], 0.0)
        return Batch(ids[:, :-1], ids[:, 1:], sessions[:, :-1], weights[:, 1:], tags[:, 1:])


@dataclass
class Batch:
    ids: Tensor
    targets: Tensor
    session: Tensor
    weights: Tensor
    tags: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def memory(self, window: int, others: int, weight_of_others: float = 1.0) -> Memory:
        """What each token remembers: its own lane beyond its local reach, and ``others`` foreign lanes.

        A foreign token counts ``weight_of_others`` times in the softmax: few stand for many.
        """
        lanes, tokens = self.ids.shape
        at = torch.arange(tokens, device=self.ids.device)
        distance = at[:, None] - at[None, :]
        apart = self.session[:, :, None] != self.session[:, None, :]
        seen = (distance > 0) & (apart | (distance >= window))
        own = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, MASKED)
        foreign = torch.full((lanes, tokens, others * tokens), math.log(weight_of_others), device=seen.device)
        order = (torch.arange(lanes)[:, None] + torch.arange(others + 1)[None, :]).to(seen.device) % lanes
        return Memory(torch.cat([own, foreign], dim=-1), lanes=order)


def encode_books(books: Path, tokenizer: Tokenizer, out: Path, most_per_book: int, seed: int) -> np.ndarray:
    """All books as one run of ``uint16`` ids, at most ``most_per_book`` characters of each; cached in ``out``."""
    if out.exists():
        return np.load(out, mmap_mode="r")
    rng = random.Random(seed)
    runs = []
    for path in sorted(books.glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        at = rng.randrange(max(1, len(text) - most_per_book))
        text = text[at:at + most_per_book]
        pieces = [text[i:i + 20_000] for i in range(0, len(text), 20_000)]
        ids = [i for piece in pieces for i in tokenizer.encode(piece).ids]
        runs.append(np.array([tokenizer.token_to_id("<|endoftext|>"), *ids], dtype=np.uint16))
    out.parent.mkdir(parents=True, exist_ok=True)
    np.save(out, np.concatenate(runs))
    return np.load(out, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokenize the books once.")
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most-per-book", type=int, default=220_000)
    args = parser.parse_args()
    ids = encode_books(args.books, Tokenizer.from_file(str(args.tokenizer)), args.out, args.most_per_book, 1)
    print(f"{len(ids)} tokens -> {args.out}")


if __name__ == "__main__":
    main()
