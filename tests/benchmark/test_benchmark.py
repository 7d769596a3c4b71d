"""The benchmark: figures that are there and positive, and arithmetic that is right. No speed is asserted."""

import importlib.util
import itertools
import json
import sys

import pytest
import spacy
from click.testing import CliRunner
from conftest import ROOT, SENTENCES
from spacy.tokens import Doc, DocBin, Span

from beto_spacy.benchmark import footprint, speed
from beto_spacy.benchmark.report import check_output, draw_plots, render_benchmark, write_benchmark
from beto_spacy.benchmark.speed import (
    benchmark,
    compare,
    make_pipeline,
    make_pipelines,
    pairs,
    summarize_speed,
)
from beto_spacy.benchmark.texts import make_stream, parse_growth, read_texts
from beto_spacy.cli.main import main
from beto_spacy.errors import EncoderError, ProjectError

SAMPLE = ROOT / "corpus" / "sample"
NEWS = SAMPLE / "text" / "news.txt"


@pytest.fixture(scope="module")
def saved(encoders, tmp_path_factory):
    """The folder of a pipeline that has an encoder only."""
    folder = tmp_path_factory.mktemp("benchmark") / "model"
    make_pipeline(encoders["bert"], SENTENCES, stock=False, heads=None).to_disk(folder)
    return folder


def refused(code, call, *arguments, **settings):
    with pytest.raises((ProjectError, EncoderError)) as problem:
        call(*arguments, **settings)
    assert problem.value.code == code
    return str(problem.value)


# --- texts ------------------------------------------------------------------------------------------------------------


def test_texts_by_kind(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(["a" * 30, "b" * 300, "c" * 5, "d" * 40]), encoding="utf8")
    (tmp_path / "b.txt").write_text("\n".join(["e" * 50, "f" * 3_000]), encoding="utf8")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    texts = read_texts(paths, limit=4, kinds=("short", "paragraphs", "mixed", "book"), book=100)
    assert texts["short"] == ["a" * 30, "d" * 40, "e" * 50]
    assert texts["paragraphs"] == ["b" * 300]
    assert texts["mixed"] == ["a" * 30, "b" * 300, "e" * 50]  # the same share from each
    assert len(texts["book"]) == 1 and len(texts["book"][0]) == 100 and texts["book"][0].startswith("a" * 30 + "\nb")
    assert list(read_texts([tmp_path / "b.txt"], limit=1, kinds=("short", "paragraphs"))) == ["short"]
    refused("B515", read_texts, [tmp_path / "b.txt"], limit=1, kinds=("paragraphs",))
    refused("B517", read_texts, paths, limit=0)
    refused("B517", read_texts, paths, limit=1, book=0)
    refused("B532", read_texts, paths, limit=1, kinds=("long",))


def test_streams(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(["a" * 30, "b" * 200, "c" * 40]), encoding="utf8")
    (tmp_path / "b.txt").write_text("d" * 50, encoding="utf8")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    stream = make_stream(paths, "short", 5, tmp_path / "s")
    assert [text[0] for text in footprint._read(stream.file)] == ["a", "d", "c", "a", "d"]  # in turns, and anew
    assert (stream.documents, stream.characters, stream.longest, stream.passes) == (5, 200, 50, 2)
    assert make_stream(paths, "paragraphs", 500, tmp_path / "s").documents == 3
    book = make_stream(paths, "book", 1_000, tmp_path / "s")
    assert (book.documents, book.characters, book.longest) == (1, 1_000, 1_000)
    refused("B515", make_stream, paths[1:], "paragraphs", 500, tmp_path / "s")


def test_growth_is_parsed():
    assert parse_growth("short=200_000") == ("short", 200_000)
    for wrong in ("short", "short=", "short=10", "short=x", "long=1000", "book=-1000"):
        refused("B533", parse_growth, wrong)


# --- speed ------------------------------------------------------------------------------------------------------------


def test_speeds_and_ratios_of_known_times():
    found = summarize_speed({"ours": [1.0, 2.0, 4.0], "stock": [2.0, 8.0, 4.0]}, 80, [("ours", "stock")])
    assert found["words_per_second"]["ours"] == {"median": 40.0, "lowest": 20.0, "highest": 80.0}
    assert found["words_per_second"]["stock"] == {"median": 20.0, "lowest": 10.0, "highest": 40.0}
    assert found["ratios"] == {"ours / stock": {"median": 2.0, "lowest": 1.0, "highest": 4.0}}  # run by run


