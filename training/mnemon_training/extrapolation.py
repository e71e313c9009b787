"""Small models of one recipe that differ in their position scheme alone, for ``mnemon bench extrapolation``.

    python -m mnemon_training.extrapolation --books DIR --tokenizer FILE --grammar FILE --out ../models/extrapolation

Each is trained on the same batches, in sessions of at most ``--length`` tokens: all that attention reaches, and the
longest position it meets. Every other batch is running text of books alone. In the others, which also hold the
histories and repeats that teach the use of memory, the memory layer sees the earlier sessions of its lane and
another lane: so the same weights can be measured with long attention and with memory. The learning rate is constant
for half the run, then falls to zero. The fourth scheme of the bench, NTK-scaled rotary, is the rotary model with
another base at run time.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from .data import Batch, Lanes, Mix, encode_books
from .export import export_folder
from .histories import Grammar
from .model import POSITIONS, MemoryModel, ModelConfig
from .train import loss_of, optimizers, rate_at, update

SHAPE = {"hidden_size": 128, "intermediate_size": 352, "layers": 3, "heads": 4, "kv_heads": 1, "head_dim": 32,
         "memory_layers": [1]}


ALONE = Mix(histories=0.0, repeats=0.0, books=1.0)
REMEMBERING = Mix(histories=0.25, repeats=0.2, books=0.55)


def cut(batch: Batch, length: int) -> Batch:
    """The same tokens in sessions of at most ``length``; no loss across their borders."""
    at = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    begins = F.pad(batch.session[:, 1:] != batch.session[:, :-1], (1, 0), value=True)
    since = at - torch.where(begins, at, 0).cummax(dim=1).values
    begins = since % length == 0
    weights = batch.weights.masked_fill(F.pad(begins[:, 1:], (0, 1)), 0.0)
    return replace(batch, session=begins.cumsum(dim=1), weights=weights)


def train(config: ModelConfig, lanes: Lanes, args: argparse.Namespace) -> MemoryModel:
    torch.manual_seed(args.seed)
    lanes.rng.seed(args.seed)
    model = MemoryModel(config)
    tuned = optimizers(model, args.muon_lr, args.adam_lr)
    peaks = [[group["lr"] for group in one.param_groups] for one in tuned]
    done, step, begun, losses = 0, 0, time.time(), []
    while done < args.tokens:
        batch = cut(lanes.batch(args.lanes, REMEMBERING if step % 2 else ALONE), args.length)
        memory = batch.memory(config.window, 1) if step % 2 else None
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.f32):
            loss, _ = loss_of(model, batch, memory)
        update(model, tuned, peaks, rate_at(done, args.warmup, done / args.tokens), loss)
        step, done = step + 1, done + batch.ids.numel()
        losses.append(loss.item())
        if step % 100 == 0:
            spent = time.time() - begun
            print(f"{config.positions}: {done} tokens, loss {sum(losses[-100::2]) / 50:.3f} alone, "
                  f"{sum(losses[-99::2]) / 50:.3f} of the others, {done / spent:.0f} tokens/s", flush=True)
    return model.eval()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--grammar", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--book-cache", type=Path, default=Path("runs/books.npy"))
    parser.add_argument("--most-per-book", type=int, default=220_000, help="characters of a book that are used")
    parser.add_argument("--schemes", nargs="*", default=list(POSITIONS), choices=POSITIONS)
    parser.add_argument("--tokens", type=float, default=6e6, help="tokens that each model is trained on")
    parser.add_argument("--length", type=int, default=128, help="tokens of a session: the longest context in training")
    parser.add_argument("--lane-tokens", type=int, default=1024)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=float, default=2e5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--f32", action="store_true", help="no bfloat16 in matrix products")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    books = encode_books(args.books, tokenizer, args.book_cache, args.most_per_book, 1)
    lanes = Lanes(tokenizer, Grammar(args.grammar), books, args.lane_tokens, args.seed)
    for positions in args.schemes:
        config = ModelConfig(vocab_size=tokenizer.get_vocab_size(), window=args.length, positions=positions,
                             max_position_embeddings=args.length, **SHAPE)
        export_folder(train(config, lanes, args), args.tokenizer, args.out / positions, torch.int8)


if __name__ == "__main__":
    main()
