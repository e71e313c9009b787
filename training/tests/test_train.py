"""A run on tiny shapes: it learns, resumes and exports."""

import json
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from mnemon_training import tokenizer as bpe
from mnemon_training.histories import Grammar

ROOT = Path(__file__).resolve().parents[1]
GRAMMAR = ROOT.parent / "models" / "default" / "histories.json"
TINY = {"hidden_size": 32, "intermediate_size": 32, "layers": 2, "heads": 2, "head_dim": 16, "window": 16,
        "memory_layers": [0]}


def run(module, *args):
    done = subprocess.run([sys.executable, "-m", f"mnemon_training.{module}", *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_resume_export(tmp_path):
    books = tmp_path / "books"
    books.mkdir()
    (books / "a.txt").write_text("It was a bright cold day in the garden, and nobody spoke. " * 300)
    tokenizer = tmp_path / "tokenizer.json"
    bpe.train(iter(Grammar(GRAMMAR).turns), 400).save(str(tokenizer))
    common = ("--books", books, "--tokenizer", tokenizer, "--grammar", GRAMMAR, "--run", tmp_path / "run",
              "--book-cache", tmp_path / "books.npy", "--model", json.dumps(TINY), "--length", 128, "--lanes", 2,
              "--tokens", 40000)
    run("train", *common, "--stop", 13000)
    assert "from 13056 tokens" in run("train", *common, "--stop", 26000)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["other"][0] < rows[0]["other"][0]
    run("export", "--checkpoint", tmp_path / "run" / "last.pt", "--tokenizer", tokenizer, "--out", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["mnemon"]["memory_layers"] == [0]
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("model.layers.0.self_attn.memory_scale").shape == (2,)
        assert "lm_head.weight" not in weights.keys()
