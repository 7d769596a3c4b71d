"""What a benchmark found, as Markdown, JSON and plots."""

import importlib.util
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import srsly

from beto_spacy.errors import ProjectError
from beto_spacy.files import new_file, write_json

#: What the pipelines of a benchmark are called in its tables.
TITLES = {
    "stock": "spacy-transformers, strided spans 128/96; spaCy's heads",
    "spacy heads": "beto_transformer, spaCy's heads",
    "ours": "beto_transformer, our heads",
    "stock encoder": "spacy-transformers, no heads",
    "our encoder": "beto_transformer, no heads",
    "bare": "the encoder's layers alone, over the same batches",
}
_SPREAD = ("median", "lowest", "highest")
_JSON, _MARKDOWN, _PLOTS = "benchmark.json", "benchmark.md", "plots"


def _title(name: str) -> str:
    base, _, precision = name.partition(", ")
    return f"{TITLES[base]}{', ' * bool(precision)}{precision}" if base in TITLES else name


# --- Markdown ---------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _cells(found: Mapping[str, float], form: str) -> List[str]:
    return [format(found[key], form) for key in _SPREAD]


def _megabytes(value: Optional[float]) -> str:
    return "" if value is None else f"{value / 1e6:,.0f}"


def _per_cent(value: Optional[float]) -> str:
    return "" if value is None else f"{100 * value:+.1f}%"


def render_benchmark(result: Dict[str, Any]) -> str:
    """Lay out what `benchmark` measured as Markdown."""
    alternated = any(key in result for key in ("words_per_second", "footprint", "training"))
    lines = [
        f"`{result['encoder']}`, {result['threads']} threads, {', '.join(result['precisions'])}, {result['device']}"
        + (f", alternated runs: {result['runs']}" if alternated else ""),
        "",
    ]
    if "words_per_second" in result:
        lines += _render_speed(result)
    if "footprint" in result:
        lines += _render_footprint(result["footprint"])
    for kind, growth in result.get("growth", {}).items():
        lines += _render_growth(kind, growth, result["zone"])
    if "training" in result:
        lines += _render_training(result["training"])
    lines += [f"![{Path(name).stem}]({_PLOTS}/{name})\n" for name in result.get("plots", ())]
    return "\n".join(lines).rstrip()


def _render_speed(result: Dict[str, Any]) -> List[str]:
    kinds = result.get("by_kind", {})
    lines = [
        f"{result['texts']:,} texts, {result['words']:,} words" + (", of all kinds together:" if kinds else ":"),
        "",
    ]
    rows = [[_title(name), *_cells(found, ",.0f")] for name, found in result["words_per_second"].items()]
    lines += _table(["pipeline", "words a second (median)", "lowest", "highest"], rows)
    rows = [[name, *_cells(found, ".2f")] for name, found in result["ratios"].items()]
    lines += _table(["ratio, run by run", "median", "lowest", "highest"], rows)
    if kinds:
        heads = [f"{kind} ({found['texts']} texts, {found['words']:,} words)" for kind, found in kinds.items()]
        rows = [
            [_title(name), *(f"{found['words_per_second'][name]['median']:,.0f}" for found in kinds.values())]
            for name in result["words_per_second"]
        ]
        lines += _table(["words a second by kind (median)", *heads], rows)
        rows = [
            [name, *(f"{found['ratios'][name]['median']:.2f}" for found in kinds.values())] for name in result["ratios"]
        ]
        lines += _table(["ratio by kind (median)", *kinds], rows)
    names = [name for name in result["seconds_by_stage"] if "encoder" not in name] or list(result["seconds_by_stage"])
    stages = list(dict.fromkeys(stage for name in names for stage in result["seconds_by_stage"][name]))
    rows = []
    for stage in stages:
        row = [stage]
        for name in names:
            seconds = result["seconds_by_stage"][name]
            share = 100 * seconds.get(stage, 0.0) / sum(seconds.values())
            row.append(f"{seconds[stage]:.3f} ({share:.0f}%)" if stage in seconds else "")
        rows.append(row)
    lines += _table(["seconds by stage", *names], rows)
    if "heads_alone" in result:
        ratio = result["heads_alone"]["ours / spacy heads"]
        lines += [f"Without the encoder, our heads do {ratio:.2f} times the words a second of spaCy's.", ""]
    return lines


