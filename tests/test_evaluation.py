"""Metrics against independent oracles, intervals, the protocol, tables, the paper's metrics, the observer."""

import dataclasses
import json
import re
import resource
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from processes import limited
from scipy import stats
from talking_heads import config, devices
from talking_heads.__main__ import main
from talking_heads.data import prepare, video
from talking_heads.data.speakers.clips import ClipSettings, make_clip
from talking_heads.data.store import Store
from talking_heads.devices import choose
from talking_heads.experiments.few_shot import (
    cells,
    claim_causes,
    claim_measurements,
    claims,
    frame_metrics,
    methods,
    paper_metrics,
    paper_numbers,
    protocol,
    tables,
    training_curves,
    trainings,
)
from talking_heads.experiments.few_shot.claim_parts import Evidence, metric_names, use_paper_metrics
from talking_heads.experiments.few_shot.figures import comparison, metrics_by_shots, select_cells
from talking_heads.experiments.few_shot.table1_rows import metrics_of
from talking_heads.experiments.few_shot.weights import LoadedWeights
from talking_heads.few_shot.baselines import trivial
from talking_heads.few_shot.baselines.training import build_pix2pixhd, build_x2face
from talking_heads.few_shot.fine_tuning import FULL
from talking_heads.few_shot.networks.build import build_networks
from talking_heads.files import sha256
from talking_heads.judges import faces
from talking_heads.judges import use as judges
from talking_heads.judges.verification import equal_error_rate
from talking_heads.metrics import cross_fitting, images, inception, observer, recogniser
from talking_heads.metrics import distances as metrics
from talking_heads.metrics.landmarks import landmark_error
from talking_heads.metrics.observer import CHANCE, ObserverSettings, draw_triplets, observe
from talking_heads.metrics.statistics import (
    Estimate,
    holds,
    holm,
    identity_means,
    interval,
    jackknife,
    mean_estimate,
    paired,
    per_seed,
)
from talking_heads.nn import pretrained
from talking_heads.workbook import figures, write_table
from talking_heads.workbook.records import Record, Recorder


def test_ssim_against_its_definition():
    """Wang et al. 2004, equation 13, on the window around one pixel."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 255, (21, 21, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    assert images.ssim(a, a) == pytest.approx(1)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for channel in range(3):
        for y in range(5, 16):
            for x in range(5, 16):
                p, q = (im[y - 5 : y + 6, x - 5 : x + 6, channel].astype(float) for im in (a, b))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq, cov = (
                    (window * (p - mp) ** 2).sum(),
                    (window * (q - mq) ** 2).sum(),
                    (window * (p - mp) * (q - mq)).sum(),
                )
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert images.ssim(a, b) == pytest.approx(np.mean(values), abs=1e-3)


def test_frechet_distance_against_pytorch_fids():
    inception.torchvision_beside_cpu_torch()
    from pytorch_fid.fid_score import calculate_frechet_distance

    rng = np.random.default_rng(1)
    a = rng.standard_normal((200, 24))
    b = rng.standard_normal((150, 24)) @ rng.standard_normal((24, 24)) * 0.3 + 0.5
    moments = [m for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    assert metrics.frechet_distance(a, b) == pytest.approx(calculate_frechet_distance(*moments), rel=1e-5)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_refuses_fewer_samples_than_its_dimension_needs():
    """One more than features; for Inception's 2048 features the paper's number."""
    assert metrics.fewest_samples(24) == 25
    assert metrics.fewest_samples(128) == 129
    assert metrics.fewest_samples(2048) == 1600
    a, b = np.random.default_rng(1).standard_normal((2, 200, 128))
    assert metrics.frechet_distance(a[:129], b) > 0
    for few, many in ((a[:128], b), (b, a[:128])):
        with pytest.raises(ValueError, match=r"128 samples are too few .* 129 are needed"):
            metrics.frechet_distance(few, many)


def test_kernel_distance_is_unbiased_around_zero():
    rng = np.random.default_rng(2)
    same = [metrics.kernel_distance(*rng.standard_normal((2, 100, 8))) for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(40) and np.std(same) > 0
    good = [
        metrics.kernel_distance(a, a + 0.1 * rng.standard_normal(a.shape), paired=True)
        for a in rng.standard_normal((40, 100, 8))
    ]
    assert abs(np.mean(good)) < 3 * np.std(good) / np.sqrt(40), (
        "a good copy of the same frames is at zero, not below"
    )
    assert metrics.kernel_distance(
        rng.standard_normal((100, 8)), rng.standard_normal((100, 8)) + 1
    ) > 10 * np.std(same)


def test_landmark_error_is_in_units_of_the_eyes():
    points = np.random.default_rng(0).uniform(0, 64, (2, 68, 2))
    points[:, 36], points[:, 45] = (10, 20), (30, 20)
    assert landmark_error(points + np.array([3, 4]), points) == pytest.approx([0.25, 0.25])


def test_equal_error_rate():
    rng = np.random.default_rng(0)
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2])) == 0
    assert equal_error_rate(rng.normal(1, 1, 20000), rng.normal(-1, 1, 20000)) == pytest.approx(
        0.1587, abs=0.01
    )


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=(6, 5))
    pooled = jackknife(np.mean, list(values[..., None]))
    assert pooled == pytest.approx(mean_estimate(values.mean(1)))


def test_the_jackknife_leaves_out_groups_of_identities():
    """With as many groups as identities, or more, every identity is left out alone."""
    parts = list(np.random.default_rng(0).normal(size=(12, 5, 1)))
    alone = jackknife(np.median, parts)
    assert jackknife(np.median, parts, groups=12) == jackknife(np.median, parts, groups=20) == alone
    few = jackknife(np.median, parts, groups=4)
    assert few.value == alone.value and few.low != alone.low
    with pytest.raises(ValueError, match="needs two of them, not 1"):
        jackknife(np.median, parts[:1])


def test_statistics_are_means_over_seeds():
    rows = np.array([[1.0, 0], [3.0, 0], [10.0, 1]])
    assert per_seed(np.mean)(rows) == (2 + 10) / 2


def test_intervals_are_over_identities():
    """A thousand frames of each of few identities do not make the interval narrow."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(8), 1000)
    values = rng.normal(size=8)[identities] + 0.01 * rng.normal(size=8000)
    low, high = interval(identity_means(values, identities))
    assert high - low > 0.5


@pytest.mark.parametrize("n", [3, 12, 24])
def test_intervals_of_few_identities_cover_the_mean(n):
    """95 of 100 do, where percentile intervals of a bootstrap of 12 identities cover it in 91."""
    rng = np.random.default_rng(0)
    estimates = [mean_estimate(rng.normal(size=n)) for _ in range(3000)]
    assert np.mean([e.low <= 0 <= e.high for e in estimates]) == pytest.approx(0.95, abs=0.015)


def percentile_interval(means, rng):
    """The bootstrap's 95 % interval of a mean, with 400 resamplings."""
    resampled = means[rng.integers(len(means), size=(400, len(means)))].mean(1)
    return np.quantile(resampled, [0.025, 0.975])


@pytest.mark.parametrize("n", [12, 24])
def test_intervals_cover_the_mean_of_a_skewed_distribution(n):
    """95 % ± 2 % of Student's intervals do; of a bootstrap's percentile intervals 90 to 93 %."""
    rng, mean = np.random.default_rng(0), 4.0
    samples = rng.gamma(mean, size=(2500, n))
    students = np.array([interval(sample) for sample in samples])
    percentiles = np.array([percentile_interval(sample, rng) for sample in samples])
    covered, covered_by_bootstrap = (
        np.mean((ends[:, 0] <= mean) & (mean <= ends[:, 1])) for ends in (students, percentiles)
    )
    assert covered == pytest.approx(0.95, abs=0.02)
    assert covered_by_bootstrap < 0.93 and covered_by_bootstrap < covered


def test_estimates_against_scipy():
    a, b = np.random.default_rng(0).normal(0.3, 1, (2, 9))
    one, two = stats.ttest_1samp(a, 0), stats.ttest_rel(a, b)
    assert mean_estimate(a) == pytest.approx((a.mean(), *one.confidence_interval(), one.pvalue))
    assert paired(a, b) == pytest.approx(((a - b).mean(), *two.confidence_interval(), two.pvalue))


def test_one_identity_has_no_interval():
    estimate = mean_estimate(np.array([1.0]))
    assert estimate.value == 1 and np.isnan([estimate.low, estimate.high, estimate.p]).all()
    with pytest.raises(ValueError, match="needs two of them, not 1"):
        interval(np.array([1.0]))


