"""The command line: quick help, and for what a user gets wrong one message, exit code 1 and nothing half-written."""

import json
import sys
import time

import pytest
from click.testing import CliRunner
from conftest import ROOT, run

from beto_spacy.cli.main import main

SAMPLE = ROOT / "corpus" / "sample"


def beto(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def failure(*arguments):
    """The one message of a command that fails."""
    result = beto(*arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    message = result.stderr.strip()
    assert message.startswith("[B") and "Traceback" not in result.output
    return message


def test_help_answers_in_under_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = run(sys.executable, "-m", "beto_spacy", "--help", cwd=ROOT)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0 and "convert" in done.stdout
    assert min(times) < 1


@pytest.mark.parametrize("command", sorted(main.commands))
def test_each_command_has_help(command):
    result = beto(command, "--help")
    assert result.exit_code == 0 and len(result.output.splitlines()) > 3


@pytest.mark.parametrize("name", ["train.conllu", "train.iob", "train.tsv"])
def test_convert_the_sample(tmp_path, name):
    result = beto("convert", SAMPLE / name, tmp_path / "x.spacy")
    assert result.exit_code == 0, result.output
    assert "289 sentences" in result.output or "289 documents" in result.output
    first = (tmp_path / "x.spacy").read_bytes()
    assert beto("convert", SAMPLE / name, tmp_path / "x.spacy").exit_code == 0
    assert (tmp_path / "x.spacy").read_bytes() == first


BAD = {
    "columns": ("bad.conllu", b"1\tHola\thola\tINTJ\n\n", ":1:"),
    "cycle": (
        "bad.conllu",
        b"".join(b"%d\ta\ta\tX\t_\t_\t%d\tdep\t_\t_\n" % p for p in [(1, 2), (2, 1), (3, 0)]),
        ":1:",
    ),
    "ids": ("bad.conllu", b"1\ta\ta\tX\t_\t_\t0\troot\t_\t_\n3\tb\tb\tX\t_\t_\t1\tdep\t_\t_\n", ":2:"),
    "latin-1": ("bad.conllu", "1\taño\taño\tNOUN\t_\t_\t0\troot\t_\t_\n".encode("latin-1"), "latin-1"),
    "empty": ("bad.conllu", b"", "bad.conllu"),
    "unknown label": ("bad.tsv", b"1\tbien\tP\n2\tmal\tQ\n", ":2:"),
    "unknown column": ("bad.csv", b"a,b\n1,2\n", "text"),
    "no format": ("bad.dat", b"hello\n", "--format"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_corpora_leave_nothing(tmp_path, name):
    file, content, expected = BAD[name]
    (tmp_path / file).write_bytes(content)
    options = (
        ["--labels", "P,N"]
        if name == "unknown label"
        else ["--text-column", "texto"]
        if name == "unknown column"
        else []
    )
    (tmp_path / "old.spacy").write_bytes(b"old")
    message = failure("convert", tmp_path / file, tmp_path / "old.spacy", *options)
    assert expected in message and file in message
    assert (tmp_path / "old.spacy").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([file, "old.spacy"])


def test_crlf_and_a_missing_last_line_end_are_fine(tmp_path):
    text = (SAMPLE / "dev.conllu").read_text(encoding="utf8").rstrip("\n")
    (tmp_path / "a.conllu").write_bytes(text.replace("\n", "\r\n").encode("utf8"))
    assert beto("convert", tmp_path / "a.conllu", tmp_path / "a.spacy").exit_code == 0
    assert beto("convert", SAMPLE / "dev.conllu", tmp_path / "b.spacy").exit_code == 0
    assert (tmp_path / "a.spacy").read_bytes() == (tmp_path / "b.spacy").read_bytes()


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    import beto_spacy.corpora.reader as corpus

    (tmp_path / "old.spacy").write_bytes(b"old")
    for failure_ in (KeyboardInterrupt(), OSError(28, "No space left on device")):

        def replace(*args, failure=failure_):
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(corpus.os, "replace", replace)
            result = beto("convert", SAMPLE / "dev.tsv", tmp_path / "old.spacy")
        assert result.exit_code == 1
        assert (tmp_path / "old.spacy").read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["old.spacy"]


def test_a_full_disk(tmp_path):
    """Real writes that fail half-way: the process may write files of two kilobytes only."""
    (tmp_path / "old.spacy").write_bytes(b"old")
    code = (
        "import resource, sys; from beto_spacy.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); main(sys.argv[1:])"
    )
    for arguments, expected in (
        (["convert", SAMPLE / "train.conllu", tmp_path / "old.spacy"], "B207"),
        (["build-encoder", SAMPLE / "train.tsv", tmp_path / "encoder"], "B320"),
    ):
        done = run(sys.executable, "-c", code, *map(str, arguments), cwd=tmp_path)
        assert done.returncode == 1 and expected in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["old.spacy"]
        assert (tmp_path / "old.spacy").read_bytes() == b"old"


def test_models_encoders_and_outputs_that_are_not_there(tmp_path):
    assert "B513" in failure("show", "no_such_package")
    assert "no_such_package" in failure(
        "evaluate", "no_such_package", SAMPLE / "dev.spacy", "--output", tmp_path / "out"
    )
    assert "B506" in failure("package", tmp_path, tmp_path / "out")
    assert "B510" in failure("smoke", tmp_path)
    assert "B504" in failure("assets", ROOT, "--mirror", tmp_path / "empty")
    assert "B325" in failure("build-encoder", tmp_path / "encoder")
    assert "B318" in failure("build-encoder", SAMPLE / "dev.tsv", tmp_path / "encoder", "--width", "10")
    assert "B602" in failure("build-encoder", tmp_path / "none.txt", tmp_path / "encoder")
    assert "B335" in failure("build-encoder", SAMPLE / "dev.tsv", tmp_path / "encoder", "--like", "beto-mini")
    assert list(tmp_path.iterdir()) == []


def test_show(project):
    result = beto("show", project / "training" / "model-best", "María vive en Lima.")
    assert result.exit_code == 0, result.output
    assert "María" in result.output and "categories: " in result.output


def test_evaluate_without_plots(project, tmp_path):
    result = beto(
        "evaluate", project / "training" / "model-best", project / "corpus" / "test" / "entities.spacy",
        "--output", tmp_path / "out", "--no-plots", "--runs", "0", "--title", "Una prueba",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.json", "report.md"]
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf8"))["title"] == "Una prueba"
    assert "F1" in result.output


def test_errors_come_without_a_traceback_in_a_real_process(tmp_path):
    done = run(
        sys.executable,
        "-m",
        "beto_spacy",
        "convert",
        str(tmp_path / "nothing.conllu"),
        str(tmp_path / "x.spacy"),
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") <= 2
