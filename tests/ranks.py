"""Trainings in two processes: starting them, their results, and one process with the batches of both."""

import io
import os
import socket

import torch
from processes import context, start
from talking_heads.data.episodes import EpisodeImages
from talking_heads.data.loader import Batches
from talking_heads.few_shot.baselines.training import BaselineLearner
from talking_heads.few_shot.meta_learning import MetaLearner
from talking_heads.training import distributed, loop
from torch.utils.data import Dataset

RANKS = 2


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def run_rank(rank, port, ranks, work, arguments, results):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with distributed.process_group(torch.device("cpu")):
            content = io.BytesIO()
            torch.save(work(*arguments), content)
            results.put((rank, content.getvalue()))
    except BaseException as error:
        results.put((rank, f"{type(error).__name__}: {error}"))


def start_ranks(work, *arguments, ranks=RANKS):
    """Processes of ranks that compute ``work(*arguments)``, and the queue of their results."""
    results, port = context.Queue(), free_port()
    return [start(run_rank, rank, port, ranks, work, arguments, results) for rank in range(ranks)], results


def run(work, *arguments, ranks=RANKS):
    """The results of all ranks."""
    processes, results = start_ranks(work, *arguments, ranks=ranks)
    values = dict(results.get(timeout=240) for _ in processes)
    for process in processes:
        process.join()
    return [torch.load(io.BytesIO(values[rank]), weights_only=True) for rank in range(ranks)]


class Joined(Dataset):
    """The batches of all ranks, one after the other, as one batch."""

    def __init__(self, dataset):
        self.parts = [type(dataset)(dataset.videos, dataset.settings, dataset.seed, r, RANKS) for r in (0, 1)]

    def __getitem__(self, number):
        parts = [dataset[number] for dataset in self.parts]
        videos = torch.cat([RANKS * part.videos + rank for rank, part in enumerate(parts)])
        frames, lines = (torch.cat([part[n] for part in parts]) for n in (0, 1))
        return EpisodeImages(frames, lines, parts[0].k, videos)


def learner_of(variant):
    return BaselineLearner if variant in ("pix2pixhd", "x2face") else MetaLearner


def train(profile, variant, videos, extractors, folder, until, joined=False):
    """Train to a step; returns the state of the networks, the averaged ones among them, and W, which rank 0
    has.
    """
    learner = learner_of(variant)(profile, variant, videos, extractors)
    if joined:
        learner.episodes = Batches(Joined(learner.dataset))
    loop.train(learner, folder, until=until)
    learner.export(folder / "weights.safetensors", {})
    state = learner.state(folder)
    networks = [{k: v.clone() for k, v in net.items()} for net in state["networks"] + state.get("ema", [])]
    table = None
    if variant == "ft":
        table = distributed.gather(learner.nets.discriminator.table.weight.detach().clone())
    return networks, table, learner.total


def whole_table(parts):
    """W of the rows of two ranks."""
    table = torch.empty(sum(map(len, parts)), parts[0].shape[1])
    table[0::2], table[1::2] = parts
    return table


def assert_close(networks, others, tolerance):
    for net, other in zip(networks, others, strict=True):
        for name, value in net.items():
            torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance, msg=name)