def test_what_is_compared():
    names = ["stock", "spacy heads", "ours", "ours, int8", "stock encoder", "our encoder", "bare"]
    names += ["our encoder, int8", "bare, int8", "sm", "md"]
    found = {f"{a} / {b}" for a, b in pairs(names)}
    assert {"ours / stock", "ours / bare", "our encoder / bare", "ours, int8 / stock", "ours, int8 / sm"} <= found
    assert {"ours, int8 / bare, int8", "our encoder, int8 / bare, int8", "ours, int8 / ours", "sm / md"} <= found
    assert "our encoder / sm" not in found and "ours, int8 / bare" not in found
    assert pairs(["stock encoder", "our encoder", "bare", "sm"]) == [
        ("our encoder", "stock encoder"),
        ("our encoder", "bare"),
        ("our encoder", "sm"),
    ]


def test_the_total_is_that_of_all_kinds(encoders, monkeypatch):
    """With a clock that ticks once a look, each measurement takes a second."""
    pipelines = make_pipelines(encoders["bert"], SENTENCES, heads=False)
    monkeypatch.setattr(speed, "stages", lambda *args, **kwargs: {"tokenizer": 1.0, "transformer": 1.0})
    ticks = itertools.count()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(ticks)))
    found = compare(pipelines, {"short": SENTENCES[:2], "book": [" ".join(SENTENCES)]}, runs=2, batch_size=2)
    words = {kind: part["words"] for kind, part in found["by_kind"].items()}
    assert found["texts"] == 3 and found["words"] == sum(words.values())
    for name in ("stock encoder", "our encoder", "bare"):
        for kind, part in found["by_kind"].items():
            assert part["words_per_second"][name]["median"] == words[kind]
        assert found["words_per_second"][name] == dict.fromkeys(("median", "lowest", "highest"), found["words"] / 2)
    assert set(found["ratios"]) == {"our encoder / stock encoder", "our encoder / bare"}


def test_the_bare_encoder_sees_the_batches_of_the_pipeline(encoders, monkeypatch):
    nlp = make_pipelines(encoders["bert"], SENTENCES, heads=False)["our encoder"]
    shim = nlp.get_pipe("transformer").model.shims[0]
    seen = []
    predict = shim.predict
    monkeypatch.setattr(
        shim, "predict", lambda batches: seen.append([ids.shape for ids, _ in batches]) or predict(batches)
    )
    list(nlp.pipe(SENTENCES, batch_size=3))
    assert seen == [[ids.shape for ids, _ in batch] for batch in speed._batches(nlp, SENTENCES, 3)]
    assert len(seen) == 3


def test_integers_beside_floats(encoders):
    pytest.importorskip("onnxruntime")
    pipelines = make_pipelines(encoders["bert"], SENTENCES, heads=False, precisions=("fp32", "int8"))
    assert list(pipelines) == ["stock encoder", "our encoder", "our encoder, int8"]
    found = compare(pipelines, {"mixed": SENTENCES}, runs=1)
    assert "by_kind" not in found
    assert {"bare", "bare, int8"} <= set(found["words_per_second"])
    assert found["ratios"]["our encoder, int8 / bare, int8"]["median"] > 0
    assert pipelines["our encoder, int8"].config["components"]["transformer"]["model"]["precision"] == "int8"


def test_what_cannot_be_compared(encoders, monkeypatch):
    make = [make_pipelines, encoders["bert"], SENTENCES]
    refused("B531", *make, precisions=("bf16",))
    refused("B531", *make, precisions=("fp32", "fp32"))
    refused("B531", *make, precisions=())
    refused("B513", *make, peers=("no_such_package",))
    refused("B518", compare, {}, {}, runs=0)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    assert "onnx" in refused("B348", *make, precisions=("fp32", "int8"))
    nothing = [benchmark, encoders["bert"], [NEWS]]
    refused("B518", *nothing, updates=0)
    refused("B536", *nothing, training=ROOT / "configs" / "train.cfg")
    refused("B534", *nothing, training=ROOT / "configs" / "train.cfg", corpus="nowhere.spacy")
    refused("B535", *nothing, training=ROOT / "setup.cfg", corpus=NEWS)
    refused("B535", *nothing, training=ROOT / "configs" / "train.cfg", corpus=NEWS, overrides={"a.b": 1})


# --- processes of their own -------------------------------------------------------------------------------------------


def test_loading_and_memory(saved):
    found = footprint.measure_footprint({"ours": saved}, SENTENCES)["ours"]
    assert found["size"] == sum(p.stat().st_size for p in saved.rglob("*") if p.is_file())
    assert found["load_seconds"]["median"] > 0 and found["import_seconds"]["median"] > 0
    assert 10_000_000 < found["resident"]["median"] <= found["peak"]["median"] < 10_000_000_000
    assert "gpu_peak" not in found


