"""Say in one line what a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe_machine() -> str:
    """Processor, cores, vector instructions, PyTorch and Python."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line for line in cpuinfo.read_text().splitlines() if line.startswith("model name"))
        model = next((line.partition(":")[2].strip() for line in lines), model)
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{os.cpu_count()} cores of {model} ({capability}), torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
