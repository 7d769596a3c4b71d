"""How fast a pipeline is, beside spacy-transformers' own component on the same weights.

The pipelines run alternately in one process, so that a ratio holds where a lone time would not. Nothing is said about
accuracy: the heads are untrained. To our parser that is no favour: it hardly ever finds a tree at the first attempt.
"""

import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Union

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import fix_random_seed

from .annotate import load_pipeline, use_device
from .checkpoint import resolve_encoder
from .encoder import make_batches
from .errors import ProjectError

POOLING = {"@layers": "reduce_mean.v1"}
#: What the official pipelines of spacy-transformers are trained with.
STOCK = {
    "@architectures": "spacy-transformers.TransformerModel.v3",
    "tokenizer_config": {"use_fast": True},
    "get_spans": {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96},
}


#: Heads by component, as `compare` gives them to a pipeline: spaCy's, and ours.
HEADS: Dict[str, Dict[str, str]] = {
    "spacy": {
        "tagger": "tagger",
        "morphologizer": "morphologizer",
        "lemmatizer": "trainable_lemmatizer",
        "parser": "parser",
        "ner": "ner",
    },
    "beto": {
        "senter": "beto_senter",
        "tagger": "tagger",
        "morphologizer": "morphologizer",
        "lemmatizer": "beto_lemmatizer",
        "parser": "beto_parser",
        "ner": "beto_ner",
    },
}
#: What the pipelines of a comparison are called in its tables.
TITLES = {
    "stock": "spacy-transformers, strided spans 128/96; spaCy's heads",
    "spacy heads": "beto_transformer, spaCy's heads",
    "ours": "beto_transformer, our heads",
    "stock encoder": "spacy-transformers, no heads",
    "our encoder": "beto_transformer, no heads",
    "bare": "the encoder's layers alone, over the same batches",
}


_SPREAD = ("median", "lowest", "highest")


def _add_heads(nlp: Language, listener: Dict[str, Any], heads: str) -> None:
    tagger = {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}
    transitions = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "extra_state_tokens": False,
        "use_upper": False,
        "tok2vec": listener,
    }
    settings: Dict[str, Dict[str, Any]] = {
        "tagger": {"model": tagger},
        "morphologizer": {"model": tagger},
        "trainable_lemmatizer": {"model": tagger},
        "parser": {"model": {**transitions, "state_type": "parser", "hidden_width": 128, "maxout_pieces": 3}},
        "ner": {"model": {**transitions, "state_type": "ner", "hidden_width": 64, "maxout_pieces": 2}},
        "beto_lemmatizer": {"tables": False},
    }
    for name, factory in HEADS[heads].items():
        nlp.add_pipe(factory, name=name, config=settings.get(factory, {}))


def _examples(nlp: Language, texts: Sequence[str]) -> List[Example]:
    """Examples with made-up annotation, to give the heads their labels."""
    examples = []
    for text in texts:
        doc = nlp.make_doc(text)
        n = len(doc)
        gold = Doc(
            doc.vocab,
            words=[t.text for t in doc],
            spaces=[bool(t.whitespace_) for t in doc],
            tags=[f"T{i % 20}" for i in range(n)],
            pos=[("NOUN", "VERB", "ADJ", "DET", "ADP")[i % 5] for i in range(n)],
            morphs=[("Number=Sing", "Number=Plur", "")[i % 3] for i in range(n)],
            lemmas=[t.lower_ for t in doc],
            heads=[max(0, i - 1) for i in range(n)],
            deps=["ROOT" if i == 0 else ("nsubj", "obj", "case", "det")[i % 4] for i in range(n)],
        )
        gold.ents = [Span(gold, 0, 1, label=("PER", "LOC", "ORG", "MISC")[len(text) % 4])] if n else []
        examples.append(Example(doc, gold))
    return examples


