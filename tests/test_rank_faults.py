"""Faults of a training in two processes: what ends one ends both, with its state saved, and it goes on."""

import json
import os
import signal

import pytest
import torch
from processes import wait_for_rows
from ranks import RANKS, assert_close, run, start_ranks, train, whole_table
from talking_heads.data.episodes import Subset
from talking_heads.data.frame_files import CorpusDamaged
from talking_heads.data.loader import NoBatch
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.few_shot.updates import CLIP, Targets, adam, discriminator_step, generator_step
from talking_heads.training import distributed, loop
from talking_heads.training.alarms import Collapsed
from torch import nn


class Scores(nn.Module):
    """D for pictures of one number: a common parameter, and a row of W for each rank's video."""

    def __init__(self):
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.ones(())), nn.Embedding(1, 1, sparse=True)

    def forward(self, x, y, i):
        return x.mean((1, 2, 3)) * self.weight + self.table(i)[:, 0], None


def update_on_ranks():
    """Updates of which the second rank has large or infinite gradients."""
    numbers = {}
    for name, gradients in {"large": [[600, 0], [0, 800]], "infinite": [[1, 1], [1, torch.nan]]}.items():
        parameter = nn.Parameter(torch.zeros(2))
        loss = (parameter * torch.tensor(gradients[distributed.rank()])).sum()
        row = generator_step(loss, {}, adam([parameter], 1.0, 0.5))
        numbers[name] = {"norm": row["grad_norm"], "gradient": parameter.grad, "value": parameter.detach()}
    d, value = Scores(), (0.1, torch.inf)[distributed.rank()]
    w = d.table.weight.detach().clone()
    optimisers = adam([d.weight], 1.0, 0.0), torch.optim.SparseAdam([d.table.weight])
    x = torch.full((1, 1, 1, 1), 0.1)
    row = discriminator_step(d, Targets(x, value * x, x, torch.zeros(1, dtype=torch.long)), optimisers)
    numbers["d"] = {"norm": row["d_grad_norm"], "weight": d.weight.detach(), "w": d.table.weight - w}
    return numbers


def test_ranks_clip_and_leave_out_the_gradient_of_all():
    """Norm 500 of the mean, not 600 and 800. Infinite in one rank, no rank moves, not even its own W."""
    ranks = run(update_on_ranks)
    for numbers in ranks:
        large, infinite, d = numbers["large"], numbers["infinite"], numbers["d"]
        assert large["norm"] == 500 and large["gradient"].tolist() == pytest.approx([300 / 5, 400 / 5])
        assert large["gradient"].norm().item() == pytest.approx(CLIP) and (large["value"] < -0.9).all()
        assert not torch.isfinite(infinite["norm"]) and infinite["value"].tolist() == [0, 0]
        assert not torch.isfinite(d["norm"]) and d["weight"] == 1 and not d["w"].any()


class Diverging(MetaLearner):
    """One of its ranks has a loss that is not finite."""

    def train_step(self):
        row = super().train_step()
        return row | ({"cnt": float("nan")} if distributed.rank() == 1 and self.step == 3 else {})


def train_diverging(*arguments):
    try:
        loop.train(Diverging(*arguments[:-1]), arguments[-1])
    except Collapsed as alarm:
        return str(alarm)


def test_an_alarm_ends_all_ranks(few_steps, videos, extractors, tmp_path):
    messages = run(train_diverging, few_steps, "ft", videos, extractors, tmp_path)
    assert messages[0] == messages[1] == "step 2: cnt not finite"


class Vanishing(Subset):
    """Videos of which one vanishes while the second of two ranks trains."""

    def __init__(self, videos, reads):
        super().__init__(videos, list(range(len(videos))))
        self.reads = reads

    def read(self, video, frames, pupils=False):
        self.reads -= distributed.rank() == 1
        if self.reads < 0:
            raise CorpusDamaged("meta/b/1: a prepared video is damaged; prepare again")
        return super().read(video, frames, pupils)


def train_until_one_vanishes(profile, videos, extractors, folder):
    try:
        loop.train(MetaLearner(profile, "ft", videos, extractors), folder)
    except NoBatch as error:
        return str(error)


