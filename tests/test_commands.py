"""run_all.sh, the command line, profiles, the list of versions, and the installed package."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from talking_heads import config
from talking_heads.__main__ import arguments, main
from talking_heads.animation import head_files
from talking_heads.animation.face_shape import FaceShape
from talking_heads.data import corpora, video
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.devices import cores
from talking_heads.experiments import reference, run
from talking_heads.experiments.chapters import CHAPTERS
from talking_heads.experiments.few_shot import trainings
from talking_heads.experiments.projection import projections, timed_variant
from talking_heads.experiments.run import PATHS, Options, Places, make_run, resolve_weights, run_profile
from talking_heads.few_shot.head import Head
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.nn.weight_files import save_weights
from talking_heads.sections.few_shot import VARIANTS
from talking_heads.workbook import runner
from talking_heads.workbook.stages import Outcome, write_status

DIFFUSION = {chapter for chapter in CHAPTERS if chapter.diffusion}
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


# -- run_all.sh -------------------------------------------------------------------------------------
# writes its working folder, name, PYTHONUTF8 and arguments; -m venv and env create make an environment
STUB = """#!/bin/sh
{ printf '%s\\t' "$PWD" "$(basename "$0")" "utf8=${PYTHONUTF8:-}" "$@"; echo; } >> "$CALLS"
case "$1 $2" in
    "--version ") [ -z "$BROKEN" ] ;;
    "-m venv" | "env create") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


class Checkout:
    """A folder with run_all.sh and environment.yml, and programs that only note how they are called."""

    def __init__(self, folder: Path):
        self.folder, self.programs, self.calls = folder / "checkout", folder / "programs", folder / "calls"
        self.folder.mkdir()
        self.programs.mkdir()
        for name in ("run_all.sh", "environment.yml", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)

    def add_program(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(STUB)
        path.chmod(0o755)

    def add_environment(self) -> None:
        """An environment that is up to date."""
        for name in ("python", "jupyter"):
            self.add_program(self.folder / ".venv/bin" / name)
        made_from = subprocess.run(
            ["cksum"], stdin=(self.folder / "environment.yml").open(), capture_output=True, check=True
        )
        (self.folder / ".venv/made-from").write_bytes(made_from.stdout)
        for name, packages in extras().items():
            (self.folder / f".venv/with-{name}").write_text(" ".join(packages))

    def run(self, *words: str, broken: str = "") -> list[list[str]]:
        """The calls of programs: name, then arguments. All must come from the checkout."""
        self.calls.unlink(missing_ok=True)
        environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "CALLS": str(self.calls),
            "BROKEN": broken,
        }
        subprocess.run([self.folder / "run_all.sh", *words], env=environment, cwd="/", check=True)
        calls = [line.rstrip("\t").split("\t") for line in self.calls.read_text().splitlines()]
        assert {folder for folder, *_ in calls} == {str(self.folder)}
        assert calls[-1][2] == "utf8=1"
        return [[name, *rest] for _, name, _, *rest in calls]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


RUN = ["python", "-m", "talking_heads", "run"]


