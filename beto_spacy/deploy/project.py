"""The steps around a training: fetching assets, packaging a pipeline, and proving that the package works elsewhere.

These are the commands of `project.yml` that spaCy doesn't have, or has with the network on.
"""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import srsly

from beto_spacy import EMBEDDED_ENCODER
from beto_spacy.errors import ProjectError
from beto_spacy.files import new_file

#: What every pipeline package is called, whatever it was trained on.
PACKAGE = "es_beto_trf"
EMBEDDED_LABEL = "mini"

_SMOKE = """
import json, sys
import spacy
nlp = spacy.load(sys.argv[1])
doc = nlp(sys.argv[2])
print(json.dumps({
    "version": nlp.meta["version"],
    "pipeline": nlp.pipe_names,
    "tokens": [[t.text, t.tag_, t.pos_, str(t.morph), t.lemma_, t.dep_, t.head.i] for t in doc],
    "entities": [[e.text, e.label_] for e in doc.ents],
    "categories": doc.cats,
}))
"""


def fetch_assets(
    project: Union[str, Path],
    *,
    mirror: Optional[Union[str, Path]] = None,
    extra: Sequence[str] = (),
    overrides: Optional[Dict[str, Any]] = None,
) -> List[Path]:
    """Bring the assets of a `project.yml` to their places.

    project: The folder of the `project.yml`.
    mirror: A folder that has the assets under the same names below it as they get below ``assets/``; they are copied
        from there and nothing is downloaded.
    extra: Of the assets that are marked as extra, those to bring too, as `project.yml` names their ``dest``. If any are
        given, only they are brought.
    overrides: Values for the project's variables, such as ``{"vars.mirror": "..."}``.
    Returns the assets that are there. Raises ProjectError for an asset that the mirror lacks, that has another
    checksum than `project.yml` states, that can't be downloaded, or that nobody may distribute and is not there yet;
    and for an extra asset that `project.yml` doesn't name.
    """
    from weasel.cli.assets import project_assets
    from weasel.util import load_project_config

    project = Path(project)
    try:
        config = load_project_config(project, overrides=overrides or {})
    except SystemExit as error:  # weasel has printed what is wrong with it
        raise ProjectError(
            "B521",
            "There is no project.yml that can be read.",
            "Name the folder of one, and mend what the message above says of it.",
            path=project / "project.yml",
        ) from error
    known = config.get("assets", [])
    assets = [asset for asset in known if (asset["dest"] in extra if extra else not asset.get("extra"))]
    unknown = set(extra) - {asset["dest"] for asset in assets}
    if unknown:
        raise ProjectError(
            "B522",
            f"The project has no asset '{min(unknown)}'.",
            f"It has: {', '.join(asset['dest'] for asset in known)}.",
            path=project / "project.yml",
        )
    if not mirror and any(asset.get("url") or asset.get("git") for asset in assets):
        try:
            project_assets(project, overrides=overrides or {}, extra=bool(extra))
        except (Exception, SystemExit) as error:
            raise ProjectError(
                "B501",
                f"The assets could not be downloaded ({error}).",
                "Check the network, or name a folder that has them with --mirror.",
                path=project / "project.yml",
            ) from error
    places = []
    for asset in assets:
        dest = project / asset["dest"]
        if mirror:
            # A mirror may have the contents of an archive instead of it.
            source = Path(mirror) / Path(asset["dest"]).relative_to("assets")
            if dest.suffix == ".zip" and not source.exists():
                source, dest = source.with_suffix(""), dest.with_suffix("")
            if source.is_file():
                _check_asset(source, asset)  # a wrong one doesn't take the place of a right one
            _copy_asset(source, dest)
        if not dest.exists():
            raise ProjectError(
                "B502",
                "The asset is not there, and has no public address.",
                f"Get it from its owners ({asset.get('description', 'see project.yml')}) and put it there.",
                path=dest,
            )
        if dest.is_file():
            _check_asset(dest, asset)
        if dest.suffix == ".zip":
            dest = _unpack(dest)
        places.append(dest)
    return places


