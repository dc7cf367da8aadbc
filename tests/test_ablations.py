"""Ablations of Diffused Heads: weights for other conditions, equal trainings, paired differences."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from talking_heads import config
from talking_heads.__main__ import main
from talking_heads.data.frames import to_image
from talking_heads.data.windows import WindowDataset, WindowSettings
from talking_heads.diffused.audio_encoder import build_encoder
from talking_heads.diffused.model import Conditions, adapt_weights, build_unet, predict
from talking_heads.diffused.training import DiffusionLearner, model_key
from talking_heads.experiments.diffused import ablation_table, ablations, protocol, tables
from talking_heads.experiments.diffused.ablation_settings import (
    BLINK_RATE,
    DISTILLED,
    HEAD_MOTION,
    LIPS,
    MOTION,
    SOUND,
    STEPS,
    Setting,
    settings,
)
from talking_heads.experiments.diffused.clip_metrics import LMD
from talking_heads.nn.weight_files import save_weights


# -- weights for other conditions -------------------------------------------------------------------
@pytest.fixture
def network(profile):
    """A network of the smoke profile with random weights in every layer, and its section."""
    section = profile.override({"diffused.network.precision": "fp32"}).diffused
    torch.manual_seed(0)
    net = build_unet(section).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.normal_(std=0.1)
    return net, section


def other_network(network, **conditions):
    """The network for other conditions, and its section."""
    net, section = network
    changed = section.model_copy(update={"conditions": section.conditions.model_copy(update=conditions)})
    other = build_unet(changed).eval().requires_grad_(False)
    other.load_state_dict(adapt_weights(net.state_dict(), section, changed))
    return other, changed


def output(network, motion, audio):
    """A network's output for a fixed noisy frame, with motion frames (1, m_x, 3, H, W) and sound."""
    net, section = network
    random = torch.Generator().manual_seed(1)
    size = section.clips.image_size
    x_t, identity = torch.randn(2, 1, 3, size, size, generator=random)
    given = Conditions(identity, motion, audio, torch.zeros(1))
    return predict(net, x_t, torch.tensor([500]), given, section.conditions.motion_grey)


@pytest.fixture
def given(network):
    """Three motion frames and the embeddings of seven windows."""
    section = network[1]
    size = section.clips.image_size
    random = torch.Generator().manual_seed(2)
    motion = torch.randn(1, 3, 3, size, size, generator=random)
    return motion, torch.randn(1, 7, section.audio_encoder.embedding, generator=random)


def test_more_frames_and_windows_change_nothing_before_training(network, given):
    motion, audio = given
    larger = other_network(network, motion_frames=3, audio_windows=3)
    before = output(network, motion[:, 1:], audio[:, 1:-1])
    torch.testing.assert_close(output(larger, motion, audio), before)


def test_fewer_frames_and_windows_leave_the_newest_and_the_middle_ones(network, given):
    motion, audio = given
    smaller = other_network(network, motion_frames=1, audio_windows=1)
    silent = torch.zeros_like(audio[:, :1])
    with_black = torch.cat([torch.zeros_like(motion[:, :1]), motion[:, 2:]], 1)
    padded = torch.cat([silent, audio[:, 2:-2], silent], 1)
    torch.testing.assert_close(
        output(smaller, motion[:, 2:], audio[:, 2:-2]), output(network, with_black, padded)
    )