def extras() -> dict[str, list[str]]:
    """The optional packages that run_all.sh installs, pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {name: project["optional-dependencies"][name] for name in ("export", "faces")}


@pytest.mark.parametrize(
    "words, program, options",
    [
        ([], RUN, []),
        (["--profile", "smoke", "--only", "04", "05"], RUN, ["--profile", "smoke", "--only", "04", "05"]),
        (["test"], ["python", "-m", "pytest"], ["--dist", "loadfile", "--no-loadscope-reorder"]),
        (["test", "-k", "a or b"], ["python", "-m", "pytest"], ["-k", "a or b"]),
        (["lab", "--no-browser"], ["jupyter", "lab", "notebooks/00_start_here.ipynb"], ["--no-browser"]),
    ],
    ids=["no argument", "options", "all tests", "tests", "lab"],
)
def test_run_all_starts_the_run_the_tests_or_jupyterlab(checkout, words, program, options):
    checkout.add_environment()
    calls = checkout.run(*words)
    assert not any("venv" in call or "pip" in call for call in calls), "the environment is up to date"
    assert calls[-1][: len(program)] == program
    assert calls[-1][len(calls[-1]) - len(options) :] == options
    if program == RUN:
        assert calls[-1] == program + options


def test_optional_packages_are_installed_once(checkout):
    checkout.add_environment()
    (checkout.folder / ".venv/with-faces").write_text("dlib-bin==1")
    calls = checkout.run("--with", "faces", "--profile", "smoke")
    (install,) = (call for call in calls if "pip" in call)
    assert install[-2:] == extras()["faces"] and "--constraint" in install
    assert calls[-1] == [*RUN, "--profile", "smoke"]
    assert not any("pip" in call for call in checkout.run("--with", "faces"))
    with pytest.raises(subprocess.CalledProcessError):
        checkout.run("--with", "nothing")


def test_the_tests_have_all_optional_packages(checkout):
    checkout.add_environment()
    for name in extras():
        (checkout.folder / f".venv/with-{name}").unlink()
    calls = checkout.run("test", "-k", "a")
    installed = [call for call in calls if "pip" in call]
    assert [call[-len(extras()[name]) :] for call, name in zip(installed, extras(), strict=True)] == [
        *extras().values()
    ]
    assert calls[-1][:3] == ["python", "-m", "pytest"]


def test_jupyterlab_starts():
    process = subprocess.run(
        [sys.executable, "-m", "jupyter", "lab", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == version("jupyterlab")


def pinned() -> dict[str, str]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    return dict(line.split("==") for line in pip)


def test_pip_installs_the_list_that_conda_installs(checkout):
    """Without conda, run_all.sh gives pip the same list, as requirements and as constraints."""
    for name in ("conda", "mamba", "python3.11"):
        checkout.add_program(checkout.programs / name)
    calls = checkout.run(broken="conda and mamba")
    assert ["python3.11", "-m", "venv", ".venv"] in calls
    assert not any("env" in call for call in calls)
    (install,) = (call for call in calls if "--requirement" in call)
    for option in ("--requirement", "--constraint"):
        path = checkout.folder / install[install.index(option) + 1]
        lines = path.read_text().split()
        assert dict(line.split("==") for line in lines) == pinned()
        assert len(lines) == len(pinned())
    assert any("--editable" in call for call in calls)
    assert calls[-1] == RUN
    assert not any("pip" in call for call in checkout.run()), "the second time it is there"


def test_conda_makes_the_environment_where_it_works(checkout):
    checkout.add_program(checkout.programs / "conda")
    calls = checkout.run()
    (create,) = (call for call in calls if "create" in call)
    assert create[create.index("--file") + 1] == "environment.yml"
    assert create[create.index("--prefix") + 1] == str(checkout.folder / ".venv")
    assert not any("venv" in call or "--requirement" in call for call in calls)


def test_a_changed_list_makes_the_environment_anew(checkout):
    checkout.add_environment()
    checkout.add_program(checkout.programs / "conda")
    with (checkout.folder / "environment.yml").open("a") as file:
        file.write("# changed\n")
    assert any("create" in call for call in checkout.run())


def test_installed_versions_are_the_pinned_ones():
    optional = dict(line.split("==") for packages in extras().values() for line in packages)
    for listed in (pinned(), optional):
        assert {name: version(name).split("+")[0] for name in listed} == listed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "dependencies" not in project, "a second list would drift"


def test_the_required_packages_and_top_level():
    required = {
        "torch",
        "jupyterlab",
        "papermill",
        "face-alignment",
        "matplotlib",
        "pandas",
        "scikit-image",
        "pytorch-fid",
    }
    assert required <= pinned().keys()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("no git checkout")
    names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= {
        "notebooks",
        "lib",
        "results",
        "environment.yml",
        "tests",
        "run_all.sh",
        "README.md",
        "pyproject.toml",
        "LICENSE",
        "docs",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    }


# -- the README -------------------------------------------------------------------------------------
def test_the_readmes_code_learns_a_head_from_a_clip(tmp_path, monkeypatch):
    """It leaves a video and a head; two epochs do here."""
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    clip = make_clip(ClipSettings(4, 2, 0, 96, 12.5, 64))
    (tmp_path / "my_videos").mkdir()
    video.write(tmp_path / "my_videos/me.mp4", clip.frames, clip.fps, clip.sound)
    np.savez(tmp_path / "my_videos/me.npz", landmarks=clip.landmarks)
    monkeypatch.chdir(tmp_path)
    prepare = re.search(r"python -m talking_heads (prepare .*)", README).group(1).split()
    assert main(prepare) == 0
    short = config.load("laptop", {"few_shot.fine_tuning.epochs": 2})
    monkeypatch.setattr(config, "load", lambda name: short)
    exec(code, {})
    assert len(video.read(tmp_path / "head.mp4").frames) == short.protocol.holdout_frames
    assert head_files.load_head(tmp_path / "me.head").card["T"] == 8


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_documents_name_commands_and_profiles_that_exist(path):
    text = path.read_text(encoding="utf-8")
    for line in re.findall(r"python -m talking_heads ([^`\n]*)", text):
        arguments(line.split("#")[0].split())
    for line in re.findall(r"\./run_all\.sh (--[^`\n]*)", text):
        if "|" not in line and "<" not in line:
            words = re.sub(r"--with (export|faces)", "", line.split("#")[0])  # options of run_all.sh itself
            arguments(["run", *words.split()])
    for name in re.findall(r"--profile ([a-z][\w-]+)", text):
        assert name in config.names()


def test_the_readme_shows_the_three_uses():
    assert all(f"./run_all.sh{words}\n" in README for words in ("", " test"))
    assert "./run_all.sh lab" in README
    assert len(re.findall(r"python -m talking_heads ", README)) >= 8


# -- profiles ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", config.names())
def test_a_profile_states_its_command_and_what_it_is_for(name):
    first, _ = (config.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)
    program = r"# (\./run_all\.sh|python -m talking_heads ([\w-]+))((?: --[\w-]+ [\w-]+)*)"
    command = re.match(program, first)
    assert command, first
    assert arguments([command.group(2) or "run", *command.group(3).split()]).profile == name
    assert len(config.load(name).description) > 20


# -- the command line -------------------------------------------------------------------------------
def execute(capsys, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command in this process."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    "words, hints",
    [
        (["--profile", "desktop"], config.names()),
        (["--only", "99"], ["03_meta_learning"]),
        (["--wieghts", "reference"], ["--weights"]),
        (["--weights", "stolen"], ["reference", "scratch"]),
        (
            ["--profile", "smoke", "--weights", "reference"],
            ["has no reference weights; use --weights scratch"],
        ),
        (["--notebooks", "nowhere"], ["nowhere: no such folder; run from the top of the checkout"]),
        (["--jobs", "0"], ["a whole number of at least 1"]),
    ],
)
def test_unknown_values_are_refused_with_what_exists(monkeypatch, capsys, words, hints):
    monkeypatch.chdir(ROOT)
    status, _, error = execute(capsys, "run", *words)
    assert status == 2
    assert all(hint in error for hint in hints), error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    status, _, error = execute(capsys, "run", "--device", "cuda")
    assert status == 2
    assert "no usable GPU" in error


def test_a_dry_run_shows_what_would_happen_and_writes_nothing(tmp_path):
    process = subprocess.run(
        [
            *[sys.executable, "-m", "talking_heads"],
            *["--results", str(tmp_path / "r"), "--data", str(tmp_path / "d")],
            *["run", "--profile", "voxceleb1", "--dry-run"],
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for text in (
        "05_comparison",
        "to be prepared",
        "your videos at",
        "vgg19-d01eb7cb.pth",
        "weights: not there",
    ):
        assert text in process.stdout
    assert not list(tmp_path.iterdir())


def test_chapters_find_relative_folders(tmp_path, monkeypatch):
    """Those that environment variables name; chapters run in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in PATHS:
        monkeypatch.setenv(name, "mine")
    places = Places(tmp_path / "d", tmp_path / "r", ROOT / "notebooks")
    prepared = make_run(config.load("smoke"), "scratch", "cpu", places)
    for environment in (prepared.environment, prepared.commands.environment):
        assert {environment[name] for name in PATHS} == {str(tmp_path / "mine")}


