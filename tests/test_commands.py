"""run_all.sh, the command line, profiles, and one list of versions."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from talking_heads import config
from talking_heads.__main__ import arguments, main
from talking_heads.experiments import run as matrix

ROOT = Path(__file__).parents[1]


def run(*words, **more):
    return subprocess.run(
        [sys.executable, "-m", "talking_heads", *words], cwd=ROOT, capture_output=True, text=True, **more
    )


def pinned() -> dict[str, str]:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(d["pip"] for d in listed if isinstance(d, dict))
    return dict(line.split("==") for line in pip)


def test_conda_and_pip_install_the_same_list():
    """run_all.sh cuts its requirements out of environment.yml; what it cuts is exactly conda's pip list, and it is installed."""
    script = (ROOT / "run_all.sh").read_text()
    expression = re.search(r"sed -n '([^']+)' environment.yml", script).group(1)
    cut = subprocess.run(
        ["sed", "-n", expression, "environment.yml"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = pinned()
    assert dict(line.split("==") for line in cut) == wanted and len(cut) == len(wanted)
    assert "--constraint" in script and "torch" in wanted
    assert {n: version(n).split("+")[0] for n in wanted} == wanted
    assert "dependencies" not in (ROOT / "pyproject.toml").read_text(), "a second list would drift"


def test_the_fixed_packages_and_top_level():
    assert {
        "torch",
        "jupyterlab",
        "papermill",
        "face-alignment",
        "matplotlib",
        "pandas",
        "scikit-image",
        "pytorch-fid",
    } <= pinned().keys()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode == 0 and tracked.stdout:
        top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
        assert {t for t in top if not t.startswith(".")} <= {
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
        }


def test_the_readmes_own_clips_example(tmp_path, monkeypatch):
    """The README's code learns a head from a prepared clip and leaves a video; two epochs do here."""
    import numpy as np
    from talking_heads.data import video
    from talking_heads.data.speakers.clips import make_clip

    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    clip = make_clip(4, 2, 0, 64, 12.5, 64)
    (tmp_path / "my_videos").mkdir()
    video.write(tmp_path / "my_videos/me.mp4", clip.frames, clip.fps, clip.sound)
    np.savez(tmp_path / "my_videos/me.npz", landmarks=clip.landmarks)
    monkeypatch.chdir(tmp_path)
    prepare = (
        re.search(r"python -m talking_heads (prepare .*)", (ROOT / "README.md").read_text()).group(1).split()
    )
    assert main(prepare) == 0
    load = config.load
    monkeypatch.setattr(profiles, "load", lambda name: load(name, {"few_shot.fine_tuning.epochs": 2}))
    exec(code, {})
    assert len(video.read(tmp_path / "head.mp4").frames) == 32 and (tmp_path / "me.head").exists()


def test_strings_of_profiles_are_checked():
    with pytest.raises(ValueError, match="pool is 'max'; there are: sum_relu, relu_sum, relu_mean"):
        config.load("smoke", {"few_shot.networks.pool": "max"})


def test_unknown_profiles_options_and_devices_are_refused_with_what_exists():
    done = run("run", "--profile", "desktop")
    assert done.returncode == 2 and all(name in done.stderr for name in config.names())
    done = run("run", "--only", "99")
    assert done.returncode == 2 and "03_meta_learning" in done.stderr
    done = run("run", "--wieghts", "reference")
    assert done.returncode == 2 and "--weights" in done.stderr
    done = run("run", "--weights", "stolen")
    assert done.returncode == 2 and "reference" in done.stderr and "scratch" in done.stderr
    done = run("run", "--profile", "smoke", "--weights", "reference")
    assert done.returncode == 2 and "has no reference weights; use --weights scratch" in done.stderr
    import torch

    if not torch.cuda.is_available():
        done = run("run", "--device", "cuda")
        assert done.returncode == 2 and "no usable GPU" in done.stderr


def test_dry_run_says_what_would_happen_and_does_nothing(tmp_path):
    done = run(
        "--results",
        str(tmp_path / "r"),
        "--data",
        str(tmp_path / "d"),
        "run",
        "--profile",
        "voxceleb1",
        "--dry-run",
        check=True,
    )
    for word in ("05_comparison", "to be made", "your videos at", "vgg19-d01eb7cb.pth", "weights: not there"):
        assert word in done.stdout
    assert not (tmp_path / "r").exists() and not (tmp_path / "d").exists()


def test_run_all_knows_its_three_uses():
    script = (ROOT / "run_all.sh").read_text()
    for line in (
        'exec python -m pytest "$@"',
        "jupyter lab notebooks/00_start_here.ipynb",
        'exec python -m talking_heads run "$@"',
    ):
        assert line in script
    wanted = subprocess.run(
        "cksum < environment.yml", shell=True, cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    made = ROOT / ".venv/made-from"
    if not made.exists() or made.read_text() != wanted:
        pytest.skip("the tests run in another environment than .venv, which this would make anew")
    said = subprocess.run(
        ["./run_all.sh", "lab", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert said.startswith("4."), "JupyterLab starts in the environment"


def test_readme_names_the_commands_that_exist():
    text = (ROOT / "README.md").read_text()
    assert "./run_all.sh\n" in text and "./run_all.sh test" in text and "./run_all.sh lab" in text
    commands = [line.split("#")[0].split() for line in re.findall(r"python -m talking_heads ([^`\n]*)", text)]
    assert len(commands) >= 8
    for command in commands:
        arguments([word for word in command if word not in ("|", "NAME")])
    for name in re.findall(r"--profile ([a-z][\w-]+)", text):
        assert name in config.names()


@pytest.mark.parametrize("name", config.names())
def test_profiles_load_and_say_what_they_are_for(name):
    assert len(config.load(name).about) > 20 and (config.FOLDER / f"{name}.yaml").read_text().startswith(
        "# ./run_all.sh"
    )


def test_profiles_refuse_unknown_keys_wrong_types_and_missing_keys():
    with pytest.raises(ValueError, match="unknown keys colour"):
        config.load("smoke", colour="red")
    for change in ({"shots": [1, "8"]}, {"seed": 1.5}, {"rate": True}, {"pool": 3}, {"shots": 8}):
        with pytest.raises(ValueError, match=f"profile smoke: {next(iter(change))} is"):
            config.load("smoke", **change)
    with pytest.raises(ValueError, match="missing keys about"):
        config.make("x", {})
    assert config.key(config.load("smoke"), "seed") != config.key(config.load("smoke", {"seed": 1}), "seed")


def test_the_plan_reckons_with_a_slower_machine(tmp_path, monkeypatch, capsys):
    def minutes(slowness: float) -> float:
        monkeypatch.setattr(matrix, "slowness", lambda device: slowness)
        matrix.run_matrix(
            "laptop", None, 1, True, "cpu", None, tmp_path / "d", tmp_path / "r", ROOT / "notebooks"
        )
        return float(re.search(r"together about (\d+) minutes", capsys.readouterr().out).group(1))

    assert minutes(3.0) == pytest.approx(2.2 * minutes(1.0), rel=0.05)


def test_weights_default_to_what_the_profile_has():
    assert (
        matrix.resolve_weights(config.load("laptop"), None) == "reference"
        and matrix.resolve_weights(config.load("smoke"), None) == "scratch"
    )


def test_scratch_measures_by_judges_of_its_own(tmp_path):
    def judges(name, weights):
        run_ = matrix.the_run(
            config.load(name), weights, "cpu", tmp_path / "data", tmp_path / "results", ROOT / "notebooks"
        )
        return run_.environment.get("TALKING_HEADS_OWN_JUDGES")

    own = str(tmp_path / "results/laptop/runs/judges")
    assert (
        judges("laptop", "scratch") == own
        and judges("laptop", "reference") is None
        and judges("smoke", "scratch") is None
    )
    code = (
        "from talking_heads.judges.networks import WEIGHTS; from talking_heads.driving.face_shape import FILE\n"
        "from talking_heads.perceptual import embedded_digest; print(WEIGHTS, FILE, embedded_digest('people'))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TALKING_HEADS_OWN_JUDGES": own},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [own, f"{own}/face_shape.safetensors", "fetched"]


def test_judges_of_ones_own_are_made_once(tmp_path, monkeypatch):
    from talking_heads.animation.face_shape import FaceShape
    from talking_heads.data import corpora as build
    from talking_heads.experiments.few_shot import trainings

    profile, trained = config.load("smoke"), []
    build.ensure(profile, tmp_path)
    monkeypatch.setattr(trainings, "WEIGHTS", tmp_path / "own")
    monkeypatch.setattr(trainings.face_shape, "FILE", tmp_path / "own/face_shape.safetensors")
    monkeypatch.setattr(
        trainings, "train_judges", lambda folder, names, times: trained.append((folder, names))
    )
    trainings.train_own_judges(profile, tmp_path)
    assert trained == [
        (tmp_path / "pools", ["attributes", "people", "identity", "landmarks", "lids", "gaze"])
    ]
    model = FaceShape.load(tmp_path / "own/face_shape.safetensors")
    assert model.mean.shape == (68, 3) and np.isfinite(model.identity).all()
    for name in trained[0][1][:-1]:
        (tmp_path / f"own/{name}.safetensors").touch()
    before = (tmp_path / "own/face_shape.safetensors").stat().st_mtime_ns
    trainings.train_own_judges(profile, tmp_path)
    assert (
        trained[1][1] == ["gaze"] and (tmp_path / "own/face_shape.safetensors").stat().st_mtime_ns == before
    )