def test_grey_motion_frames_meet_the_weights_of_all_colours(network, given):
    motion, audio = given
    grey_pictures = motion[:, 1:].mean(2, keepdim=True).expand(-1, -1, 3, -1, -1)
    of_grey, windows = other_network(network, motion_grey=True), audio[:, 1:-1]
    expected = output(network, grey_pictures, windows)
    torch.testing.assert_close(output(of_grey, grey_pictures, windows), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(output(network, motion[:, 1:], windows), expected, atol=1e-2), "colour counts"
    back = other_network(of_grey, motion_grey=False)
    expected = output(of_grey, motion[:, 1:], windows)
    torch.testing.assert_close(output(back, motion[:, 1:], windows), expected, rtol=1e-3, atol=1e-3)


def test_a_network_without_motion_frames_ignores_them(network, given):
    motion, audio = given
    without, windows = other_network(network, motion_frames=0), audio[:, 1:-1]
    expected = output(network, torch.zeros_like(motion[:, 1:]), windows)
    torch.testing.assert_close(output(without, motion[:, :0], windows), expected)


# -- training ---------------------------------------------------------------------------------------
def test_the_first_frame_is_the_identity_frame_where_it_is_asked_for(clips):
    dataset = WindowDataset(clips, WindowSettings(64, 1, 0, first_as_identity=True), seed=0)
    first_frames = {clips.read(n, np.array([0]))[0][0].tobytes() for n in range(len(clips))}
    batch = dataset[0]
    as_bytes = [image.tobytes() for image in to_image(batch.identity)]
    assert set(as_bytes) <= first_frames
    assert not (batch.x_0 == batch.identity).flatten(1).all(1).any(), "the target is another frame"


@pytest.fixture
def learner(profile, clips):
    def begin():
        torch.manual_seed(0)
        return DiffusionLearner(profile, clips, build_encoder(profile.diffused.audio_encoder))

    return begin


def test_a_training_from_weights_has_a_key_of_its_own(profile, learner, tmp_path):
    from_nothing, from_weights = learner(), learner()
    path = tmp_path / "start.safetensors"
    torch.manual_seed(5)
    weights = build_unet(profile.diffused).state_dict()
    save_weights(path, weights, {"model": model_key(profile.diffused, from_weights.encoder)})
    from_weights.start_from(path, profile.diffused)
    assert from_nothing.key != from_weights.key
    for network in (from_weights.unet, from_weights.ema):
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, weights[name])


def test_weights_of_another_network_are_refused(profile, learner, tmp_path):
    path = tmp_path / "start.safetensors"
    save_weights(path, build_unet(profile.diffused).state_dict(), {"model": "another"})
    with pytest.raises(ValueError, match=r"start\.safetensors: trained with another audio encoder"):
        learner().start_from(path, profile.diffused)


# -- settings and tables ----------------------------------------------------------------------------
def test_ablations_contain_the_unchanged_profile():
    profile = config.load("laptop-full")
    baselines = [setting for setting in settings() if setting.is_baseline(profile)]
    names = {setting.ablation for setting in settings()}
    without = {SOUND[True], HEAD_MOTION, BLINK_RATE}
    assert {setting.ablation for setting in baselines} == names - without
    assert len({setting[:2] for setting in settings()}) == len(settings())


def measured(values):
    """Rows of three identities, LMD and SSIM, from the LMD of the settings in ``values``."""
    rows = []
    for number, setting in enumerate(settings()):
        lmd = values.get(setting[:2], 0.5)
        for k, identity in enumerate("abc"):
            names = {"ablation": setting.ablation, "setting": setting.name, "seed": 0, "identity": identity}
            spread = 0.1 * k + 0.01 * k * (number % 2)  # differences of neighbours have intervals
            unknown = "c" if setting[:2] == (MOTION, "0") else "a"
            rows.append({**names, LMD: lmd + spread, "SSIM": np.nan if identity == unknown else 0.8})
    return pd.DataFrame(rows)


