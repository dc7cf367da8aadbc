"""Metrics against independent oracles, intervals, the protocol, and tables."""

import dataclasses

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from talking_heads import profiles
from talking_heads.corpus import build
from talking_heads.baselines.training import build_pix2pixhd, build_x2face
from talking_heads.evaluation import inception, judges, methods, metrics, observer, protocol
from talking_heads.evaluation.observer import CHANCE, draw_triplets, observe
from talking_heads.evaluation.statistics import holds, interval, paired, person_means, pooled_interval
from talking_heads.judges.verification import equal_error_rate
from talking_heads.meta_learning import build as build_networks
from talking_heads.reproduce import figures, reference, tables, trainings


def test_ssim_against_its_definition():
    """Wang et al. 2004, equation 13, on the window around one pixel."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 255, (21, 21, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    assert metrics.ssim(a, a) == pytest.approx(1)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, values = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for channel in range(3):
        for y in range(5, 16):
            for x in range(5, 16):
                p, q = (im[y - 5:y + 6, x - 5:x + 6, channel].astype(float) for im in (a, b))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq, cov = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum(), (window * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert metrics.ssim(a, b) == pytest.approx(np.mean(values), abs=1e-3)


def test_frechet_distance_against_pytorch_fids_own():
    inception.torchvision_beside_cpu_torch()
    from pytorch_fid.fid_score import calculate_frechet_distance
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((200, 24)), rng.standard_normal((150, 24)) @ rng.standard_normal((24, 24)) * 0.3 + 0.5
    oracle = calculate_frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert metrics.frechet_distance(a, b) == pytest.approx(oracle, rel=1e-5)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    with pytest.raises(ValueError, match="too few"):
        metrics.frechet_distance(a[:63], b)


def test_kernel_distance_is_unbiased_around_zero():
    rng = np.random.default_rng(2)
    same = [metrics.kernel_distance(*rng.standard_normal((2, 100, 8))) for _ in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(40) and np.std(same) > 0
    good = [metrics.kernel_distance(a, a + 0.1 * rng.standard_normal(a.shape), paired=True) for a in rng.standard_normal((40, 100, 8))]
    assert abs(np.mean(good)) < 3 * np.std(good) / np.sqrt(40), "a good copy of the same frames is at zero, not below"
    assert metrics.kernel_distance(rng.standard_normal((100, 8)), rng.standard_normal((100, 8)) + 1) > 10 * np.std(same)


def test_landmark_error_is_in_units_of_the_eyes():
    points = np.random.default_rng(0).uniform(0, 64, (2, 68, 2))
    points[:, 36], points[:, 45] = (10, 20), (30, 20)
    assert metrics.landmark_error(points + [3, 4], points) == pytest.approx([0.25, 0.25])


def test_equal_error_rate():
    rng = np.random.default_rng(0)
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2])) == 0
    assert equal_error_rate(rng.normal(1, 1, 20000), rng.normal(-1, 1, 20000)) == pytest.approx(0.1587, abs=0.01)


def test_few_people_have_students_interval_pooled_or_not():
    """The jackknife of a mean is its standard error: both ways agree."""
    values = np.random.default_rng(0).normal(size=(6, 5))
    pooled = pooled_interval(np.mean, list(values[..., None]))
    assert pooled == pytest.approx(interval(values.mean(1))) and pooled[1] - pooled[0] > 2 * 1.96 * values.mean(1).std(ddof=1) / np.sqrt(6)


def test_intervals_are_over_people():
    """A thousand frames of each of few people do not make the interval narrow."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(8), 1000)
    values = rng.normal(size=8)[people] + 0.01 * rng.normal(size=8000)
    low, high = interval(person_means(values, people))
    assert high - low > 0.5
    covered = sum(lo <= 0 <= hi for lo, hi in (interval(rng.normal(size=24), seed) for seed in range(100)))
    assert 86 <= covered <= 100
    with pytest.raises(ValueError, match="two"):
        interval(np.array([1.0]))
    low, high = interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.303 / np.sqrt(3), 2 + 4.303 / np.sqrt(3)), abs=1e-3), "three people: Student's t"