def test_a_measured_profile_has_expected_times_in_its_plan(tmp_path, capsys):
    """Here a training step of 2 s, 20 s for each fine-tuning, and 8 clips prepared in a second."""
    profile = config.load("voxceleb2-ft")
    section, places = profile.protocol, Places(tmp_path / "d", tmp_path / "r", ROOT / "notebooks")
    options = Options(device="cpu", dry_run=True)
    run_profile(profile, options, places)
    assert "benchmark --profile voxceleb2-ft projects the days of its jobs" in capsys.readouterr().out
    seconds = dict.fromkeys(map(timed_variant, VARIANTS), 2.0)
    rows = [("preparing", 8.0)] + [(f"fine-tuning, T = {t}", 20.0) for t in section.shots]
    rows += [(row.quantity, row.days) for row in projections(profile, seconds)]
    table = tmp_path / "r/voxceleb2-ft/tables/benchmark.csv"
    table.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=["quantity", "value"]).to_csv(table, index=False)
    run_profile(profile, options, places)
    plan = dict(re.findall(r"^  (\S+) +run +(\S+ (?:days|h)) ", capsys.readouterr().out, re.M))
    evaluating = section.test_videos * section.seeds * len(section.shots) * 20 / 3600
    assert plan == {
        "prepare": f"{1_092_009 / 8 / cores() / 3600:.1f} h",
        "meta-learn-ft": f"{5_458_875 * 2 / 86_400:.1f} days",
        "evaluate": f"{evaluating:.1f} h" if evaluating < 24 else f"{evaluating / 24:.1f} days",
    }