def _check_asset(file: Path, asset: Dict[str, Any]) -> None:
    from weasel.util import get_checksum

    if asset.get("checksum") and get_checksum(file) != asset["checksum"]:
        raise ProjectError(
            "B503",
            "The asset differs from the one that project.yml describes (checksum).",
            "Remove it and fetch it again, or correct the checksum if its owners released another one.",
            path=file,
        )


def _copy_asset(source: Path, dest: Path) -> None:
    """Copy a file, or the files of a folder; each appears when it is complete."""
    if not source.exists():
        raise ProjectError("B504", "The mirror lacks this asset.", f"Put it there, for '{dest}'.", path=source)
    if source.is_dir():
        for file in sorted(source.iterdir()):
            _copy_asset(file, dest / file.name)
        return
    try:
        with new_file(dest) as part:
            shutil.copyfile(source, part)
    except OSError as error:
        raise ProjectError(
            "B505", f"The asset could not be copied ({error}).", "Free some space.", path=dest
        ) from error


def _unpack(archive: Path) -> Path:
    """Unpack a zip file that holds a folder of its own name, beside it."""
    folder = archive.with_suffix("")
    try:
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=archive.parent) as part:
            with zipfile.ZipFile(archive) as contents:
                contents.extractall(part)
            if not (Path(part) / folder.name).is_dir():
                raise zipfile.BadZipFile(f"it holds no folder '{folder.name}'")
            _copy_asset(Path(part) / folder.name, folder)
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ProjectError(
            "B516", f"The archive could not be unpacked ({error}).", "Remove it and fetch it again.", path=archive
        ) from error
    return folder


def package_version(version: str, encoder: str) -> str:
    """The version of a package: with a local label if its encoder is the embedded one."""
    if Path(encoder).name == EMBEDDED_ENCODER and "+" not in version:
        return f"{version}+{EMBEDDED_LABEL}"
    return version


def build_package(model: Union[str, Path], output: Union[str, Path], *, version: str) -> Path:
    """Build the wheel of a trained pipeline, named `es_beto_trf`.

    Nothing is fetched: the build tools of this environment are used. The wheel appears when it's complete.

    model: The folder of a trained pipeline.
    output: The folder for the wheel.
    version: Its version; a pipeline on the embedded encoder gets the label ``+mini``.
    Returns the wheel. Raises ProjectError if the folder is no pipeline or the build fails.
    """
    from spacy.cli.package import package

    model, output = Path(model), Path(output)
    if not (model / "meta.json").is_file() or not (model / "config.cfg").is_file():
        raise ProjectError(
            "B506", "There is no trained pipeline.", "Train one first: its folder has meta.json.", path=model
        )
    try:
        encoder = _encoder_name((model / "config.cfg").read_text(encoding="utf8"))
        of_model = srsly.read_json(model / "meta.json")["lang"]
    except Exception as error:  # broken files fail with whatever their readers raise
        raise ProjectError(
            "B519",
            f"The pipeline can't be read ({type(error).__name__}: {' '.join(str(error).split())}).",
            "Its config.cfg or meta.json is broken; train it again.",
            path=model,
        ) from error
    language, _, name = PACKAGE.partition("_")
    if of_model != language:
        raise ProjectError(
            "B507", f"The pipeline is for the language '{of_model}'.", f"{PACKAGE} is for '{language}'.", path=model
        )
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".package-", dir=output) as folder:
        try:
            package(
                model,
                Path(folder),
                name=name,
                version=package_version(version, encoder),
                create_sdist=False,
                silent=True,
            )
            (source,) = (path.parent for path in Path(folder).glob("*/setup.py"))
            _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(source)])
            (wheel,) = Path(folder).glob("*.whl")
            os.replace(wheel, output / wheel.name)
        except (Exception, SystemExit) as error:
            if isinstance(error, ProjectError):
                raise
            raise ProjectError(
                "B508", f"The package could not be built ({error}).", "See the messages above.", path=model
            ) from error
    return output / wheel.name


