"""Training a pipeline with settings that follow from its corpora and its encoder: ``beto-spacy train``.

spaCy's own training needs to be told a number of updates, a warm-up, how often to evaluate and a learning rate. Here
these follow from how many passes are made over the corpora, how many words an update has and how wide the encoder is;
whatever is stated is kept. The training itself is ``spacy train``.
"""

import math
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from spacy.util import load_config

from beto_spacy.corpora.reader import count_words
from beto_spacy.errors import ProjectError

#: Passes over the corpora unless told otherwise; and updates at least, which small corpora need more passes for.
PASSES, LEAST_UPDATES = 6.0, 300
#: Share of the updates in which the learning rate rises.
WARMUP = 0.1
#: Learning rates that suit an encoder of beto-mini's width, and one of BETO's or wider.
_RATES = {384: 3e-4, 768: 5e-5}
_READER = "beto_spacy.Corpora.v1"
#: Its settings that change how many words a pass has.
_MIXING = ("weights", "temperature", "categories_weight")


def train(
    config: Union[str, Path],
    output: Union[str, Path],
    *,
    passes: Optional[float] = None,
    updates: Optional[int] = None,
    evaluations: int = 8,
    learn_rate: Optional[float] = None,
    add_wordpieces: Union[str, Sequence[str]] = (),
    gpu: int = -1,
    overrides: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Train a pipeline as a config says, and save the best and the last state of it.

    Args:
        config: A training config such as ``configs/train.cfg``.
        output: The folder for ``model-best`` and ``model-last``.
        passes: Passes over the training corpora, as the reader mixes them; by default 6, or as many as 300 updates
            have.
        updates: The number of updates, instead of passes.
        evaluations: How often the pipeline is scored on the development corpora, evenly spread; the last time at the
            end.
        learn_rate: The highest rate of the encoder; by default what suits its width, see `suitable_rate`.
        add_wordpieces: What the encoder gets wordpieces for before the training; ``"auto"`` for the characters of the
            training corpora that its vocabulary lacks, see `unknown.add_characters`. The encoder with them is in the
            folder ``encoder`` of the output; there is none if nothing is to be added.
        gpu: Number of the GPU; -1 for the CPU.
        overrides: Fields of the config, by section and name. What they state is kept.

    Returns:
        The settings that were chosen, by the name of their field.

    Raises:
        ProjectError: For settings that can't be, a config that can't be read, or a training that fails.
        CorpusError: For corpora that can't be read.
    """
    from spacy.cli.train import train as spacy_train

    overrides = dict(overrides or {})
    chosen = choose_settings(
        config, passes=passes, updates=updates, evaluations=evaluations, learn_rate=learn_rate, overrides=overrides
    )
    if add_wordpieces:
        from beto_spacy.training.unknown import add_characters

        settings = load_config(Path(config), overrides=overrides, interpolate=True)
        encoder, added = add_characters(
            settings["paths"]["encoder"],
            Path(output) / "encoder",
            settings["corpora"]["train"]["paths"],
            None if add_wordpieces == "auto" else add_wordpieces,
        )
        if added:
            overrides["paths.encoder"] = chosen["paths.encoder"] = encoder
    spacy_train(Path(config), Path(output), use_gpu=gpu, overrides={**overrides, **chosen})
    return chosen


def choose_settings(
    config: Union[str, Path],
    *,
    passes: Optional[float] = None,
    updates: Optional[int] = None,
    evaluations: int = 8,
    learn_rate: Optional[float] = None,
    overrides: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Choose what `train` sets, without training; see there for arguments and errors."""
    if (passes is not None and not passes > 0) or (updates is not None and updates < 1) or evaluations < 1:
        raise ProjectError(
            "B570",
            f"A training can't have {passes} passes, {updates} updates and {evaluations} evaluations.",
            "Give positive numbers, or leave them out.",
        )
    overrides = dict(overrides or {})
    try:
        settings = load_config(Path(config), overrides=overrides, interpolate=True)
        reader, training = settings["corpora"]["train"], settings["training"]
        words = training["batcher"].get("size")
    except Exception as error:
        raise ProjectError(
            "B571",
            f"The training config can't be read ({' '.join(str(error).split())[:300]}).",
            "Correct what the message names, or start from configs/train.cfg.",
            path=config,
        ) from error
    if updates is None:
        if reader.get("@readers") != _READER or not isinstance(words, int):
            raise ProjectError(
                "B572",
                "The updates of a pass can't be counted for this config.",
                f"Give a number of updates, or use the reader {_READER} and a batcher with a size.",
                path=config,
            )
        options = {key: value for key, value in reader.items() if key in _MIXING}
        a_pass = count_words(reader["paths"], **options) / words
        updates = math.ceil(a_pass * passes) if passes else max(LEAST_UPDATES, math.ceil(a_pass * PASSES))
    every = math.ceil(updates / evaluations)
    updates = every * math.ceil(updates / every)
    prefix = "training.optimizer.learn_rate"
    found = {
        "training.max_steps": updates,
        "training.eval_frequency": every,
        "training.patience": 0,
        f"{prefix}.total_steps": updates,
        f"{prefix}.warmup_steps": max(1, round(WARMUP * updates)),
        f"{prefix}.initial_rate": learn_rate or suitable_rate(settings["paths"].get("encoder")),
    }
    return {key: value for key, value in found.items() if key not in overrides}


def suitable_rate(encoder: Optional[str]) -> float:
    """Return a learning rate that suits an encoder by its width: the wider, the lower.

    Args:
        encoder: A folder, an encoder that comes with the package, or a name on the hub, of which only the config is
            read.

    Raises:
        EncoderError: For an encoder that can't be found.
    """
    from beto_spacy.encoders.checkpoint import read_width

    (narrow, high), (wide, low) = sorted(_RATES.items())
    width = wide if encoder is None else min(max(read_width(encoder), narrow), wide)
    exponent = math.log(high / low) / math.log(wide / narrow)
    return float(f"{high * (narrow / width) ** exponent:.2g}")