def make_pipeline(
    encoder: str, texts: Sequence[str], *, stock: bool, heads: Optional[str] = "spacy", **model: Any
) -> Language:
    """Make an untrained pipeline on an encoder, the same each time.

    encoder: A folder or a name on the hub.
    texts: Some texts to make labels for the heads.
    stock: With spacy-transformers' component instead of ours.
    heads: A key of `HEADS`; None for the encoder only.
    model: Settings of the encoder, such as ``batch_wordpieces`` for ours.
    """
    fix_random_seed(0)
    nlp = spacy.blank("es")
    if stock:
        nlp.add_pipe("transformer", config={"model": {**STOCK, "name": resolve_encoder(encoder), **model}})
    else:
        architecture = {"@architectures": "beto_spacy.Encoder.v1", "name": encoder, **model}
        nlp.add_pipe("beto_transformer", name="transformer", config={"model": architecture})
    if heads:
        listener = "spacy-transformers.TransformerListener.v1" if stock else "beto_spacy.Listener.v1"
        _add_heads(nlp, {"@architectures": listener, "pooling": POOLING, "grad_factor": 1.0}, heads)
    nlp.add_pipe("doc_cleaner", config={"attrs": {"_.trf_data": None}})
    examples = _examples(nlp, texts)
    nlp.initialize(lambda: examples)
    return nlp