def test_the_plan_accounts_for_a_slower_machine(tmp_path, monkeypatch, capsys):
    places = Places(tmp_path / "d", tmp_path / "r", ROOT / "notebooks")

    def minutes(slowness: float) -> float:
        monkeypatch.setattr(run, "slowness", lambda device: slowness)
        run_profile(config.load("laptop"), Options(device="cpu", dry_run=True), places)
        return float(re.search(r"together about (\d+) minutes", capsys.readouterr().out).group(1))

    assert minutes(3.0) == pytest.approx(2.2 * minutes(1.0), rel=0.05)


@pytest.mark.parametrize("failed, status", [(set(), 0), ({"05_comparison", "08_claims"}, 1)])
def test_the_exit_status_tells_whether_chapters_failed(tmp_path, monkeypatch, capsys, failed, status):
    def run_chapters(run_, *_):
        names = [chapter.name for chapter in run_.chapters]
        return {name: Outcome("failed" if name in failed else "ok") for name in names}

    monkeypatch.setattr(run.runner, "run_chapters", run_chapters)
    terminate = signal.getsignal(signal.SIGTERM)
    places = Places(tmp_path / "d", tmp_path / "r", ROOT / "notebooks")
    try:
        assert run_profile(config.load("smoke"), Options(device="cpu"), places) == status
    finally:
        signal.signal(signal.SIGTERM, terminate)
    output = capsys.readouterr().out
    assert ("Failed: 05_comparison, 08_claims" in output) == bool(failed)
    assert ("All chapters are ok." in output) != bool(failed)
    assert (tmp_path / "r/smoke/index.html").exists()


def test_options_reach_the_run(monkeypatch):
    monkeypatch.setattr(run, "run_profile", lambda profile, options, places: (options, places))
    folders = ["--data", "d", "--results", "r"]
    options, places = main([*folders, "run", "--only", "05", "--rerun", "--jobs", "2", "--device", "cpu"])
    assert options == Options(only=["05"], jobs=2, device="cpu", rerun=True)
    assert places == Places(Path("d"), Path("r"))


# -- weights ----------------------------------------------------------------------------------------
def test_weights_default_to_what_the_profile_has():
    assert resolve_weights(config.load("laptop"), None) == "reference"
    assert resolve_weights(config.load("smoke"), None) == "scratch"


def test_a_run_has_its_chapters_parameters_and_inputs(tmp_path):
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")
    laptop = make_run(config.load("laptop"), "reference", "cpu", places, jobs=2)
    assert set(CHAPTERS) - set(laptop.chapters) in (set(), DIFFUSION)
    assert laptop.parameters["device"] == "cpu"
    assert (laptop.notebooks / laptop.parameters["results"]).resolve() == tmp_path / "results"
    assert {path.name for path in laptop.inputs} >= {"ft.safetensors", "ft.json", "pix2pixhd.safetensors"}
    assert all(path.exists() for path in laptop.inputs)
    smoke = make_run(config.load("smoke"), "scratch", "cpu", places)
    assert not smoke.inputs and [chapter.name for chapter in smoke.chapters] == [c.name for c in CHAPTERS]


