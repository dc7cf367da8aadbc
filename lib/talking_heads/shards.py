"""Work that several machines share."""

import hashlib
import os
from typing import NamedTuple


class Shard(NamedTuple):
    """Part ``number`` of ``total`` of some work, for one of several machines."""

    number: int  # from 0 on
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """A shard from text such as "0/4". Raises ValueError."""
        number, slash, total = text.partition("/")
        if not (slash and number.isdecimal() and total.isdecimal() and int(number) < int(total)):
            raise ValueError(f"{text!r} is no shard; four shards are 0/4, 1/4, 2/4 and 3/4")
        return cls(int(number), int(total))

    def holds(self, *names: object) -> bool:
        """Whether something belongs to this shard, which depends on its names alone."""
        text = "/".join(map(str, names))
        return int(hashlib.sha256(os.fsencode(text)).hexdigest(), 16) % self.total == self.number
