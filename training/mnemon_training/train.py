"""The training loop.

    python -m mnemon_training.train --recipe cpu --books DIR --tokenizer FILE --grammar FILE --run runs/default

A recipe names the arguments of a run (``recipes/*.json``); what is given beside it wins. A run is a folder:
``log.jsonl`` and ``last.pt``. Started again, it goes on from ``last.pt``; asked to end (SIGTERM), it saves
first. The learning rate is constant for half the run, then falls to zero, counted in tokens or in wall
time. Matrices inside the blocks are trained by Muon, all else by AdamW.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from dataclasses import fields
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .data import TAGS, Batch, Lanes, Mix, encode_books
from .export import load_checkpoint, load_export
from .histories import Grammar
from .model import Memory, MemoryModel, ModelConfig


RECIPES = Path(__file__).parent / "recipes"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help=f"one of {', '.join(sorted(p.stem for p in RECIPES.glob('*.json')))}")
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--grammar", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--book-cache", type=Path, default=Path("runs/books.npy"))
    parser.add_argument("--most-per-book", type=int, default=220_000, help="characters of a book that are used")
    parser.add_argument("--init", type=Path, help="a checkpoint or exported folder to start from")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches; 0: none beside this one")
    parser.add_argument("--model", default="{}", help="changes to ModelConfig, as JSON")
    parser.add_argument("--tokens", type=float, default=30e6, help="tokens at which the learning rate is zero")
    parser.add_argument("--wall-minutes", type=float, help="training time, over all starts of a run, at which the "
                        "learning rate is zero and the run ends; replaces --tokens")
    parser.add_argument("--stop", type=float, default=math.inf, help="tokens at which to stop early")
    parser.add_argument("--length", type=int, default=1024, help="tokens per lane")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--others", type=int, default=1, help="foreign lanes that each lane sees as memory")
    parser.add_argument("--foreign-weight", type=float, default=1.0, help="largest final weight of a "
                        "foreign token; each batch draws its own, evenly in the logarithm")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=float, default=2e5)
    parser.add_argument("--curriculum", type=float, default=4e6, help="tokens from the first mix to the last")
    parser.add_argument("--first-mix", default="0.35,0.5,0.15", help="histories, repeats, books")
    parser.add_argument("--last-mix", default="0.5,0.15,0.35")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--f32", action="store_true", help="no bfloat16 in matrix products")
    parser.add_argument("--compile", action="store_true")
    recipe = parser.parse_known_args(arguments)[0].recipe
    if recipe is not None:
        path = RECIPES / f"{recipe}.json"
        if not path.exists():
            parser.error(f"there is no recipe {recipe!r}")
        named = json.loads(path.read_text())
        named.pop("about")
        if unknown := set(named) - {action.dest for action in parser._actions}:
            parser.error(f"{path}: {sorted(unknown)} are no arguments")
        parser.set_defaults(**named)
    return parser.parse_args(arguments)


def optimizers(model: MemoryModel, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    matrices, table, scalars = [], [], []
    for name, weight in model.named_parameters():
        group = matrices if weight.dim() == 2 and ".layers." in name else table if weight.dim() == 2 else scalars
        group.append(weight)
    return [
        torch.optim.Muon(matrices, lr=muon_lr, weight_decay=0.02, momentum=0.95),
        torch.optim.AdamW([{"params": table, "lr": adam_lr, "weight_decay": 0.01},
                           {"params": scalars, "lr": 2 * adam_lr, "weight_decay": 0.0}], betas=(0.9, 0.98)),
    ]


def update(model: MemoryModel, tuned: list[torch.optim.Optimizer], peaks: list[list[float]], rate: float,
           loss: torch.Tensor) -> None:
    """One step of all optimizers, each group at ``rate`` times its peak."""
    for one, highest in zip(tuned, peaks):
        for group, peak in zip(one.param_groups, highest):
            group["lr"] = peak * max(rate, 1e-3)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for one in tuned:
        one.step()
        one.zero_grad(set_to_none=True)


def rate_at(tokens: int, warmup: float, progress: float) -> float:
    """Of the peak: rises over ``warmup`` tokens, is constant for half the run, then falls to zero."""
    return min(1.0, (tokens + 1) / warmup) * min(1.0, 2.0 * (1 - progress))


def loss_of(model: MemoryModel, batch: Batch, memory: Memory | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted loss of a batch, and the plain loss of each of its tokens."""
    logits = model(batch.ids, batch.session, memory)
    each = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    weights = batch.weights.flatten()
    return (each * weights).sum() / weights.sum(), each.detach()


