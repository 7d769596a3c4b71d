"""Comparing trainings: the same config with one thing changed, several seeds each, scored on the same corpora.

For "is this encoder better than that one" and "is this head better than that one". Each training is kept as its
scores; a comparison that was stopped goes on with those that are missing.
"""

import json
import shutil
import statistics
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from beto_spacy.errors import ProjectError
from beto_spacy.evaluation.run import evaluate_model, headlines
from beto_spacy.files import new_file, write_json
from beto_spacy.pipeline.loading import load_pipeline
from beto_spacy.training.calibrate import calibrate_pipeline

Overrides = Mapping[str, Any]
DEFAULT = "spacy_default.pipeline"  # the override by which a variant asks for spaCy's own config


def compare_trainings(
    config: Union[str, Path],
    variants: Mapping[str, Overrides],
    corpora: Sequence[Union[str, Path]],
    output: Union[str, Path],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    overrides: Optional[Overrides] = None,
    calibrate: Sequence[Union[str, Path]] = (),
    gpu: int = -1,
) -> Dict[str, Any]:
    """Train each variant with each seed, and score all of them.

    config: A training config, as for ``spacy train``.
    variants: What each of them overrides in it, by section and name: ``{"mini": {"paths.encoder": "beto-mini"}}``. One
        with ``{"spacy_default.pipeline": ["ner"]}`` trains these components by the config that ``spacy init config
        --optimize efficiency`` gives, without a transformer and as long as that says, on the same corpora.
    corpora: The test corpora, as `evaluate.evaluate_model` takes them.
    output: The folder for the scores of each training, ``comparison.json`` and ``comparison.md``.
    seeds: Of the trainings.
    overrides: What all variants override.
    calibrate: Development corpora that each trained pipeline is calibrated on before it's scored, where it can be.
    gpu: Number of the GPU; -1 for the CPU.
    Returns the comparison: by variant, corpus and measure, the score of each seed, in per cent. Raises ProjectError for
    variants that can't be compared or a training that fails, and what `evaluate_model` raises.
    """
    if not variants or not seeds or any(not name.replace("-", "").replace(".", "").isalnum() for name in variants):
        raise ProjectError(
            "B540",
            f"{len(variants)} variants ({', '.join(variants)}) and {len(seeds)} seeds can't be compared.",
            "Give one of each or more, and names of letters, digits, hyphens and points.",
        )
    output = Path(output)
    runs: Dict[str, List[Dict[str, Any]]] = {name: [] for name in variants}
    for seed in seeds:
        for name, own in variants.items():
            run = output / "runs" / f"{name}-{seed}"
            settings = {**(overrides or {}), **own, "system.seed": seed}
            with _config_of(Path(config), settings) as (file, settings):
                runs[name].append(_run(file, settings, corpora, calibrate, run, gpu))
    comparison = {
        "config": str(config),
        "overrides": dict(overrides or {}),
        "calibrated_on": list(map(str, calibrate)),
        "seeds": list(seeds),
        "variants": {
            name: {
                "overrides": dict(own),
                "scores": _by_measure([run["scores"] for run in runs[name]]),
                "minutes": [round(run["seconds"] / 60, 2) for run in runs[name] if "seconds" in run],
            }
            for name, own in variants.items()
        },
    }
    write_json(comparison, output / "comparison.json")
    with new_file(output / "comparison.md") as part:
        part.write_text(render_comparison(comparison) + "\n", encoding="utf8")
    return comparison


@contextmanager
def _config_of(config: Path, settings: Dict[str, Any]) -> Iterator[Tuple[Path, Dict[str, Any]]]:
    """The config that a variant is trained by, and its overrides: spaCy's default if the variant asks for it.

    Of the overrides that all variants have, spaCy's default takes the corpora and the seed; its own are in its terms.
    """
    if DEFAULT not in settings:
        yield config, settings
        return
    from spacy.cli.init_config import init_config
    from spacy.util import load_config

    lang = load_config(config)["nlp"]["lang"]
    taken = ("paths.train", "paths.dev", "system.seed")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "default.cfg"
        init_config(lang=lang, pipeline=settings[DEFAULT], optimize="efficiency").to_disk(file)
        yield file, {key: settings[key] for key in taken if key in settings}


