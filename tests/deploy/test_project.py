"""The workflows of project.yml, from the sample corpus to a wheel that works elsewhere; and steps that go wrong."""

import json
import shutil
import zipfile

import pytest
import spacy
from conftest import ROOT, SHORT, STEPS, run, spacy_project
from spacy.tokens import Doc
from weasel.util import get_checksum, load_project_config

from beto_spacy.deploy import project as steps
from beto_spacy.errors import ProjectError
from beto_spacy.spanish.emoji import is_emoji


def test_the_workflows_hold_known_commands():
    config = load_project_config(ROOT)
    names = {command["name"] for command in config["commands"]}
    assert {step for workflow in config["workflows"].values() for step in workflow} <= names
    assert config["workflows"]["quickstart"][: len(STEPS)] == list(STEPS)


def test_the_wheel_is_labelled_and_states_what_it_needs(project):
    (wheel,) = (project / "packages").iterdir()
    assert wheel.name == "es_beto_trf-0.1.0+mini-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as contents:
        names = contents.namelist()
        metadata = contents.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode("utf8")
    assert "Requires-Dist: beto-spacy" in metadata
    assert "Requires-Dist: spacy" in metadata
    assert any(name.endswith("transformer/encoder/model.safetensors") for name in names)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names if "/transformer/" in name)


def test_a_second_run_skips_what_is_done(project):
    for step in STEPS:
        if step == "check":  # it has no outputs
            continue
        done = spacy_project(project, step, *SHORT)
        assert done.returncode == 0 and "nothing changed" in done.stdout, step


def test_the_workflow_calibrates_and_leaves_the_training_as_it_is(project):
    trained, calibrated = (spacy.load(project / "training" / name) for name in ("model-best", "calibrated"))
    for head in ("ner", "textcat"):
        assert trained.get_pipe(head).cfg["temperature"] == 1.0 != calibrated.get_pipe(head).cfg["temperature"]
    for step, folder in (("evaluate", "training/calibrated"), ("package", "training/calibrated")):
        (command,) = (c for c in load_project_config(project)["commands"] if c["name"] == step)
        assert folder in command["deps"] and f" {folder} " in command["script"][0]


def test_the_package_works_in_a_new_environment(project):
    seen = steps.smoke_test(project / "packages", "María vive en Lima.")
    assert seen["version"] == "0.1.0+mini"
    assert [token[0] for token in seen["tokens"]] == ["María", "vive", "en", "Lima", "."]
    assert set(seen["categories"]) == {"P", "N", "NEU"}


def test_white_space_is_tagged_as_such(project):
    doc = spacy.load(project / "training" / "model-best")("María vive en Lima.\n\nNo llueve.")
    (blank,) = (token for token in doc if token.is_space)
    assert (blank.pos_, blank.tag_, blank.lemma_, str(blank.morph)) == ("SPACE", "_SP", "\n\n", "")
    assert doc[blank.i + 1].is_sent_start and [t.i for t in doc if t.pos_ == "SPACE"] == [blank.i]


def test_emoji_are_tagged_as_symbols_and_are_in_no_entity(project):
    nlp = spacy.load(project / "training" / "model-best")
    words = "Ana 👍🏽 vive en Lima 🇵🇪 ❤️ 1️⃣ 😀 .".split()
    doc = nlp(Doc(nlp.vocab, words=words))
    emoji = [token for token in doc if is_emoji(token.text)]
    assert len(emoji) == 5
    for token in emoji:
        assert (token.tag_, token.pos_, str(token.morph), token.lemma_) == ("SYM", "SYM", "", token.text)
        assert token.ent_iob_ == "O"


