"""What a pipeline takes beside time: memory, loading, room on the disk; how that grows with the input, and in training.

Each figure comes from a process of its own, started for it: what one of several pipelines takes of a process's memory
can't be told. `benchmark.py` puts the figures beside the speeds.
"""

import json
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Union

from .errors import ProjectError

#: What the official pipelines of spacy-transformers are trained with.
STOCK = {
    "@architectures": "spacy-transformers.TransformerModel.v3",
    "tokenizer_config": {"use_fast": True},
    "get_spans": {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96},
}
#: Characters of a short document at most, and of a long one at least.
_SHORT, _LONG = 200, 100_000
#: At how many points of a stream memory and time are taken.
_POINTS = 10
#: Updates before those that are measured.
_WARM_UP = 3
STREAMS = ("short", "long")


def measure_loading(
    model: Union[str, Path], texts: Sequence[str], *, batch_size: int = 256, gpu_id: int = -1
) -> Dict[str, float]:
    """What loading a pipeline and annotating some texts takes.

    model: A trained pipeline, by package or folder.
    texts: What to annotate.
    batch_size: Documents that the pipeline buffers.
    gpu_id: Number of the GPU; -1 for the CPU.
    Returns ``load_seconds`` (what it imports included), ``loaded`` and ``peak`` (resident memory in MB; on a GPU also
    ``peak_gpu``) and ``size`` (MB on the disk; of a folder only). Raises ProjectError if the process fails.
    """
    task = {"task": "load", "model": str(model), "texts": list(texts), "batch_size": batch_size, "gpu_id": gpu_id}
    folder = Path(model)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else float("nan")
    return {**_in_a_process(task), "size": size / 1e6}


def measure_stream(
    model: Union[str, Path],
    paths: Sequence[Union[str, Path]],
    amount: int,
    *,
    kind: str = "short",
    batch_size: int = 256,
    gpu_id: int = -1,
) -> Dict[str, Any]:
    """Annotate a stream of real text, and take time and memory at each tenth of it.

    model: A trained pipeline, by package or folder.
    paths: Texts, as in `vocabulary.Texts`; read again from the start if it doesn't suffice.
    amount: Documents of a stream of short ones, characters of a stream of long ones.
    kind: ``short``, documents of a sentence or so; ``long``, documents of 100,000 characters.
    batch_size, gpu_id: As in `measure_loading`.
    Returns ``words``, ``seconds`` and ``resident`` (MB), a list each with a figure for each tenth of the stream, and
    ``growth``: by how much of itself the memory of the last exceeds that of the first. Raises ProjectError if the
    process fails, such as for want of text.
    """
    if kind not in STREAMS:
        raise ProjectError("B531", f"There is no stream of {kind} documents.", f"Ask for {' or '.join(STREAMS)}.")
    if amount < _POINTS:
        raise ProjectError("B532", f"A stream of {amount} has no {_POINTS} parts.", f"Ask for {_POINTS} or more.")
    task = {
        "task": "stream",
        "model": str(model),
        "paths": [str(path) for path in paths],
        "amount": amount,
        "kind": kind,
        "batch_size": batch_size,
        "gpu_id": gpu_id,
    }
    result = _in_a_process(task)
    result["growth"] = result["resident"][-1] / result["resident"][0] - 1.0
    return result


def measure_training(
    config: Union[str, Path],
    overrides: Dict[str, Any],
    *,
    updates: int = 20,
    runs: int = 2,
) -> Dict[str, List[Dict[str, float]]]:
    """How fast a pipeline trains with our transformer and with spacy-transformers' own, by turns.

    config: A training config with a component ``transformer`` of ours; of the other, only the component and the
        listeners differ.
    overrides: Of the config, such as ``paths.train``.
    updates: How many are measured, after some that warm up.
    runs: Of each.
    Returns for ``ours`` and ``stock`` the figures of each run: ``words_per_second``, and ``peak``, the resident memory
    in MB. Raises ProjectError if a process fails.
    """
    if updates < 1 or runs < 1:
        raise ProjectError("B533", "There is no update to measure.", "Ask for 1 or more, in 1 or more runs.")
    found: Dict[str, List[Dict[str, float]]] = {"ours": [], "stock": []}
    for _ in range(runs):
        for name, figures in found.items():
            task = {"task": "train", "config": str(config), "overrides": overrides, "updates": updates}
            figures.append(_in_a_process({**task, "stock": name == "stock"}))
    return found


def short_documents(paths: Sequence[Union[str, Path]]) -> Iterator[str]:
    """Sentences or so of running text, without end; the same again when it's at an end."""
    from .vocabulary import Texts

    while True:
        empty = True
        for paragraph in Texts(paths):
            for part in paragraph.replace(". ", ".\n").split("\n"):
                if 20 <= len(part) <= _SHORT:
                    empty = False
                    yield part
        if empty:
            raise ProjectError("B534", "There is no sentence of 20 to 200 characters.", "Give other texts.")


