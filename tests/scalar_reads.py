"""Counts how often numbers are read from tensors, for each of which a GPU is waited for."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class ScalarReads(TorchDispatchMode):
    """``count`` is the number of calls of ``item``, ``bool`` and the like, not of ``tolist``."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))
