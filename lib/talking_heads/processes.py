"""Pools of worker processes, and a thread that computes ahead."""

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar, cast

Item = TypeVar("Item")

PRELOAD = ["talking_heads.data.prepare_video", "talking_heads.data.speakers.clips"]  # takes seconds


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that are forked, where the system can, from one that has imported what they need.

    They end when the process that started them is killed.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(PRELOAD)
    return ProcessPoolExecutor(workers, context, _end_with_parent)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """The same items; a thread computes the next one while one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "prefetch") as executor:
        following = executor.submit(next, iterator, end)
        while (item := following.result()) is not end:
            following = executor.submit(next, iterator, end)
            yield cast(Item, item)