def long_documents(paths: Sequence[Union[str, Path]]) -> Iterator[str]:
    """Running text in documents of 100,000 characters, without end; the same again when it's at an end."""
    from .vocabulary import Texts

    while True:
        parts: List[str] = []
        length = 0
        empty = True
        for paragraph in Texts(paths):
            parts.append(paragraph)
            length += len(paragraph) + 1
            if length >= _LONG:
                empty = False
                yield "\n".join(parts)
                parts, length = [], 0
        if empty and not parts:
            raise ProjectError("B535", "There is no text.", "Give other files.")
        if parts:
            yield "\n".join(parts)


def _in_a_process(task: Dict[str, Any]) -> Dict[str, Any]:
    """Do a task in a new process. Raises ProjectError if it fails, with what it said last."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__], input=json.dumps(task), capture_output=True, encoding="utf8"
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        what = f"A process that measured failed: {lines[-1]}"
        raise ProjectError("B536", what, "Try the pipeline, the config or the texts by themselves.")
    return json.loads(done.stdout.splitlines()[-1])


# --- in the new process ---


def resident() -> float:
    """The memory that this process has now, in MB."""
    return _status("VmRSS")


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return _status("VmHWM")


def _status(key: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():  # elsewhere than on Linux only the peak is known
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e6


def _load(task: Dict[str, Any]) -> Dict[str, Any]:
    from .annotate import load_pipeline

    start = time.perf_counter()
    nlp = load_pipeline(task["model"], gpu=task["gpu_id"])
    result = {"load_seconds": time.perf_counter() - start, "loaded": resident()}
    for _ in nlp.pipe(task["texts"], batch_size=task["batch_size"]):
        pass
    result["peak"] = peak()
    if task["gpu_id"] >= 0:
        import torch

        result["peak_gpu"] = torch.cuda.max_memory_allocated() / 1e6
    return result


def _stream(task: Dict[str, Any]) -> Dict[str, Any]:
    from .annotate import load_pipeline

    nlp = load_pipeline(task["model"], gpu=task["gpu_id"])
    is_short = task["kind"] == "short"
    documents = short_documents(task["paths"]) if is_short else long_documents(task["paths"])
    amount, done, words = task["amount"], 0, 0
    result: Dict[str, Any] = {"words": [], "seconds": [], "resident": []}
    start = time.perf_counter()
    for doc in nlp.pipe(documents, batch_size=task["batch_size"] if is_short else 1):
        done += 1 if is_short else len(doc.text)
        words += len(doc)
        if done * _POINTS >= amount * (len(result["words"]) + 1):
            result["words"].append(words)
            result["seconds"].append(time.perf_counter() - start)
            result["resident"].append(resident())
            if len(result["words"]) == _POINTS:
                break
    return result


def _train(task: Dict[str, Any]) -> Dict[str, Any]:
    import spacy.util
    from spacy.schemas import ConfigSchemaTraining
    from spacy.training.initialize import init_nlp
    from thinc.api import fix_random_seed

    config = spacy.util.load_config(task["config"], overrides=task["overrides"], interpolate=False)
    if task["stock"]:
        _make_stock(config)
    nlp = init_nlp(config)
    training = spacy.util.registry.resolve(config.interpolate()["training"], schema=ConfigSchemaTraining)
    fix_random_seed(0)
    corpus = spacy.util.resolve_dot_names(config.interpolate(), [training["train_corpus"]])[0]
    examples = list(corpus(nlp))
    optimizer = training["optimizer"]
    words, start, n = 0, 0.0, 0

    def batches() -> Iterator[List[Any]]:
        while True:
            yield from training["batcher"](examples)

    for batch in islice(batches(), _WARM_UP + task["updates"]):
        if n == _WARM_UP:
            words, start = 0, time.perf_counter()
        nlp.update(batch, sgd=optimizer, drop=training["dropout"])
        words += sum(len(example.predicted) for example in batch)
        n += 1
    return {"words_per_second": words / (time.perf_counter() - start), "peak": peak()}


def _make_stock(config: Any) -> None:
    """Put spacy-transformers' component in the place of ours, and its listeners."""
    from .checkpoint import resolve_encoder

    components = config["components"]
    name = config.interpolate()["components"]["transformer"]["model"]["name"]
    components["transformer"] = {"factory": "transformer", "model": {**STOCK, "name": resolve_encoder(name)}}
    for component in components.values():
        tok2vec = component.get("model", {}).get("tok2vec", {})
        if tok2vec.get("@architectures") == "beto_spacy.Listener.v1":
            tok2vec["@architectures"] = "spacy-transformers.TransformerListener.v1"


if __name__ == "__main__":
    _task = json.load(sys.stdin)
    print(json.dumps({"load": _load, "stream": _stream, "train": _train}[_task["task"]](_task)))
