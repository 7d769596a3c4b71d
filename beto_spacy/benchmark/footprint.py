"""What a pipeline costs beside its time: disk, loading and memory; whether a stream stays linear and flat; training.

Each measurement has a process of its own, since the memory of one that holds several pipelines says nothing of any of
them. ``python -m beto_spacy.benchmark.footprint`` is such a process. What it imports counts, so heavy imports are
inside.
"""

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Sequence, Union

from beto_spacy.errors import ProjectError
from beto_spacy.files import folder_size
from beto_spacy.memory import peak_memory, resident_memory

#: Parts of a stream after each of which time and memory are noted.
PARTS = 10
#: Updates of a training before those that are timed.
_WARM_UP = 2


class Stream(NamedTuple):
    """Documents to annotate one after another.

    file: One document a line, as JSON.
    documents: How many.
    characters: Of all of them.
    longest: Characters of the longest.
    passes: How often the texts they come from were read; after the first time no word is new.
    """

    file: Path
    documents: int
    characters: int
    longest: int
    passes: int = 1


def write_stream(texts: Iterable[str], file: Union[str, Path]) -> Stream:
    """Write documents as a stream for another process."""
    documents = characters = longest = 0
    with open(file, "w", encoding="utf8") as out:
        for text in texts:
            out.write(json.dumps(text) + "\n")
            documents, characters, longest = documents + 1, characters + len(text), max(longest, len(text))
    return Stream(Path(file), documents, characters, longest)


def _read(file: str) -> Iterator[str]:
    with open(file, encoding="utf8") as lines:
        yield from map(json.loads, lines)


# --- the process that measures ----------------------------------------------------------------------------------------


def _use_gpu(gpu_id: int) -> None:
    if gpu_id >= 0:
        import spacy
        from thinc.api import set_gpu_allocator

        set_gpu_allocator("pytorch")  # so that torch knows of all that is taken
        spacy.require_gpu(gpu_id)


def _gpu_peak(gpu_id: int) -> Dict[str, int]:
    if gpu_id < 0:
        return {}
    import torch

    return {"gpu_peak": torch.cuda.max_memory_allocated(gpu_id)}


def _load(request: Dict[str, Any]) -> Any:
    import spacy

    _use_gpu(request["gpu_id"])
    nlp = spacy.load(request["pipeline"])
    nlp.max_length = max(nlp.max_length, request["longest"] + 1)
    return nlp


def _measure_loading(request: Dict[str, Any]) -> Dict[str, Any]:
    start = time.perf_counter()
    import spacy  # noqa: F401

    imported = time.perf_counter()
    nlp = _load(request)
    found = {
        "import_seconds": imported - start,
        "load_seconds": time.perf_counter() - imported,
        "resident": resident_memory(),
    }
    for _ in nlp.pipe(_read(request["file"]), batch_size=request["batch_size"]):
        pass
    return {**found, "peak": peak_memory(), **_gpu_peak(request["gpu_id"])}