def test_a_clip_that_vanishes_ends_all_ranks_and_loses_nothing(few_steps, videos, extractors, tmp_path):
    """Both say so in one line and save the last step; with the clip they go on from there exactly.

    Here it is missing in the second of the two episodes of a step.
    """
    profile = few_steps.override(
        {
            "few_shot.optimiser.discriminator_steps": 2,
            "few_shot.optimiser.shared_episode": False,
            "few_shot.meta_learning.table_start": "random",
        }
    )
    vanishing = Vanishing(videos, 2 + 2 * 2 + 1)  # episodes of two content steps, two others and half a one
    messages = run(train_until_one_vanishes, profile, vanishing, extractors, tmp_path / "parts")
    assert messages == ["meta/b/1: a prepared video is damaged; prepare again"] * RANKS
    learner = MetaLearner(profile, "ft", videos, extractors)
    loop.restore(learner, tmp_path / "parts")
    assert learner.step == 4
    resumed, undisturbed = (
        run(train, profile, "ft", videos, extractors, tmp_path / name, 6) for name in ("parts", "whole")
    )
    assert_close(resumed[0][0], undisturbed[0][0], 0)
    assert torch.equal(whole_table(resumed[0][1]), whole_table(undisturbed[0][1]))


def train_a_limited_time(profile, videos, extractors, folder):
    seconds = 1e-3 if distributed.rank() == 1 else 1e9
    return loop.train(MetaLearner(profile, "ft", videos, extractors), folder, seconds=seconds).step


def test_ranks_stop_in_the_same_step(few_steps, videos, extractors, tmp_path):
    assert run(train_a_limited_time, few_steps, videos, extractors, tmp_path) == [1, 1]


def train_long(profile, videos, extractors, folder):
    loop.train(MetaLearner(profile, "ft", videos, extractors), folder, save_every=0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_rank_that_ends_is_noticed_and_the_training_goes_on(
    few_steps, videos, extractors, tmp_path, number
):
    """Killed, the others say so; asked to end, all save their step. Two go on from there exactly."""
    long = few_steps.override({"few_shot.meta_learning.steps": 500})
    processes, results = start_ranks(train_long, long, videos, extractors, tmp_path)
    log = tmp_path / loop.LOG
    wait_for_rows(log, 6)
    os.kill(processes[1].pid, number)
    _, message = results.get(timeout=60)
    if number == signal.SIGKILL:
        ended = "another process of this training has ended"
        assert message == f"RankLost: {ended}; its last checkpoint is kept: run the same command again"
    else:
        assert message.startswith("Preempted: stopped by SIGTERM: step ") and "is saved in" in message
    for process in processes:
        process.join(60)
    learner = MetaLearner(long, "ft", videos, extractors)
    loop.restore(learner, tmp_path)
    assert learner.step >= 4
    steps = learner.step + 2
    resumed, undisturbed = (
        run(train, long, "ft", videos, extractors, folder, steps) for folder in (tmp_path, tmp_path / "whole")
    )
    assert_close(resumed[0][0], undisturbed[0][0], 0)
    assert torch.equal(whole_table(resumed[0][1]), whole_table(undisturbed[0][1]))
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()] == list(range(steps))


def test_a_killed_training_goes_on_with_fewer_ranks(few_steps, videos, extractors, tmp_path):
    """With W of both, and with as many episodes as are left: two ranks take half as many steps."""
    epochs = few_steps.override({"few_shot.meta_learning.epochs": 100})
    arguments, killed = (epochs, "ft", videos, extractors), tmp_path / "killed"
    processes, _ = start_ranks(train_long, epochs, videos, extractors, killed)
    wait_for_rows(killed / loop.LOG, 6)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    learner = MetaLearner(*arguments)
    loop.restore(learner, killed)
    step, state = learner.step, learner.state(tmp_path / "other")
    assert 4 <= step < 200
    networks, table, total = run(train, *arguments, tmp_path / "whole", step)[0]
    assert total == 200 and learner.total == step + 2 * (200 - step)
    assert_close(networks, state["networks"] + state["ema"], 0)
    assert torch.equal(learner.nets.discriminator.table.weight, whole_table(table))
    assert learner.episodes.number == 2 * step, "both ranks drew a batch in every step"
    assert train(*arguments, killed, step + 2)[2] == learner.total
    resumed = MetaLearner(*arguments)
    loop.restore(resumed, killed)
    assert resumed.step == step + 2
    names = {path.name for path in killed.glob("table-*.pt")}
    assert names <= {f"table-step{step + 2}-0of1.pt"}, "no others"