def test_paired_differences_see_what_unpaired_do_not():
    rng = np.random.default_rng(0)
    person = rng.normal(0, 5, 12)
    mean, low, high = paired(person + 0.5 + rng.normal(0, 0.1, 12), person)
    assert mean == pytest.approx(0.5, abs=0.1) and holds(low, high) == "yes"
    assert holds(-1, 1) == "undecided" and holds(-2, -1) == "no"


def test_verdicts():
    say = tables.verdict
    assert say("SSIM", float("nan"), None, None, 0.7, True) == "not run"
    assert say("SSIM", 0.7, 0.6, 0.8, 0.7, False) == "not comparable"
    assert say("SSIM", 0.7, 0.6, 0.8, 0.65, True) == "within CI"
    assert say("SSIM", 0.7, 0.69, 0.71, 0.72, True) == "within tolerance"
    assert say("SSIM", 0.7, 0.69, 0.71, 0.9, True) == "worse" and say("FID", 10.0, None, None, 40.0, True) == "better"


def test_the_papers_table_is_complete():
    numbers = tables.paper_numbers()
    assert len(numbers) == 4 * (9 + 6) and set(numbers["T"]) == {1, 8, 32}
    value = lambda **q: float(numbers.loc[(numbers[list(q)] == pd.Series(q)).all(axis=1), "value"].iloc[0])
    assert value(method="Ours-FT", T=32, metric="USER") == 0.33 and value(method="Ours-FF", T=1, metric="CSIM") == 0.42


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, profile, extractors):
    """All methods of Table 1 and of the ablations, with networks as they are born, on two people."""
    root = tmp_path_factory.mktemp("evaluation")
    build.ensure(profile, root)
    people = build.store(profile, root, "test")
    torch.manual_seed(0)
    nets = {v: build_networks(profile, 1) for v in ("ft", "ff", "small", "no-match")}
    nets |= {"x2face": [build_x2face(profile)], "pix2pixhd": list(build_pix2pixhd(profile))}
    w = {"w.mean": torch.zeros(profile.embedding), "w.std": torch.ones(profile.embedding)}
    loaded = reference.Loaded(nets, {v: f"{v}'s key" for v in nets}, {"no-match": w}, "")
    rows = reference.table1_methods(loaded, profile, extractors)
    rows += [m for m in reference.ablation_methods(loaded, profile, extractors, torch.randn(3, profile.embedding)) if m.name in methods.ABLATIONS]
    run = lambda chosen=rows: protocol.run_cells(root / "cells", people, profile, chosen, profile.shots, torch.device("cpu"))
    return people, run(), run, rows


def test_random_starts_have_the_mean_and_spread_that_they_are_said_to_have(profile, extractors, monkeypatch):
    """Over many people's seeds; and w′ without L_MCH begins at w₀ and a draw like W's columns."""
    torch.manual_seed(0)
    nets, e_hats = build_networks(profile, 1), torch.rand(40, profile.embedding) * 3
    mean, spread = torch.linspace(-1, 1, profile.embedding), torch.linspace(0.1, 2, profile.embedding)
    changed = {}
    monkeypatch.setattr(methods, "tuned", lambda name, *a, changes=lambda seed: {}, adversarial=True: changed.setdefault(name, (changes, adversarial)))
    methods.ablations(nets, {methods.NO_MATCH: (nets, mean, spread)}, e_hats, {"full": "", methods.NO_MATCH: ""}, profile, extractors)
    draws = lambda name, what: torch.stack([changed[name][0](seed)[what].detach().flatten() for seed in range(3000)])
    psi_hats, w0 = nets.generator.projection(e_hats).detach(), nets.discriminator.w0.detach()
    near = dict(rtol=0.1, atol=0.12)
    for found, wanted in ((draws(methods.RANDOM_E, "e_new"), e_hats), (draws(methods.RANDOM_PSI, "psi"), psi_hats)):
        torch.testing.assert_close(found.mean(0), wanted.mean(0), **near)
        torch.testing.assert_close(found.std(0), wanted.std(0), **near)
    normal, w = draws(methods.NORMAL_PSI, "psi"), draws(methods.NO_MATCH, "w")
    torch.testing.assert_close(normal.std(0), torch.ones(normal.shape[1]), **near)
    torch.testing.assert_close(w.mean(0), (w0 + mean).flatten(), **near)
    torch.testing.assert_close(w.std(0), spread, **near)
    assert all((e_hats == row).all(1).any() for row in draws(methods.OTHERS_E, "e_new")[:5]), "a control: somebody's embedding"
    assert [name for name, (_, adversarial) in changed.items() if not adversarial] == [methods.NO_ADVERSARIAL]