def _render_footprint(footprint: Dict[str, Any]) -> List[str]:
    heads = [
        "in a process of its own",
        "on disk (MB)",
        "import of spaCy (s)",
        "loading (s)",
        "lowest",
        "highest",
        "resident after it (MB)",
        "peak (MB)",
    ]
    gpu = any("gpu_peak" in found for found in footprint.values())
    rows = []
    for name, found in footprint.items():
        row = [_title(name), f"{found['size'] / 1e6:,.1f}", f"{found['import_seconds']['median']:.2f}"]
        row += _cells(found["load_seconds"], ".2f")
        measures = ("resident", "peak", *(["gpu_peak"] if gpu else []))
        rows.append([*row, *(_megabytes(found.get(key, {}).get("median")) for key in measures)])
    return _table([*heads, *(["peak on the GPU (MB)"] if gpu else [])], rows)


def _render_growth(kind: str, growth: Dict[str, Any], zone: int) -> List[str]:
    heads = [
        f"stream of {kind}" + (f", memory zones of {zone:,} documents" if zone else ""),
        "documents",
        "words",
        "microseconds a word",
        "resident after the first part (MB)",
        "at the end",
        "growth",
        "highest",
        "new strings",
    ]
    rows = []
    for name, streams in growth.items():
        for found in streams:
            first, last = found["points"][0], found["points"][-1]
            rows.append(
                [
                    _title(name),
                    f"{found['documents']:,}",
                    f"{found['words']:,}",
                    f"{1e6 * found['seconds_per_word']:.1f}",
                    _megabytes(first["resident"]),
                    _megabytes(last["resident"]),
                    _per_cent(found["growth"]),
                    _per_cent(found["highest_growth"]),
                    f"{last['strings'] - first['strings']:,}",
                ]
            )
    return _table(heads, rows)


def _render_training(training: Dict[str, Any]) -> List[str]:
    settings = ", ".join(f"`{field}` = {srsly.json_dumps(value)}" for field, value in training["overrides"].items())
    title = f"{training['updates']} updates of `{training['config']}` on `{training['corpus']}`"
    lines = [f"{title}, {settings}:" if settings else f"{title}:", ""]
    rows = []
    for name, found in training["trainings"].items():
        row = [name, *_cells(found["words_per_second"], ",.0f")]
        rows.append([*row, *(_megabytes(found.get(key, {}).get("median")) for key in ("before", "peak", "gpu_peak"))])
    heads = ["training", "words a second (median)", "lowest", "highest"]
    lines += _table([*heads, "resident before (MB)", "peak (MB)", "peak on the GPU (MB)"], rows)
    rows = [
        [f"{pair}, {measure.replace('_', ' ')}", *_cells(found, ".2f")]
        for pair, ratios in training["ratios"].items()
        for measure, found in ratios.items()
    ]
    return lines + _table(["ratio, run by run", "median", "lowest", "highest"], rows)


# --- files ------------------------------------------------------------------------------------------------------------


def check_output(output: Union[str, Path], plots: Optional[bool]) -> bool:
    """Whether plots are drawn. Raises ProjectError if the output can't be written, or matplotlib is asked for in vain.

    output: A file that ends in ``.json``, or a folder.
    plots: True: draw them; False: don't; None: if matplotlib is there and the output is a folder.
    """
    output = Path(output)
    alone = output.suffix == ".json"
    if (output.is_dir() if alone else output.is_file()) or (alone and plots):
        raise ProjectError(
            "B537",
            "The output can't be written there.",
            "Name a folder for JSON, Markdown and plots, or a file that ends in .json for the JSON alone.",
            path=output,
        )
    there = importlib.util.find_spec("matplotlib") is not None
    if plots and not there:
        raise ProjectError(
            "B538",
            "The plots need matplotlib, which isn't installed.",
            "Run pip install 'beto_spacy[plots]', or ask for no plots.",
        )
    return there and not alone and plots is not False