def _measure_stream(request: Dict[str, Any]) -> Dict[str, Any]:
    nlp = _load(request)
    for _ in nlp.pipe(text[:2_000] for text in itertools.islice(_read(request["file"]), 10)):
        pass  # warms up
    total = request["documents"]
    marks = {-(-total * part // PARTS) for part in range(1, PARTS + 1)}
    points, words, samples = [], 0, []
    start = time.perf_counter()
    for number, doc in enumerate(_annotate(nlp, request), start=1):
        words += len(doc)
        if number % request["batch_size"] == 0 or number in marks:
            samples.append(resident_memory())
        if number in marks:
            points.append(
                {
                    "documents": number,
                    "words": words,
                    "seconds": time.perf_counter() - start,
                    "resident": statistics.median(samples),  # what a batch takes goes up and down
                    "strings": len(nlp.vocab.strings),
                }
            )
            samples = []
    return {"points": points, "peak": peak_memory(), **_gpu_peak(request["gpu_id"])}


def _annotate(nlp: Any, request: Dict[str, Any]) -> Iterator[Any]:
    texts = _read(request["file"])
    if not request["zone"]:
        yield from nlp.pipe(texts, batch_size=request["batch_size"])
        return
    while chunk := list(itertools.islice(texts, request["zone"])):
        with nlp.memory_zone():
            yield from nlp.pipe(chunk, batch_size=request["batch_size"])


def _measure_training(request: Dict[str, Any]) -> Dict[str, Any]:
    from spacy.schemas import ConfigSchemaTraining
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train_while_improving
    from spacy.util import load_config, registry, resolve_dot_names

    gpu_id = request["gpu_id"]
    _use_gpu(gpu_id)
    nlp = init_nlp(load_config(request["config"], interpolate=False), use_gpu=gpu_id)
    config = nlp.config.interpolate()
    settings = registry.resolve(config["training"], schema=ConfigSchemaTraining)
    (corpus,) = resolve_dot_names(config, [settings["train_corpus"]])
    examples = list(corpus(nlp))
    chance = random.Random(0)  # the same batches, whatever initialization drew
    chance.shuffle(examples)
    batches = [list(batch) for batch in settings["batcher"](examples)]
    chance.shuffle(batches)
    chosen = list(itertools.islice(itertools.cycle(batches), _WARM_UP + request["updates"]))
    steps = train_while_improving(
        nlp,
        settings["optimizer"],
        ((0, batch) for batch in chosen),
        lambda: (0.0, {}),
        dropout=settings["dropout"],
        eval_frequency=len(chosen),
        accumulate_gradient=settings["accumulate_gradient"],
        patience=0,
        max_steps=0,
        exclude=settings["frozen_components"],
        annotating_components=settings["annotating_components"],
        before_update=settings["before_update"],
    )
    before = resident_memory()
    start, words = 0.0, 0
    for number, (batch, info, _) in enumerate(steps, start=1):  # noqa: B007
        if gpu_id >= 0:
            import torch

            torch.cuda.synchronize(gpu_id)
        if number > _WARM_UP:
            words += sum(map(len, batch))
        elif number == _WARM_UP:
            start = time.perf_counter()
    seconds = time.perf_counter() - start
    losses = {name: float(loss) for name, loss in info["losses"].items()}
    found = {"words": words, "seconds": seconds, "before": before, "peak": peak_memory(), "losses": losses}
    return {**found, **_gpu_peak(gpu_id)}


_MEASUREMENTS = {"loading": _measure_loading, "stream": _measure_stream, "training": _measure_training}


def main() -> None:
    """Do what a file asks for, and write what was found to another."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))
    try:
        found = _MEASUREMENTS[request["measure"]](request)
    except Exception as error:  # the one who asked says it
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf8")


def measure_apart(measure: str, **request: Any) -> Dict[str, Any]:
    """Measure something in a fresh process.

    measure: ``loading``, ``stream`` or ``training``.
    request: What it's to know, as JSON holds it.
    Raises ProjectError if the process fails.
    """
    import torch

    known = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({"measure": measure, **request}, default=str), encoding="utf8")
        done = subprocess.run(
            [sys.executable, "-m", "beto_spacy.benchmark.footprint", str(asked), str(answer)],
            env={**os.environ, **known},
            capture_output=True,
            text=True,
            errors="replace",
        )
        found = json.loads(answer.read_text(encoding="utf8")) if answer.is_file() else {}
    if done.returncode or "error" in found:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        subject = Path(str(request.get("pipeline") or request.get("config"))).stem
        raise ProjectError(
            "B523",
            f"The process that measured the {measure} of '{subject}' failed "
            f"({found.get('error') or f'code {done.returncode}: {last}'}).",
            "Mend what it says; a code of -9 is too little memory: measure less.",
        )
    return found


# --- what is measured -------------------------------------------------------------------------------------------------


def spread(figures: Iterable[float]) -> Dict[str, float]:
    """Median, lowest and highest of some figures."""
    figures = list(figures)
    return {"median": statistics.median(figures), "lowest": min(figures), "highest": max(figures)}


def _spreads(found: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """The spread of each figure that was found each time."""
    return {key: spread(one[key] for one in found) for key in found[0] if found[0][key] is not None}


def measure_footprint(
    pipelines: Mapping[str, Union[str, Path]],
    texts: Sequence[str],
    *,
    runs: int = 1,
    batch_size: int = 256,
    gpu_id: int = -1,
) -> Dict[str, Any]:
    """Measure how large pipelines are, how long they take to load, and how much memory.

    pipelines: Folders or packages, by name.
    texts: What to annotate, for the peak.
    runs: How often each is measured, alternated.
    Returns by pipeline ``size`` (bytes on disk) and, with their spread over the runs, ``import_seconds`` (spaCy),
    ``load_seconds`` (with all that the pipeline imports), ``resident`` (bytes after loading), ``peak`` (bytes) and, on
    a GPU, ``gpu_peak``. Raises ProjectError if a process fails.
    """
    found: Dict[str, List[Dict[str, Any]]] = {name: [] for name in pipelines}
    with tempfile.TemporaryDirectory() as folder:
        stream = write_stream(texts, Path(folder) / "texts.jsonl")
        for _ in range(runs):
            for name, pipeline in pipelines.items():
                found[name].append(_apart("loading", pipeline, stream, batch_size, gpu_id))
    return {name: {"size": folder_size(_place(pipelines[name])), **_spreads(found[name])} for name in pipelines}


def _apart(
    measure: str, pipeline: Union[str, Path], stream: Stream, batch_size: int, gpu_id: int, **more: Any
) -> Dict[str, Any]:
    return measure_apart(measure, pipeline=pipeline, batch_size=batch_size, gpu_id=gpu_id, **stream._asdict(), **more)


def _place(pipeline: Union[str, Path]) -> Path:
    from spacy.util import get_package_path, is_package

    if Path(pipeline).is_dir() or not is_package(str(pipeline)):
        return Path(pipeline)
    return get_package_path(str(pipeline))


def measure_growth(
    pipelines: Mapping[str, Union[str, Path]],
    streams: Sequence[Stream],
    *,
    batch_size: int = 256,
    zone: int = 0,
    gpu_id: int = -1,
) -> Dict[str, List[Dict[str, Any]]]:
    """Measure how time and memory grow with the input.

    pipelines: Folders or packages, by name.
    streams: The inputs, each larger than the last.
    zone: Documents of each of spaCy's memory zones, which forget the words that are new in them; 0 for none.
    Returns for each pipeline and stream what `summarize_growth` makes of it. Raises ProjectError if a process fails.
    """
    result: Dict[str, List[Dict[str, Any]]] = {name: [] for name in pipelines}
    for stream in streams:
        for name, pipeline in pipelines.items():
            found = _apart("stream", pipeline, stream, batch_size, gpu_id, zone=zone)
            counts = {"documents": stream.documents, "characters": stream.characters, "passes": stream.passes}
            result[name].append({**counts, **summarize_growth(found["points"]), **found})
    return result


def summarize_growth(points: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """What the points of a stream come to.

    points: After each part, ``words``, ``seconds`` and ``resident`` so far.
    Returns ``words``, ``seconds``, ``seconds_per_word``, and what memory grew by after the first part, as a share:
    ``growth`` at the end, ``highest_growth`` at the highest point; None with one point only.
    """
    first, last = points[0], points[-1]
    found = {"words": last["words"], "seconds": last["seconds"], "growth": None, "highest_growth": None}
    found["seconds_per_word"] = last["seconds"] / max(1, last["words"])
    if len(points) > 1 and first["resident"]:
        found["growth"] = last["resident"] / first["resident"] - 1
        found["highest_growth"] = max(point["resident"] for point in points) / first["resident"] - 1
    return found


def measure_training(
    configs: Mapping[str, Union[str, Path]], *, updates: int = 10, runs: int = 1, gpu_id: int = -1
) -> Dict[str, Any]:
    """Measure the words a second and the memory of trainings, each in a fresh process, alternated.

    configs: Training configs by name; the first is what the others are compared with. All get the same batches.
    updates: How many are timed, after two that warm up.
    Returns by name the spread of ``words_per_second``, ``peak`` and ``before`` (bytes before the first update), and by
    pair the ``ratios`` of speed and peak, run by run. Raises ProjectError if a process fails.
    """
    if runs < 1 or updates < 1:
        raise ProjectError(
            "B524", f"There is nothing to measure in {runs} runs of {updates} updates.", "Ask for 1 or more of each."
        )
    found: Dict[str, List[Dict[str, Any]]] = {name: [] for name in configs}
    for _ in range(runs):
        for name, config in configs.items():
            one = measure_apart("training", config=config, updates=updates, gpu_id=gpu_id)
            one["words_per_second"] = one["words"] / one["seconds"]
            found[name].append(one)
    return {"updates": updates, "runs": runs, **summarize_trainings(found)}


def summarize_trainings(found: Mapping[str, Sequence[Dict[str, Any]]]) -> Dict[str, Any]:
    """The spreads of trainings, and the ratios of the first to the others, run by run."""
    first = next(iter(found))
    measures = ("words_per_second", "before", "peak", "gpu_peak")
    result: Dict[str, Any] = {
        "words": {name: runs[0]["words"] for name, runs in found.items()},
        "losses": {name: runs[0].get("losses", {}) for name, runs in found.items()},
        "trainings": {
            name: _spreads([{key: run[key] for key in measures if key in run} for run in runs])
            for name, runs in found.items()
        },
        "ratios": {},
    }
    for name, runs in found.items():
        if name != first:
            result["ratios"][f"{first} / {name}"] = {
                key: spread(a[key] / b[key] for a, b in zip(found[first], runs))
                for key in measures
                if key != "before" and all(run.get(key) for run in (*found[first], *runs))
            }
    return result


if __name__ == "__main__":
    main()