def test_the_small_corpus_is_a_fixed_share_of_the_people():
    class People:
        def __len__(self):
            return 60

        def person(self, video):
            return f"id{video // 2}"

    small = [trainings.share(People(), 0.1) for _ in range(2)]
    assert [[s.person(v) for v in range(len(s))] for s in small] == [[p for p in ("id0", "id1", "id2") for _ in range(2)]] * 2
    assert len(trainings.share(People(), 1.0)) == 60


def test_where_a_training_came_to_rest_and_whether_it_held():
    rows = [{"step": s, "cnt": 2.0 - s / 100, "grad_norm": 1.0} for s in range(50)]
    rows += [{"step": s, "cnt": 1.5, "grad_norm": 2.0, "r_real": 0.5, "r_fake": -0.5, **({"validation": abs(s - 80) / 100} if s % 10 == 0 else {})} for s in range(50, 101)]
    rest, held = reference.plateau(rows), reference.steadiness(rows)
    assert (rest["at step"], rest["lowest"], rest["last"]) == (80, 0.0, 0.2) and rest["won in the last tenth"] == pytest.approx(-0.1)
    assert held["verdict"] == "stable" and held["largest gradient norm"] == 2.0 and held["D, real less fake, last ten"] == pytest.approx(1.0)
    assert reference.steadiness([r | {"cnt": 3.0} if "r_real" in r else r for r in rows])["verdict"] == "unstable"
    assert np.isnan(reference.plateau(rows[:50])["lowest"]) and reference.steadiness(rows[:50])["verdict"] == "no D in it"


def test_few_shot_and_hold_out_frames_lie_in_different_halves(evaluated, profile):
    people = evaluated[0]
    for task in protocol.tasks(people, profile):
        half = people.frame_count(task.number) // 2
        assert task.few_shot.max() < half <= task.hold_out.min() and len(set(task.few_shot)) == max(profile.shots)
        assert len(set(task.hold_out)) == profile.holdout_frames
    with pytest.raises(ValueError, match="too few for T = 32"):
        protocol.tasks(people, dataclasses.replace(profile, shots=[32]))


def test_cells_hold_all_methods_on_the_same_frames_and_are_not_computed_twice(evaluated, profile):
    people, paths, run, rows = evaluated
    assert len(paths) == profile.test_videos * len(profile.shots) * profile.tune_seeds
    times = [p.stat().st_mtime_ns for p in paths]
    paths[0].unlink()
    assert run() == paths and [p.stat().st_mtime_ns for p in paths][1:] == times[1:]
    with np.load(paths[0]) as c:
        made = {m.name: c[m.name] for m in rows}
        truth = c["truth"]
    assert set(methods.TABLE1) <= set(made) and set(methods.ABLATIONS) - {methods.NO_MATCH_ONE_SHOT} <= set(made)
    assert all(images.shape == truth.shape and images.dtype == np.uint8 for images in made.values())
    different = [methods.BEFORE, methods.AFTER, methods.OURS, methods.RANDOM_E, methods.RANDOM_PSI, methods.NORMAL_PSI, methods.OTHERS_E, methods.NO_MATCH,
                 methods.NO_ADVERSARIAL, methods.X2FACE, methods.PIX2PIXHD]
    assert len({made[name].tobytes() for name in different}) == len(different)