def test_chapters_without_weights_are_left_out(tmp_path, monkeypatch, capsys):
    """They cannot be named either."""
    monkeypatch.setattr(reference, "COMMITTED", tmp_path)
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")
    options = Options(dry_run=True, device="cpu", weights="reference")
    assert run_profile(config.load("laptop"), options, places) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert {line.split()[0] for line in lines} == {chapter.name for chapter in DIFFUSION}
    with pytest.raises(ValueError, match=r"22_talking: no weights of Diffused Heads; .* train-diffusion"):
        run_profile(config.load("laptop"), dataclasses.replace(options, only=["22"]), places)


@pytest.mark.parametrize("profile", ["voxceleb1", "gpu"])
def test_jobs_of_one_system_have_only_its_chapters(tmp_path, capsys, profile):
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")
    options = Options(dry_run=True, device="cpu", only=["22"])
    with pytest.raises(ValueError, match="22"):
        run_profile(config.load(profile), options, places)
    assert run_profile(config.load(profile), dataclasses.replace(options, only=None), places) == 0
    printed = capsys.readouterr().out
    assert "05_comparison" in printed and "22_talking" not in printed


@pytest.mark.parametrize("profile, videos", [("voxceleb1", True), ("laptop", False)])
def test_a_dry_run_prints_what_is_missing(tmp_path, monkeypatch, capsys, profile, videos):
    for variable in ("TORCH_HOME", "TALKING_HEADS_WEIGHTS"):
        monkeypatch.setenv(variable, str(tmp_path))
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")
    assert run_profile(config.load(profile), Options(dry_run=True, device="cpu"), places) == 0
    printed = capsys.readouterr().out
    assert "missing: pt_inception-2015-12-05-6726825d.pth for FID and KID" in printed
    for part in ("missing: your videos at", "missing: 2DFAN4-11f355bf06.pth.tar for landmarks", "s3fd"):
        assert (part in printed) == videos


def test_a_change_of_the_diffusion_weights_makes_only_its_chapters_due(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "COMMITTED", tmp_path)
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")
    keys = []
    for step in (10, 11):
        state = {"x": torch.zeros(1)}
        save_weights(tmp_path / "weights/diffusion.safetensors", state, {"step": step, "of": 10})
        laptop = make_run(config.load("laptop"), "reference", "cpu", places)
        assert laptop.chapters == CHAPTERS
        keys.append({chapter: laptop.key(chapter, {}) for chapter in CHAPTERS})
    assert {chapter for chapter in CHAPTERS if keys[0][chapter] != keys[1][chapter]} == DIFFUSION


def test_results_of_chapters_that_are_left_out_are_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "COMMITTED", tmp_path)
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")
    laptop = make_run(config.load("laptop"), "reference", "cpu", places)
    done = {chapter.name: Outcome("ok", key="k") for chapter in CHAPTERS}
    laptop.results.mkdir(parents=True)
    write_status(laptop.results, done)
    monkeypatch.setattr(runner, "execute", lambda *_: "")
    outcomes = runner.run_chapters(laptop, report=lambda line: None)
    assert {name for name, outcome in outcomes.items() if outcome.status == "stale"} == {
        chapter.name for chapter in DIFFUSION
    }


