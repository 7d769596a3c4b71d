"""How fast a pipeline is, beside spacy-transformers' own component on the same weights, and what else it costs.

The pipelines run alternately in one process, so that a ratio holds where a lone time would not; memory, loading and
training are measured in processes of their own, see `footprint.py`. Nothing is said about accuracy: the heads are
untrained. To our parser that is no favour: it hardly ever finds a tree at the first attempt. A trained pipeline can
take part as a peer.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Config, fix_random_seed, get_torch_default_device

from beto_spacy.benchmark.footprint import measure_footprint, measure_growth, measure_training, spread
from beto_spacy.benchmark.report import TITLES
from beto_spacy.benchmark.texts import DEFAULT_KINDS, make_stream, parse_growth, read_texts
from beto_spacy.encoders.checkpoint import Checkpoint, resolve_encoder
from beto_spacy.encoders.onnx_model import Int8Exporter, check_packages
from beto_spacy.errors import ProjectError
from beto_spacy.pipeline.encoder import PRECISIONS, make_batches, suitable_batch
from beto_spacy.pipeline.loading import load_pipeline, use_device
from beto_spacy.spanish.tokenizer import blank_pipeline

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
#: Of a text, what the heads get their labels from.
_LABELLED = 2_500
_ENCODER = "our encoder"


def _add_heads(nlp: Language, listener: Dict[str, Any], heads: str) -> None:
    architecture = "spacy.Tagger.v2" if heads == "spacy" else "beto_spacy.Tagger.v1"
    tagger = {"@architectures": architecture, "tok2vec": listener}
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
    nlp = blank_pipeline("es")
    if stock:
        nlp.add_pipe("transformer", config={"model": {**STOCK, "name": resolve_encoder(encoder), **model}})
    else:
        architecture = {"@architectures": "beto_spacy.Encoder.v1", "name": encoder, **model}
        nlp.add_pipe("beto_transformer", name="transformer", config={"model": architecture})
    if heads:
        listener = "spacy-transformers.TransformerListener.v1" if stock else "beto_spacy.Listener.v1"
        _add_heads(nlp, {"@architectures": listener, "pooling": POOLING, "grad_factor": 1.0}, heads)
    nlp.add_pipe("doc_cleaner", config={"attrs": {"_.trf_data": None}})
    examples = _examples(nlp, [text[:_LABELLED] for text in texts])
    nlp.initialize(lambda: examples)
    return nlp


def make_pipelines(
    encoder: str,
    texts: Sequence[str],
    *,
    heads: bool = True,
    precisions: Sequence[str] = ("fp32",),
    batch_wordpieces: Optional[int] = None,
    gpu_id: int = -1,
    peers: Sequence[str] = (),
) -> Dict[str, Language]:
    """Make what is to be compared: stock and our pipelines on an encoder, the same without heads, and peers.

    encoder: A folder or a name on the hub.
    texts: Some texts to make labels for the heads.
    heads: Whole pipelines too, or the encoder component only.
    precisions: Of our encoder; for each there is a pipeline. Under the first, ours are called ``ours`` and
        ``our encoder``; under another, ``ours, int8`` and so on. If the first is bf16 or fp16, stock runs in torch's
        mixed precision.
    batch_wordpieces: Of our encoder; None for what suits the device.
    gpu_id: Number of the GPU; -1 for the CPU.
    peers: Trained pipelines, by package or folder.
    Raises ProjectError for a precision that the device doesn't have, and a peer or a GPU that isn't there;
    EncoderError for an encoder that isn't there, or 8-bit integers without their packages.
    """
    use_device(gpu_id)
    _check_precisions(precisions, gpu_id)
    trained = {name: load_pipeline(name, gpu=gpu_id) for name in peers}
    clash = [name for name in peers if name.partition(",")[0] in TITLES]
    if clash:
        raise ProjectError("B530", f"'{clash[0]}' is what a pipeline of ours is called here.", "Give its whole path.")
    first = precisions[0]
    stock = {"stock": True, "mixed_precision": PRECISIONS[first] is not None}
    pipelines: Dict[str, Language] = {}
    make = partial(make_pipeline, encoder, texts[:50])
    if heads:
        pipelines["stock"] = make(**stock, heads="spacy")
        pipelines["spacy heads"] = _make_ours(make, first, batch_wordpieces, "spacy")
        for precision in precisions:
            pipelines[named("ours", precision, first)] = _make_ours(make, precision, batch_wordpieces, "beto")
    pipelines["stock encoder"] = make(**stock, heads=None)
    for precision in precisions:
        pipelines[named("our encoder", precision, first)] = _make_ours(make, precision, batch_wordpieces, None)
    return {**pipelines, **trained}


def named(pipeline: str, precision: str, first: str) -> str:
    """What a pipeline of ours is called: by its precision, if that isn't the first."""
    return pipeline if precision == first else f"{pipeline}, {precision}"