def test_adjusted_p_values():
    """Holm's method by hand: .005 × 4, .01 × 3, .03 × 2, and .04 × 1, raised to the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).max() == 1


def test_paired_intervals_are_narrow_where_identities_differ():
    rng = np.random.default_rng(0)
    means = rng.normal(0, 5, 12)
    difference = paired(means + 0.5 + rng.normal(0, 0.1, 12), means)
    assert difference.value == pytest.approx(0.5, abs=0.1)
    assert holds(difference.low, difference.high) == "yes"


def test_what_an_interval_shows():
    assert holds(-1, 1) == "undecided" and holds(-2, -1) == "no"


@pytest.mark.parametrize(
    ("metric", "estimate", "paper", "comparable", "expected"),
    [
        ("SSIM", (np.nan, np.nan, np.nan), 0.7, True, "not run"),
        ("SSIM", (0.7, 0.6, 0.8), 0.7, False, "not comparable"),
        ("SSIM", (0.7, 0.6, 0.8), np.nan, True, "not comparable"),
        ("SSIM", (0.7, 0.6, 0.8), 0.65, True, "within CI"),
        ("SSIM", (0.7, 0.69, 0.71), 0.72, True, "within tolerance"),
        ("SSIM", (0.7, 0.69, 0.71), 0.9, True, "worse"),
        ("SSIM", (0.7, 0.69, 0.71), 0.5, True, "better"),
        ("FID", (10.0, np.nan, np.nan), 40.0, True, "better"),
        ("FID", (60.0, np.nan, np.nan), 40.0, True, "worse"),
    ],
)
def test_verdicts(metric, estimate, paper, comparable, expected):
    assert paper_numbers.verdict(metric, Estimate(*estimate), paper, comparable) == expected


def test_higher_is_better_after_orientation():
    values = np.array([0.5, 1.0, 2.0])
    assert (paper_numbers.orient("SSIM", values) == values).all()
    assert (paper_numbers.orient("FID", values) == -values).all()
    assert paper_numbers.orient("sharpness", values).argmax() == 1, "the nearest to the ground truth"


def test_the_papers_table_is_complete():
    numbers = paper_numbers.paper_numbers()
    assert len(numbers) == 4 * (9 + 6) and set(numbers["T"]) == {1, 8, 32}
    assert paper_numbers.paper_value("Ours-FT", 32, "USER") == 0.33
    assert paper_numbers.paper_value("Ours-FF", 1, "CSIM") == 0.42
    assert np.isnan(paper_numbers.paper_value("Ours-FF", 4, "CSIM"))


# -- methods --------------------------------------------------------------------------------------
class Evaluated(NamedTuple):
    """Cells of two identities at every T, and what computes them."""

    store: Store
    paths: list[Path]
    compute: Callable  # the cells of these methods; of all by default
    rows: list[methods.Method]
    profile: config.Profile


def untrained_methods(profile, extractors, device="cpu"):
    """The methods of Table 1 and the ablations, with untrained networks."""
    torch.manual_seed(0)
    size = profile.few_shot.networks.embedding
    nets = {v: build_networks(profile.few_shot.networks, 1) for v in ("ft", "ff", "small", "no-match")}
    nets = {variant: networks.to(device) for variant, networks in nets.items()}
    nets["x2face"] = [build_x2face(profile).to(device)]
    nets["pix2pixhd"] = [network.to(device) for network in build_pix2pixhd(profile)]
    keys = {variant: f"key of {variant}" for variant in nets}
    states = {"no-match": {"w.mean": torch.zeros(size), "w.std": torch.ones(size)}}
    loaded = LoadedWeights(nets, keys, states)
    e_hats = torch.randn(3, size).to(device)
    rows = methods.table1_methods(loaded, profile, extractors)
    ablations = methods.ablation_methods(loaded, profile, extractors, e_hats)
    return rows + [method for method in ablations if method.name in methods.ABLATIONS]


def film(folder, clip, count=None):
    """Write a clip, or its first frames, as a video of one identity with its landmarks."""
    path = folder / "00001.mp4"
    video.write(path, clip.frames[:count], clip.fps)
    np.savez(path.with_suffix(".npz"), landmarks=clip.landmarks[:count])


def prepare_store(folder, frames_per_video):
    """The store of the videos in ``folder/in``, 32²."""
    settings = prepare.Settings(32, frames_per_video)
    prepare.prepare(folder / "in", folder / "out", settings, quiet=True)
    return Store(folder / "out", "test")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, profile, extractors):
    """Every method on two identities with one video each; four held-out frames of each."""
    root, profile = tmp_path_factory.mktemp("evaluation"), profile.override({"protocol.holdout_frames": 4})
    for number, name in enumerate(("ada", "ben")):
        film(
            root / "in" / name / "talk",
            make_clip(ClipSettings(0, 200_000 + number, 0, 24, 6.0, 32), sound=False),
        )
    store, rows = prepare_store(root, 24), untrained_methods(profile, extractors)

    def compute(chosen=tuple(rows)):
        shots, device = profile.protocol.shots, torch.device("cpu")
        return protocol.run_cells(root / "cells", store, profile, chosen, shots, device)

    return Evaluated(store, compute(), compute, rows, profile)


@pytest.mark.parametrize("damage", ["no cell", "cut", "changed"])
def test_a_damaged_cell_is_named(evaluated, tmp_path, damage):
    path = tmp_path / evaluated.paths[0].name
    content = bytearray(evaluated.paths[0].read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"no cell": b"nothing", "cut": bytes(content[:-100])}.get(damage, bytes(content)))
    error = f"{path.name}: a damaged cell of the evaluation .* delete it"
    with pytest.raises(ValueError, match=error), cells.opened_cell(path) as cell:
        dict(cell)


def test_a_full_disk_is_stated_and_the_evaluation_goes_on(evaluated, tmp_path):
    """Cells that were written before are kept."""
    arguments = tmp_path, evaluated.store, evaluated.profile, methods.trivial(), [1, 4], torch.device("cpu")
    paths = sorted(protocol.run_cells(*arguments))
    for path in paths[1:]:
        path.unlink()
    kept = paths[0].stat().st_mtime_ns
    message = r"\.npz: cannot be written \(File too large\); make room and run the same command again"
    with limited(resource.RLIMIT_FSIZE, 1_000), pytest.raises(OSError, match=message):
        protocol.run_cells(*arguments)
    assert sorted(protocol.run_cells(*arguments)) == paths and paths[0].stat().st_mtime_ns == kept


def draws(ablation, name):
    """What an ablation puts in place of ``name``, for 3000 seeds: (3000, d)."""
    return torch.stack([getattr(ablation(seed), name).detach().flatten() for seed in range(3000)])


def test_random_starts_have_the_mean_and_deviation_of_what_they_replace(profile):
    torch.manual_seed(0)
    size = profile.few_shot.networks.embedding
    nets, e_hats = build_networks(profile.few_shot.networks, 1), torch.rand(40, size) * 3
    psi_hats, w0 = nets.generator.project(e_hats).detach(), nets.discriminator.w0.detach().flatten()
    starts = methods.random_starts(nets, e_hats)
    tolerance = {"rtol": 0.1, "atol": 0.12}
    for method, name, replaced in (
        (methods.RANDOM_E, "e_new", e_hats),
        (methods.RANDOM_PSI, "psi", psi_hats),
    ):
        start = draws(starts[method], name)
        torch.testing.assert_close(start.mean(0), replaced.mean(0), **tolerance)
        torch.testing.assert_close(start.std(0), replaced.std(0), **tolerance)
    standard = draws(starts[methods.NORMAL_PSI], "psi")
    torch.testing.assert_close(standard.mean(0), torch.zeros(standard.shape[1]), **tolerance)
    torch.testing.assert_close(standard.std(0), torch.ones(standard.shape[1]), **tolerance)
    others = draws(starts[methods.OTHERS_E], "e_new")[:5]
    assert all((e_hats == row).all(1).any() for row in others), "the embedding of another identity"
    mean, deviation = torch.linspace(-1, 1, size), torch.linspace(0.1, 2, size)
    w = draws(methods.random_w(nets, {"w.mean": mean, "w.std": deviation}), "w")
    torch.testing.assert_close(w.mean(0), w0 + mean, **tolerance)
    torch.testing.assert_close(w.std(0), deviation, **tolerance)


def test_every_ablation_changes_one_thing(profile, extractors, few, monkeypatch):
    set_up, calls = methods.set_up, []

    def record_changes(nets, x, y, profile, extractors, ablation):
        fields = (field.name for field in dataclasses.fields(ablation))
        calls.append({name for name in fields if getattr(ablation, name) is not getattr(FULL, name)})
        return set_up(nets, x, y, profile, extractors)

    monkeypatch.setattr(methods, "set_up", record_changes)
    monkeypatch.setattr(methods, "fine_tune", lambda tuning, seed: tuning.head.eval())
    compared = (methods.OURS, *methods.ABLATIONS)
    rows = [method for method in untrained_methods(profile, extractors) if method.name in compared]
    for method in rows:
        method.generate(few, few, 0)
    changes = {method.name: call for method, call in zip(rows, calls, strict=True)}
    assert changes == {
        methods.OURS: set(),
        methods.RANDOM_E: {"e_new"},
        methods.RANDOM_PSI: {"psi"},
        methods.NORMAL_PSI: {"psi"},
        methods.OTHERS_E: {"e_new"},
        methods.NO_ADVERSARIAL: {"adversarial"},
        methods.NO_MATCH: {"w"},
    }


def test_the_nearest_training_frame_is_the_one_with_the_nearest_landmarks(few):
    nearest = trivial.nearest_frames(few, few.points[[2, 0]] + 0.1)
    assert np.array_equal(nearest, few.images[[2, 0]])


def test_the_mean_training_frame(few):
    mean = trivial.mean_frame(few, 3)
    assert mean.shape == (3, *few.images.shape[1:])
    assert np.abs(mean - few.images.mean(0)).max() <= 0.5


# -- trainings ------------------------------------------------------------------------------------
def test_the_small_corpus_is_a_fixed_share_of_the_identities():
    class Videos:
        """Two videos of each of 30 identities."""

        def __len__(self):
            return 60

        def identity(self, video):
            return f"id{video // 2}"

    first, second = (trainings.share(Videos(), 0.1) for _ in range(2))
    identities = [first.identity(video) for video in range(len(first))]
    assert identities == ["id0", "id0", "id1", "id1", "id2", "id2"]
    assert identities == [second.identity(video) for video in range(len(second))]
    assert len(trainings.share(Videos(), 1.0)) == 60


@pytest.fixture
def training_log():
    """A log whose validation loss is lowest at step 80 of 100, and which D joins at step 50."""
    content = [{"step": step, "cnt": 2.0 - step / 100, "grad_norm": 1.0} for step in range(50)]
    losses = {"cnt": 1.5, "grad_norm": 2.0, "r_real": 0.5, "r_fake": -0.5}
    adversarial = [{"step": step, **losses} for step in range(50, 101)]
    for row in adversarial[::10]:
        row["validation"] = abs(row["step"] - 80) / 100
    return content + adversarial


def test_the_plateau_of_a_training_is_where_its_validation_loss_is_lowest(training_log):
    plateau = training_curves.plateau(training_log)
    assert (plateau["steps"], plateau["at step"], plateau["lowest"], plateau["last"]) == (100, 80, 0.0, 0.2)
    assert plateau["gain of the last tenth"] == pytest.approx(-0.1)
    assert np.isnan(training_curves.plateau(training_log[:50])["lowest"])


def test_a_training_is_stable_where_its_content_loss_does_not_rise_after_d_joins(training_log):
    steadiness = training_curves.steadiness(training_log)
    assert steadiness["verdict"] == "stable" and steadiness["largest gradient norm"] == 2.0
    assert steadiness["D, real minus fake, last ten"] == pytest.approx(1.0)
    risen = [row | {"cnt": 3.0} if "r_real" in row else row for row in training_log]
    assert training_curves.steadiness(risen)["verdict"] == "unstable"
    assert training_curves.steadiness(training_log[:50])["verdict"] == "without D"


# -- few-shot and held-out frames -----------------------------------------------------------------
def test_a_second_lies_between_few_shot_and_held_out_frames_of_one_clip():
    """Half a second on each side of the middle."""
    seconds = np.arange(50) / 12.5  # the middle lies at 1.96 s
    few_shot, held_out = protocol.split_halves(np.zeros(50, int), seconds)
    assert few_shot.tolist() == list(range(19)) and seconds[18] <= 1.96 - 0.5 < seconds[19]
    assert held_out.tolist() == list(range(31, 50)) and seconds[30] < 1.96 + 0.5 <= seconds[31]
    assert seconds[held_out[0]] - seconds[few_shot[-1]] >= protocol.GAP == 1


def test_no_gap_lies_between_two_clips():
    clip, seconds = np.repeat([0, 1], 25), np.tile(np.arange(25) / 12.5, 2)
    few_shot, held_out = protocol.split_halves(clip, seconds)
    assert few_shot.tolist() == list(range(25)) and held_out.tolist() == list(range(25, 50))


def test_the_gap_takes_no_frame_of_other_clips():
    """The middle lies in the second of three clips, whose clocks all start at zero."""
    clip, seconds = np.repeat([0, 1, 2], 30), np.tile(np.arange(30) / 12.5, 3)
    few_shot, held_out = protocol.split_halves(clip, seconds)
    assert few_shot[:30].tolist() == list(range(30)) and held_out[-30:].tolist() == list(range(60, 90))
    assert seconds[held_out[0]] - seconds[few_shot[-1]] >= 1
    assert (clip[few_shot[30:]] == 1).all() and (clip[held_out[:-30]] == 1).all()


def test_tasks_follow_the_protocol(evaluated):
    section = evaluated.profile.protocol
    tasks = protocol.tasks(evaluated.store, evaluated.profile)
    assert len(tasks) == section.test_videos
    for task in tasks:
        seconds = evaluated.store.track(task.number)["time"]
        assert seconds[task.hold_out.min()] - seconds[task.few_shot.max()] >= 1 - 1e-5
        assert len(set(task.few_shot)) == max(section.shots)
        assert len(set(task.hold_out)) == section.holdout_frames
    with pytest.raises(ValueError, match="too few for T = 32"):
        protocol.tasks(evaluated.store, evaluated.profile.override({"protocol.shots": [32]}))


def test_the_longest_video_of_an_identity_comes_first(tmp_path, profile):
    """Both keep equally many frames; the length of the sources ranks them."""
    clip = make_clip(ClipSettings(3, 1, 0, 24, 2.5, 32), sound=False)
    film(tmp_path / "in" / "ada" / "brief", clip, 12)
    film(tmp_path / "in" / "ada" / "long", clip)
    store = prepare_store(tmp_path, 8)
    assert [store.frame_count(number) for number in range(len(store))] == [8, 8]
    few = {"protocol.shots": [2], "protocol.holdout_frames": 2, "protocol.test_videos": 2}
    tasks = protocol.tasks(store, profile.override(few))
    assert [store.folder(task.number).name for task in tasks] == ["long", "brief"]


# -- cells ----------------------------------------------------------------------------------------
def test_cells_hold_all_methods_on_the_same_frames_and_are_not_computed_twice(evaluated):
    section, paths = evaluated.profile.protocol, evaluated.paths
    assert len(paths) == section.test_videos * len(section.shots) * section.seeds
    times = [path.stat().st_mtime_ns for path in paths]
    paths[0].unlink()
    assert evaluated.compute() == paths
    assert [path.stat().st_mtime_ns for path in paths][1:] == times[1:]
    with np.load(paths[0]) as cell:
        frames, truth = {method.name: cell[method.name] for method in evaluated.rows}, cell["truth"]
    assert set(frames) == {*methods.TABLE1, *methods.ABLATIONS} - {methods.NO_MATCH_ONE_SHOT}
    assert all(images.shape == truth.shape and images.dtype == np.uint8 for images in frames.values())
    same_at_one_frame = (methods.NEAREST, methods.MEAN)
    different = [images.tobytes() for name, images in frames.items() if name not in same_at_one_frame]
    assert len(set(different)) == len(different)


def black(name):
    """A method of other weights, whose frames are black."""
    return methods.Method(
        name, "other weights", lambda train, test, seed: methods.Generated(np.zeros_like(test.images))
    )


def test_frames_of_other_weights_are_computed_anew_and_only_these(evaluated):
    path = evaluated.paths[0]
    with np.load(path) as cell:
        frames = cell[methods.NEAREST]
    evaluated.compute([black(methods.NEAREST)])
    with np.load(path) as cell:
        assert not cell[methods.NEAREST].any() and methods.AFTER in cell
        assert str(cell[cells.key_of(methods.NEAREST)]) == "other weights"
    evaluated.compute()
    with np.load(path) as cell:
        assert np.array_equal(cell[methods.NEAREST], frames)


def test_frames_of_other_weights_are_dropped_where_they_are_not_computed_anew(evaluated):
    """A method that is run at one T leaves no frames of its old weights at the others."""
    paths, profile = evaluated.paths, evaluated.profile
    folder, first, device = paths[0].parents[1], profile.protocol.shots[:1], torch.device("cpu")
    protocol.run_cells(folder, evaluated.store, profile, [black(methods.MEAN)], first, device)
    for path in paths:
        with np.load(path) as cell:
            names = {methods.MEAN, cells.key_of(methods.MEAN), cells.losses_of(methods.MEAN)}
            assert names & set(cell.files) == (names if cells.Cell.of(path).t in first else set())
            assert methods.AFTER in cell and cells.losses_of(methods.AFTER) in cell
    evaluated.compute()


def test_cells_of_other_frames_are_not_read(evaluated):
    folder, profile = evaluated.paths[0].parents[1], evaluated.profile
    assert protocol.cells_in(folder, evaluated.store, profile) == evaluated.paths[0].parent
    assert protocol.find_cells(folder, evaluated.store, profile) == sorted(evaluated.paths)
    other = profile.override({"protocol.shots": [1, 7]})
    assert protocol.cells_in(folder, evaluated.store, other) != evaluated.paths[0].parent
    with pytest.raises(FileNotFoundError, match="no evaluated frames"):
        protocol.find_cells(folder, evaluated.store, other)


def test_the_name_of_a_cell():
    cell = cells.Cell("Ada_King", 3, 8, 1)
    assert cell.file == "Ada_King_video3_T8_seed1.npz"
    assert cells.Cell.of(Path("cells") / cell.file) == cell


def count_calls(monkeypatch, module, name, result=None):
    """Counts the calls of a function by the images of its first argument; ``result`` replaces its result."""
    counts, function = Counter(), getattr(module, name)

    def counting(images, *arguments):
        counts[images.tobytes()] += 1
        return function(images, *arguments) if result is None else result(images)

    monkeypatch.setattr(module, name, counting)
    return counts


def test_features_of_true_frames_are_computed_once(evaluated, monkeypatch):
    """By the judges, by Inception and by ArcFace: once for a video, at every T and for every method."""
    names = (methods.NEAREST, methods.BEFORE, methods.FEED_FORWARD)
    truths = set()
    for path in evaluated.paths:
        with np.load(path) as cell:
            truths.add(cell["truth"].tobytes())
    assert len(truths) == 2

    def features(images):
        return images.reshape(len(images), -1)[:, :16].astype(float)

    counts = [
        count_calls(monkeypatch, faces, "identity_features"),
        count_calls(monkeypatch, faces, "find_landmarks"),
        count_calls(monkeypatch, inception, "inception_features", features),
        count_calls(monkeypatch, inception, "arcface_features", features),
    ]
    monkeypatch.setattr(inception, "inception", lambda device: "a network")
    monkeypatch.setattr(inception, "arcface", lambda device: "a session")
    frames, _ = frame_metrics.measure(evaluated.paths, names)
    paper_metrics.measure(evaluated.paths, names)
    shots, held_out = evaluated.profile.protocol.shots, evaluated.profile.protocol.holdout_frames
    assert len(frames) == len(truths) * len(shots) * len(names) * held_out
    for calls in counts:
        assert [calls[truth] for truth in truths] == [1, 1]
        assert calls.total() == len(truths) * (1 + len(shots) * len(names))


def test_cells_of_figures(evaluated):
    """Two identities for each T, two at every T, and the identities of the middle T."""
    shots = evaluated.profile.protocol.shots
    selection = select_cells(evaluated.paths, shots)
    assert [cells.Cell.of(path).t for path in selection.each] == [1, 1, 4, 4, 8, 8]
    assert [cells.Cell.of(path).t for path in selection.two] == [1, 4, 8, 1, 4, 8]
    assert len({cells.Cell.of(path).identity for path in selection.two[:3]}) == 1
    assert {cells.Cell.of(path).t for path in selection.many} == {4} and len(selection.many) == 2
    figure = comparison(selection.each, [methods.AFTER, methods.NO_MATCH_ONE_SHOT])
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles == ["source", "ground truth", "Ours-FT", "no L_MCH (K = 1),\nrandom w′"]
    assert len(figure.axes) == 6 * 4
    plt.close(figure)


# -- devices --------------------------------------------------------------------------------------
@pytest.fixture
def gpu_beside(monkeypatch):
    """A machine with a GPU, as far as its name; its settings are PyTorch's own before and after."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.benchmark = cudnn.allow_tf32 = matmul.allow_tf32 = False
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = flags