def read_lines(paths: Sequence[Union[str, Path]], *, limit: int) -> List[str]:
    """Read texts of mixed lengths: the same share from each file, spread over it.

    paths: As in `vocabulary.Texts`.
    limit: How many texts at most, of 20 to 2,500 characters each.
    """
    from .vocabulary import Texts

    if limit < 1:
        raise ProjectError("B517", f"There is nothing to measure in {limit} texts.", "Ask for 1 or more.")
    texts = []
    share = -(-limit // len(paths))
    for path in paths:
        lines = [line for line in Texts([path]) if 20 <= len(line) <= 2_500]
        texts += lines[:: max(1, len(lines) // share)][:share]
    if not texts:
        raise ProjectError("B515", "There is no text of 20 to 2,500 characters a line.", "Give other files.")
    return texts[:limit]


def stages(nlp: Language, texts: Sequence[str], *, batch_size: int, gpu_id: int = -1) -> Dict[str, float]:
    """Seconds that each stage of a pipeline takes: the tokenizer, and each component.

    Buffers of documents pass the components one by one, as in `nlp.pipe`; on a GPU each stage waits for its end.
    """
    seconds = {"tokenizer": 0.0, **{name: 0.0 for name in nlp.pipe_names}}

    def clock() -> float:
        if gpu_id >= 0:
            torch.cuda.synchronize(gpu_id)
        return time.perf_counter()

    for first in range(0, len(texts), batch_size):
        before = clock()
        docs = [nlp.make_doc(text) for text in texts[first : first + batch_size]]
        after = clock()
        seconds["tokenizer"] += after - before
        for name, pipe in nlp.pipeline:
            before = after
            docs = list(pipe.pipe(docs, batch_size=batch_size)) if hasattr(pipe, "pipe") else list(map(pipe, docs))
            after = clock()
            seconds[name] += after - before
    return seconds


def compare(
    encoder: str,
    texts: Sequence[str],
    *,
    runs: int = 5,
    heads: bool = True,
    batch_wordpieces: int = 512,
    batch_size: int = 256,
    precision: str = "fp32",
    gpu_id: int = -1,
    peers: Sequence[str] = (),
) -> Dict[str, Any]:
    """Measure the words a second of pipelines on an encoder, over texts, in alternated runs after one that warms up.

    Beside the pipelines stand the encoder component without heads, stock and ours, and the bare encoder: its layers
    alone, over the same padded batches of wordpieces. That is the most that a pipeline can reach.

    encoder: A folder or a name on the hub.
    texts: What to annotate.
    runs: How often each is measured.
    heads: Measure whole pipelines, or the encoder component only.
    batch_wordpieces, precision: Of our encoder. With another precision than fp32 stock runs in torch's mixed precision.
    batch_size: Documents that the pipelines buffer.
    gpu_id: Number of the GPU; -1 for the CPU.
    peers: Trained pipelines to measure beside them, by package or folder.
    Returns the figures: by pipeline the median, lowest and highest speed; the ratio of ours to each of the others, run
    by run; and the seconds of each stage of the pipelines in a run of its own. Words are spaCy's tokens. Raises
    ProjectError for less than one run, a peer or a GPU that isn't there.
    """
    if runs < 1:
        raise ProjectError("B518", f"There is nothing to measure in {runs} runs.", "Ask for 1 or more.")
    use_device(gpu_id)
    ours = {"stock": False, "batch_wordpieces": batch_wordpieces, "precision": precision}
    stock = {"stock": True, "mixed_precision": precision != "fp32"}
    kinds: Dict[str, Dict[str, Any]] = {
        "stock": {**stock, "heads": "spacy"},
        "spacy heads": {**ours, "heads": "spacy"},
        "ours": {**ours, "heads": "beto"},
        "stock encoder": {**stock, "heads": None},
        "our encoder": {**ours, "heads": None},
    }
    if not heads:
        kinds = {name: kinds[name] for name in ("stock encoder", "our encoder")}
    pipelines = {name: make_pipeline(encoder, texts[:50], **settings) for name, settings in kinds.items()}
    pipelines.update({name: load_pipeline(name, gpu=gpu_id) for name in peers})
    model = pipelines["our encoder"].get_pipe("transformer").model
    docs = [pipelines["our encoder"].make_doc(text) for text in texts]
    batches = make_batches(model, docs).padded
    words = sum(map(len, docs))

    def pipe(name: str) -> None:
        for _ in pipelines[name].pipe(texts, batch_size=batch_size):
            pass

    measured: Dict[str, Callable[[], Any]] = {name: partial(pipe, name) for name in pipelines}
    measured["bare"] = lambda: model.shims[0].predict(batches)
    speeds: Dict[str, List[float]] = {name: [] for name in measured}
    for run in range(runs + 1):  # the first warms up
        for name, once in measured.items():
            start = time.perf_counter()
            once()
            if gpu_id >= 0:
                torch.cuda.synchronize(gpu_id)
            if run:
                speeds[name].append(words / (time.perf_counter() - start))
    first = "ours" if heads else "our encoder"
    result: Dict[str, Any] = {
        "encoder": str(encoder),
        "heads": heads,
        "texts": len(texts),
        "words": words,
        "device": torch.cuda.get_device_name(gpu_id) if gpu_id >= 0 else "CPU",
        "precision": precision,
        "batch_wordpieces": batch_wordpieces,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "runs": runs,
        "words_per_second": {name: _spread(found) for name, found in speeds.items()},
        "ratios": {
            f"{first} / {name}": _spread([a / b for a, b in zip(speeds[first], found)])
            for name, found in speeds.items()
            if name != first
        },
        "seconds_by_stage": {
            name: stages(nlp, texts, batch_size=batch_size, gpu_id=gpu_id) for name, nlp in pipelines.items()
        },
    }
    if heads:
        without = {
            name: _without_encoder(result["seconds_by_stage"][name]) for name in ("stock", "spacy heads", "ours")
        }
        result["heads_alone"] = {
            "words_per_second": {name: words / seconds for name, seconds in without.items()},
            "ours / spacy heads": without["spacy heads"] / without["ours"],
        }
    return result


def _without_encoder(seconds: Dict[str, float]) -> float:
    return sum(seconds.values()) - seconds["transformer"]


def _spread(figures: Sequence[float]) -> Dict[str, float]:
    return {"median": statistics.median(figures), "lowest": min(figures), "highest": max(figures)}


def render_comparison(result: Dict[str, Any]) -> str:
    """Lay out what `compare` measured as Markdown."""
    lines = [
        f"`{result['encoder']}`; {result['texts']} texts, {result['words']} words, {result['runs']} alternated runs, "
        f"{result['threads']} threads, {result['precision']}, {result['device']}",
        "",
        "| pipeline | words a second (median) | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, found in result["words_per_second"].items():
        lines.append(f"| {TITLES.get(name, name)} | " + " | ".join(f"{found[k]:,.0f}" for k in _SPREAD) + " |")
    lines += ["", "| ratio, run by run | median | lowest | highest |", "| --- | ---: | ---: | ---: |"]
    for name, found in result["ratios"].items():
        lines.append(f"| {name} | " + " | ".join(f"{found[k]:.2f}" for k in _SPREAD) + " |")
    names = [name for name in result["seconds_by_stage"] if "encoder" not in name] or list(result["seconds_by_stage"])
    rows = list(dict.fromkeys(stage for name in names for stage in result["seconds_by_stage"][name]))
    lines += ["", "| seconds by stage | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for stage in rows:
        cells = []
        for name in names:
            seconds = result["seconds_by_stage"][name]
            share = 100 * seconds.get(stage, 0.0) / sum(seconds.values())
            cells.append(f"{seconds[stage]:.3f} ({share:.0f}%)" if stage in seconds else "")
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    if "heads_alone" in result:
        ratio = result["heads_alone"]["ours / spacy heads"]
        lines += ["", f"Without the encoder, our heads do {ratio:.2f} times the words a second of spaCy's."]
    return "\n".join(lines)
