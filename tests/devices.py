"""The devices that a test is run on: the CPU, and CUDA where there is one."""

from __future__ import annotations

import pytest
import torch

ON_CUDA = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
)
DEVICES = ["cpu", pytest.param("cuda", marks=ON_CUDA)]