def test_differences_are_paired_with_the_unchanged_profile():
    profile = config.load("laptop-full")
    rows = measured({(MOTION, "0"): 0.9, (MOTION, "2"): 0.5})
    again = rows[(rows["ablation"] == MOTION) & (rows["setting"] == "0")].assign(seed=1)
    table = ablation_table.table(pd.concat([rows, again.assign(**{LMD: again[LMD] + 0.2})]), profile)
    table = table.set_index(["ablation", "setting", "metric"])
    row = table.loc[(MOTION, "0", LMD)]
    assert row["value"] == pytest.approx(0.9 + 0.1) and row["n_seeds"] == 2, "of the seed that all have"
    assert row["seed_sd"] == pytest.approx(0.2 / 2**0.5)
    # of the seed that both have; the spread between identities is in neither end
    ends = row[["difference", "difference, low", "difference, high"]].astype(float)
    np.testing.assert_allclose(ends, 0.4)
    baseline = table.loc[(MOTION, "2", LMD)]
    assert baseline["baseline"] and np.isnan(baseline["difference"])
    ssim = table.loc[(MOTION, "0", "SSIM")]
    assert ssim["n_identities"] == 2 and ssim["difference"] == 0
    assert np.isnan(ssim["difference, low"]), "only one identity has both"
    grey = table.loc[(SOUND[True], "2", LMD)]
    assert grey["difference"] == pytest.approx(0.01), "against the same training in colour"


def test_many_denoising_steps_are_measured_on_few_identities():
    changes = {setting.name: setting.changes for setting in settings() if setting.ablation == STEPS}
    assert [int(name) for name in changes if name != DISTILLED] == [5, 10, 20, 50, 200, 1000]
    few = {name for name, values in changes.items() if "diffused.protocol.identities" in values}
    assert few == {"200", "1000"}


def test_table_3_has_the_papers_settings():
    profile = config.load("laptop-full")
    table = ablation_table.table3(ablation_table.table(measured({(SOUND[True], "3"): 0.2}), profile), profile)
    paper, names = tables.paper_numbers(3), ["audio_windows", "motion_grey"]
    settings_of = [set(map(tuple, rows[names].drop_duplicates().to_numpy())) for rows in (table, paper)]
    assert settings_of[0] == settings_of[1] and len(settings_of[0]) == 8
    best = table[table["metric"] == LMD].sort_values("value").iloc[0]
    assert (best["audio_windows"], best["motion_grey"]) == (3, True)
    assert set(table["method"]) == {"Diffused Heads, 300 steps each"}
    assert ablation_table.table3(ablation_table.table(pd.DataFrame(), profile), profile).empty


def test_lines_of_differences_name_setting_metric_and_interval():
    table = ablation_table.table(measured({(MOTION, "0"): 0.9}), config.load("laptop-full"))
    lines = ablation_table.difference_lines(table, MOTION, [LMD])
    assert len(lines) == 3 and lines[0] == "motion frames 0: LMD, normalised +0.4 [+0.4, +0.4]"


def test_grey_is_compared_with_colour_at_every_number_of_embeddings():
    lines = ablation_table.grey_lines(measured({(SOUND[True], "1"): 0.7}), [LMD])
    assert len(lines) == 4 and lines[1] == "grey minus colour, 1 per side: LMD, normalised +0.2 [+0.2, +0.2]"
    assert ablation_table.grey_lines(pd.DataFrame(), [LMD]) == []


def test_the_closest_pair_are_neighbours_among_the_trained_settings():
    apart = {setting[:2]: 0.1 * k for k, setting in enumerate(settings())}
    apart[LIPS, "0.2"] = apart[LIPS, "0.1"] + 0.05
    rows = measured(apart)
    assert ablation_table.closest_pair(rows) == {(LIPS, "0.1"), (LIPS, "0.2")}