def test_scratch_measures_with_its_own_judges(tmp_path):
    places = Places(tmp_path / "data", tmp_path / "results", ROOT / "notebooks")

    def judges(name: str, weights: str) -> str | None:
        environment = make_run(config.load(name), weights, "cpu", places).environment
        return environment.get("TALKING_HEADS_OWN_JUDGES")

    own = str(tmp_path / "results/laptop/runs/judges")
    assert judges("laptop", "scratch") == own
    assert judges("laptop", "reference") is None
    assert judges("smoke", "scratch") is None
    code = (
        "from talking_heads.nn.feature_networks import WEIGHTS\n"
        "from talking_heads.animation.face_shape import FILE\n"
        "from talking_heads.nn.perceptual import embedded_digest\n"
        "print(WEIGHTS, FILE, embedded_digest('people'))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TALKING_HEADS_OWN_JUDGES": own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == [own, f"{own}/face_shape.safetensors", "fetched"]


def test_own_judges_are_trained_once(tmp_path, monkeypatch):
    profile, calls = config.load("smoke"), []
    corpora.ensure(profile, tmp_path)
    weights, face_shape = tmp_path / "own", tmp_path / "own/face_shape.safetensors"
    monkeypatch.setattr(trainings, "WEIGHTS", weights)
    monkeypatch.setattr(trainings.face_shape, "FILE", face_shape)
    monkeypatch.setattr(trainings, "train_judges", lambda folder, names, times: calls.append((folder, names)))
    names = ["attributes", "people", "identity", "landmarks", "lids", "gaze", "lips"]
    trainings.train_own_judges(profile, tmp_path)
    assert calls == [(tmp_path / "pools", names)]
    model = FaceShape.load(face_shape)
    assert model.mean.shape == (68, 3)
    assert np.isfinite(model.identity).all()
    for name in names[:-1]:
        (weights / f"{name}.safetensors").touch()
    before = face_shape.stat().st_mtime_ns
    trainings.train_own_judges(profile, tmp_path)
    assert calls[1][1] == ["lips"]
    assert face_shape.stat().st_mtime_ns == before


# -- the installed package --------------------------------------------------------------------------
DATA_FILES = (
    "profiles/*.yaml",
    "weights/*.safetensors",
    "experiments/few_shot/*.csv",
    "animation/*.csv",
    "widgets/*.html",
    "workbook/*.html",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The project's wheel, built from a copy of the sources."""
    pytest.importorskip("setuptools", minversion="70.1", reason="builds a wheel without the network")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (path,) = folder.glob("*.whl")
    return path


def pip(command: str, *words: str | Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    assert process.returncode == 0, process.stderr[-2000:]


def test_the_wheel_contains_every_file_of_the_package(wheel):
    package = ROOT / "lib/talking_heads"
    paths = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in paths} == {".py", ".yaml", ".safetensors", ".csv", ".html", ".svg"}
    for pattern in DATA_FILES:
        assert list(package.glob(pattern)), f"{pattern}: no such files"
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = {str(path.relative_to(package.parent)) for path in paths} - names
    assert not missing


class InstalledPackage:
    """The wheel, installed into a folder outside the checkout."""

    def __init__(self, folder: Path, library: Path):
        self.folder, self.library = folder, library

    def python(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.library)},
            capture_output=True,
            text=True,
        )

    def animate(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["-m", "talking_heads", "animate", "--device", "cpu", "--driver", "you.mp4"]
        return self.python(*command, "--out", "me.mp4", *words)


@pytest.fixture(scope="module")
def library(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    pip("install", "--target", folder, wheel)
    return folder


@pytest.fixture
def package(library, tmp_path, profile, few) -> InstalledPackage:
    """With a kept head, a photograph and a driver's clip in the folder where it is used."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    torch.manual_seed(0)
    nets = build_networks(profile.few_shot.networks, 1)
    with torch.no_grad():
        head = Head(nets.generator, nets.embedder.embed(few.x[None], few.y[None])).eval()
    card = {"person": "p", "kind": "procedural speaker", "origin": "rendered", "T": 4, "weights": "test"}
    head_files.keep_head(folder / "p.head", head, few, profile, card)
    clip = make_clip(ClipSettings(8, 2, 0, 12, 12.5, 96))
    video.write(folder / "you.mp4", clip.frames, clip.fps, clip.sound)
    np.savez(folder / "you.npz", landmarks=clip.landmarks)
    Image.fromarray(clip.frames[0]).save(folder / "me.png")
    np.savez(folder / "me.npz", landmarks=clip.landmarks[:1])
    return InstalledPackage(folder, library)


def test_animate_works_from_the_installed_wheel(package):
    """A kept head is driven, and landmark adaptation finds its face model."""
    where = package.python("-c", "import talking_heads; print(talking_heads.__file__)").stdout.strip()
    assert Path(where).is_relative_to(package.library)
    process = package.animate("--head", "p.head")
    assert process.returncode == 0, process.stderr
    assert len(video.read(package.folder / "me.mp4").frames) == 12


def test_animate_without_reference_weights_names_the_remedy(package):
    """The reference weights lie in the checkout."""
    process = package.animate("--photo", "me.png")
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert "checkout" in process.stderr
    assert not (package.folder / "me.mp4").exists()