def test_frames_of_other_weights_are_computed_anew_and_only_these(evaluated):
    _, paths, run, rows = evaluated
    before = np.load(paths[0])[methods.NEAREST].copy()
    marked = methods.Method(methods.NEAREST, "other weights", lambda train, test, seed: np.zeros_like(test.images))
    run([marked])
    with np.load(paths[0]) as c:
        assert not c[methods.NEAREST].any() and str(c[protocol.key_of(methods.NEAREST)]) == "other weights" and methods.AFTER in c
    run()
    assert np.array_equal(np.load(paths[0])[methods.NEAREST], before)


def test_frames_of_other_weights_are_dropped_where_they_are_not_computed_anew(evaluated, profile):
    """A method that is run at some T only leaves nothing of its old weights at the others."""
    people, paths, run, _ = evaluated
    folder, marked = paths[0].parents[1], methods.Method(methods.MEAN, "other weights", lambda train, test, seed: np.zeros_like(test.images))
    protocol.run_cells(folder, people, profile, [marked], profile.shots[:1], torch.device("cpu"))
    for path in paths:
        with np.load(path) as c:
            assert (methods.MEAN in c) == (protocol.about(path)[2] == profile.shots[0]) == (protocol.key_of(methods.MEAN) in c)
            assert methods.AFTER in c and protocol.losses_of(methods.AFTER) in c
    run()


def test_cells_of_other_frames_are_not_read(evaluated, profile):
    people, paths, *_ = evaluated
    more = dataclasses.replace(profile, shots=[profile.shots[0], profile.shots[-1] - 1])
    assert protocol.cells_in(paths[0].parents[1], people, profile) == paths[0].parent
    assert protocol.cells_in(paths[0].parents[1], people, more) != paths[0].parent


def test_trivial_rows_are_what_they_say(few):
    nearest = methods.nearest_frames(few, few.points[[2, 0]] + 0.1)
    assert np.array_equal(nearest, few.images[[2, 0]])


