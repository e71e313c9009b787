"""Trains small Qwen3-shaped language models whose memory layers read a kNN memory.

Layout, one idea a file:

* ``model``: the decoder, its key shift and its memory attention (the maths the Rust runtime repeats)
* ``histories``: agent histories with planted facts, from the grammar that ships with the model
* ``tokenizer``: a byte-level BPE trained on books and histories
* ``data``: lanes of tokens with session breaks, the only thing the trainer sees
* ``train``: the loop, its schedule and its checkpoints
* ``evaluate``: exact match, citation and perplexity, with recall done as the service does it
* ``export``: a Hugging Face folder from a checkpoint
"""
