"""How fast a pipeline is, beside spacy-transformers' own component on the same weights.

The pipelines run alternately in one process, so that a ratio holds where a lone time would not. Nothing is said about
accuracy: the heads are untrained. To our parser that is no favour: it hardly ever finds a tree at the first attempt.
Memory, loading and training are measured in processes of their own, see `footprint.py`.
"""

import importlib.util
import os
import statistics
import tempfile
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
from .checkpoint import Checkpoint, resolve_encoder
from .encoder import EncoderShim, make_batches
from .errors import ProjectError
from .files import new_file, write_json
from .footprint import STOCK, measure_loading, measure_stream

POOLING = {"@layers": "reduce_mean.v1"}
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
    "ours int8": "the same, encoder in 8-bit integers",
    "stock encoder": "spacy-transformers, no heads",
    "our encoder": "beto_transformer, no heads",
    "our encoder int8": "the same in 8-bit integers",
    "bare": "the encoder's layers alone, over the same batches",
    "bare int8": "the same in 8-bit integers",
}


_SPREAD = ("median", "lowest", "highest")
#: Characters of a document at most: spaCy's own limit.
_LONGEST = 1_000_000


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


def mix(texts: Sequence[str]) -> Dict[str, List[str]]:
    """Make short lines, paragraphs and a document as long as a book of a third each of some texts.

    Returns them as ``short``, ``paragraphs`` and ``book``; of fewer than three texts all are ``paragraphs``.
    """
    if len(texts) < 3:
        return {"paragraphs": list(texts)}
    lines = [line for text in texts[::3] for line in text.replace(". ", ".\n").split("\n") if line.strip()]
    return {"short": lines, "paragraphs": list(texts[1::3]), "book": ["\n".join(texts[2::3])[:_LONGEST]]}


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
    int8: bool = False,
    footprint: bool = False,
) -> Dict[str, Any]:
    """Measure the words a second of pipelines on an encoder, over texts, in alternated runs after one that warms up.

    Beside the pipelines stand the encoder component without heads, stock and ours, and the bare encoder: its layers
    alone, over the same padded batches of wordpieces. That is the most that a pipeline can reach.

    encoder: A folder or a name on the hub.
    texts: What to annotate: a third of them as short lines, a third as paragraphs, a third as one document.
    runs: How often each is measured.
    heads: Measure whole pipelines, or the encoder component only.
    batch_wordpieces, precision: Of our encoder. With another precision than fp32 stock runs in torch's mixed precision.
    batch_size: Documents that the pipelines buffer.
    gpu_id: Number of the GPU; -1 for the CPU.
    peers: Trained pipelines to measure beside them, by package or folder.
    int8: Measure our pipeline and the bare encoder in 8-bit integers too.
    footprint: Measure the memory, the loading and the size of each pipeline too, see `footprint.measure_loading`.
    Returns the figures: by pipeline the median, lowest and highest speed, over all texts and by their kind; the ratio
    of ours to each of the others, run by run; and the seconds of each stage of the pipelines in a run of its own. Words
    are spaCy's tokens. Raises ProjectError for less than one run, a peer or a GPU that isn't there, or 8-bit integers
    on a GPU; EncoderError if they want a package that is missing.
    """
    if runs < 1:
        raise ProjectError("B518", f"There is nothing to measure in {runs} runs.", "Ask for 1 or more.")
    if int8 and gpu_id >= 0:
        raise ProjectError("B530", "8-bit integers are for the CPU.", "Leave out --int8 or --gpu-id.")
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
    if int8:
        for name in ["ours"] * heads + ["our encoder"]:
            pipelines[f"{name} int8"] = _in_int8(make_pipeline(encoder, texts[:50], **kinds[name]))
    pipelines.update({name: load_pipeline(name, gpu=gpu_id) for name in peers})
    parts = mix(texts)
    model = pipelines["our encoder"].get_pipe("transformer").model
    batches, words = {}, {}
    for part, its in parts.items():
        docs = [pipelines["our encoder"].make_doc(text) for text in its]
        batches[part] = make_batches(model, docs).padded
        words[part] = sum(map(len, docs))

    def pipe(name: str, part: str) -> None:
        for _ in pipelines[name].pipe(parts[part], batch_size=batch_size):
            pass

    def bare(shim: EncoderShim, part: str) -> None:
        shim.predict(batches[part])

    measured: Dict[str, Callable[[str], Any]] = {name: partial(pipe, name) for name in pipelines}
    measured["bare"] = partial(bare, model.shims[0])
    if int8:
        measured["bare int8"] = partial(bare, pipelines["our encoder int8"].get_pipe("transformer").model.shims[0])
    by_part: Dict[str, Dict[str, List[float]]] = {name: {part: [] for part in parts} for name in measured}
    speeds: Dict[str, List[float]] = {name: [] for name in measured}
    for run in range(runs + 1):  # the first warms up
        for name, once in measured.items():
            seconds = 0.0
            for part in parts:
                start = time.perf_counter()
                once(part)
                if gpu_id >= 0:
                    torch.cuda.synchronize(gpu_id)
                taken = time.perf_counter() - start
                seconds += taken
                if run:
                    by_part[name][part].append(words[part] / taken)
            if run:
                speeds[name].append(sum(words.values()) / seconds)
    first = "ours" if heads else "our encoder"
    pairs = [(first, name) for name in speeds if name != first]
    if int8:
        pairs += [(f"{first} int8", name) for name in speeds if name not in (first, f"{first} int8", "bare")]
        pairs.append(("our encoder int8", "bare int8"))
    pairs.append(("our encoder", "bare"))
    texts = [text for its in parts.values() for text in its]
    result: Dict[str, Any] = {
        "encoder": str(encoder),
        "heads": heads,
        "texts": len(texts),
        "words": sum(words.values()),
        "words_by_kind": words,
        "device": torch.cuda.get_device_name(gpu_id) if gpu_id >= 0 else "CPU",
        "precision": precision,
        "batch_wordpieces": batch_wordpieces,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "runs": runs,
        "words_per_second": {name: _spread(found) for name, found in speeds.items()},
        "words_per_second_by_kind": {
            name: {part: _spread(figures) for part, figures in found.items()} for name, found in by_part.items()
        },
        "ratios": {
            f"{one} / {other}": _spread([a / b for a, b in zip(speeds[one], speeds[other])])
            for one, other in dict.fromkeys(pairs)
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
            "words_per_second": {name: result["words"] / seconds for name, seconds in without.items()},
            "ours / spacy heads": without["spacy heads"] / without["ours"],
        }
    if footprint:
        result["footprint"] = _footprints(pipelines, peers, texts, batch_size=batch_size, gpu_id=gpu_id)
    return result


def _in_int8(nlp: Language) -> Language:
    """Quantize the encoder of a pipeline; what that costs is not measured."""
    from .onnx_model import Int8Exporter

    shim: EncoderShim = nlp.get_pipe("transformer").model.shims[0]
    shim.set_checkpoint(Checkpoint(Int8Exporter(shim.encoder).quantized(), shim.tokenizer))
    shim.precision = "int8"
    nlp._pipe_configs["transformer"]["model"]["precision"] = "int8"
    return nlp


def _footprints(
    pipelines: Dict[str, Language], peers: Sequence[str], texts: Sequence[str], *, batch_size: int, gpu_id: int
) -> Dict[str, Dict[str, float]]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, nlp) in enumerate(pipelines.items()):
            model: Union[str, Path] = name
            if name not in peers:
                model = Path(folder) / str(number)
                nlp.to_disk(model)
            found[name] = measure_loading(model, texts, batch_size=batch_size, gpu_id=gpu_id)
    return found