def _check_precisions(precisions: Sequence[str], gpu_id: int) -> None:
    device, possible = ("the CPU", ("fp32", "int8")) if gpu_id < 0 else ("a GPU", ("fp32", "bf16", "fp16"))
    wrong = [precision for precision in precisions if precision not in possible]
    if wrong or len(set(precisions)) != len(precisions) or not precisions:
        raise ProjectError(
            "B531",
            f"The precisions {', '.join(precisions) or 'none'} can't be compared on {device}.",
            f"Name one or more of {', '.join(possible)}, each once.",
        )
    if "int8" in precisions:
        check_packages()


def _make_ours(
    make: Callable[..., Language], precision: str, batch_wordpieces: Optional[int], heads: Optional[str]
) -> Language:
    at_first = "fp32" if precision == "int8" else precision
    nlp = make(stock=False, heads=heads, batch_wordpieces=batch_wordpieces, precision=at_first)
    if precision == "int8":
        shim = nlp.get_pipe("transformer").model.shims[0]
        quantized = Int8Exporter(shim.encoder).quantized()
        shim.precision = nlp._pipe_configs["transformer"]["model"]["precision"] = "int8"
        shim.set_checkpoint(Checkpoint(quantized, shim.tokenizer))
    return nlp


# --- measuring --------------------------------------------------------------------------------------------------------


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
    pipelines: Mapping[str, Language],
    texts: Mapping[str, Sequence[str]],
    *,
    runs: int = 5,
    batch_size: int = 256,
    gpu_id: int = -1,
) -> Dict[str, Any]:
    """Measure the words a second of pipelines over texts, in alternated runs after one that warms up.

    Beside the pipelines stands each bare encoder: its layers alone, over the same padded batches of wordpieces. That is
    the most that a pipeline can reach.

    pipelines: What `make_pipelines` made.
    texts: What to annotate, by kind.
    runs: How often each is measured.
    batch_size: Documents that the pipelines buffer.
    gpu_id: Number of the GPU; -1 for the CPU.
    Returns the figures: by pipeline the median, lowest and highest speed; the ratios of `pairs`, run by run; both also
    by kind of text; and the seconds of each stage of the pipelines in a run of its own. Words are spaCy's tokens, those
    of our pipelines. Raises ProjectError for less than one run.
    """
    if runs < 1:
        raise ProjectError("B518", f"There is nothing to measure in {runs} runs.", "Ask for 1 or more.")
    longest = max(len(text) for kind in texts.values() for text in kind)
    for nlp in pipelines.values():
        nlp.max_length = max(nlp.max_length, longest + 1)
    tokenizer = pipelines["our encoder"]
    words = {kind: sum(len(tokenizer.make_doc(text)) for text in chosen) for kind, chosen in texts.items()}
    measured: Dict[str, Callable[[str], Any]] = {}
    for name, nlp in pipelines.items():
        measured[name] = partial(_annotate, nlp, texts, batch_size)
        if name.startswith(_ENCODER):
            model = nlp.get_pipe("transformer").model
            batches = {kind: _batches(nlp, chosen, batch_size) for kind, chosen in texts.items()}
            measured[name.replace(_ENCODER, "bare")] = partial(_run_bare, model.shims[0], batches)
    seconds: Dict[str, Dict[str, List[float]]] = {kind: {name: [] for name in measured} for kind in texts}
    for run in range(runs + 1):  # the first warms up
        for kind, found in seconds.items():
            for name, once in measured.items():
                start = time.perf_counter()
                once(kind)
                if gpu_id >= 0:
                    torch.cuda.synchronize(gpu_id)
                if run:
                    found[name].append(time.perf_counter() - start)
    total = {name: [sum(run) for run in zip(*(seconds[kind][name] for kind in texts))] for name in measured}
    result: Dict[str, Any] = {
        "texts": sum(map(len, texts.values())),
        "words": sum(words.values()),
        "batch_size": batch_size,
        "runs": runs,
        **summarize_speed(total, sum(words.values()), pairs(list(measured))),
    }
    if len(texts) > 1:
        result["by_kind"] = {
            kind: {
                "texts": len(texts[kind]),
                "words": words[kind],
                **summarize_speed(found, words[kind], pairs(list(measured))),
            }
            for kind, found in seconds.items()
        }
    everything = [text for chosen in texts.values() for text in chosen]
    result["seconds_by_stage"] = {
        name: stages(nlp, everything, batch_size=batch_size, gpu_id=gpu_id) for name, nlp in pipelines.items()
    }
    if "ours" in pipelines:
        without = {
            name: _without_encoder(result["seconds_by_stage"][name]) for name in ("stock", "spacy heads", "ours")
        }
        result["heads_alone"] = {
            "words_per_second": {name: result["words"] / seconds for name, seconds in without.items()},
            "ours / spacy heads": without["spacy heads"] / without["ours"],
        }
    return result


