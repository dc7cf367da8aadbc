"""Batches of one of several ranks, which agree on whether all of them have theirs."""

from typing import Any

from talking_heads.data.loader import Batches, NoBatch
from talking_heads.training import distributed


class RankBatches(Batches):
    """The batches of this rank. Where one rank cannot load its next one, :class:`NoBatch` is raised in all.

    Every rank then stands before the same step, with the same message, and can save it. Raises
    :class:`distributed.RankLost`.
    """

    def __next__(self) -> Any:
        batch, cause = None, None
        try:
            batch = super().__next__()
        except NoBatch as error:
            cause = error
        messages = distributed.gather(None if cause is None else str(cause))
        stated = [message for message in messages if message is not None]
        if not stated:
            return batch
        if cause is None:
            self.seek(self.number - 1)  # this batch comes again
        raise NoBatch(stated[0]) from cause
