"""A run on tiny shapes: it learns, resumes and exports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from mnemon_training import tokenizer as bpe
from mnemon_training.export import load_export
from mnemon_training.histories import Grammar
from mnemon_training.model import POSITIONS, ModelConfig
from mnemon_training.train import RECIPES, parse

ROOT = Path(__file__).resolve().parents[1]
GRAMMAR = ROOT.parent / "models" / "default" / "histories.json"
TINY = {"hidden_size": 32, "intermediate_size": 32, "layers": 2, "heads": 2, "head_dim": 16, "window": 16,
        "memory_layers": [0]}


def run(module, *args):
    done = subprocess.run([sys.executable, "-m", f"mnemon_training.{module}", *map(str, args)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def inputs(tmp_path):
    """The arguments that say what a run reads and where it writes."""
    books = tmp_path / "books"
    books.mkdir()
    (books / "a.txt").write_text("It was a bright cold day in the garden, and nobody spoke. " * 300)
    tokenizer = tmp_path / "tokenizer.json"
    bpe.train(iter(Grammar(GRAMMAR).turns), 400).save(str(tokenizer))
    return ("--books", books, "--tokenizer", tokenizer, "--grammar", GRAMMAR, "--run", tmp_path / "run",
            "--book-cache", tmp_path / "books.npy")


def test_train_resume_export(tmp_path, inputs):
    tokenizer = tmp_path / "tokenizer.json"
    common = (*inputs, "--model", json.dumps(TINY), "--length", 128, "--lanes", 2, "--tokens", 40000)
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
    run("export", "--checkpoint", tmp_path / "run" / "last.pt", "--tokenizer", tokenizer, "--out", tmp_path / "bytes",
        "--dtype", "int8")
    whole, coarse = (load_export(tmp_path / name) for name in ("out", "bytes"))
    for (name, exact), rounded in zip(whole.state_dict().items(), coarse.state_dict().values()):
        if exact.dim() == 2:  # half a step of a row's scale, and what float16 lost
            step = exact.abs().amax(dim=1, keepdim=True) / 127
            assert ((exact - rounded).abs() <= 0.51 * step + 1e-3).all(), name
    # A second stage starts from an exported folder.
    second = tuple(tmp_path / "second" if part == tmp_path / "run" else part for part in common)
    run("train", *second, "--init", tmp_path / "bytes", "--stop", 300)


def test_recipes_are_arguments():
    for path in RECIPES.glob("*.json"):
        args = parse(["--recipe", path.stem, "--books", "b", "--tokenizer", "t", "--grammar", "g", "--run", "r",
                      "--lanes", "3"])
        assert args.lanes == 3
        ModelConfig(**json.loads(args.model))


def test_smoke_recipe_trains(tmp_path, inputs):
    run("train", "--recipe", "smoke", *inputs)
    assert (tmp_path / "run" / "last.pt").exists()


def test_models_of_all_position_schemes_are_trained_and_exported(inputs, tmp_path):
    given = dict(zip(inputs[::2], inputs[1::2]))
    del given["--run"]
    run("extrapolation", *(part for pair in given.items() for part in pair), "--out", tmp_path / "models", "--tokens", 1000,
        "--length", 16, "--lane-tokens", 128, "--lanes", 2, "--warmup", 500)
    for positions in POSITIONS:
        config = load_export(tmp_path / "models" / positions).config
        assert (config.positions, config.window, config.max_position_embeddings) == (positions, 16, 16)