def _annotate(nlp: Language, texts: Mapping[str, Sequence[str]], batch_size: int, kind: str) -> None:
    for _ in nlp.pipe(texts[kind], batch_size=batch_size):
        pass


def _run_bare(shim: Any, batches: Mapping[str, List[Any]], kind: str) -> None:
    for batch in batches[kind]:
        shim.predict(batch)


def _batches(nlp: Language, texts: Sequence[str], batch_size: int) -> List[Any]:
    """The padded batches of each buffer of documents, as the pipeline makes them."""
    model = nlp.get_pipe("transformer").model
    buffers = (texts[first : first + batch_size] for first in range(0, len(texts), batch_size))
    return [make_batches(model, [nlp.make_doc(text) for text in buffer]).padded for buffer in buffers]


def pairs(names: Sequence[str]) -> List[Tuple[str, str]]:
    """Which of the measured speeds are compared: ours with all, by precision, and the first peer with the others.

    names: As `compare` has them.
    """
    peers = [name for name in names if name.partition(",")[0] not in TITLES]
    found = []
    for precision in [name[len(_ENCODER) :] for name in names if name.startswith(_ENCODER)]:
        whole, alone, bare = f"ours{precision}", f"{_ENCODER}{precision}", f"bare{precision}"
        others = ["stock", "spacy heads", "stock encoder", _ENCODER] if not precision else ["stock", "ours"]
        found += [(whole, name) for name in (*others, bare, *peers)]
        found += [(alone, name) for name in ("stock encoder", bare)]
        found += [] if whole in names else [(alone, name) for name in peers]
    found += [(peers[0], name) for name in peers[1:]]
    return [pair for pair in found if set(pair) <= set(names)]


