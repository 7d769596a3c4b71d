"""Speed, memory and training of pipelines beside stock ones: what is measured, and how the figures are made."""

import json

import pytest
from click.testing import CliRunner
from conftest import ROOT

from beto_spacy import benchmark, footprint
from beto_spacy.cli import main
from beto_spacy.errors import ProjectError

SAMPLE = ROOT / "corpus" / "sample"
TEXTS = sorted((SAMPLE / "text").glob("*.txt"))


@pytest.fixture(scope="module")
def measured(encoders, tmp_path_factory):
    """What the command measured, printed and wrote."""
    folder = tmp_path_factory.mktemp("benchmark")
    options = ["--runs", 1, "--limit", 12, "--int8", "--grow", 1000, "--output", folder / "b.json"]
    result = CliRunner().invoke(main, [str(a) for a in ["benchmark", encoders["bert"], *TEXTS, *options]])
    assert result.exit_code == 0, result.output
    return json.loads((folder / "b.json").read_text(encoding="utf8")), result.output, folder


def test_every_pipeline_has_its_speed_and_its_stages(measured):
    figures, printed, _ = measured
    assert figures["words"] > 50 and sum(figures["words_by_kind"].values()) == figures["words"]
    assert set(figures["words_per_second"]) == set(benchmark.TITLES)
    for name, speed in figures["words_per_second"].items():
        assert 0 < speed["lowest"] <= speed["median"] <= speed["highest"]
        assert benchmark.TITLES[name] in printed
        kinds = figures["words_per_second_by_kind"][name]
        assert set(kinds) == {"short", "paragraphs", "book"}
        # One run: the whole is the mean of the kinds, by their words.
        seconds = sum(figures["words_by_kind"][kind] / found["median"] for kind, found in kinds.items())
        assert figures["words"] / seconds == pytest.approx(speed["median"])
    assert all(seconds > 0 for seconds in figures["seconds_by_stage"]["ours"].values())


def test_ratios_are_of_speeds_of_the_same_run(measured):
    figures, printed, _ = measured
    speeds = {name: speed["median"] for name, speed in figures["words_per_second"].items()}
    for pair in ("ours / stock", "ours int8 / stock", "our encoder / bare", "our encoder int8 / bare int8"):
        one, other = pair.split(" / ")
        assert figures["ratios"][pair]["median"] == pytest.approx(speeds[one] / speeds[other])
        assert f"| {pair} | {figures['ratios'][pair]['median']:.2f} |" in printed


def test_memory_loading_and_size(encoders, tmp_path):
    nlp = benchmark.make_pipeline(encoders["bert"], ["Hola, mundo."], stock=False, heads=None)
    found = benchmark._footprints({"ours": nlp}, [], ["Hola, mundo."], batch_size=8, gpu_id=-1)["ours"]
    nlp.to_disk(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert found["load_seconds"] > 0 and 100 < found["loaded"] <= found["peak"] < 2_000
    assert found["size"] == pytest.approx(size / 1e6, rel=0.01)


def test_streams_grow_by_tens(measured):
    figures, printed, folder = measured
    assert [stream["amount"] for stream in figures["growth"]] == [10, 100, 1000]
    for stream in figures["growth"]:
        assert len(stream["words"]) == len(stream["seconds"]) == len(stream["resident"]) == 10
        assert stream["words"] == sorted(stream["words"]) and stream["seconds"] == sorted(stream["seconds"])
        assert stream["growth"] == pytest.approx(stream["resident"][-1] / stream["resident"][0] - 1)
        assert f"| {stream['amount']:,} short documents |" in printed
    assert (folder / "b.md").read_text(encoding="utf8").strip() == printed.strip()
    assert (folder / "b.png").read_bytes().startswith(b"\x89PNG") and len(list(folder.iterdir())) == 3


def test_streams_are_of_real_text():
    short, long = footprint.short_documents(TEXTS), footprint.long_documents(TEXTS)
    shorts = [next(short) for _ in range(3_000)]
    assert all(20 <= len(text) <= 200 for text in shorts)
    assert len(set(shorts)) < len(shorts)  # again from the start
    whole = sum(len(path.read_text(encoding="utf8")) for path in TEXTS)
    assert 0.9 * whole < len(next(long)) <= 100_000


def test_thirds_are_lines_paragraphs_and_a_book():
    parts = benchmark.mix(["Uno. Dos.", "Tres. Cuatro.", "Cinco.", "Seis.", "Siete.", "Ocho."])
    assert parts == {
        "short": ["Uno.", "Dos.", "Seis."],
        "paragraphs": ["Tres. Cuatro.", "Siete."],
        "book": ["Cinco.\nOcho."],
    }
    assert benchmark.mix(["Uno. Dos."]) == {"paragraphs": ["Uno. Dos."]}


def test_training_by_turns(encoders, project):
    corpus = str(project / "corpus" / "train")
    overrides = {"paths.encoder": encoders["bert"], "paths.train": corpus, "paths.dev": corpus}
    found = footprint.measure_training(ROOT / "configs" / "train.cfg", overrides, updates=2, runs=1)
    assert set(found) == {"ours", "stock"}
    for runs in found.values():
        assert len(runs) == 1 and runs[0]["words_per_second"] > 0 and runs[0]["peak"] > 100
    table = "\n".join(benchmark._training_table(found))
    assert f"| beto_transformer | {found['ours'][0]['words_per_second']:,.0f} |" in table


def test_what_cannot_be_measured(encoders, tmp_path):
    with pytest.raises(ProjectError, match="B530"):
        benchmark.compare(encoders["bert"], ["Hola."], int8=True, gpu_id=0)
    with pytest.raises(ProjectError, match="B531"):
        footprint.measure_stream("x", TEXTS, 10, kind="middling")
    with pytest.raises(ProjectError, match="B532"):
        footprint.measure_stream("x", TEXTS, 9)
    with pytest.raises(ProjectError, match="B533"):
        footprint.measure_training("x", {}, updates=0)
    with pytest.raises(ProjectError, match="B536.*B513"):
        footprint.measure_loading(tmp_path / "nowhere", ["Hola."])
    (tmp_path / "short.txt").write_text("Sí.\n", encoding="utf8")
    with pytest.raises(ProjectError, match="B534"):
        next(footprint.short_documents([tmp_path / "short.txt"]))