def grow(
    encoder: str,
    paths: Sequence[Union[str, Path]],
    most: int,
    *,
    kind: str = "short",
    int8: bool = False,
    batch_wordpieces: int = 512,
    batch_size: int = 256,
    precision: str = "fp32",
    gpu_id: int = -1,
) -> List[Dict[str, Any]]:
    """Annotate more and more text, ten times as much each time, and take time and memory at each tenth of it.

    encoder, batch_wordpieces, batch_size, precision, gpu_id, int8: As in `compare`; the heads are ours.
    paths, kind: As in `footprint.measure_stream`.
    most: Documents, or characters of ``long`` documents, of the longest stream; the shortest has a hundredth.
    Returns for each stream its ``amount`` and what `footprint.measure_stream` gives.
    """
    texts = read_lines(paths, limit=50)
    settings: Dict[str, Any] = {"batch_wordpieces": batch_wordpieces, "precision": precision}
    nlp = make_pipeline(encoder, texts, stock=False, heads="beto", **settings)
    with tempfile.TemporaryDirectory() as folder:
        (_in_int8(nlp) if int8 else nlp).to_disk(folder)
        return [
            {
                "amount": amount,
                "kind": kind,
                **measure_stream(folder, paths, amount, kind=kind, batch_size=batch_size, gpu_id=gpu_id),
            }
            for amount in (most // 100, most // 10, most)
        ]


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
    kinds = result["words_by_kind"]
    lines += ["", "| words a second by kind | " + " | ".join(f"{k} ({n:,} words)" for k, n in kinds.items()) + " |"]
    lines.append("| --- |" + " ---: |" * len(kinds))
    for name, found in result["words_per_second_by_kind"].items():
        cells = [f"{found[kind]['median']:,.0f}" for kind in kinds]
        lines.append(f"| {TITLES.get(name, name)} | " + " | ".join(cells) + " |")
    if "footprint" in result:
        lines += ["", "| pipeline | loads in (s) | memory when loaded (MB) | at most (MB) | on the disk (MB) |"]
        lines.append("| --- | ---: | ---: | ---: | ---: |")
        for name, found in result["footprint"].items():
            cells = [f"{found['load_seconds']:.1f}", *(f"{found[key]:,.0f}" for key in ("loaded", "peak", "size"))]
            lines.append(f"| {TITLES.get(name, name)} | " + " | ".join(cells) + " |")
    if "heads_alone" in result:
        ratio = result["heads_alone"]["ours / spacy heads"]
        lines += ["", f"Without the encoder, our heads do {ratio:.2f} times the words a second of spaCy's."]
    if "growth" in result:
        lines += ["", *_growth_table(result["growth"])]
    if "training" in result:
        lines += ["", *_training_table(result["training"])]
    return "\n".join(lines)


def _growth_table(streams: Sequence[Dict[str, Any]]) -> List[str]:
    lines = [
        "| stream | words | seconds | words a second | memory after the first tenth (MB) | at the end | growth |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for stream in streams:
        words, seconds, memory = stream["words"][-1], stream["seconds"][-1], stream["resident"]
        unit = "short documents" if stream["kind"] == "short" else "characters in long documents"
        lines.append(
            f"| {stream['amount']:,} {unit} | {words:,} | {seconds:.1f} | {words / seconds:,.0f} | {memory[0]:,.0f} | "
            f"{memory[-1]:,.0f} | {100 * stream['growth']:+.1f}% |"
        )
    return lines


def _training_table(found: Dict[str, List[Dict[str, float]]]) -> List[str]:
    lines = [
        "| training | words a second (median) | lowest | highest | memory at most (MB) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, title in (("stock", "spacy-transformers"), ("ours", "beto_transformer")):
        speed = _spread([run["words_per_second"] for run in found[name]])
        peak = max(run["peak"] for run in found[name])
        lines.append(f"| {title} | " + " | ".join(f"{speed[k]:,.0f}" for k in _SPREAD) + f" | {peak:,.0f} |")
    return lines


def write_comparison(result: Dict[str, Any], path: Union[str, Path]) -> None:
    """Write what was measured as JSON and, with the same name, as Markdown and as a plot.

    The plot wants matplotlib; without it there is none, and the Markdown says so.
    """
    path = Path(path)
    text = render_comparison(result)
    if importlib.util.find_spec("matplotlib") is None:
        text += "\n\nThere is no plot: matplotlib isn't installed (pip install 'beto_spacy[plots]')."
    else:
        with new_file(path.with_suffix(".png")) as part:
            _draw(result, part)
    with new_file(path.with_suffix(".md")) as part:
        part.write_text(text + "\n", encoding="utf8")
    write_json(result, path)


def _draw(result: Dict[str, Any], path: Path) -> None:
    """Draw the speeds and, where there are streams, their time and memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    streams = result.get("growth", ())
    figure = Figure(figsize=(15 if streams else 7, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    speeds, *others = figure.subplots(1, 3 if streams else 1, squeeze=False)[0]
    names = list(result["words_per_second"])[::-1]
    found = [result["words_per_second"][name] for name in names]
    medians = [speed["median"] for speed in found]
    spread = [[s["median"] - s["lowest"] for s in found], [s["highest"] - s["median"] for s in found]]
    speeds.barh(names, medians, xerr=spread)
    speeds.set(xlabel="words a second")
    for stream in streams:
        label = f"{stream['amount']:,} {'documents' if stream['kind'] == 'short' else 'characters'}"
        others[0].loglog(stream["words"], stream["seconds"], marker=".", label=label)
        others[1].semilogx(stream["words"], stream["resident"], marker=".", label=label)
    if streams:
        others[0].set(xlabel="words", ylabel="seconds")
        others[1].set(xlabel="words", ylabel="resident memory (MB)", ylim=(0, None))
        others[1].legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")