def summarize_speed(
    seconds: Mapping[str, Sequence[float]], words: int, compared: Sequence[Tuple[str, str]]
) -> Dict[str, Any]:
    """Words a second and their ratios, with their spread.

    seconds: Of each run, by name.
    words: How many were annotated in each.
    compared: Pairs of names.
    """
    return {
        "words_per_second": {name: spread(words / run for run in found) for name, found in seconds.items()},
        "ratios": {f"{a} / {b}": spread(y / x for x, y in zip(seconds[a], seconds[b])) for a, b in compared},
    }


def _without_encoder(seconds: Dict[str, float]) -> float:
    return sum(seconds.values()) - seconds["transformer"]


def training_configs(
    config: Union[str, Path], corpus: Union[str, Path], encoder: str, overrides: Mapping[str, Any], gpu_id: int = -1
) -> Dict[str, Config]:
    """The same training twice: with our encoder component, and with spacy-transformers', the heads listening to it.

    Stock takes part in torch's mixed precision if ours does, on a GPU; on a CPU it has none.

    config: A training config with one component `beto_transformer` and ``paths.train`` and ``paths.dev``.
    corpus: Takes the place of both.
    encoder: A folder or a name on the hub.
    overrides: Values for the config's fields, such as ``{"nlp.pipeline": [...]}``.
    gpu_id: Number of the GPU; -1 for the CPU.
    Raises ProjectError for a config or a corpus that can't be read, or has no such component.
    """
    if not Path(corpus).exists():
        raise ProjectError("B534", "There is no such corpus.", "Name a .spacy file or a folder of them.", path=corpus)
    everywhere = {"paths.train": str(corpus), "paths.dev": str(corpus), **overrides}
    try:
        ours = spacy.util.load_config(config, overrides=everywhere, interpolate=False)
        components = ours["components"]
        (name,) = [name for name, component in components.items() if component.get("factory") == "beto_transformer"]
    except Exception as error:  # whatever the reading of a config raises
        raise ProjectError(
            "B535",
            f"This is no training config with one beto_transformer ({' '.join(str(error).split())[:300]}).",
            "Give one like configs/train.cfg, and overrides of what it has.",
            path=config,
        ) from error
    mixed = gpu_id >= 0 and PRECISIONS.get(components[name].get("model", {}).get("precision")) is not None
    components[name].setdefault("model", {"@architectures": "beto_spacy.Encoder.v1"})["name"] = resolve_encoder(encoder)
    stock = ours.copy()
    stock["components"][name] = {
        "factory": "transformer",
        "model": {**STOCK, "name": resolve_encoder(encoder), "mixed_precision": mixed},
    }
    _replace(stock["components"], "beto_spacy.Listener.v1", "spacy-transformers.TransformerListener.v1")
    return {"ours": ours, "stock": stock}


def _replace(section: Dict[str, Any], old: str, new: str) -> None:
    """Put a value in the place of another, in all sections within a section."""
    for key, value in section.items():
        if isinstance(value, dict):
            _replace(value, old, new)
        elif value == old:
            section[key] = new


