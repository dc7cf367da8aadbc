"""What the committed reference results must show: paired differences over the test people with intervals above zero."""

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from talking_heads import profiles
from talking_heads.evaluation import methods
from talking_heads.perceptual import embedded_digest
from talking_heads.reproduce import reference, tables
from talking_heads.reproduce.reasons import NO_CAUSE
from talking_heads.reproduce.runner import CHAPTERS, Run
from talking_heads.tensors import load_weights, sha256

RESULTS = Path(__file__).parents[1] / "results"
REFERENCE = RESULTS / "reference"
PROFILE = profiles.load("laptop")


@pytest.fixture(scope="module")
def differences():
    return pd.read_csv(REFERENCE / "tables/differences.csv")


@pytest.fixture(scope="module")
def table1():
    return pd.read_csv(REFERENCE / "tables/table1.csv")


@pytest.mark.parametrize("variant", PROFILE.variants)
def test_reference_weights_fit_and_say_what_made_them(variant):
    assert variant in reference.load_all(PROFILE, "reference", RESULTS, only=[variant]).networks
    _, about = load_weights(reference.weights_path(PROFILE, variant, "reference", RESULTS))
    for field in ("profile", "seed", "steps", "of", "commit", "command", "people", "lineage", "extractors"):
        assert field in about
    assert about["variant"] == variant and about["extractors"] == {n: embedded_digest(n) for n in PROFILE.extractors}, \
        "trained with other feature networks than those in the package"


def test_sizes_of_what_is_committed():
    from talking_heads.judges.training import WEIGHTS
    size = {p.stem: p.stat().st_size for folder in (REFERENCE / "weights", WEIGHTS) for p in folder.glob("*.safetensors")}
    others = sum(p.stat().st_size for p in REFERENCE.rglob("*") if p.is_file() and p.parent.name != "weights")
    assert sum(size[n] for n in ("ft", "ff", "attributes", "people", "identity", "landmarks")) <= 25e6
    assert sum(size.values()) <= 60e6 and others <= 15e6


def test_reference_results_are_about_these_weights(table1):
    """Weights that came later change nothing in rows of those that were there."""
    used = json.loads((REFERENCE / "weights.json").read_text())["weights"]
    now = reference.weights_keys(PROFILE, "reference", RESULTS)
    assert set(table1["run_id"]) == {reference.digest_of(used)}
    assert {v: key for v, key in used.items() if key != "absent"}.items() <= now.items()


def test_reference_chapters_are_those_of_the_checkout():
    """The code that was executed is what a reader opens, but for the cell of parameters that papermill adds."""
    kept = list((REFERENCE / "notebooks").glob("*.ipynb"))
    assert kept
    for path in kept:
        ran, opened = ([c["source"] for c in json.loads(p.read_text())["cells"] if c["cell_type"] == "code" and "injected-parameters" not in c["metadata"].get("tags", [])]
                       for p in (path, RESULTS.parent / "notebooks" / path.name))
        assert ran == opened, path.name


def test_pictures_of_kept_notebooks_shrink_and_stay_what_they_show(tmp_path):
    def picture(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})

    smooth = np.stack(np.meshgrid(np.arange(256), np.arange(256)) * 2, -1)[..., :3] // 2 + np.random.default_rng(0).integers(0, 8, (256, 256, 3))
    flat = np.zeros((8, 8, 3), np.uint8)  # a PNG of one colour is smaller than any JPEG
    cell = nbformat.v4.new_code_cell(outputs=[picture(smooth.astype(np.uint8)), picture(flat)])
    path = tmp_path / "kept.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    before = path.stat().st_size
    reference.compress_pictures(path)
    first, second = nbformat.read(path, 4).cells[0].outputs
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.data["image/jpeg"]))))
    assert path.stat().st_size < before / 2 and set(first.data) == {"image/jpeg"} and set(second.data) == {"image/png"}
    assert np.abs(shown - smooth.astype(float)).mean() < 4