def test_a_cpu_run_beside_a_gpu_stays_on_the_processor(evaluated, tmp_path, gpu_beside):
    device, kinds = choose("cpu"), set()
    assert device.type == "cpu" and choose("auto").type == "cuda"
    (before,) = (method for method in evaluated.rows if method.name == methods.BEFORE)

    def generate(train, test, seed):
        kinds.update(tensor.device.type for tensor in (train.x, train.y, test.x, test.y))
        return before.generate(train, test, seed)

    rows = [methods.Method(methods.BEFORE, before.key, generate)]
    paths = protocol.run_cells(tmp_path, evaluated.store, evaluated.profile, rows, [4], device)
    frames, _ = frame_metrics.measure(paths, [methods.BEFORE], device)
    assert kinds == {"cpu"}
    for name in judges.JUDGES:
        parameters = judges.judge(name, device).parameters()
        assert {parameter.device.type for parameter in parameters} == {"cpu"}
    expected, _ = frame_metrics.measure([p for p in evaluated.paths if "_T4_" in p.name], [methods.BEFORE])
    pd.testing.assert_frame_equal(frames, expected)


def test_cells_do_not_depend_on_what_is_computed_at_once(evaluated, tmp_path, two_threads):
    rows = [m for m in evaluated.rows if m.name in (methods.AFTER, methods.PIX2PIXHD, methods.NO_MATCH)]

    def compute(folder):
        shots, device = evaluated.profile.protocol.shots, torch.device("cpu")
        paths = protocol.run_cells(tmp_path / folder, evaluated.store, evaluated.profile, rows, shots, device)
        return [dict(np.load(path)) for path in paths]

    together = compute("together")
    torch.set_num_threads(1)
    alone = compute("alone")
    assert len(together) == 6 and all(
        cell.keys() == other.keys() for cell, other in zip(together, alone, strict=True)
    )
    for cell, other in zip(together, alone, strict=True):
        assert all(
            np.array_equal(cell[name], other[name], equal_nan=cell[name].dtype.kind == "f") for name in cell
        )