def test_growth_has_its_points(tmp_path):
    spacy.blank("es").to_disk(tmp_path / "blank")
    stream = make_stream([SAMPLE / "train.tsv"], "short", 95, tmp_path / "s.jsonl")
    (found,) = footprint.measure_growth({"blank": tmp_path / "blank"}, [stream], batch_size=16, zone=20)["blank"]
    points = found["points"]
    assert [p["documents"] for p in points] == [10, 19, 29, 38, 48, 57, 67, 76, 86, 95]
    assert found["documents"] == 95 and found["passes"] == 1
    assert all(a["words"] < b["words"] and a["seconds"] <= b["seconds"] for a, b in zip(points, points[1:]))
    assert all(p["resident"] > 10_000_000 for p in points)
    assert points[1]["strings"] > points[2]["strings"]  # the first zone had 20 documents, and was forgotten
    assert found["words"] == points[-1]["words"]


def test_growth_of_known_points():
    points = [
        {"words": 10 * n, "seconds": n / 2, "resident": resident} for n, resident in ((1, 200), (2, 230), (3, 210))
    ]
    found = footprint.summarize_growth(points)
    assert found["seconds_per_word"] == pytest.approx(0.05) and found["words"] == 30
    assert found["growth"] == pytest.approx(0.05) and found["highest_growth"] == pytest.approx(0.15)
    assert footprint.summarize_growth(points[:1])["growth"] is None


def test_a_process_that_fails_says_why():
    message = refused("B523", footprint.measure_apart, "nothing", pipeline="some/folder")
    assert "'folder'" in message and "KeyError: 'nothing'" in message


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    nlp = spacy.blank("es")
    docs = []
    for text in SENTENCES:
        doc = nlp.make_doc(text)
        words, spaces = [t.text for t in doc], [bool(t.whitespace_) for t in doc]
        docs.append(Doc(nlp.vocab, words=words, spaces=spaces, tags=["P" if t.is_punct else "W" for t in doc]))
        docs[-1].ents = [Span(docs[-1], 1, 2, label="PER")]
    path = tmp_path_factory.mktemp("corpus") / "train.spacy"
    DocBin(docs=docs).to_disk(path)
    return path


def test_training_with_either_component(encoders, corpus, tmp_path):
    overrides = {
        "nlp.pipeline": ["transformer", "tagger", "ner", "doc_cleaner"],
        "training.batcher.size": 100,
        "components.transformer.model.precision": "bf16",
    }
    arguments = (ROOT / "configs" / "train.cfg", corpus, encoders["bert"], overrides)
    for gpu_id in (0, -1):  # stock's mixed precision is for a GPU
        configs = speed.training_configs(*arguments, gpu_id)
        assert configs["stock"]["components"]["transformer"]["model"]["mixed_precision"] == (gpu_id == 0)
        assert configs["ours"]["components"]["transformer"]["model"]["precision"] == "bf16"
    stock = configs["stock"].to_str(interpolate=False)
    assert "beto_spacy.Listener.v1" not in stock and "TransformerListener.v1" in stock
    assert "beto_transformer" in configs["ours"].to_str(interpolate=False) and "beto_transformer" not in stock
    for name, config in configs.items():
        config.to_disk(tmp_path / f"{name}.cfg", interpolate=False)
    found = footprint.measure_training({name: tmp_path / f"{name}.cfg" for name in configs}, updates=1)
    assert found["words"]["ours"] == found["words"]["stock"] > 0
    assert set(found["losses"]["ours"]) == set(found["losses"]["stock"]) == {"transformer", "tagger", "ner"}
    for training in found["trainings"].values():
        assert training["words_per_second"]["median"] > 0
        assert 0 < training["before"]["median"] <= training["peak"]["median"]
    assert set(found["ratios"]["ours / stock"]) == {"words_per_second", "peak"}
    refused("B524", footprint.measure_training, {}, updates=0)


def test_trainings_of_known_figures():
    ours = [{"words": 4, "words_per_second": s, "peak": 10, "before": 5} for s in (30.0, 40.0, 20.0)]
    stock = [{"words": 4, "words_per_second": 10.0, "peak": p, "before": 5} for p in (20, 40, 25)]
    found = footprint.summarize_trainings({"ours": ours, "stock": stock})
    assert found["ratios"]["ours / stock"] == {
        "words_per_second": {"median": 3.0, "lowest": 2.0, "highest": 4.0},
        "peak": {"median": 0.4, "lowest": 0.25, "highest": 0.5},
    }
    found = {**found, "updates": 3, "config": "c.cfg", "corpus": "c.spacy", "overrides": {"model.precision": "bf16"}}
    result = {"encoder": "e", "threads": 1, "precisions": ["fp32"], "device": "CPU", "runs": 3, "training": found}
    shown = render_benchmark(result)
    assert '3 updates of `c.cfg` on `c.spacy`, `model.precision` = "bf16":' in shown
    assert "| ours / stock, words per second | 3.00 | 2.00 | 4.00 |" in shown
    found["overrides"] = {}
    assert "3 updates of `c.cfg` on `c.spacy`:" in render_benchmark(result)


