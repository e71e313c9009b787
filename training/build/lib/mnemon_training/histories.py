"""Agent histories with planted facts, from the grammar that ships with the model.

The same ``histories.json`` drives the Rust demo, so that the words of training and of the demo agree.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path

SLOT = re.compile(r"\{(\w+)\}")

# What a line that revises a fact says before the new value, and the answer after it.
NOW = " now"


@dataclass(frozen=True)
class Fact:
    kind: str
    subject: str
    value: str
    statements: tuple[str, ...]  # any of these lines plants the fact
    questions: tuple[str, ...]   # any of these asks for it, ending in "Answer:"
    lead: str                    # the answer up to the value, without the space before the value
    tail: str                    # the answer after the value
    updates: tuple[str, ...] = ()  # templates with {value} that revise the fact
    revised: bool = False          # the value is from an update, which the answer says by "now"

    @property
    def answer(self) -> str:
        return f"{self.lead}{NOW if self.revised else ''} {self.value}{self.tail}"


class Grammar:
    def __init__(self, path: str | Path):
        data = json.loads(Path(path).read_text())
        if data["version"] != 1:
            raise ValueError(f"{path}: version {data['version']} of histories.json is not known")
        self.slots, self.turns, self.kinds = data["slots"], data["turns"], data["facts"]
        self.kind_names = {kind["kind"] for kind in self.kinds}

    def fill(self, template: str, rng: random.Random) -> str:
        return SLOT.sub(lambda m: rng.choice(self.slots[m.group(1)]), template)

    def filler(self, rng: random.Random) -> str:
        return self.fill(rng.choice(self.turns), rng)

    def value(self, form: str, rng: random.Random) -> str:
        what, detail = form.split(":")
        if what == "slot":
            return rng.choice(self.slots[detail])
        if what == "digits":
            return "".join(rng.choice("0123456789") for _ in range(int(detail)))
        raise ValueError(f"value form {form!r} is not known")

    def fact(self, rng: random.Random, used: set[str], like: Fact | None = None) -> Fact:
        """A new fact; its subject is added to ``used`` and differs from all in it.

        ``like`` makes it a near miss: the same kind, and all but one word of the subject.
        """
        subject = None
        while subject is None or subject in used:
            kind = rng.choice(self.kinds)
            if like is not None:
                kind = next((k for k in self.kinds if k["kind"] == like.kind), kind)
            subject = self.fill(kind["subject"], rng)
            words, old = subject.split(), like.subject.split() if like is not None else []
            if len(words) == len(old):
                kept = rng.randrange(len(words))
                subject = " ".join(new if i == kept else before for i, (new, before) in enumerate(zip(words, old)))
        used.add(subject)
        value = self.value(kind["value"], rng)

        def fill(template: str) -> str:
            return template.replace("{subject}", subject).replace("{value}", value)

        lead, tail = kind["answer"].replace("{subject}", subject).split(" {value}")
        return Fact(kind["kind"], subject, value, tuple(map(fill, kind["statements"])),
                    tuple(map(fill, kind["questions"])), lead, tail,
                    tuple(line.replace("{subject}", subject) for line in kind.get("updates", ())))

    def update(self, fact: Fact, value: str, rng: random.Random) -> tuple[Fact, str]:
        """``fact`` with its new value, and the line that says so."""
        return replace(fact, value=value, revised=True), rng.choice(fact.updates).replace("{value}", value)

    def new_value(self, fact: Fact, rng: random.Random) -> str:
        """Another value for a fact of the grammar."""
        form = next(kind["value"] for kind in self.kinds if kind["kind"] == fact.kind)
        while (value := self.value(form, rng)) == fact.value:
            pass
        return value