def gain(differences, a, ta, b, tb, metric):
    row = differences[(differences["claim"] == f"{a}, T = {ta}, better than {b}, T = {tb}") & (differences["metric"] == metric)]
    assert len(row) == 1
    return row.iloc[0]


@pytest.mark.parametrize("metric", ["SSIM", "CSIM-judge"])
@pytest.mark.parametrize("t", [8, 32])
def test_fine_tuning_closes_the_identity_gap(differences, t, metric):
    assert gain(differences, methods.AFTER, t, methods.BEFORE, t, metric)["low"] > 0


@pytest.mark.parametrize("metric", ["SSIM", "CSIM-judge"])
@pytest.mark.parametrize("more, fewer", [(8, 1), (32, 8)])
def test_more_frames_are_better(differences, more, fewer, metric):
    assert gain(differences, methods.AFTER, more, methods.AFTER, fewer, metric)["low"] > 0


@pytest.mark.parametrize("metric", ["SSIM", "CSIM-judge", "landmark error"])
@pytest.mark.parametrize("trivial", methods.TRIVIAL)
def test_better_than_the_trivial_rows(differences, trivial, metric):
    assert gain(differences, methods.AFTER, 8, trivial, 8, metric)["low"] > 0


def value(table1, method, t, metric, column="value"):
    return table1[(table1["method"] == method) & (table1["T"] == t) & (table1["metric"] == metric)][column].item()


@pytest.mark.parametrize("opening", ["mouth", "eyes"])
def test_mouth_and_eyes_follow(table1, opening):
    assert value(table1, methods.AFTER, 8, f"{opening} correlation") >= 0.8


@pytest.mark.parametrize("method", [methods.BEFORE, methods.FEED_FORWARD])
def test_a_likeness_before_fine_tuning(table1, method):
    different = json.loads((REFERENCE / "verification.json").read_text())["different_95"]
    assert value(table1, method, 8, "CSIM-judge", "ci_low") > different


@pytest.mark.parametrize("name, metric", [("adaptation", "track error"), ("adaptation", "CSIM-judge"), ("gaze", "gaze error")])
def test_adaptation_and_pupils_win(name, metric):
    table = pd.read_csv(REFERENCE / f"tables/{name}.csv").set_index("metric")
    assert table.loc[metric, "low"] > 0


def test_the_whole_protocol(table1):
    """24 people, 32 hold-out frames each, all T, for every row; three seeds of whatever is fine-tuned."""
    measured = table1[~table1["metric"].isin(["FID", "KID", "CSIM", "USER"])]
    assert set(measured["method"]) == set(methods.TABLE1) and measured["value"].notna().all() and measured["ci_low"].notna().all()
    assert measured.groupby("method")["T"].agg(set).map(lambda t: t == {1, 8, 32}).all() and measured["n_people"].eq(24).all()
    tuned = measured["method"].isin([methods.AFTER, methods.OURS, methods.PIX2PIXHD])
    assert (measured["n_seeds"] == np.where(tuned, 3, 1)).all() and (measured["n_frames"] == 24 * 32 * measured["n_seeds"]).all()
    rest = table1.drop(measured.index)
    assert (rest["value"].notna() | rest["needs"].notna()).all()


def test_all_chapters_tables_and_claims_of_one_commit():
    used = json.loads((REFERENCE / "weights.json").read_text())
    records = [json.loads(line) for line in (REFERENCE / "records.jsonl").read_text().splitlines()]
    assert {r["commit"] for r in records} == {used["commit"]} and "absent" not in used["weights"].values()
    assert {p.stem for p in (REFERENCE / "notebooks").glob("*.ipynb")} == {c.name for c in CHAPTERS}
    assert all(o["status"] == "ok" for o in json.loads((REFERENCE / "status.json").read_text()).values())
    for chapter in CHAPTERS:
        assert all((REFERENCE / p).exists() for p in chapter.promises if p.split("/")[0] in ("tables", "figures")), chapter.name