def test_memory_zones_change_no_annotation(encoders):
    nlp = make_pipeline(encoders["bert"], SENTENCES, stock=False, heads="beto")

    def seen(doc):
        tokens = [(t.text, t.lemma_, t.pos_, t.tag_, str(t.morph), t.dep_, t.head.i, t.is_sent_start) for t in doc]
        return tokens, [(e.text, e.label_, e._.confidence) for e in doc.ents]

    zoned = []
    for _ in range(2):  # what is remembered of the words of a zone does no harm in the next
        with nlp.memory_zone():
            zoned = [seen(doc) for doc in nlp.pipe(SENTENCES)]
    assert zoned == [seen(doc) for doc in nlp.pipe(SENTENCES)]


# --- all of it --------------------------------------------------------------------------------------------------------


def answer(measure, **request):
    """What a process might have found."""
    if measure == "loading":
        return {"import_seconds": 1.0, "load_seconds": 2.0, "resident": 300_000_000, "peak": 400_000_000}
    n = request["documents"]
    points = [
        {"documents": n * k // 10, "words": n * k, "seconds": n * k / 100, "resident": 500_000_000 + k, "strings": k}
        for k in range(1, 11)
    ]
    return {"points": points, "peak": 600_000_000}


def test_the_command(encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "measure_apart", answer)
    result = CliRunner().invoke(
        main,
        ["benchmark", encoders["bert"], str(SAMPLE / "dev.tsv"), str(NEWS), "--runs", "1", "--limit", "6"]
        + ["--book", "800", "--growth", "short=1000", "--output", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    files = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    drawn = ["plots/footprint.png", "plots/growth-short.png", "plots/speed.png"]
    assert files == ["benchmark.json", "benchmark.md", *drawn]
    figures = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf8"))
    assert set(figures["by_kind"]) == {"short", "paragraphs", "book"} and figures["by_kind"]["book"]["texts"] == 1
    ratio = figures["ratios"]["ours / stock"]["median"]
    assert ratio > 0 and f"| ours / stock | {ratio:.2f} |" in result.output
    assert all(seconds > 0 for seconds in figures["seconds_by_stage"]["ours"].values())
    assert set(figures["footprint"]) == {"stock", "ours"} and figures["footprint"]["ours"]["size"] > 10_000
    assert [found["documents"] for found in figures["growth"]["short"]["ours"]] == [10, 100, 1_000]
    assert "| 1,000 | 10,000 | 10000.0 | 500 | 500 | +0.0% | +0.0% | 9 |" in result.output
    markdown = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf8")
    assert result.output.strip() in markdown and "(plots/speed.png)" in markdown


def test_the_json_alone(tmp_path, monkeypatch):
    result = {"encoder": "e", "threads": 1, "precisions": ["fp32"], "device": "CPU", "runs": 1}
    write_benchmark(result, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == result and len(list(tmp_path.iterdir())) == 1
    assert render_benchmark(result).startswith("`e`, 1 threads")
    assert draw_plots(result, tmp_path / "plots") == []
    refused("B537", check_output, tmp_path / "a.json", True)
    (tmp_path / "file").write_text("")
    refused("B537", check_output, tmp_path / "file", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused("B538", check_output, tmp_path / "out", True)
    assert check_output(tmp_path / "out", None) is False


def test_the_command_line_says_what_is_wrong(tmp_path):
    def failure(*arguments):
        found = CliRunner().invoke(main, ["benchmark", "./nowhere", str(SAMPLE / "dev.tsv"), *arguments])
        assert found.exit_code == 1 and isinstance(found.exception, SystemExit), found.output
        return found.stderr

    assert "B304" in failure()
    assert "B517" in failure("--limit", "0")
    assert "B518" in failure("--runs", "0")
    assert "B531" in failure("--precision", "fp64")
    assert "B532" in failure("--kind", "long")
    assert "B533" in failure("--growth", "short")
    assert "B513" in failure("--peer", "no_such_package")
    assert "B537" in failure("--output", str(tmp_path / "a.json"), "--plots")
    found = CliRunner().invoke(main, ["benchmark", "./nowhere", str(SAMPLE / "dev.tsv"), "--no.such", "1"])
    assert found.exit_code == 2 and "--training" in found.stderr
    assert list(tmp_path.iterdir()) == []
