"""How fast a pipeline is, beside spacy-transformers' own component on the same weights.

Both pipelines have the same heads with the same weights; only the encoder component differs. They run alternately in
one process, so that the ratio holds where a lone time would not. Nothing is said about accuracy: the heads are
untrained.
"""

import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Sequence, Union

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import fix_random_seed

from .annotate import use_device
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


def _add_heads(nlp: Language, listener: Dict[str, Any]) -> None:
    tagger = {"@architectures": "spacy.Tagger.v2", "tok2vec": listener}
    transitions = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "extra_state_tokens": False,
        "use_upper": False,
        "tok2vec": listener,
    }
    for name in ("tagger", "morphologizer", "trainable_lemmatizer"):
        nlp.add_pipe(name, config={"model": tagger})
    nlp.add_pipe(
        "parser", config={"model": {**transitions, "state_type": "parser", "hidden_width": 128, "maxout_pieces": 3}}
    )
    nlp.add_pipe("ner", config={"model": {**transitions, "state_type": "ner", "hidden_width": 64, "maxout_pieces": 2}})


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


def make_pipeline(encoder: str, texts: Sequence[str], *, stock: bool, heads: bool = True, **model: Any) -> Language:
    """Make an untrained pipeline on an encoder, the same each time.

    encoder: A folder or a name on the hub.
    texts: Some texts to make labels for the heads.
    stock: With spacy-transformers' component instead of ours.
    heads: With tagger, morphologizer, lemmatizer, parser and entities; otherwise only the encoder.
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
        _add_heads(nlp, {"@architectures": listener, "pooling": POOLING, "grad_factor": 1.0})
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
) -> Dict[str, Any]:
    """Measure words a second of the stock component, ours, and the bare encoder, alternately.

    The bare encoder is the limit: our batches of all the texts, prepared beforehand, and nothing but the torch module.

    batch_wordpieces: Of our encoder and the bare one.
    batch_size: Documents that the pipelines buffer.
    precision: ``bf16`` or ``fp16`` for autocast on a GPU, in all three; the stock component knows only ``fp16``.
    gpu_id: Of the GPU; -1 for the CPU.
    Returns the figures: words, words a second of each (median, lowest, highest), and the median of the ratios by
    pair of runs. Words are spaCy's tokens. Raises ProjectError for less than one run, or a GPU that isn't there.
    """
    if runs < 1:
        raise ProjectError("B518", f"There is nothing to measure in {runs} runs.", "Ask for 1 or more.")
    use_device(gpu_id)
    ours = {"batch_wordpieces": batch_wordpieces, "precision": precision}
    pipelines = {
        "stock": make_pipeline(encoder, texts[:50], stock=True, heads=heads, mixed_precision=precision != "fp32"),
        "ours": make_pipeline(encoder, texts[:50], stock=False, heads=heads, **ours),
    }
    model = pipelines["ours"].get_pipe("transformer").model
    docs = [pipelines["ours"].make_doc(text) for text in texts]
    batches = make_batches(model, docs).padded
    words = sum(map(len, docs))

    def pipe(name: str) -> None:
        for _ in pipelines[name].pipe(texts, batch_size=batch_size):
            pass

    measured = {"stock": partial(pipe, "stock"), "ours": partial(pipe, "ours")}
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
    ratios = [ours / stock for stock, ours in zip(speeds["stock"], speeds["ours"])]
    shares = [ours / bare for bare, ours in zip(speeds["bare"], speeds["ours"])]
    figures: Dict[str, Any] = {
        name: {"median": statistics.median(s), "lowest": min(s), "highest": max(s)} for name, s in speeds.items()
    }
    return {
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
        **figures,
        "share_of_bare": statistics.median(shares),
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
    }


def render_comparison(result: Dict[str, Any]) -> str:
    """Lay out what `compare` measured as Markdown."""
    lines = [
        f"{result['texts']} texts, {result['words']} words, {result['runs']} alternated runs, "
        f"{result['threads']} threads, {result['precision']} {result['device']}, "
        f"{'encoder and heads' if result['heads'] else 'encoder only'}",
        "",
        "| component | words a second (median) | lowest | highest |",
        "| --- | ---: | ---: | ---: |",
    ]
    labels = {"stock": "spacy-transformers, strided spans 128/96", "ours": "beto_transformer", "bare": "bare encoder"}
    for name, label in labels.items():
        figures = result[name]
        lines.append(f"| {label} | {figures['median']:.0f} | {figures['lowest']:.0f} | {figures['highest']:.0f} |")
    ratio = result["ratio"]
    lines += [
        "",
        f"Ours to stock, run by run: {ratio['median']:.2f} (lowest {ratio['lowest']:.2f}, highest "
        f"{ratio['highest']:.2f}); to the bare encoder: {result['share_of_bare']:.2f}",
    ]
    return "\n".join(lines)
