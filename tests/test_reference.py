"""Gates of the reference: what the committed files of ``results/reference`` must show.

They test no code, but the results that one run left: these files keep the column names and the profile's text
of that run. Differences are paired over the identities of the evaluation set, with intervals above zero.
"""

import json
import re
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from talking_heads import config
from talking_heads.experiments.claims import verdicts
from talking_heads.experiments.diffused import ablation_table, acceptance, generalisation, length, tables
from talking_heads.experiments.diffused import claims as diffused_claims
from talking_heads.experiments.diffused.ablation_settings import (
    BLINK_RATE,
    DISTILLED,
    GUIDANCE,
    HEAD_MOTION,
    STEPS,
)
from talking_heads.experiments.diffused.clip_metrics import LMD, PER
from talking_heads.experiments.diffused.evaluation import CONFIRMATION
from talking_heads.experiments.diffused.length import FLOW, SHARPNESS
from talking_heads.experiments.diffused.protocol import (
    BRIDGE,
    FROZEN,
    OTHER_SOUND,
    OURS,
    ROWS,
    SDA,
    TRUE_MOTION,
)
from talking_heads.experiments.diffused.weights import COMMANDS, load_model, load_predictor
from talking_heads.experiments.explanations import NO_CAUSE
from talking_heads.experiments.few_shot import methods
from talking_heads.experiments.few_shot.chapters import CHAPTERS
from talking_heads.experiments.few_shot.paper_numbers import VERDICTS
from talking_heads.experiments.few_shot.weights import (
    digest_of,
    load_all,
    load_networks,
    weights_keys,
    weights_path,
)
from talking_heads.files import sha256
from talking_heads.metrics.statistics import mean_estimate
from talking_heads.nn.feature_networks import WEIGHTS
from talking_heads.nn.perceptual import embedded_digest
from talking_heads.nn.weight_files import load_weights

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "results"
REFERENCE = RESULTS / "reference"
PROFILE = config.load("laptop")
SMALL_NETWORKS = ("ft", "ff", "attributes", "people", "identity", "landmarks")  # at most 25 MB together
PROVENANCE = ("profile", "seed", "step", "of", "commit", "command", "people", "lineage")
# now, and when the reference ran
NO_CAUSES = (NO_CAUSE, "No cause was found among what is measured here.")
FETCHED = ("FID", "KID", "CSIM", "USER")  # metrics that need fetched networks, or raters


def read_table(name: str) -> pd.DataFrame:
    return pd.read_csv(REFERENCE / "tables" / f"{name}.csv")


