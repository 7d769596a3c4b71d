"""Smaller encoders: some layers of a larger one, or one like it of another size with random weights."""

import copy
from typing import List, Sequence

import torch
from transformers import AutoModel

from beto_spacy.encoders.checkpoint import LAYERS, Checkpoint, Size, check_size, without_pooler


def spread_layers(n_kept: int, n_layers: int) -> List[int]:
    """Which layers to keep, from 0: as many, evenly spread, the first and the last among them; of one, the first.

    6 of 12 are those that DistilBERT was made of (Sanh et al. 2019): 0, 2, 4, 7, 9, 11.
    """
    return [round(i * (n_layers - 1) / max(1, n_kept - 1)) for i in range(n_kept)]


def keep_layers(checkpoint: Checkpoint, kept: Sequence[int]) -> Checkpoint:
    """Make an encoder of some layers of another, which isn't changed.

    kept: The layers, from 0, in order. Those of ALBERT are one layer, gone through several times: only how many counts.
    """
    model = copy.deepcopy(checkpoint.model)
    modules = dict(model.named_modules())
    place = next(name for name in LAYERS if name in modules)
    if model.config.model_type != "albert":
        parent, _, name = place.rpartition(".")
        setattr(modules[parent], name, torch.nn.ModuleList([modules[place][i] for i in kept]))
    model.config.num_hidden_layers = len(kept)
    return Checkpoint(model, checkpoint.tokenizer)


def build_smaller(checkpoint: Checkpoint, *, layers: int, width: int, heads: int, seed: int) -> Checkpoint:
    """Make an encoder of another's kind, vocabulary and positions with random weights.

    layers, width, heads: Its size; the feed-forward layers have the same ratio to the width.
    seed: Of the weights.
    Raises EncoderError for a size that can't be.
    """
    check_size(Size(layers=layers, width=width, heads=heads))
    config = copy.deepcopy(checkpoint.model.config)
    inner = "hidden_dim" if config.model_type == "distilbert" else "intermediate_size"
    setattr(config, inner, max(1, getattr(config, inner) * width // config.hidden_size))
    config.hidden_size, config.num_attention_heads, config.num_hidden_layers = width, heads, layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(config, **without_pooler(config))
    return Checkpoint(model, checkpoint.tokenizer)