def test_work_in_threads(two_threads):
    """Two items at a time with one thread each; the number of threads is what it was before."""
    together, seen = threading.Barrier(2, timeout=30), []

    def work(item):
        together.wait()
        seen.append((item, torch.get_num_threads()))
        return -item

    assert devices.in_threads(work, range(4), "cpu") == [0, -1, -2, -3]
    assert sorted(seen) == [(item, 1) for item in range(4)] and torch.get_num_threads() == 2


def test_an_error_in_a_thread_is_raised_and_nothing_more_is_begun(two_threads):
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.05)
        raise OSError(f"item {item}: disk full")

    with pytest.raises(OSError, match=r"item [01]: disk full"):
        devices.in_threads(work, range(100), torch.device("cpu"))
    for thread in threading.enumerate():
        if thread.name.startswith("item"):
            thread.join()
    assert len(begun) < 10 and torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["cuda:0", "auto", "cpu"])
def test_a_gpu_is_set_up_for_speed_wherever_it_is_chosen(gpu_beside, name):
    """Chapters and jobs choose their device; what a CPU computes does not change."""
    on_cpu = torch.backends.mkldnn.matmul.fp32_precision
    chosen = choose(name)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = {cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32}
    assert flags == {chosen.type == "cuda"} and (chosen.type == "cpu") == (name == "cpu")
    assert torch.backends.mkldnn.matmul.fp32_precision == on_cpu


def test_a_gpu_run_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto").type == "cpu"
    with pytest.raises(ValueError, match="no usable GPU; use --device cpu"):
        choose("cuda")