def test_table_1_has_every_row_and_says_what_is_missing(evaluated, profile, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    paths = evaluated[1]
    frames, features = protocol.measure(paths, methods.TABLE1)
    table = tables.table1(frames, features, profile, "run", inception.summarise(inception.look(paths, methods.TABLE1)))
    assert list(table.columns) == tables.COLUMNS and set(table["verdict"]) == {"not comparable", "not run"}
    assert set(table["method"]) == set(methods.TABLE1) and set(table["T"]) == set(profile.shots)
    ssim = table[(table["metric"] == "SSIM") & (table["method"] == methods.AFTER)]
    assert (ssim["ci_low"] <= ssim["value"]).all() and (ssim["value"] <= ssim["ci_high"]).all() and ssim["n_people"].eq(2).all()
    assert table.loc[table["metric"] == "FID", "value"].isna().all()
    shown = tables.wide(table, tables.SHOWN)
    assert len(shown) == len(profile.shots) * len(methods.TABLE1) and shown["FID"].str.contains("weights fetch inception").all()
    assert shown.loc[(shown["T"] == 1) & (shown["method"] == "Ours-FT"), "USER"].item() == "not run: needs people's answers, see chapter 12 (paper 0.46)"
    assert not (shown[tables.SHOWN[:4]] == "").any(axis=None) and set(shown["corpus"]) == {"small", "large", ""}
    assert (table["value"].isna() == (table["needs"] != "")).all(), "whatever was not measured says what it needs"
    made = tables.write(table, tables.with_arrows(shown), tmp_path / "t", "table1", "caption")
    assert "| FID ↓ | SSIM ↑ | CSIM ↑ | USER ↓ |" in made[1].read_text() and "|  |" not in made[1].read_text()
    assert [p.name for p in made] == ["table1.csv", "table1.md", "table1.tex"] and r"\begin{tabular}" in made[2].read_text()
    again = pd.read_csv(made[0])
    assert list(again.columns) == tables.COLUMNS and len(again) == len(table)


def test_table_1_shows_the_spread_between_seeds_and_intervals_of_csim(evaluated, profile):
    frames, features = protocol.measure(evaluated[1], [methods.AFTER])
    other = frames.assign(seed=1, SSIM=frames["SSIM"] + 0.02)
    csim = {(methods.AFTER, 1, "CSIM"): np.array([0.2, 0.3])}
    one = tables.table1(frames, features, profile, "run", csim, names=[methods.AFTER]).query("T == 1").set_index("metric")
    two = tables.table1(pd.concat([frames, other]), features, profile, "run", names=[methods.AFTER]).query("T == 1").set_index("metric")
    assert np.isnan(one.loc["SSIM", "seed_sd"]) and two.loc["SSIM", "seed_sd"] == pytest.approx(0.02 / np.sqrt(2))
    assert two.loc["mouth correlation", "seed_sd"] == pytest.approx(0) and two.loc["SSIM", "n_seeds"] == 2
    assert one.loc["CSIM", "value"] == pytest.approx(0.25) and one.loc["CSIM", "ci_low"] < 0.25 < one.loc["CSIM", "ci_high"]
    seen = pd.DataFrame({"method": methods.AFTER, "T": 1, "person": ["a", "b"], "USER-proxy": [0.0, 0.4]})
    few = tables.table1(frames, features, profile, "run", observed=seen, names=[methods.AFTER]).query("T == 1").set_index("metric").loc["USER-proxy"]
    assert few["value"] == pytest.approx(0.2) and (few["ci_low"], few["ci_high"]) == (0, 1), "two people say little, but nothing impossible"


def test_a_method_without_weights_has_its_rows_and_they_say_not_run(evaluated, profile):
    frames, features = protocol.measure(evaluated[1], methods.TABLE1)
    table = tables.table1(frames[frames["method"] != methods.FEED_FORWARD], features, profile, "run")
    shown = tables.wide(table, ["SSIM", "CSIM-judge", "FID"]).query("method == 'Ours-FF'")
    assert len(shown) == len(profile.shots) and shown["SSIM"].tolist() == [f"not run: needs weights that are not there{paper}" for paper in (" (paper 0.61)", "", " (paper 0.64)")]
    assert table[table["method"] == methods.FEED_FORWARD]["verdict"].eq("not run").all()


def test_inception_and_arcface_paths_on_random_weights(tmp_path, few):
    inception.torchvision_beside_cpu_torch()
    from pytorch_fid.inception import InceptionV3

    class Random(torch.nn.Module):
        def forward(self, x):
            assert x.shape[1:] == (3, 32, 32) and 0 <= x.min() and x.max() <= 1
            return [x.mean((2, 3), keepdim=True).repeat(1, 683, 1, 1)[:, :2048]]

    assert inception.inception_features(few.images, Random()).shape == (4, 2048) and InceptionV3.BLOCK_INDEX_BY_DIM[2048] == 3

    class Session:
        def get_inputs(self):
            return [type("Input", (), {"name": "x"})]

        def run(self, _, feed):
            x = feed["x"]
            assert x.shape[1:] == (3, 112, 112) and -1 <= x.min() and x.max() <= 1
            return [x.reshape(len(x), -1)[:, :512]]

    assert inception.arcface_features(few.images, few.points, Session()).shape == (4, 512)


def test_arcface_is_loaded_from_its_file(tmp_path, few, monkeypatch):
    """A network of its form, 112² to 512 numbers: features of a face are the same in any frame, and differ from another's."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, as CSIM does")
    onnx = pytest.importorskip("onnx", reason="needs onnx, to make a network of ArcFace's form")
    from talking_heads import weights
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(weights.PRETRAINED, "arcface", weights.Pretrained(weights.PRETRAINED["arcface"].file, "", "", ""))
    h, tensor = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(512, 3, 112, 112)).astype(np.float32), "w")
    graph = h.make_graph([h.make_node("Conv", ["input.1", "w"], ["c"]), h.make_node("Flatten", ["c"], ["683"])], "face",
                         [h.make_tensor_value_info("input.1", tensor, ["n", 3, 112, 112])], [h.make_tensor_value_info("683", tensor, ["n", 512])], [weight])
    path = weights.path_of("arcface")
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    found = inception.arcface_features(few.images, few.points, inception.arcface())
    assert found.shape == (4, 512) and np.allclose(found[1], inception.arcface_features(few.images[1:2], few.points[1:2], inception.arcface())[0], rtol=1e-3, atol=1e-2)
    assert not np.allclose(found[0], found[1], rtol=0.1)


def test_inception_is_loaded_from_its_file_and_a_damaged_one_is_refused(tmp_path, few, monkeypatch):
    """Random weights of the same layout, under the name that they are fetched by."""
    from talking_heads import weights
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("TALKING_HEADS_WEIGHTS", str(tmp_path))
    inception.torchvision_beside_cpu_torch()
    from pytorch_fid.inception import fid_inception_v3
    path = weights.path_of("inception")
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    with monkeypatch.context() as born:
        born.setattr("pytorch_fid.inception.load_state_dict_from_url", lambda *_, **__: None)
        born.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.save(fid_inception_v3().state_dict(), path)
    inception.inception.cache_clear()
    with pytest.raises(ValueError, match="damaged or another one"):
        inception.inception()
    monkeypatch.setitem(weights.PRETRAINED, "inception", dataclasses.replace(weights.PRETRAINED["inception"], prefix=""))
    found = inception.inception_features(few.images)
    inception.inception.cache_clear()
    assert found.shape == (4, 2048) and np.isfinite(found).all()


def test_landmark_judge_reads_clean_frames(videos):
    """On rendered faces nobody trained it on, at twice the smoke size."""
    from talking_heads.corpus.speakers.clips import make_clip
    clips = [make_clip(9, n, 0, 6, 2.5, 64, sound=False) for n in range(8)]
    error = np.concatenate([metrics.landmark_error(judges.find_landmarks(c.frames), c.landmarks) for c in clips])
    print(f"landmark judge: error {error.mean():.3f} of the distance between the eyes' outer corners")
    assert error.mean() < 0.08


def test_profiles_of_the_paper_follow_its_protocol():
    for name in ("voxceleb1", "voxceleb2-ft", "voxceleb2-ff", "voxceleb2"):
        p = profiles.load(name)
        assert (p.test_videos, p.holdout_frames, p.shots, p.tune_epochs, p.tune_batch, p.k_shot, p.k_min) == (50, 32, [1, 8, 32], 40, 8, 8, 8)
        assert (p.rate, p.discriminator_rate, p.discriminator_steps, p.tune_rate, p.tune_discriminator_rate) == (5e-5, 2e-4, 2, 5e-5, 2e-4)
        assert (p.content_weights, p.feature_matching_weight, p.match_weight) == ([1e-2, 2e-3], 10, 80)
        assert (p.meta_epochs, p.pool, p.spectral_norm_generator, p.content_steps) == (75, "sum_relu", True, 0)
    assert profiles.load("laptop").test_videos >= 6 and profiles.load("laptop-full").test_videos == 24


def test_observer_finds_noise_and_is_at_chance_with_real_frames(profile):
    """Fakes that are noise are found by an observer that knew other noise; fakes that are real frames are not."""
    rng = np.random.default_rng(0)
    people = [f"p{i}" for i in range(6)]
    face = {p: rng.integers(60, 200, (1, 4, 4, 3)).repeat(8, 1).repeat(8, 2) for p in people}
    frames = lambda p, n, noise: (face[p].repeat(n, 0) + rng.normal(0, noise, (n, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    reals = {p: [frames(p, 4, 4), frames(p, 4, 4)] for p in people}
    fakes = {"noisy": {p: frames(p, 8, 60) for p in people}, "noisier": {p: frames(p, 8, 80) for p in people}, "perfect": {p: frames(p, 8, 4) for p in people}}
    seen = observe(fakes, reals, steps=60, each=24).groupby("method")["USER-proxy"].mean()
    assert seen["noisy"] > 0.8 and seen["noisier"] > 0.8
    assert abs(seen["perfect"] - CHANCE) < 0.25
    with pytest.raises(ValueError, match="two groups"):
        observe({"noisy": fakes["noisy"]}, reals)


def test_an_observer_knows_neither_the_people_nor_the_methods_that_it_is_tested_on(monkeypatch):
    """Nor another method of the same group, nor a row of real pictures."""
    people, taught = [f"p{i}" for i in range(6)], []
    frame = {p: np.full((2, 16, 16, 3), i, np.uint8) for i, p in enumerate(people)}
    fakes = {name: dict(frame) for name in ("ours@1", "ours@8", "other@8", "third@8", "real@8")}
    groups = {name: name.split("@")[0] for name in fakes}
    monkeypatch.setattr(observer, "train_observer", lambda known, reals, who, *a, **k: taught.append((known, set(who))) or observer.Observer().eval())
    seen = observe(fakes, {p: [f, f] for p, f in frame.items()}, groups, real=["real"])
    named = lambda made: next(name for name in fakes if fakes[name] is made)
    assert len(taught) == observer.FOLDS * 4 and set(seen["method"]) == set(fakes)
    for number, (known, who) in enumerate(taught):
        left_out = ["ours", "other", "third", "real"][number % 4]
        learned = [{groups[named(made)] for made in group} for group in known]
        assert learned == [{g} for g in ("ours", "other", "third") if g != left_out] and len(who) == 4
    monkeypatch.undo()


def test_rows_of_the_papers_table_are_comparable_on_its_own_corpora_alone():
    small, large, both = (profiles.load(n) for n in ("voxceleb1", "voxceleb2-ft", "voxceleb2"))
    assert tables.is_papers(small, methods.OURS) and tables.is_papers(large, methods.AFTER) and tables.is_papers(both, methods.AFTER)
    assert not tables.is_papers(both, methods.OURS) and not tables.is_papers(profiles.load("gpu"), methods.AFTER) and not tables.is_papers(small, methods.NEAREST)


def test_triplets_hold_one_fake_in_its_place():
    fakes, reals = np.full((2, 8, 8, 3), 255, np.uint8), [np.full((4, 8, 8, 3), v, np.uint8) for v in (0, 40, 80)]
    x, place = draw_triplets(fakes, reals, 40, np.random.default_rng(0))
    bright = x.mean((2, 3, 4)) > 0
    assert (bright.sum(1) == 1).all() and torch.equal(bright.int().argmax(1), place) and set(place.tolist()) == {0, 1, 2}
    assert all(len(set(levels.tolist())) == 3 for levels in x[:, :, 0, 0, 0]), "the two real ones come from two videos"


def test_sharpness_falls_with_blur(few):
    import cv2
    soft = np.stack([cv2.GaussianBlur(i, (5, 5), 1.5) for i in few.images])
    assert (metrics.sharpness(soft) < metrics.sharpness(few.images)).all()


def test_a_run_keeps_its_name_and_colour_in_panels_that_others_do_not_log():
    log = lambda *names: [{"step": i, **dict.fromkeys(names, i)} for i in range(9)]
    figure = figures.runs({"a": log("x"), "b": log("x", "y")}, {"x": "X", "y": "Y"})
    assert [t.get_text() for t in figure.axes[1].get_legend().get_texts()] == ["a", "b"]
    assert figure.axes[1].lines[0].get_color() == figure.axes[0].lines[1].get_color()
    many = figures.runs({str(n): log("x") for n in range(12)}, {"x": "X"})
    assert len({matplotlib.colors.to_hex(line.get_color()) for line in many.axes[0].lines}) == 12