def write_benchmark(result: Dict[str, Any], output: Union[str, Path], *, plots: Optional[bool] = None) -> None:
    """Write what `benchmark` measured: ``benchmark.json``, ``benchmark.md`` and ``plots/*.png``, or the JSON alone.

    Each file appears when it's complete, the JSON last. Arguments and errors as in `check_output`.
    """
    output = Path(output)
    drawn = check_output(output, plots)
    if output.suffix == ".json":
        write_json(result, output)
        return
    result = {**result, "plots": draw_plots(result, output / _PLOTS) if drawn else []}
    with new_file(output / _MARKDOWN) as part:
        part.write_text(render_benchmark(result) + "\n", encoding="utf8")
    write_json(result, output / _JSON)


def draw_plots(result: Dict[str, Any], folder: Union[str, Path]) -> List[str]:
    """Draw what was measured, one PNG each, without any display: speed, footprint, growth and training.

    Returns the names of the files.
    """
    folder = Path(folder)
    names: List[str] = []
    if "words_per_second" in result:
        kinds = result.get("by_kind") or {"all": result}
        series = {kind: found["words_per_second"] for kind, found in kinds.items()}
        names.append("speed.png")
        _draw_bars(folder / names[-1], "words a second", series)
    if "footprint" in result:
        found = result["footprint"]
        series = {
            key: {name: _scaled(one[key]) for name, one in found.items() if key in one} for key in ("resident", "peak")
        }
        series["on disk"] = {name: _scaled(dict.fromkeys(_SPREAD, one["size"])) for name, one in found.items()}
        names.append("footprint.png")
        _draw_bars(folder / names[-1], "megabytes", {key: rows for key, rows in series.items() if rows})
    for kind, growth in result.get("growth", {}).items():
        names.append(f"growth-{kind}.png")
        _draw_growth(folder / names[-1], kind, growth)
    if "training" in result:
        names.append("training.png")
        found = result["training"]["trainings"]
        _draw_bars(
            folder / names[-1], "words a second", {"training": {n: one["words_per_second"] for n, one in found.items()}}
        )
    return names


def _scaled(found: Mapping[str, float]) -> Dict[str, float]:
    return {key: value / 1e6 for key, value in found.items()}


def _save_figure(path: Path, figure: Any) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with new_file(path) as part:
        figure.savefig(part, format="png", dpi=120, metadata={"Software": None})


def _draw_bars(path: Path, unit: str, series: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Bars with their spread.

    series: By series and pipeline, the spread of a figure.
    """
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(name for rows in series.values() for name in rows))
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(labels) * max(len(series), 1.5)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(series)
    for number, (name, rows) in enumerate(series.items()):
        places = [labels.index(label) - 0.4 + height * (number + 0.5) for label in rows]
        values = [row["median"] for row in rows.values()]
        below = [row["median"] - row["lowest"] for row in rows.values()]
        above = [row["highest"] - row["median"] for row in rows.values()]
        bars = axes.barh(places, values, height, xerr=[below, above], label=name, error_kw={"linewidth": 0.8})
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=7)
    axes.set_yticks(range(len(labels)), labels=labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlabel(unit)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=len(series))
    _save_figure(path, figure)


def _draw_growth(path: Path, kind: str, growth: Mapping[str, Sequence[Dict[str, Any]]]) -> None:
    """Seconds by words, of all sizes; resident memory over the largest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for name, streams in growth.items():
        time.plot([one["words"] for one in streams], [one["seconds"] for one in streams], "o-", label=name)
        # A book is one document: its points are those of the sizes.
        points = streams[-1]["points"] if len(streams[-1]["points"]) > 1 else [one["points"][-1] for one in streams]
        if all(point["resident"] for point in points):
            memory.plot([p["words"] for p in points], [p["resident"] / 1e6 for p in points], "o-", label=name)
    time.set_xscale("log")
    time.set_yscale("log")
    time.set_xlabel("words")
    time.set_ylabel("seconds")
    memory.set_ylim(0, 1.15 * memory.get_ylim()[1])
    memory.set_xlabel("words")
    memory.set_ylabel("resident (MB)")
    figure.suptitle(kind)
    handles, labels = time.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)))
    _save_figure(path, figure)