def test_loading_the_package_is_silent_of_our_warnings(installed):
    code = "import warnings, spacy; spacy.load('es_beto_trf')('Hola, Lima.')"
    done = run(
        steps.sys.executable,
        "-W",
        "error",
        "-c",
        code,
        cwd=installed,
        env={"PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    assert "beto" not in done.stderr


def test_the_report_has_every_layer(project):
    report = json.loads((project / "metrics" / "report.json").read_text(encoding="utf8"))
    assert set(report["corpora"]) == {"syntax", "entities", "sentiment"}
    text = (project / "metrics" / "report.md").read_text(encoding="utf8")
    for word in ("LAS", "CoNLL 2018", "macro"):
        assert word in text


def test_training_runs_twice_into_the_same_folder(project):
    command = (
        steps.sys.executable, "-m", "spacy", "train", "configs/train.cfg", "--output", "twice",
        "--paths.train", "corpus/train", "--paths.dev", "corpus/dev",
        "--training.max_steps", "3", "--training.eval_frequency", "3",
        "--nlp.pipeline", '["transformer","ner","doc_cleaner"]',
    )  # fmt: skip
    sums = []
    for _ in range(2):
        done = run(*command, cwd=project)
        assert done.returncode == 0, done.stderr[-2000:]
        assert spacy.load(project / "twice" / "model-last").pipe_names == ["transformer", "ner", "doc_cleaner"]
        sums.append(get_checksum(project / "twice" / "model-last" / "transformer" / "encoder" / "model.safetensors"))
    assert sums[0] == sums[1]  # the same seed gives the same weights


# --- assets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def little_project(tmp_path):
    """A project of three assets, and a mirror that has them."""
    mirror = tmp_path / "mirror"
    (mirror / "ner" / "set").mkdir(parents=True)
    (mirror / "ner" / "set" / "a.txt").write_text("a")
    (mirror / "b.txt").write_text("b")
    (tmp_path / "project.yml").write_text(
        "vars: {}\nassets:\n"
        "  - {dest: assets/ner/set.zip, url: 'https://example.invalid/set.zip'}\n"
        f"  - {{dest: assets/b.txt, checksum: {get_checksum(mirror / 'b.txt')}, description: from its owners}}\n"
        "  - {dest: assets/c.txt, url: 'https://example.invalid/c.txt', extra: true}\n"
    )
    return tmp_path


def test_assets_come_from_the_mirror(little_project):
    for _ in range(2):
        places = steps.fetch_assets(little_project, mirror=little_project / "mirror")
        assert [p.relative_to(little_project).as_posix() for p in places] == ["assets/ner/set", "assets/b.txt"]
    assert (little_project / "assets" / "ner" / "set" / "a.txt").read_text() == "a"
    assert sorted(p.name for p in (little_project / "assets").iterdir()) == ["b.txt", "ner"]


def test_extra_assets_come_when_they_are_named(little_project):
    mirror = little_project / "mirror"
    (mirror / "c.txt").write_text("c")
    places = steps.fetch_assets(little_project, mirror=mirror, extra=["assets/c.txt"])
    assert [p.relative_to(little_project).as_posix() for p in places] == ["assets/c.txt"]
    assert not (little_project / "assets" / "b.txt").exists()
    with pytest.raises(ProjectError, match="B522.*assets/d.txt"):
        steps.fetch_assets(little_project, mirror=mirror, extra=["assets/d.txt"])


def test_assets_that_are_missing_or_wrong(little_project):
    mirror = little_project / "mirror"
    (mirror / "b.txt").write_text("other")
    with pytest.raises(ProjectError, match="B503.*checksum"):
        steps.fetch_assets(little_project, mirror=mirror)
    (mirror / "b.txt").unlink()
    with pytest.raises(ProjectError, match="B504.*b.txt"):
        steps.fetch_assets(little_project, mirror=mirror)
    with pytest.raises(ProjectError, match="B501"):
        steps.fetch_assets(little_project)


def test_a_wrong_asset_does_not_take_the_place_of_a_right_one(little_project):
    steps.fetch_assets(little_project, mirror=little_project / "mirror")
    (little_project / "mirror" / "b.txt").write_text("other")
    with pytest.raises(ProjectError, match="B503"):
        steps.fetch_assets(little_project, mirror=little_project / "mirror")
    assert (little_project / "assets" / "b.txt").read_text() == "b"


@pytest.mark.parametrize("content", [None, "assets: [\n", "assets: 3\n"])
def test_a_project_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "project.yml").write_text(content)
    with pytest.raises(ProjectError, match="B521"):
        steps.fetch_assets(tmp_path, mirror=tmp_path)


def test_an_asset_that_is_a_zip_is_unpacked(little_project):
    archive = little_project / "mirror" / "ner" / "set.zip"
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr("set/a.txt", "zipped")
    steps.fetch_assets(little_project, mirror=little_project / "mirror")
    assert (little_project / "assets" / "ner" / "set" / "a.txt").read_text() == "zipped"
    with zipfile.ZipFile(archive, "w") as contents:
        contents.writestr("another/a.txt", "zipped")
    with pytest.raises(ProjectError, match="B516.*no folder 'set'"):
        steps.fetch_assets(little_project, mirror=little_project / "mirror")
    archive.write_bytes(b"no zip")
    with pytest.raises(ProjectError, match="B516"):
        steps.fetch_assets(little_project, mirror=little_project / "mirror")


# --- packages --------------------------------------------------------------------------------------------------------


def test_versions():
    assert steps.package_version("1.0.0", "encoders/beto-mini") == "1.0.0+mini"
    assert steps.package_version("1.0.0+mine", "beto-mini") == "1.0.0+mine"
    assert steps.package_version("1.0.0", "dccuchile/bert-base-spanish-wwm-cased") == "1.0.0"


def test_packaging_that_fails_leaves_what_was_there(project, tmp_path, monkeypatch):
    out = tmp_path / "packages"
    out.mkdir()
    (out / "es_beto_trf-0.1.0+mini-py3-none-any.whl").write_text("the old one")
    with pytest.raises(ProjectError, match="B506"):
        steps.build_package(tmp_path, out, version="0.1.0")
    for failure in (ProjectError("B509", "no", "no"), KeyboardInterrupt(), OSError(28, "No space left on device")):

        def fail(*args, failure=failure, **kwargs):
            raise failure

        monkeypatch.setattr(steps, "_run", fail)
        with pytest.raises(KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else ProjectError):
            steps.build_package(project / "training" / "model-best", out, version="0.1.0")
        assert [p.name for p in out.iterdir()] == ["es_beto_trf-0.1.0+mini-py3-none-any.whl"]
        assert (out / "es_beto_trf-0.1.0+mini-py3-none-any.whl").read_text() == "the old one"


@pytest.mark.parametrize(
    "config, meta",
    [("[nlp]\n", '{"lang": "es"}'), ("[a\n", '{"lang": "es"}'), ("[components]\n", "{"), ("[components]\n", "{}")],
)
def test_a_broken_pipeline_is_not_packaged(tmp_path, config, meta):
    (tmp_path / "config.cfg").write_text(config)
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(ProjectError, match="B519"):
        steps.build_package(tmp_path, tmp_path / "packages", version="1.0")
    assert not (tmp_path / "packages").exists()


def test_an_environment_that_cannot_be_made(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(steps.venv, "create", fail)
    (tmp_path / "es_beto_trf-0-py3-none-any.whl").write_text("")
    with pytest.raises(ProjectError, match="B520.*No space"):
        steps.smoke_test(tmp_path, "Hola.")


def test_a_wheel_that_is_not_there(tmp_path):
    for function in (steps.find_wheel, steps.install_wheel):
        with pytest.raises(ProjectError, match="B510"):
            function(tmp_path)


def test_a_package_that_does_not_work_is_found_out(project, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(project / "training" / "model-best", model)
    wheel = steps.build_package(model, tmp_path, version="9.9")
    with zipfile.ZipFile(wheel) as contents, zipfile.ZipFile(tmp_path / "broken.whl", "w") as broken:
        for name in contents.namelist():
            if not name.endswith("model.safetensors"):
                broken.writestr(name, contents.read(name))
    (tmp_path / "bad").mkdir()
    shutil.move(tmp_path / "broken.whl", tmp_path / "bad" / wheel.name)
    with pytest.raises(ProjectError, match="B509"):
        steps.smoke_test(tmp_path / "bad", "Hola.")