def test_ablations_and_stability_of_the_reference():
    ablations, stability = (pd.read_csv(REFERENCE / f"tables/{n}.csv") for n in ("ablations", "stability"))
    assert set(ablations["row"]) == {*methods.ABLATIONS, methods.OURS_BEFORE, methods.OTHERS_E} and ablations[["low", "high"]].notna().all(axis=None)
    assert stability.groupby("feature_matching")["seed"].agg(set).to_dict() == {"with": set(range(6)), "without": set(range(6))}


def test_what_pretraining_is_worth_was_measured_on_the_committed_pix2pixhd():
    profile = profiles.load("laptop-full")
    digest = sha256(reference.weights_path(profile, "pix2pixhd", "reference", RESULTS))[:12]
    worth, rates = (pd.read_csv(REFERENCE / f"{n}_pix2pixhd_T8.csv") for n in ("pretraining", "tuning_search"))
    kept = worth[worth["pretraining"] == profile.small_steps].drop(columns="pretraining").reset_index(drop=True)
    assert worth["pretraining"].min() < profile.small_steps < worth["pretraining"].max() and kept["weights"].tolist() == [digest]
    pd.testing.assert_frame_equal(kept, rates[rates["pix2pixhd_tune_rate"] == profile.pix2pixhd_tune_rate])


def test_every_claim_was_run_and_every_no_has_its_reason():
    claims, reasons = (pd.read_csv(REFERENCE / f"tables/{n}.csv") for n in ("claims", "reasons"))
    said = claims.groupby("id")["holds"].first()
    assert set(said.index) == set(range(1, 16)) and set(said) <= {"yes", "no", "undecided"}
    assert set(reasons["id"]) == set(said[said != "yes"].index) and claims[["estimate", "ci_low", "ci_high"]].notna().all(axis=None)
    assert not reasons["why"].str.contains(NO_CAUSE).any(), "backed by something measured"


@pytest.mark.parametrize("commits", [[], ["aaa", "bbb"], ["aaa+"]])
def test_only_one_clean_run_becomes_the_reference(commits, tmp_path, monkeypatch):
    kept = tmp_path / "committed"
    monkeypatch.setattr(reference, "COMMITTED", kept)
    monkeypatch.setattr(reference, "plan", lambda run: [])
    (tmp_path / "laptop").mkdir()
    now = reference.digest(PROFILE, "reference", tmp_path)
    rows = [{"run_id": now, "commit": c} for c in commits] + [{"run_id": "of other weights", "commit": "ccc"}]
    (tmp_path / "laptop/records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(ValueError, match="a reference is one clean run"):
        reference.keep(Run(PROFILE, {}, tmp_path, tmp_path / "laptop"))
    assert not kept.exists()


def test_nothing_that_is_committed_names_a_folder_of_a_machine():
    kinds = {".md", ".tex", ".html", ".json", ".jsonl", ".csv", ".ipynb"}
    rooted = re.compile(r"(?<![\w+/.])/(?:home|root|work|tmp|mnt|opt|Users)/\w")
    found = {p.name: hit.group() for p in REFERENCE.rglob("*") if p.suffix in kinds and (hit := rooted.search(p.read_text()))}
    assert not found


def test_what_texts_say_is_in_the_reference_is_there():
    root = RESULTS.parent
    texts = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "notebooks").glob("*.ipynb")]
    named = {hit for path in texts for hit in re.findall(r"results/reference/[\w/]+\.\w+", path.read_text())}
    assert named and not {n for n in named if not (root / n).exists()}


def test_every_table_says_which_weights_it_is_about():
    for path in (REFERENCE / "tables").glob("*.md"):
        assert path.stem in ("sizes", "table2") or "weights: profile" in path.read_text()
    assert set(tables.VERDICTS) >= set(pd.read_csv(REFERENCE / "tables/table1.csv")["verdict"])