def _run(
    config: Path,
    settings: Dict[str, Any],
    corpora: Sequence[Union[str, Path]],
    calibrate: Sequence[Union[str, Path]],
    folder: Path,
    gpu: int,
) -> Dict[str, Any]:
    """The ``scores`` of one training and its ``seconds``; it's trained if they aren't there for these settings.

    What a component says that takes no part in it may have changed since.
    """
    file = folder.with_suffix(".json")
    known = {
        "config": _takes_part(config, settings),
        "corpora": list(map(str, corpora)),
        "calibrate": list(map(str, calibrate)),
    }
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf8"))
        if {key: before.get(key) for key in known} == known:
            return before
    from spacy.cli.train import train

    start = time.perf_counter()
    try:
        train(config, folder, use_gpu=gpu, overrides=dict(settings))
    except (Exception, SystemExit) as error:
        raise ProjectError(
            "B541",
            f"The training of '{folder.name}' failed ({type(error).__name__}: {' '.join(str(error).split())[:500]}).",
            "Mend what the messages above say.",
            path=config,
        ) from error
    seconds = round(time.perf_counter() - start, 1)
    nlp = load_pipeline(folder / "model-best", gpu=gpu)
    if calibrate:
        calibrate_pipeline(nlp, calibrate)
    report = evaluate_model(nlp, corpora, folder / "scores", plots=False, n_words_per_second_runs=0)
    found = {}
    for corpus, entry in report["corpora"].items():
        for layer, measure, value in headlines(entry):
            if value is not None:
                found[f"{corpus}: {layer} ({measure})"] = round(100 * value, 3)
    run = {**known, "scores": found, "seconds": seconds}
    write_json(run, file)
    shutil.rmtree(folder)
    return run


def _takes_part(config: Path, settings: Dict[str, Any]) -> Dict[str, Any]:
    """What a training depends on: the config with its overrides, without components that the pipeline leaves out."""
    from spacy.util import load_config

    whole = load_config(config, overrides=settings, interpolate=False)
    components = {name: whole["components"][name] for name in whole["nlp"]["pipeline"] if name in whole["components"]}
    return json.loads(json.dumps({**whole, "components": components}))


def _by_measure(runs: Sequence[Dict[str, float]]) -> Dict[str, List[float]]:
    return {measure: [run[measure] for run in runs] for measure in runs[0] if all(measure in run for run in runs)}


def render_comparison(comparison: Dict[str, Any]) -> str:
    """A Markdown table of what `compare_trainings` found: mean, lowest and highest, and the difference to the first.

    A cell stays empty where a variant has no such measure.
    """
    variants = comparison["variants"]
    first = next(iter(variants))
    n = len(comparison["seeds"])
    head = [f"{name}" for name in variants] + [f"{name} − {first}" for name in variants if name != first]
    lines = [
        f"Mean of {n} seeds (lowest to highest), in per cent.",
        "",
        "| measure | " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * len(head),
    ]
    for measure in dict.fromkeys(m for variant in variants.values() for m in variant["scores"]):
        values = {name: variant["scores"].get(measure) for name, variant in variants.items()}
        cells = [f"{statistics.mean(v):.1f} ({min(v):.1f} to {max(v):.1f})" if v else "" for v in values.values()]
        base = values.pop(first)
        cells += [f"{statistics.mean(v) - statistics.mean(base):+.1f}" if v and base else "" for v in values.values()]
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    minutes = [variant.get("minutes") for variant in variants.values()]
    if any(minutes):
        cells = [f"{statistics.mean(m):.1f} ({min(m):.1f} to {max(m):.1f})" if m else "" for m in minutes]
        lines.append("| Minutes of training | " + " | ".join(cells + [""] * (len(head) - len(cells))) + " |")
    return "\n".join(lines)


def parse_variant(text: str) -> Tuple[str, Dict[str, Any]]:
    """Read ``name:section.field=value;section.field=value``; values are JSON, or else text. Raises ProjectError."""
    name, _, rest = text.partition(":")
    found: Dict[str, Any] = {}
    for part in filter(None, rest.split(";")):
        field, sign, value = part.partition("=")
        if not sign or "." not in field:
            raise ProjectError(
                "B542", f"'{text}' is no variant.", "Write name:section.field=value;section.field=value."
            )
        try:
            found[field] = json.loads(value)
        except ValueError:
            found[field] = value
    return name, found