class Batches(torch.utils.data.IterableDataset):
    """Batches from ``first_step`` on, each from a seed of its own step, so that a resumed run goes on as it would have."""

    def __init__(self, lanes: Lanes, args: argparse.Namespace, first_step: int):
        self.lanes, self.args, self.first_step = lanes, args, first_step

    def __iter__(self):
        args, worker = self.args, torch.utils.data.get_worker_info()
        step, stride = self.first_step, 1
        if worker is not None:
            step, stride = step + worker.id, worker.num_workers
        first, final = (Mix(*map(float, mix.split(","))) for mix in (args.first_mix, args.last_mix))
        while True:
            share = min(1.0, step * args.lanes * args.length / args.curriculum) if args.curriculum else 1.0
            self.lanes.rng.seed(args.seed * 1_000_003 + step)
            batch = self.lanes.batch(args.lanes, first.towards(final, share))
            yield batch, args.foreign_weight ** (share * self.lanes.rng.random())
            step += stride


class Meter:
    """Mean loss of each skill, and the share of its tokens given a probability above one half."""

    def __init__(self):
        self.sums = torch.zeros(len(TAGS), 3, dtype=torch.float64)

    def add(self, tags: torch.Tensor, each: torch.Tensor) -> None:
        for column, value in enumerate((torch.ones_like(each), each, (each < math.log(2)).float())):
            self.sums[:, column] += torch.bincount(tags, weights=value.double(), minlength=len(TAGS)).cpu()

    def take(self) -> dict:
        rows = {tag: [round((s[1] / s[0]).item(), 3), round((s[2] / s[0]).item(), 3)]
                for tag, s in zip(TAGS, self.sums) if s[0] > 0}
        self.sums.zero_()
        return rows


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.run.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    known = {f.name for f in fields(ModelConfig)}
    changes = json.loads(args.model)
    if unknown := set(changes) - known:
        raise SystemExit(f"--model: {sorted(unknown)} not among {sorted(known)}")
    config = ModelConfig(**{"vocab_size": tokenizer.get_vocab_size(), **changes})
    device = torch.device(args.device)
    model = MemoryModel(config)
    if args.init is not None:
        load = load_export if args.init.is_dir() else load_checkpoint
        model.load_state_dict(load(args.init).state_dict())
    model.to(device)
    average = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    tuned = optimizers(model, args.muon_lr, args.adam_lr)
    peaks = [[group["lr"] for group in one.param_groups] for one in tuned]
    done, seconds, step = 0, 0.0, 0
    last = args.run / "last.pt"
    if last.exists():
        saved = torch.load(last, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        average = saved["average"]
        for one, state in zip(tuned, saved["optimizers"]):
            one.load_state_dict(state)
        done, seconds, step = saved["tokens"], saved["seconds"], saved["step"]
    books = encode_books(args.books, tokenizer, args.book_cache, args.most_per_book, 1)
    lanes = Lanes(tokenizer, Grammar(args.grammar), books, args.length, args.seed)
    batches = iter(torch.utils.data.DataLoader(
        Batches(lanes, args, step), batch_size=None, num_workers=args.workers, pin_memory=device.type == "cuda"))
    print(f"{sum(p.numel() for p in model.parameters())} parameters, from {done} tokens", flush=True)
    run = torch.compile(model) if args.compile else model
    run.config = config
    meter, begun, spent = Meter(), time.time(), 0.0

    def save() -> None:
        torch.save({"config": config.to_dict(), "model": model.state_dict(), "average": average,
                    "optimizers": [one.state_dict() for one in tuned], "tokens": done, "step": step,
                    "seconds": seconds + time.time() - begun}, last.with_suffix(".part"))
        os.replace(last.with_suffix(".part"), last)

    def progress() -> float:
        if args.wall_minutes:
            return (seconds + time.time() - begun) / (60 * args.wall_minutes)
        return done / args.tokens

    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    while done < args.stop and progress() < 1.0 and not ended:
        batch, foreign_weight = next(batches)
        batch = batch.to(device)
        rate = rate_at(done, args.warmup, progress())
        memory = batch.memory(config.window, args.others, foreign_weight)
        with torch.autocast(device.type, torch.bfloat16, enabled=not args.f32):
            loss, each = loss_of(run, batch, memory)
        update(model, tuned, peaks, rate, loss)
        step += 1
        done += batch.ids.numel()
        with torch.no_grad():
            for name, weight in model.state_dict().items():
                average[name].lerp_(weight, max(0.005, 1 / (step + 1)))
        meter.add(batch.tags.flatten(), each)
        if step % 50 == 0:
            wall = time.time() - begun
            row = {"tokens": done, "seconds": round(seconds + wall, 1), "tokens_per_s": round(50 * batch.ids.numel() / (wall - spent)),
                   "loss": round(loss.item(), 3), **meter.take()}
            spent = wall
            with (args.run / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if step % 100 == 0:
            save()
    save()


if __name__ == "__main__":
    main()