def read_json(name: str) -> dict:
    return json.loads((REFERENCE / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def differences() -> pd.DataFrame:
    return read_table("differences")


@pytest.fixture(scope="module")
def table1() -> pd.DataFrame:
    return read_table("table1")


# -- the files ------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", PROFILE.few_shot.trainings.variants)
def test_reference_weights_fit_and_state_their_provenance(variant):
    assert variant in load_all(PROFILE, "reference", RESULTS, only=[variant]).networks
    metadata = load_weights(weights_path(PROFILE, variant, "reference", RESULTS))[1]
    assert metadata.keys() >= {*PROVENANCE, "extractors"} and metadata["variant"] == variant
    embedded = {name: embedded_digest(name) for name in PROFILE.few_shot.losses.extractors}
    assert metadata["extractors"] == embedded, "trained with other feature networks than the package's"


@pytest.mark.parametrize("profile", ["laptop", "laptop-full", "laptop-plain"])
@pytest.mark.parametrize("sampling", [{}, {"distilled": True}, {"control": True}])
def test_reference_talking_networks_load(profile, sampling):
    changes = {f"diffused.sampling.{name}": value for name, value in sampling.items()}
    model = load_model(config.load(profile, changes), "reference", RESULTS)
    assert model.metadata["step"] >= model.metadata["of"]
    if "distilled" in sampling:
        steps = model.generator.section.sampling.steps
        assert model.metadata["sampling steps"] == steps == model.generator.section.distillation.steps


def test_reference_sizes():
    files = [*REFERENCE.rglob("weights/*.safetensors"), *WEIGHTS.glob("*.safetensors")]
    sizes = {path: path.stat().st_size for path in files if "portrait" not in path.parts}
    others = [p for p in REFERENCE.rglob("*") if p.is_file() and p.parent.name != "weights"]
    assert sum(size for path, size in sizes.items() if path.stem in SMALL_NETWORKS) <= 25e6
    assert sizes[REFERENCE / "weights/diffusion.safetensors"] <= 12e6
    of_diffusion = [p for p in sizes if p.stem in COMMANDS and p.is_relative_to(REFERENCE)]
    assert sum(sizes.pop(path) for path in of_diffusion) <= 30e6
    assert sum(sizes.values()) <= 60e6
    assert sum(path.stat().st_size for path in others) <= 15e6


def test_portraits_are_no_worse_than_heads_at_64_pixels():
    """Of twelve validation identities, T = 8, on frames shrunk to 64²."""
    folder = REFERENCE / "portrait/weights"
    table = pd.read_csv(folder / "ft_criteria.csv").set_index("metric")
    assert list(table.index) == ["SSIM", "CSIM-judge", "landmark error"]
    assert (table["n_identities"] == 12).all() and table["no worse"].all()
    assert (folder / "ft.safetensors").stat().st_size <= 12e6
    profile = config.load("portrait")
    nets, metadata = load_networks(profile, "ft", "reference", RESULTS)
    assert nets.generator.up[-1].conv2.out_channels == profile.few_shot.networks.generator_up[-1]
    start = sha256(weights_path(config.load("laptop-full"), "ft", "reference", RESULTS))[:12]
    assert metadata["step"] == metadata["of"] == 3200 and metadata["started_from"] == start


@pytest.mark.parametrize("question", ["face", "teeth", "irises", "glasses"])
def test_what_a_reader_says_of_portraits(question, request):
    """Who was told nothing, of six moments of heads of seven validation identities, three times as large.
    Where an answer is empty, there was nothing to see.
    """
    reasons = {
        "face": "five of seven",
        "teeth": "one of seven",
        "irises": "three of seven",
        "glasses": "none of three",
    }
    reason = f"{reasons[question]}; see docs/notes/meta_learning.md"
    request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    answers = pd.read_csv(REFERENCE / "portrait/weights/ft_readers.csv")
    assert len(answers) == 7 and answers[question].dropna().eq("yes").all()


def test_reference_results_are_of_these_weights(table1):
    """Weights that came later change nothing in the rows of earlier ones."""
    used = read_json("weights.json")["weights"]
    present = weights_keys(PROFILE, "reference", RESULTS)
    assert set(table1["run_id"]) == {digest_of(used)}
    assert {variant: key for variant, key in used.items() if key != "absent"}.items() <= present.items()


def code_cells(text: str) -> list[str]:
    """Sources of a notebook's code cells, without the cell of parameters that papermill adds."""
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return ["".join(c["source"]) for c in cells if "injected-parameters" not in c["metadata"].get("tags", [])]


def test_reference_chapters_are_those_of_its_commit():
    """The code that was executed is that of the commit that the reference names."""
    commit = read_json("weights.json")["commit"]
    for path in sorted((REFERENCE / "notebooks").glob("*.ipynb")):
        command = ["git", "show", f"{commit}:notebooks/{path.name}"]
        source = subprocess.run(command, cwd=CHECKOUT, capture_output=True, encoding="utf-8", check=False)
        if source.returncode:
            pytest.skip(f"needs the history of git back to commit {commit}")
        assert code_cells(path.read_text(encoding="utf-8")) == code_cells(source.stdout), path.name


def test_reference_chapters_ran_to_their_end():
    for path in (REFERENCE / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        executed = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in executed if "".join(cell["source"]).strip()), path.name
        outputs = [output["output_type"] for cell in executed for output in cell["outputs"]]
        assert outputs and "error" not in outputs, path.name


# figures that chapters have drawn since the reference was made
NEW_FIGURES = ("meta_scores", "scores", "gap_maps", "shots", "table1", "observed", "ablations", "timing")
SINCE = {f"figures/{name}.png" for name in (*NEW_FIGURES, "table2", "blur")}


def test_reference_is_one_run_of_all_chapters():
    provenance = read_json("weights.json")
    lines = (REFERENCE / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["commit"] for line in lines} == {provenance["commit"]}
    assert "absent" not in provenance["weights"].values()
    assert {path.stem for path in (REFERENCE / "notebooks").glob("*.ipynb")} == {c.name for c in CHAPTERS}
    assert {outcome["status"] for outcome in read_json("status.json").values()} == {"ok"}
    promises = [promise for chapter in CHAPTERS for promise in chapter.promises]
    kept = [promise for promise in promises if promise.startswith(("tables/", "figures/"))]
    assert {promise for promise in kept if not (REFERENCE / promise).exists()} == SINCE


def test_reference_names_no_folder_of_a_machine():
    endings = {".md", ".tex", ".html", ".json", ".jsonl", ".csv", ".ipynb"}
    rooted = re.compile(r"(?<![\w+/.])/(?:home|root|work|tmp|mnt|opt|Users)/\w")
    texts = [path for path in REFERENCE.rglob("*") if path.suffix in endings]
    hits = {path.name: rooted.search(path.read_text(encoding="utf-8")) for path in texts}
    assert [name for name, hit in hits.items() if hit] == []


def test_reference_has_the_files_that_texts_name():
    texts = [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
    texts += (CHECKOUT / "notebooks").glob("*.ipynb")
    pattern = re.compile(r"results/reference/[\w/]+\.\w+")
    named = {hit for path in texts for hit in pattern.findall(path.read_text(encoding="utf-8"))}
    assert named
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


def test_reference_tables_name_their_weights(table1):
    for path in (REFERENCE / "tables").glob("*.md"):
        without_weights = path.stem in ("sizes", "table2")
        assert without_weights or "weights: profile" in path.read_text(encoding="utf-8"), path.name
    assert set(table1["verdict"]) <= set(VERDICTS)


# -- Diffused Heads --------------------------------------------------------------------------------
def test_the_committed_diffusion_model_fits_and_states_its_provenance():
    path = REFERENCE / "weights/diffusion.safetensors"
    assert path.stat().st_size <= 12e6
    for name in ("laptop", "laptop-full"):
        metadata = load_model(config.load(name), "reference", RESULTS).metadata
    assert metadata.keys() >= set(PROVENANCE) and metadata["step"] == metadata["of"]
    assert {value.dtype for value in load_file(path).values()} == {torch.float16}


MISSED = {  # criteria that the weights do not meet, with the reason
    "blinks, relative to true clips": "0.031; see docs/notes/diffusion.md",
}


@pytest.fixture(scope="module")
def criteria() -> pd.DataFrame:
    path = REFERENCE / "weights/diffusion_criteria.csv"
    if not path.exists():
        pytest.skip("the committed weights have not been evaluated yet: keep --variant diffusion")
    return pd.read_csv(path).set_index("criterion")


def test_reference_criteria_are_of_the_committed_weights(criteria):
    assert set(criteria["weights"]) == {sha256(REFERENCE / "weights/diffusion.safetensors")[:12]}
    assert criteria["n_identities"].min() >= acceptance.IDENTITIES
    assert list(criteria.index) == [criterion.name for criterion in acceptance.CRITERIA]


@pytest.mark.parametrize("name", [criterion.name for criterion in acceptance.CRITERIA])
def test_reference_talking_heads(criteria, name, request):
    if name in MISSED:
        request.applymarker(pytest.mark.xfail(reason=MISSED[name], strict=True))
    assert criteria["holds"][name] == "yes", f"{criteria['value'][name]:.3f}"


MISSED_ON_NEW_IDENTITIES = {
    "CSIM-judge, first two seconds": "0.746",
    "CSIM-judge, whole clip minus first second": "−0.127",
    "mouth closed in silence": "0.893",
    "blinks, relative to true clips": "0.203",
}


@pytest.mark.parametrize("name", [criterion.name for criterion in acceptance.CRITERIA])
def test_reference_talking_heads_of_identities_on_which_nothing_was_decided(name, criteria, request):
    table = pd.read_csv(REFERENCE / f"tables/{CONFIRMATION}.csv").set_index("criterion")
    assert set(table["weights"]) == set(criteria["weights"]) and (table["n_identities"] == 24).all()
    if name in MISSED_ON_NEW_IDENTITIES:
        reason = f"{MISSED_ON_NEW_IDENTITIES[name]}; see docs/notes/diffusion.md"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    assert table["holds"][name] == "yes", f"{table['value'][name]:.3f}"


@pytest.fixture(scope="module")
def ablated() -> pd.DataFrame:
    """The reference's table of the ablations, by ablation, setting and metric."""
    profile = config.load("laptop-full")
    rows = pd.read_csv(REFERENCE / "tables/ablation_metrics.csv", dtype={"setting": str})
    return ablation_table.table(rows, profile).set_index(["ablation", "setting", "metric"])


@pytest.mark.parametrize("metric", [LMD, PER, "CSIM-judge"])
def test_two_denoising_steps_keep_what_twenty_reach(ablated, metric):
    twenty = ablated.loc[STEPS, "20", metric]
    assert twenty["ci_low"] <= ablated.loc[STEPS, DISTILLED, metric]["value"] <= twenty["ci_high"]


def test_guidance_makes_lips_easier_to_read(ablated):
    assert ablated.loc[GUIDANCE, "1.5", PER]["difference, high"] < 0
    assert ablated.loc[GUIDANCE, "2", "CSIM-judge"]["difference, high"] < 0, "at a cost"


def test_heads_move_as_they_are_asked_to(ablated):
    speeds = [ablated.loc[HEAD_MOTION, name, "head motion"] for name in ("0.5", "1", "2")]
    assert speeds[0]["ci_high"] < speeds[2]["ci_low"] and speeds[0]["value"] < speeds[1]["value"]
    assert speeds[2]["value"] > 1.5 * speeds[1]["value"]


def test_heads_blink_when_they_are_asked_to(ablated):
    """With the rate of the corpus, within a factor of two of true clips, and never where it is zero."""
    rates = {name: ablated.loc[BLINK_RATE, name, "blinks a second"]["value"] for name in ("0", "0.4", "0.8")}
    true = ablated.loc[BLINK_RATE, "0.4", "true blinks a second"]["value"]
    assert 0.5 <= rates["0.4"] / true <= 2 and rates["0"] < 0.05 * true and rates["0.8"] > rates["0.4"]


@pytest.mark.parametrize(
    "metric, low, high", [("CSIM-judge", -0.05, 1), (FLOW, 1 / 1.2, 1.2), (SHARPNESS, 1 / 1.2, 1.2)]
)
def test_a_minute_with_noise_on_the_motion_frames_keeps_identity_motion_and_sharpness(metric, low, high):
    """On average over identities, from the first ten seconds to the last; without noise identity is lost."""
    changes = length.changes(pd.read_csv(REFERENCE / "tables/length_metrics.csv"))
    change = changes.set_index(["remedy", "metric"])["change"]
    assert low <= change[length.NOISE, metric] <= high
    assert change[length.NONE, "CSIM-judge"] < -0.05


@pytest.mark.parametrize("metric", ["CSIM-judge", "mouth opening", "mouth closed in silence"])
@pytest.mark.parametrize("choice", [("epsilon", 1.0, 0.2), ("velocity", 0.0, 0.0)])
def test_v_and_noise_on_motion_frames_are_worth_it_on_validation_identities(choice, metric):
    """Against ε, and against training without noise, in short equal training runs."""
    table = pd.read_csv(REFERENCE / "tables/training_choices.csv")
    clips = table.set_index(["prediction", "noise in training", "noise in generation", "identity"])[metric]
    difference = (clips.loc["velocity", 1.0, 0.2] - clips.loc[choice]).dropna()
    assert mean_estimate(difference.to_numpy()).low > 0


@pytest.mark.parametrize("question", ["face", "speaking", "same person"])
def test_what_a_reader_says_of_clips_of_evaluation_identities(question, request):
    """Who was told nothing, of thirty moments of each clip."""
    if question == "same person":
        reason = "seven of twelve: glasses, moustaches and hair change; see docs/notes/diffusion.md"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    answers = pd.read_csv(REFERENCE / "weights/diffusion_readers.csv")
    assert len(answers) == 12 and answers[question].eq("yes").all()


@pytest.mark.parametrize("metric", ["CSIM-judge", FLOW, SHARPNESS])
def test_a_minute_is_within_the_limits_with_its_whole_interval(metric, request):
    """As the register defines it."""
    if metric != SHARPNESS:
        reason = "six identities: −0.048 [−0.097, 0.001] of CSIM-judge, 0.95 [0.77, 1.17] times the flow"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    changes = length.changes(pd.read_csv(REFERENCE / "tables/length_metrics.csv"))
    assert changes.set_index(["remedy", "metric"])["within"][length.NOISE, metric]


def test_reference_decides_every_claim_of_diffused_heads_and_explains_every_no():
    """In the words of the README."""
    table = pd.read_csv(REFERENCE / "tables/diffused_claims.csv")
    assert list(verdicts(table)) == [claim.id for claim in diffused_claims.CLAIMS]
    by_verdict = {
        verdict: ", ".join(str(number) for number, of in verdicts(table).items() if of == verdict)
        for verdict in ("yes", "no", "undecided")
    }
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for words, verdict in (("hold", "yes"), ("do not", "no"), ("are undecided", "undecided")):
        assert f"{words} ({by_verdict[verdict]})" in text
    statistics = table.drop_duplicates("id").set_index("id")["statistic"]
    assert statistics.to_dict() == {claim.id: claim.statistic for claim in diffused_claims.CLAIMS}
    why = pd.read_csv(REFERENCE / "tables/diffused_explanations.csv").set_index("id")["why"]
    assert set(why.index) == {number for number, of in verdicts(table).items() if of != "yes"}
    assert not why.str.contains(NO_CAUSE, regex=False).any()


def test_reference_rows_of_talking_heads():
    """The first rows of Tables 1 and 3: 24 identities, with intervals."""
    for name, metrics in (("talking_table1", tables.TABLE1), ("talking_table3", tables.TABLE3)):
        table = pd.read_csv(REFERENCE / f"tables/{name}.csv").query("source == 'here'")
        assert set(table["method"]) == {OURS, FROZEN, OTHER_SOUND, TRUE_MOTION}
        assert set(metrics) - {"CPBD"} <= set(table["metric"]), "64² is too small for CPBD"
        rows = table[table["metric"].isin(metrics)]
        assert (rows["n_identities"] == 24).all() and rows[["ci_low", "ci_high"]].notna().all(axis=None)
    table = pd.read_csv(REFERENCE / f"tables/{tables.TABLE1_FILE}.csv")
    for name, count in (("laptop-full", 24), ("laptop-plain", 12)):
        rows = table[table["corpus"] == tables.corpus_name(config.load(name))]
        rows = rows[rows["method"].isin([*ROWS, SDA, BRIDGE])].set_index(["method", "metric"])
        methods = [*ROWS, SDA] + [BRIDGE] * (name == "laptop-full")
        assert set(rows.index) >= set(product(methods, tables.TABLE1)) and rows.index.is_unique
        assert (rows["n_identities"] == count).all() and rows[["ci_low", "ci_high"]].notna().all(axis=None)
    voices = pd.read_csv(REFERENCE / f"tables/{generalisation.TABLE}.csv")
    assert voices.groupby("voice")["identity"].nunique().eq(12).all() and voices["voice"].nunique() == 6
    faces = pd.read_csv(REFERENCE / f"tables/{generalisation.FACES}.csv").query("not outside")
    assert {*voices["identity"], *faces["identity"]} == set(generalisation.unseen_speakers(12))


SILENT_MOUTHS = [(STEPS, DISTILLED), (HEAD_MOTION, "0.5"), (HEAD_MOTION, "1"), (HEAD_MOTION, "2")]
SILENT_MOUTHS += [(BLINK_RATE, rate) for rate in ("0", "0.4", "0.8")]
SILENT_MOUTHS += [(GUIDANCE, scale) for scale in ("1", "1.5", "2")]


@pytest.mark.parametrize("setting", SILENT_MOUTHS, ids=" ".join)
def test_silence_closes_the_mouth_whatever_is_asked_for(ablated, setting, request):
    if setting == (HEAD_MOTION, "2"):
        reason = "with heads twice as fast the mouth is closed in 0.83 of the silent frames"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    assert ablated.loc[(*setting, "mouth closed in silence")]["value"] >= 0.9


@pytest.mark.parametrize("part", ["", "plain/"])
def test_validation_metrics_of_sda_have_stopped_improving(part):
    """In the last quarter of its training, on either corpus: L1 to the truth, and identity similarity."""
    log = pd.DataFrame(read_json(f"{part}weights/sda.json"))
    rows = log[["step", "validation", "CSIM-judge, first second"]].dropna().set_index("step")
    before, last = rows.loc[2000:2999], rows.loc[3000:]
    assert len(before) == len(last) == 4
    assert last["validation"].min() > 0.96 * before["validation"].min()
    similarity = "CSIM-judge, first second"
    assert last[similarity].max() < before[similarity].max() + 0.02


def test_reference_landmarks_from_sound():
    """The weights fit, and on validation identities the predicted lips follow the true ones."""
    load_predictor(PROFILE, "reference", RESULTS)
    log = pd.DataFrame(read_json("weights/landmarks.json"))[["mouth opening", "mouth width"]].dropna()
    assert len(log) == 12 and (log.iloc[-1] > 0.85).all()
    later = log.iloc[len(log) // 2 :].mean()
    assert (later - log.iloc[: len(log) // 2].mean()).abs().max() < 0.02, "they have stopped improving"


# -- the numbers ----------------------------------------------------------------------------------
def low_end(differences: pd.DataFrame, better: tuple[str, int], worse: tuple[str, int], metric: str) -> float:
    """The lower end of the interval of a difference between two (method, T)."""
    claim = f"{better[0]}, T = {better[1]}, better than {worse[0]}, T = {worse[1]}"
    rows = differences[(differences["claim"] == claim) & (differences["metric"] == metric)]
    return rows["low"].item()


@pytest.mark.parametrize("metric", ["SSIM", "CSIM-judge"])
@pytest.mark.parametrize("t", [8, 32])
def test_reference_fine_tuning_closes_the_identity_gap(differences, t, metric):
    assert low_end(differences, (methods.AFTER, t), (methods.BEFORE, t), metric) > 0


@pytest.mark.parametrize("metric", ["SSIM", "CSIM-judge"])
@pytest.mark.parametrize("more, fewer", [(8, 1), (32, 8)])
def test_reference_more_frames_are_better(differences, more, fewer, metric):
    assert low_end(differences, (methods.AFTER, more), (methods.AFTER, fewer), metric) > 0


@pytest.mark.parametrize("metric", ["SSIM", "CSIM-judge", "landmark error"])
@pytest.mark.parametrize("baseline", methods.TRIVIAL)
def test_reference_is_better_than_trivial_baselines(differences, baseline, metric):
    assert low_end(differences, (methods.AFTER, 8), (baseline, 8), metric) > 0


def cell_of(table1: pd.DataFrame, method: str, metric: str, column: str = "value") -> float:
    """An entry of Table 1 at T = 8."""
    rows = table1[(table1["method"] == method) & (table1["T"] == 8) & (table1["metric"] == metric)]
    return rows[column].item()


@pytest.mark.parametrize("opening", ["mouth", "eyes"])
def test_reference_mouth_and_eyes_follow(table1, opening):
    assert cell_of(table1, methods.AFTER, f"{opening} correlation") >= 0.8


@pytest.mark.parametrize("method", [methods.BEFORE, methods.FEED_FORWARD])
def test_reference_identity_is_similar_before_fine_tuning(table1, method):
    different = read_json("verification.json")["different_95"]
    assert cell_of(table1, method, "CSIM-judge", "ci_low") > different


@pytest.mark.parametrize(
    "name, metric", [("adaptation", "track error"), ("adaptation", "CSIM-judge"), ("gaze", "gaze error")]
)
def test_reference_adaptation_and_pupils_help(name, metric):
    assert read_table(name).set_index("metric").loc[metric, "low"] > 0


def test_reference_follows_the_whole_protocol(table1):
    """24 identities, 32 held-out frames each, every T and row; three seeds of every fine-tuned method."""
    measured = table1[~table1["metric"].isin(FETCHED)]
    assert set(measured["method"]) == set(methods.TABLE1)
    assert measured[["value", "ci_low", "ci_high"]].notna().all(axis=None)
    assert all(shots == {1, 8, 32} for shots in measured.groupby("method")["T"].agg(set))
    assert measured["n_people"].eq(24).all()
    fine_tuned = measured["method"].isin([methods.AFTER, methods.OURS, methods.PIX2PIXHD])
    assert (measured["n_seeds"] == np.where(fine_tuned, 3, 1)).all()
    assert (measured["n_frames"] == 24 * 32 * measured["n_seeds"]).all()
    others = table1.drop(measured.index)
    assert (others["value"].notna() | others["needs"].notna()).all()


def test_reference_ablations_and_stability_are_complete():
    ablations, stability = read_table("ablations"), read_table("stability")
    assert set(ablations["row"]) == {*methods.ABLATIONS, methods.OURS_BEFORE}
    assert ablations[["low", "high"]].notna().all(axis=None)
    seeds = stability.groupby("feature_matching")["seed"].agg(set).to_dict()
    assert seeds == {"with": set(range(6)), "without": set(range(6))}


def test_reference_pix2pixhd_has_the_pretraining_and_rate_that_were_chosen():
    """The row of the committed weights stands in both searches."""
    section = config.load("laptop-full").few_shot
    digest = sha256(weights_path(PROFILE, "pix2pixhd", "reference", RESULTS))[:12]
    pretraining = pd.read_csv(REFERENCE / "pretraining_pix2pixhd_T8.csv")
    rates = pd.read_csv(REFERENCE / "tuning_search_pix2pixhd_T8.csv")
    steps, rate = section.trainings.small_steps, section.pix2pixhd.fine_tuning_learning_rate
    assert pretraining["pretraining"].min() < steps < pretraining["pretraining"].max()
    kept = pretraining[pretraining["pretraining"] == steps]
    assert kept["weights"].tolist() == [digest]
    chosen = rates[rates["pix2pixhd_tune_rate"] == rate].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept.drop(columns="pretraining").reset_index(drop=True), chosen)


def test_reference_decides_every_claim_and_explains_every_no():
    claims, reasons = read_table("claims"), read_table("explanations")
    verdicts = claims.groupby("id")["holds"].first()
    assert set(verdicts.index) == set(range(1, 16))
    assert set(verdicts) <= {"yes", "no", "undecided"}
    assert claims[["estimate", "ci_low", "ci_high"]].notna().all(axis=None)
    assert set(reasons["id"]) == set(verdicts[verdicts != "yes"].index)
    for text in NO_CAUSES:
        assert not reasons["why"].str.contains(text, regex=False).any(), "every reason rests on a measurement"