def test_ablations_are_trained_measured_and_resumed(talking_command, tmp_path, monkeypatch, capsys):
    """Two settings of training and one of generation, by the command; the second time they are read."""
    few = [
        Setting(MOTION, "0", {"diffused.conditions.motion_frames": 0}),
        Setting(MOTION, "2", {"diffused.conditions.motion_frames": 2}),
        Setting(STEPS, "5", {"diffused.sampling.steps": 5}),
        Setting(STEPS, DISTILLED, {"diffused.sampling.distilled": True}),  # whose weights are not there
    ]
    for module in (ablations, ablation_table):
        monkeypatch.setattr(module, "settings", lambda: few)
    command = talking_command("ablate")
    assert main(command) == 0
    table = tmp_path / "results/smoke/tables/ablation_metrics.csv"
    rows = pd.read_csv(table, dtype={"setting": str})
    assert "2 steps each" in table.with_name("diffused_ablations.md").read_text(encoding="utf-8")
    counts = rows.groupby(["ablation", "setting"])["seed"].nunique()
    assert counts.to_dict() == {(MOTION, "0"): 3, (MOTION, "2"): 3, (STEPS, "5"): 1}
    assert rows[LMD].notna().all()
    timed = rows["ablation"] == STEPS
    assert (rows.loc[timed, ablations.SECONDS] > 0).all() and rows.loc[~timed, ablations.SECONDS].isna().all()
    with Image.open(tmp_path / "results/smoke" / ablation_table.FIGURE5) as picture:
        assert picture.width > picture.height, "two settings and the true clips, side by side"
    logs = list((tmp_path / "results/smoke/runs/ablations").glob("*/stats.jsonl"))
    assert len(logs) == 6 and {len(log.read_text().splitlines()) for log in logs} == {2}
    first = table.read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert table.read_text() == first and "step" not in capsys.readouterr().out

    assert main(talking_command("distill")) == 0 == main(command)
    rows = pd.read_csv(table)
    assert rows.loc[rows["setting"] == DISTILLED, LMD].notna().any()

    columns = ["ablation", "setting", "seed", "identity", LMD]
    changed = rows.assign(**{LMD: 9.0})[columns].sort_values(columns[:4], ignore_index=True)
    changed.to_csv(table, index=False)
    capsys.readouterr()
    assert main([*command, "--only", STEPS]) == 0 and "Figure" not in capsys.readouterr().out
    partly = pd.read_csv(table)
    measured_again = partly["ablation"] == STEPS
    assert (partly.loc[~measured_again, LMD] == 9.0).all() and len(partly) == len(rows)
    assert set(partly.loc[measured_again, LMD]) == set(rows.loc[rows["ablation"] == STEPS, LMD])
    assert main([*command, "--only", MOTION]) == 0
    partly = pd.read_csv(table)
    seeds = partly[partly["ablation"] == MOTION].groupby("seed")[LMD].max()
    assert seeds[0] < 9 and list(seeds[[1, 2]]) == [9, 9], "other seeds stay"
    partly.assign(identity="another").to_csv(table, index=False)
    assert main([*command, "--only", MOTION]) == 2
    assert "ablation_metrics.csv: measured on other identities" in capsys.readouterr().err
    assert main([*command, "--only", "steps"]) == 2
    assert "no ablation 'steps'; there are: motion frames; denoising steps" in capsys.readouterr().err


def test_a_profile_without_ablations_or_weights_is_refused(tmp_path):
    places = (tmp_path / "data", tmp_path / "results", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"profile laptop: diffused\.protocol\.ablation_steps is 0"):
        ablations.ablate(config.load("laptop"), "reference", *places)
    with pytest.raises(ValueError, match="no finished weights to begin with; python -m talking_heads train"):
        ablations.ablate(config.load("smoke"), "scratch", *places)


def test_table1_has_ours_after_a_short_training_on_the_plain_corpus(tmp_path):
    """SDA has learned there; the reference has both measurements of the same identities."""
    rows = ablation_table.trained_on_plain(config.load("laptop"), tmp_path).set_index("metric")
    plain = tables.plain_table1(config.load("laptop"), tmp_path).set_index(["method", "metric"])
    assert set(rows.index) == set(tables.TABLE1) and set(rows["n_identities"]) == {12}
    assert set(rows["corpus"]) == {tables.corpus_name(config.load("laptop-plain"))}
    for metric in tables.TABLE1:
        over_ours = rows["value"][metric] - plain["value"][protocol.OURS, metric]
        assert rows["over ours"][metric] == pytest.approx(over_ours, abs=1e-3)
    assert rows["value"]["SSIM"] > plain["value"][protocol.SDA, "SSIM"]
    for profile in ("laptop-plain", "crema"):
        assert ablation_table.trained_on_plain(config.load(profile), tmp_path).empty