def _encoder_name(config: str) -> str:
    from thinc.api import Config

    components = Config().from_str(config, interpolate=True)["components"]
    for component in components.values():
        if component.get("factory") == "beto_transformer":
            return component["model"]["name"]
    return ""


def _run(command: Sequence[str], **kwargs: Any) -> str:
    """Run a command quietly; its output is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
    if done.returncode:
        raise ProjectError(
            "B509",
            f"'{' '.join(map(str, command[:4]))} ...' failed with exit code {done.returncode}:\n"
            f"{done.stdout.strip()}\n",
            "Mend what its last lines say.",
        )
    return done.stdout


def find_wheel(path: Union[str, Path]) -> Path:
    """The wheel at a path: the file itself, or the newest `es_beto_trf` in a folder. Raises ProjectError if none."""
    path = Path(path)
    wheels = [path] if path.suffix == ".whl" else sorted(path.glob(f"{PACKAGE}-*.whl"), key=lambda p: p.stat().st_mtime)
    if not wheels or not wheels[-1].is_file():
        raise ProjectError("B510", "There is no wheel.", "Build it first: beto-spacy package.", path=path)
    return wheels[-1]


def smoke_test(wheel: Union[str, Path], text: str, *, isolated: bool = False) -> Dict[str, Any]:
    """Install a pipeline's wheel in a new virtual environment, load it by name in another folder, and annotate a text.

    wheel: The wheel, or the folder that has it.
    text: What to annotate.
    isolated: Install everything that the wheel requires as well, from the package index. Otherwise the new
        environment borrows the installed packages of this one, and needs no network.
    Returns the annotation: version, pipeline, tokens, entities, categories. Raises ProjectError if any step fails or
    the pipeline annotates nothing.
    """
    wheel = find_wheel(wheel).resolve()
    with tempfile.TemporaryDirectory(prefix="beto-smoke-") as folder:
        try:
            venv.create(folder, with_pip=isolated, symlinks=os.name != "nt")
        except (OSError, subprocess.CalledProcessError) as error:
            raise ProjectError(
                "B520",
                f"A new virtual environment could not be made ({error}).",
                "Check that there is space, and that this Python has venv and ensurepip.",
                path=folder,
            ) from error
        scripts, site = (
            Path(sysconfig.get_path(key, "venv", vars={"base": folder, "platbase": folder}))
            for key in ("scripts", "purelib")
        )
        python = (
            str(scripts / Path(sys.executable).name)
            if (scripts / Path(sys.executable).name).exists()
            else str(scripts / "python")
        )
        if isolated:
            _run([python, "-m", "pip", "install", "--quiet", str(wheel)])
        else:
            site.mkdir(parents=True, exist_ok=True)
            _run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-deps",
                    "--no-index",
                    "--target",
                    str(site),
                    str(wheel),
                ]
            )
            # A name that sorts last: what is installed in the new environment comes first. As site folders, so that
            # their own .pth files (those of an editable installation, say) hold there too.
            borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
            lines = [f"import site; site.addsitedir({path!r})" for path in borrowed]
            (site / "zz_borrowed.pth").write_text("\n".join(lines), encoding="utf8")
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        out = _run([python, "-W", "ignore", "-c", _SMOKE, PACKAGE, text], cwd=folder, env=environment)
        # What libraries have to say at the end of a process may come after it.
        seen = srsly.json_loads([line for line in out.splitlines() if line.startswith('{"version"')][-1])
    if not seen["tokens"] or not any(token[2] or token[1] for token in seen["tokens"]):
        raise ProjectError(
            "B511", "The installed pipeline annotated nothing.", "Train it on annotated text.", path=wheel
        )
    return seen


def install_wheel(wheel: Union[str, Path]) -> Path:
    """Install a pipeline's wheel in this environment, and nothing else. Raises ProjectError if that fails."""
    wheel = find_wheel(wheel)
    _run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    )
    importlib.invalidate_caches()
    return wheel