def benchmark(
    encoder: str,
    paths: Sequence[Union[str, Path]],
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    limit: int = 60,
    book: int = 100_000,
    runs: int = 5,
    heads: bool = True,
    precisions: Sequence[str] = ("fp32",),
    batch_wordpieces: Optional[int] = None,
    batch_size: int = 256,
    gpu_id: int = -1,
    peers: Sequence[str] = (),
    speed: bool = True,
    footprint: bool = True,
    growth: Sequence[Tuple[str, int]] = (),
    zone: int = 0,
    training: Optional[Union[str, Path]] = None,
    corpus: Optional[Union[str, Path]] = None,
    updates: int = 10,
    overrides: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Measure all that is asked for.

    encoder, heads, precisions, batch_wordpieces, gpu_id, peers: As in `make_pipelines`.
    paths, kinds, limit, book: As in `read_texts`.
    runs: How often speed, footprint and training are measured.
    batch_size: Documents that the pipelines buffer.
    speed: See `compare`.
    footprint: Disk, loading and memory, see `footprint.measure_footprint`; of stock, ours and peers.
    growth: Inputs to grow to by tens, a kind and a size each, see `make_stream`; of ours and peers.
    zone: Documents of a memory zone there, see `footprint.measure_growth`.
    training: A training config to measure, see `training_configs`, with its ``corpus`` and ``overrides``, and how many
        ``updates``.
    Returns the figures of `compare`, and those of the others under ``footprint``, ``growth`` and ``training``. Raises
    what these raise, and ProjectError for less than one run or update, or a training without a corpus.
    """
    if runs < 1 or updates < 1:
        raise ProjectError(
            "B518", f"There is nothing to measure in {runs} runs or {updates} updates.", "Ask for 1 or more."
        )
    if (training is None) != (corpus is None):
        raise ProjectError(
            "B536", "A training wants a config and a corpus.", "Give both, --training and --corpus, or neither."
        )
    for kind, size in growth:
        parse_growth(f"{kind}={size}")
    use_device(gpu_id)
    _check_precisions(precisions, gpu_id)
    texts = read_texts(paths, limit=limit, kinds=kinds, book=book)
    everything = [text for chosen in texts.values() for text in chosen]
    configs = {} if training is None else training_configs(training, corpus, encoder, overrides or {}, gpu_id)
    result: Dict[str, Any] = {
        "encoder": str(encoder),
        "heads": heads,
        "device": torch.cuda.get_device_name(gpu_id) if gpu_id >= 0 else "CPU",
        "precision": precisions[0],
        "precisions": list(precisions),
        "batch_wordpieces": batch_wordpieces or suitable_batch(get_torch_default_device()),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "runs": runs,
    }
    with tempfile.TemporaryDirectory() as folder:
        if speed or footprint or growth:
            pipelines = make_pipelines(
                encoder,
                everything,
                heads=heads,
                precisions=precisions,
                batch_wordpieces=batch_wordpieces,
                gpu_id=gpu_id,
                peers=peers,
            )
            # Before they have seen the texts, whose words would stay in their vocabularies.
            saved = _save(pipelines, peers, Path(folder), heads)
            if speed:
                result.update(compare(pipelines, texts, runs=runs, batch_size=batch_size, gpu_id=gpu_id))
            del pipelines  # the processes that follow want the memory
        if footprint:
            result["footprint"] = measure_footprint(saved, everything, runs=runs, batch_size=batch_size, gpu_id=gpu_id)
        if growth:
            ours = {name: place for name, place in saved.items() if not name.startswith("stock")}
            result["growth"], result["zone"] = {}, zone
            for kind, size in growth:
                streams = [
                    make_stream(paths, kind, part, Path(folder) / f"{kind}-{part}.jsonl")
                    for part in (size // 100, size // 10, size)
                ]
                result["growth"][kind] = measure_growth(ours, streams, batch_size=batch_size, zone=zone, gpu_id=gpu_id)
        if configs:
            files = {}
            for name, config in configs.items():
                files[name] = Path(folder) / f"{name}.cfg"
                config.to_disk(files[name], interpolate=False)
            result["training"] = {
                "config": str(training),
                "corpus": str(corpus),
                "overrides": dict(overrides or {}),
                **measure_training(files, updates=updates, runs=runs, gpu_id=gpu_id),
            }
    return result


def _save(
    pipelines: Mapping[str, Language], peers: Sequence[str], folder: Path, heads: bool
) -> Dict[str, Union[str, Path]]:
    """Where the pipelines lie that a process of its own loads: stock, ours of each precision, and peers."""
    wanted = ("stock", "ours") if heads else ("stock encoder", "our encoder")
    places: Dict[str, Union[str, Path]] = {}
    for name, nlp in pipelines.items():
        if name in peers:
            places[name] = name
        elif name.partition(",")[0] in wanted:
            places[name] = folder / name.replace(", ", "-").replace(" ", "-")
            nlp.to_disk(places[name])
    return places