def test_a_record_names_the_device_that_computed_it(tmp_path, profile, gpu_beside):
    """Whatever else the machine has."""
    record = Record("SSIM", 0.5, method=methods.AFTER, T=8, n_identities=2, n_frames=16)
    on_cpu = Recorder(tmp_path, profile, "weights", "cpu").record(record, rate=float("nan"))
    on_gpu = Recorder(tmp_path, profile, "weights", torch.device("cuda")).record(record)
    assert on_cpu["device"].rstrip("s").endswith(f", {torch.get_num_threads()} thread")
    assert on_gpu["device"] == "a GPU"
    lines = (tmp_path / profile.name / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [on_cpu, on_gpu]
    assert on_cpu["parameters"] == {"rate": None}, "JSON has no NaN"
    assert (on_cpu["seed"], on_cpu["run_id"], on_cpu["n_identities"]) == (profile.seed, "weights", 2)


@pytest.mark.cuda
def test_cells_are_computed_and_measured_on_a_gpu(evaluated, extractors, tmp_path):
    """Frames without fine-tuning are those of the CPU, up to the precision of TF32."""
    device = choose("cuda")
    rows = untrained_methods(evaluated.profile, extractors, device)
    names = [method.name for method in rows]
    paths = protocol.run_cells(tmp_path, evaluated.store, evaluated.profile, rows, [4], device)
    frames, features = frame_metrics.measure(paths, names, device)
    assert set(frames["method"]) == set(names) and set(features) == {(name, 4) for name in names}
    assert frames.drop(columns=["mouth", "eyes"]).notna().all(axis=None)
    for path in paths:
        same = next(other for other in evaluated.paths if other.name == path.name)
        with np.load(path) as cell, np.load(same) as expected:
            for name in (methods.BEFORE, methods.FEED_FORWARD, methods.X2FACE):
                assert np.abs(cell[name].astype(int) - expected[name]).mean() < 2, name
    on_cpu, _ = frame_metrics.measure(paths, names)
    for metric in ("SSIM", "CSIM-judge", "landmark error"):
        np.testing.assert_allclose(frames[metric], on_cpu[metric], atol=0.05)


# -- Table 1 --------------------------------------------------------------------------------------
def synthetic_frames(method, t):
    """Random scores of 60 frames of each of three identities."""
    columns = ["SSIM", "CSIM-judge", "landmark error", "mouth", "true mouth", "eyes", "true eyes"]
    frames = pd.DataFrame(np.random.default_rng(0).random((180, 7)), columns=columns)
    return frames.assign(method=method, T=t, seed=0, identity=np.repeat(["a", "b", "c"], 60))


def synthetic_features(dimension, seeds=1):
    """Random features of these frames."""
    rng = np.random.default_rng(0)
    generated, true = rng.normal(size=(2, 180 * seeds, dimension))
    identities = np.tile(np.repeat(["a", "b", "c"], 60), seeds)
    return frame_metrics.Features(generated, true, identities, np.repeat(np.arange(seeds), 180))


def test_table_1_of_evaluated_cells(evaluated, profile, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    paths = evaluated[1]
    frames, features = frame_metrics.measure(paths, methods.TABLE1)
    fetched = paper_metrics.measure(paths, methods.TABLE1).summary()
    table = tables.table1(tables.Measured(frames, features, fetched), profile, "run")
    assert set(table["method"]) == set(methods.TABLE1) and set(table["T"]) == set(profile.protocol.shots)
    by_metric = table.set_index("metric")
    assert by_metric.loc["SSIM", "value"].notna().all() and by_metric.loc["SSIM", "n_identities"].eq(2).all()
    assert by_metric.loc["FD-judge", "needs"].eq("129 frames").all()
    assert by_metric.loc["FID", "needs"].eq("weights fetch inception").all()


@pytest.fixture(scope="module")
def real_profile(profile):
    """A profile of videos of real people."""
    return profile.override({"data.source": "videos"})


JUDGED = {"CSIM-judge", "FD-judge", "KD-judge x 1000"}


def test_the_judges_do_not_measure_real_people(evaluated, profile, real_profile):
    """Without dlib their faces are not measured, and everything says what it needs."""
    paths = evaluated.paths
    frames, features = frame_metrics.measure(paths, methods.TABLE1, real=True)
    assert not JUDGED & set(frames) and frames["CSIM-dlib"].isna().all() and frames["SSIM"].notna().all()
    table = tables.table1(tables.Measured(frames, features), real_profile, "run")
    assert set(table["metric"]) == set(tables.METRICS) - JUDGED
    missing = table[table["metric"].isin(["CSIM-dlib", "landmark error", "mouth correlation"])]
    assert missing["value"].isna().all() and set(missing["needs"]) == {"./run_all.sh --with faces"}
    captions = [tables.table1_caption(table, chosen, "weights") for chosen in (real_profile, profile)]
    assert [caption.count(f"CSIM-dlib {recogniser.RELIABILITY}. ") for caption in captions] == [1, 0]
    shots = tuple(real_profile.protocol.shots)
    similarity, distance = metric_names(real=True)
    evidence = Evidence(frames, features, shots[1], None, None, None, shots, similarity, distance)
    table = claims.evaluate(evidence)
    assert table["part"].str.startswith("SSIM").any() and not table["part"].str.contains("CSIM-judge").any()
    of_faces = table[table["part"].str.startswith("CSIM-dlib")]
    assert len(of_faces) and of_faces["estimate"].isna().all()
    needed = set(table.loc[table["part"].str.startswith(("CSIM-dlib", "FID")), "part holds"])
    assert needed == {"not run: ./run_all.sh --with faces", "not run: Inception's features"}
    why = claim_causes.explain(table, claim_measurements.collect(evidence, paths, real=True))
    assert not why["why"].str.contains("judge").any()


@pytest.mark.dlib
def test_real_people_are_measured_by_dlib(evaluated, real_profile):
    """The values mean nothing on drawn faces, on which this runs: where they go is what is tested."""
    pytest.importorskip("dlib")
    frames, features = frame_metrics.measure(evaluated.paths, [methods.NEAREST, methods.BEFORE], real=True)
    assert frames["CSIM-dlib"].between(-1, 1).all() and frames["landmark error"].ge(0).all()
    table = tables.table1(tables.Measured(frames, features), real_profile, "run", [methods.NEAREST])
    rows = table[table["metric"].isin(["CSIM-dlib", "landmark error"])]
    assert rows["value"].notna().all() and not features


@pytest.fixture(scope="module")
def measured(profile):
    """Every method of Table 1 at every T."""
    keys = [(method, t) for method in methods.TABLE1 for t in profile.protocol.shots]
    frames = pd.concat([synthetic_frames(*key) for key in keys], ignore_index=True)
    return tables.Measured(frames, {key: synthetic_features(4) for key in keys})


def test_table_1_has_every_row_and_states_what_is_missing(measured, profile):
    table = tables.table1(measured, profile, "run")
    assert list(table.columns) == tables.COLUMNS and set(table["verdict"]) == {"not comparable", "not run"}
    cells = table.groupby(["method", "T"])["metric"].agg(set)
    assert len(cells) == len(methods.TABLE1) * len(profile.protocol.shots)
    of_profile = metrics_of(profile)
    assert all(metrics == set(of_profile) for metrics in cells) and "CSIM-dlib" not in of_profile
    ran = table[table["value"].notna()]
    assert set(ran["metric"]) == set(of_profile) - {"FID", "KID", "CSIM", "USER", "USER-proxy"}
    assert (ran["ci_low"] <= ran["value"]).all() and (ran["value"] <= ran["ci_high"]).all()
    assert ran["n_identities"].eq(3).all() and ran["n_frames"].eq(180).all()
    assert (table["value"].isna() == (table["needs"] != "")).all()


def test_the_wide_table_has_a_row_for_each_method_and_t(measured, profile):
    shown = tables.wide_table(tables.table1(measured, profile, "run"))
    assert len(shown) == len(profile.protocol.shots) * len(methods.TABLE1)
    assert list(shown.columns) == ["T", "corpus", "method", *metrics_of(profile)]
    assert shown["T"].is_monotonic_increasing and shown["method"].head(9).tolist() == list(methods.TABLE1)
    assert set(shown["corpus"]) == {"small", "large", ""}
    assert shown["FID"].str.startswith("not run: needs weights fetch inception").all()
    row = shown.query("T == 1 and method == 'Ours-FT'").iloc[0]
    assert row["USER"] == "not run: needs answers of raters, see chapter 12 (paper 0.46)"
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] \(paper 0\.64\)", row["SSIM"])


def test_tables_are_written_in_three_forms(measured, profile, tmp_path):
    table = tables.table1(measured, profile, "run")
    shown = tables.add_arrows(tables.wide_table(table))
    csv, md, tex = write_table.write_table(table, shown, tmp_path / "t", "table1", "50 % of ê")
    assert [path.name for path in (csv, md, tex)] == ["table1.csv", "table1.md", "table1.tex"]
    again = pd.read_csv(csv)
    assert list(again.columns) == tables.COLUMNS and len(again) == len(table)
    text = md.read_text(encoding="utf-8")
    assert text.startswith("50 % of ê\n\n| T | corpus | method | FID ↓ | SSIM ↑ | CSIM ↑ | USER ↓ |")
    assert "|  |" not in text and "| 1 | – | mean training frame |" in text, "blank cells become dashes"
    text = tex.read_text(encoding="utf-8")
    assert r"\caption{50 \% of $\hat e$}" in text and r"SSIM $\uparrow$" in text


@pytest.fixture
def rows_of_one_method(profile):
    """Makes Table 1's rows, by metric, of Ours-FT at T = 1."""

    def make(frames, features, **others):
        measured = tables.Measured(frames, {(methods.AFTER, 1): features}, **others)
        return tables.table1(measured, profile, "run", names=[methods.AFTER]).set_index("metric")

    return make


def test_table_1_shows_the_spread_between_seeds(rows_of_one_method):
    frames, features = synthetic_frames(methods.AFTER, 1), synthetic_features(4, seeds=2)
    other = frames.assign(seed=1, SSIM=frames["SSIM"] + 0.02)
    rows = rows_of_one_method(pd.concat([frames, other]), features)
    assert rows.loc["SSIM", "seed_sd"] == pytest.approx(0.02 / np.sqrt(2))
    assert rows.loc["mouth correlation", "seed_sd"] == pytest.approx(0) and rows.loc["SSIM", "n_seeds"] == 2
    first, second = (
        metrics.frechet_distance(features.generated[part], features.true[part])
        for part in (slice(180), slice(180, None))
    )
    assert rows.loc["FD-judge", "value"] == pytest.approx((first + second) / 2)
    assert rows.loc["FD-judge", "seed_sd"] == pytest.approx(abs(first - second) / np.sqrt(2))
    alone = rows_of_one_method(frames, synthetic_features(4))
    assert np.isnan(alone.loc["SSIM", "seed_sd"]) and np.isnan(alone.loc["FD-judge", "seed_sd"])


def test_distances_need_more_frames_than_features(rows_of_one_method):
    frames = synthetic_frames(methods.AFTER, 1)
    rows = rows_of_one_method(frames, synthetic_features(200))
    assert rows.loc[["FD-judge", "KD-judge x 1000"], "needs"].tolist() == ["201 frames"] * 2
    rows = rows_of_one_method(frames, synthetic_features(128))
    assert rows.loc["FD-judge", "value"] > 0 and np.isnan(rows.loc["FD-judge", "ci_low"]), (
        "120 frames without one identity are too few for an interval"
    )
    rows = rows_of_one_method(frames, synthetic_features(119))
    assert rows.loc["FD-judge", "ci_low"] < rows.loc["FD-judge", "value"]


def test_table_1_has_the_metrics_of_fetched_networks(rows_of_one_method):
    key = (methods.AFTER, 1)
    fetched = {(*key, "FID"): float("nan"), (*key, "KID"): 0.1, (*key, "CSIM"): np.array([0.2, 0.3])}
    rows = rows_of_one_method(synthetic_frames(*key), synthetic_features(4), fetched=fetched)
    assert rows.loc["FID", "needs"] == "1600 frames" and rows.loc["KID", "value"] == 0.1
    csim = rows.loc["CSIM"]
    assert csim["value"] == pytest.approx(0.25) and csim["ci_low"] < 0.25 < csim["ci_high"]


def test_intervals_stay_in_the_range_of_the_metric(rows_of_one_method):
    """The interval of two identities is wide, but holds nothing impossible."""
    observed = pd.DataFrame(
        {"method": methods.AFTER, "T": 1, "identity": ["a", "b"], "USER-proxy": [0.0, 0.4]}
    )
    frames = synthetic_frames(methods.AFTER, 1)
    row = rows_of_one_method(frames, synthetic_features(4), observed=observed).loc["USER-proxy"]
    assert row["value"] == pytest.approx(0.2) and (row["ci_low"], row["ci_high"]) == (0, 1)


def test_an_opening_that_does_not_vary_has_no_correlation(rows_of_one_method):
    rows = rows_of_one_method(synthetic_frames(methods.AFTER, 1).assign(eyes=0.5), synthetic_features(4))
    assert rows.loc["eyes correlation", "needs"] == "an opening that varies"
    assert np.isfinite(rows.loc["mouth correlation", "value"])


def test_a_method_without_weights_is_not_run(measured, profile):
    frames = measured.frames[measured.frames["method"] != methods.FEED_FORWARD]
    table = tables.table1(dataclasses.replace(measured, frames=frames), profile, "run")
    row = tables.wide_table(table).query("method == 'Ours-FF' and T == 1").iloc[0]
    assert row["SSIM"] == "not run: needs the method's weights (paper 0.61)"
    assert row["CSIM-judge"] == "not run: needs the method's weights"
    rows = table[table["method"] == methods.FEED_FORWARD]
    assert rows["verdict"].eq("not run").all() and rows["n_identities"].eq(0).all()


def test_a_t_at_which_the_small_corpus_is_not_run(measured, profile):
    frames = measured.frames[(measured.frames["method"] != methods.OURS) | (measured.frames["T"] == 4)]
    profile = profile.override({"protocol.small_shots": [4]})
    table = tables.table1(dataclasses.replace(measured, frames=frames), profile, "run", names=[methods.OURS])
    assert table.loc[table["T"] == 1, "needs"].str.startswith("profile laptop-full").all()
    assert table.loc[table["T"] == 4, "value"].notna().any()


# -- the paper's metrics --------------------------------------------------------------------------
class StubSession:
    """Stands in for onnxruntime's session: a projection (n, 3, 112, 112) -> (n, 512), drawn from the file."""

    def __init__(self, path, providers):
        rng = np.random.default_rng(zlib.crc32(Path(path).read_bytes()))
        self.projection = rng.standard_normal((3 * 14 * 14, 512)).astype(np.float32)

    def get_inputs(self):
        return [SimpleNamespace(name="input.1")]

    def run(self, outputs, feed):
        x = feed["input.1"]
        assert x.shape[1:] == (3, 112, 112) and x.dtype == np.float32
        assert -1 <= x.min() < x.max() <= 1
        pooled = x.reshape(len(x), 3, 14, 8, 14, 8).mean((3, 5))
        return [pooled.reshape(len(x), -1) @ self.projection]


def write_inception(path):
    """Random weights in the layout of pytorch-fid's file."""
    inception.torchvision_beside_cpu_torch()
    from pytorch_fid.inception import fid_inception_v3

    torch.manual_seed(0)
    path.parent.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytorch_fid.inception.load_state_dict_from_url", lambda *_, **__: None)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.save(fid_inception_v3().state_dict(), path)


def write_arcface(path):
    """A network of ArcFace's inputs and outputs where onnx can write it, else what StubSession reads."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError:
        path.write_bytes(b"random weights")
        return
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(512, 3, 112, 112)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input.1", "w"], ["c"]),
        helper.make_node("Flatten", ["c"], ["683"]),
    ]
    inputs = [helper.make_tensor_value_info("input.1", kind, ["n", 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("683", kind, ["n", 512])]
    graph = helper.make_graph(nodes, "face", inputs, outputs, [onnx.numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.fixture(scope="module")
def network_files(tmp_path_factory):
    """A folder with files of Inception's and ArcFace's layout and random weights, where fetched ones lie."""
    folder = tmp_path_factory.mktemp("fetched")
    write_inception(folder / "hub" / "checkpoints" / pretrained.PRETRAINED["inception"].file)
    write_arcface(folder / pretrained.PRETRAINED["arcface"].file)
    return folder


@pytest.fixture
def fetched(network_files, monkeypatch):
    """Inception and ArcFace are there, whatever the digests of their random weights."""
    monkeypatch.setenv("TORCH_HOME", str(network_files))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(network_files))
    for name in ("inception", "arcface"):
        entry = dataclasses.replace(pretrained.PRETRAINED[name], prefix="")
        monkeypatch.setitem(pretrained.PRETRAINED, name, entry)
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        stub = SimpleNamespace(InferenceSession=StubSession, get_available_providers=list)
        monkeypatch.setitem(sys.modules, "onnxruntime", stub)
    for load in (inception.inception, inception.arcface):
        load.cache_clear()
    yield
    for load in (inception.inception, inception.arcface):
        load.cache_clear()


@pytest.fixture
def few_cells(evaluated):
    """Cells of two identities at T = 8."""
    return [path for path in evaluated.paths if cells.Cell.of(path).t == 8]


def test_inception_gets_pixels_between_0_and_1(few):
    class Network(torch.nn.Module):
        def forward(self, x):
            assert x.shape[1:] == (3, 32, 32) and 0 <= x.min() < x.max() <= 1
            return [x.mean((2, 3), keepdim=True).repeat(1, 683, 1, 1)[:, :2048]]

    assert inception.inception_features(few.images, Network()).shape == (4, 2048)


def test_arcface_reads_the_face_alone(few, fetched):
    """Features are the same whatever other frames are in the batch, and differ between faces."""
    session = inception.arcface()
    together = inception.arcface_features(few.images, few.points, session)
    alone = inception.arcface_features(few.images[1:2], few.points[1:2], session)
    assert together.shape == (4, 512)
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-3, atol=1e-2)
    assert not np.allclose(together[0], together[1], rtol=0.1)


def test_a_damaged_inception_is_refused_and_csim_measured_without_it(fetched, few_cells, monkeypatch, capsys):
    entry = dataclasses.replace(pretrained.PRETRAINED["inception"], prefix="6726825d")
    monkeypatch.setitem(pretrained.PRETRAINED, "inception", entry)
    with pytest.raises(ValueError, match="damaged or another one"):
        inception.inception()
    paper = paper_metrics.measure(few_cells, [methods.AFTER])
    assert "not measured: " in capsys.readouterr().out
    assert not paper.inception and list(paper.csim) == [(methods.AFTER, 8)]
    assert list(paper.summary()) == [(methods.AFTER, 8, "CSIM")]


def test_too_few_frames_give_no_fid(few_cells, monkeypatch):
    """Nor KID; CSIM has a value for every identity."""
    monkeypatch.setattr(inception, "inception", lambda device: "a network")
    monkeypatch.setattr(inception, "arcface", lambda device: "a session")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(inception, "inception_features", lambda images, _: rng.random((len(images), 2048)))
    monkeypatch.setattr(inception, "arcface_features", lambda images, points, _: np.ones((len(images), 512)))
    values = paper_metrics.measure(few_cells, [methods.NEAREST]).summary()
    assert np.isnan(values[methods.NEAREST, 8, "FID"]) and np.isnan(values[methods.NEAREST, 8, "KID"])
    assert values[methods.NEAREST, 8, "CSIM"] == pytest.approx([1, 1])


def test_fid_kid_and_csim_from_the_fetched_files_to_the_claims(
    fetched, few_cells, profile, monkeypatch, capsys
):
    """Every step that the paper's own metrics take, with few frames and random weights."""
    assert main(["weights", "verify", "inception", "arcface"]) == 0
    output = capsys.readouterr().out
    for name in ("inception", "arcface"):
        assert pretrained.status(name) == "here"
        assert f"{name}: sha256 {sha256(pretrained.path_of(name))}" in output

    compute_features = inception.inception_features

    def narrow_features(images, network):
        """One of 64 features: a Fréchet distance of all of them takes seconds."""
        features = compute_features(images, network)
        assert features.shape == (len(images), 2048) and np.isfinite(features).all()
        return features[:, ::64]

    monkeypatch.setattr(inception, "inception_features", narrow_features)
    monkeypatch.setattr(metrics, "PAPER_FRAMES", 4)  # frames that remain without one of the two identities
    names, t = [methods.OURS, methods.AFTER], 8
    frames, features = frame_metrics.measure(few_cells, names)
    paper = paper_metrics.measure(few_cells, names)
    table = tables.table1(tables.Measured(frames, features, paper.summary()), profile, "run", names)

    rows = table[table["metric"].isin(["FID", "KID", "CSIM"])].set_index(["method", "metric"])
    assert len(rows) == 6
    assert rows["value"].notna().all() and rows["verdict"].eq("not comparable").all()
    assert rows["needs"].eq("").all() and rows["n_frames"].eq(8).all()
    for name in names:
        generated, true = paper.inception[name, t].generated, paper.inception[name, t].true
        assert rows.loc[(name, "FID"), "value"] == pytest.approx(metrics.frechet_distance(generated, true))
        assert rows.loc[(name, "KID"), "value"] == pytest.approx(metrics.kernel_distance(generated, true))
        csim = rows.loc[(name, "CSIM")]
        assert csim["value"] == pytest.approx(paper.csim[name, t].mean())
        assert csim["ci_low"] <= csim["value"] <= csim["ci_high"]

    evidence = use_paper_metrics(Evidence(frames, features, t, shots=(t,)), paper)
    parts = claims.evaluate(evidence).query("id == 12").set_index("part")
    assert [part.split(":")[0] for part in parts.index] == ["SSIM", "CSIM", "FID"]
    assert parts[["estimate", "ci_low", "ci_high", "p (Holm)"]].notna().all(axis=None)
    difference = rows.loc[(methods.OURS, "FID"), "value"] - rows.loc[(methods.AFTER, "FID"), "value"]
    assert parts["estimate"].iloc[2] == pytest.approx(difference)
    assert set(parts["holds"]) <= {"yes", "no", "undecided"}


@pytest.mark.cuda
def test_the_papers_metrics_on_a_gpu(fetched, few_cells):
    names = [methods.OURS, methods.AFTER]
    on_gpu, on_cpu = (paper_metrics.measure(few_cells, names, device) for device in ("cuda", "cpu"))
    assert next(inception.inception("cuda").parameters()).device.type == "cuda"
    for key, features in on_cpu.inception.items():
        scale = np.abs(features.generated).max()
        assert np.abs(on_gpu.inception[key].generated - features.generated).max() < 0.05 * scale
        np.testing.assert_allclose(on_gpu.csim[key], on_cpu.csim[key], atol=0.02)


# -- judges and profiles --------------------------------------------------------------------------
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_landmark_judge_reads_clean_frames(device):
    """On rendered faces outside its training, at twice the smoke size."""
    clips = [make_clip(ClipSettings(9, number, 0, 6, 2.5, 64), sound=False) for number in range(8)]
    landmarks = [judges.find_landmarks(clip.frames, device) for clip in clips]
    errors = [landmark_error(a, clip.landmarks) for a, clip in zip(landmarks, clips, strict=True)]
    assert np.mean(errors) < 0.08, "of the distance between the eyes' outer corners"


@pytest.mark.parametrize("name", ["voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2"])
def test_profiles_of_the_paper_follow_its_protocol(name):
    """Sections 3 and 4."""
    profile = config.load(name)
    section, protocol_section = profile.few_shot, profile.protocol
    assert (protocol_section.test_videos, protocol_section.holdout_frames) == (50, 32)
    assert protocol_section.shots == (1, 8, 32)
    assert (section.fine_tuning.epochs, section.fine_tuning.batch) == (40, 8)
    assert (section.fine_tuning.learning_rate, section.fine_tuning.discriminator_learning_rate) == (
        5e-5,
        2e-4,
    )
    meta = section.meta_learning
    assert (meta.epochs, meta.content_steps, meta.k_shot, meta.k_min) == (75, 0, 8, 8)
    assert (meta.learning_rate, meta.discriminator_learning_rate) == (5e-5, 2e-4)
    assert section.optimiser.discriminator_steps == 2
    assert section.losses.content_weights == (1e-2, 2e-3)
    assert (section.losses.feature_matching_weight, section.losses.match_weight) == (10, 80)
    assert section.networks.pool == "sum_relu" and section.networks.spectral_norm


def test_the_laptop_evaluates_some_identities_and_the_reference_all():
    assert config.load("laptop").protocol.test_videos >= 6
    assert config.load("laptop-full").protocol.test_videos == 24


# -- the observer ---------------------------------------------------------------------------------
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_observer_finds_noise_and_is_at_chance_with_real_frames(device):
    """Noise is found by an observer that was trained on other noise; real frames as fakes are not found."""
    rng = np.random.default_rng(0)
    identities = [f"p{i}" for i in range(6)]
    faces = {i: rng.integers(60, 200, (1, 4, 4, 3)).repeat(4, 1).repeat(4, 2) for i in identities}

    def draw_frames(identity, n, noise):
        frames = faces[identity].repeat(n, 0) + rng.normal(0, noise, (n, 16, 16, 3))
        return frames.clip(0, 255).astype(np.uint8)

    reals = {i: [draw_frames(i, 4, 4), draw_frames(i, 4, 4)] for i in identities}
    levels = {"noisy": 60, "noisier": 80, "perfect": 4}
    fakes = {name: {i: draw_frames(i, 8, noise) for i in identities} for name, noise in levels.items()}
    settings = ObserverSettings(steps=30, triplets=24, device=device)
    rates = observe(fakes, reals, real_groups=["perfect"], settings=settings)
    rates = rates.groupby("method")["USER-proxy"].mean()
    assert rates["noisy"] > 0.8 and rates["noisier"] > 0.8
    assert abs(rates["perfect"] - CHANCE) < 0.25
    with pytest.raises(ValueError, match="two groups"):
        observe({"noisy": fakes["noisy"]}, reals)


def test_rates_do_not_depend_on_the_observers_trained_at_once(two_threads):
    rng = np.random.default_rng(0)
    identities = [f"p{i}" for i in range(4)]
    draw = partial(rng.integers, 0, 255, (4, 16, 16, 3), np.uint8)
    reals = {i: [draw(), draw()] for i in identities}
    fakes = {name: {i: draw() for i in identities} for name in ("a", "b", "c")}
    settings = ObserverSettings(steps=5, triplets=12)
    together = observe(fakes, reals, settings=settings)
    torch.set_num_threads(1)
    pd.testing.assert_frame_equal(together, observe(fakes, reals, settings=settings))


def test_observers_are_tested_on_other_identities_and_methods(monkeypatch, one_thread):
    """No observer is trained on another method of the same group, nor on a row of real images."""
    identities, trainings = [f"p{i}" for i in range(6)], []
    frames = {identity: np.full((2, 16, 16, 3), i, np.uint8) for i, identity in enumerate(identities)}
    labels = ("ours@1", "ours@8", "other@8", "third@8", "real@8")
    fakes = {label: dict(frames) for label in labels}
    groups = {label: label.split("@")[0] for label in labels}

    def untrained_observer(training_groups, reals, training_identities, settings):
        trainings.append((training_groups, set(training_identities)))
        return observer.Observer().eval()

    monkeypatch.setattr(observer, "train_observer", untrained_observer)
    reals = {identity: [frame, frame] for identity, frame in frames.items()}
    rates = observe(fakes, reals, groups, real_groups=["real"])
    assert len(rates) == len(labels) * len(identities) and set(rates["method"]) == set(labels)
    assert len(trainings) == cross_fitting.FOLDS * 4
    group_of = {id(fakes[label]): groups[label] for label in labels}
    for number, (training_groups, training_identities) in enumerate(trainings):
        tested = ["ours", "other", "third", "real"][number % 4]
        fold = number // 4
        names = [{group_of[id(fake)] for fake in group} for group in training_groups]
        assert names == [{name} for name in ("ours", "other", "third") if name != tested]
        assert training_identities == set(identities) - set(identities[fold :: cross_fitting.FOLDS])


def test_rows_are_comparable_on_the_papers_corpora_alone():
    small, large, both = (config.load(name) for name in ("voxceleb1", "voxceleb2-ft", "voxceleb2"))
    is_comparable = paper_numbers.is_comparable
    assert is_comparable(small, methods.OURS) and is_comparable(large, methods.AFTER)
    assert is_comparable(both, methods.AFTER) and not is_comparable(both, methods.OURS)
    assert not is_comparable(config.load("gpu"), methods.AFTER)
    assert not is_comparable(small, methods.NEAREST)
    assert not is_comparable(small.override({"data.image_size": 128}), methods.OURS)


def test_triplets_hold_one_fake_at_its_position():
    fakes = np.full((2, 8, 8, 3), 255, np.uint8)
    reals = [np.full((4, 8, 8, 3), level, np.uint8) for level in (0, 40, 80)]
    images, positions = draw_triplets(fakes, reals, 40, np.random.default_rng(0))
    is_fake = images.mean((2, 3, 4)) > 0
    assert (is_fake.sum(1) == 1).all() and torch.equal(is_fake.int().argmax(1), positions)
    assert set(positions.tolist()) == {0, 1, 2}
    levels = images[:, :, 0, 0, 0].tolist()
    assert all(len(set(three)) == 3 for three in levels), "the two real ones come from two videos"


def test_sharpness_falls_with_blur(few):
    soft = np.stack([cv2.GaussianBlur(i, (5, 5), 1.5) for i in few.images])
    assert (images.sharpness(soft) < images.sharpness(few.images)).all()


def test_a_run_keeps_its_name_and_colour_in_panels_that_others_do_not_log():
    def log(*names):
        return [{"step": step, **dict.fromkeys(names, step)} for step in range(9)]

    figure = figures.runs({"a": log("x"), "b": log("x", "y")}, {"x": "X", "y": "Y"})
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["a", "b"]
    assert figure.axes[1].lines[0].get_color() == figure.axes[0].lines[1].get_color()
    many = figures.runs({str(number): log("x") for number in range(12)}, {"x": "X"})
    assert len({to_hex(line.get_color()) for line in many.axes[0].lines}) == 12
    plt.close("all")


def test_curves_need_a_logged_value():
    rows = [{"step": step, "x": step} for step in range(3)]
    assert [axis.get_ylabel() for axis in figures.curves(rows, {"x": "X", "y": "Y"}).axes] == ["X"]
    plt.close("all")
    with pytest.raises(ValueError, match=r"none of Y has been logged \(3 steps\)"):
        figures.curves(rows, {"y": "Y"})


def test_estimates_are_drawn_from_the_top_with_intervals_where_they_were_measured():
    rows = [("here", 0.5, 0.4, 0.6), ("paper", 0.7, np.nan, np.nan), ("here", 0.2, 0.1, 0.4)]
    table = pd.DataFrame(rows, columns=["source", "value", "ci_low", "ci_high"])
    figure, axis = plt.subplots()
    figures.estimates(axis, table, ["a", "b", "c"])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "the first row is on top"
    (container,) = axis.containers
    low, high = np.array(container.lines[2][0].get_segments())[:, :, 0].T
    assert low.tolist() == pytest.approx([0.4, 0.1]) and high.tolist() == pytest.approx([0.6, 0.4])
    (hollow,) = (line for line in axis.lines if line.get_markerfacecolor() == "none")
    assert hollow.get_xdata().tolist() == [0.7]
    plt.close(figure)


def test_table_1_beside_the_paper_as_lines_and_as_a_figure():
    rows = [("X2Face", 8, 0.8, 0.7, 0.9, 0.73), ("Ours-FF", 8, 0.7, 0.6, 0.8, 0.64)]
    rows += [("Ours-FF", 1, 0.6, 0.5, 0.7, 0.61), (methods.NEAREST, 8, 0.5, np.nan, np.nan, np.nan)]
    columns = ["method", "T", "value", "ci_low", "ci_high", "paper_value"]
    table = pd.DataFrame(rows, columns=columns).assign(metric="SSIM", verdict="not comparable")
    line = (
        "Paper: SSIM of X2Face, T = 8: 0.73 (VoxCeleb1). Here: 0.800 [0.700, 0.900]. Verdict: not comparable."
    )
    assert tables.paper_lines(table, "SSIM", 8)[0] == line
    assert len(tables.paper_lines(table, "SSIM", 8)) == 2, "the paper has no trivial baselines"
    small, large = metrics_by_shots(table, ["SSIM"]).axes
    assert [label.get_text() for label in large.get_xticklabels()] == ["1", "8"]
    bars = {len(container.lines[2][0].get_segments()) for container in large.containers}
    assert bars == {0, 1, 2}, "intervals of two T, of one, and of methods that were not run"
    assert small.get_ylabel() == "small corpus"
    plt.close("all")


def test_difference_maps_have_a_sign():
    truth = np.full((2, 4, 4, 3), 100, np.uint8)
    figure = figures.difference_maps([truth + 20, truth - 20], truth, ["brighter", "darker"])
    values = [axis.images[0].get_array().mean() for axis in figure.axes[:4]]
    assert values == [20, 20, -20, -20]
    plt.close(figure)
