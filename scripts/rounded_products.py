"""Run `recsys-vae` with the products of a CPU that multiplies bfloat16 (AMX), whatever this one has.

    python scripts/rounded_products.py train dataset=table dataset.path=../shared/data/ml-1m.parquet seed=1 run=RUN

`trainer.float32_matmul_precision=medium`, the default, lets such a CPU round both factors of a product to bfloat16 and
sum in float32; others keep the factors. Here they are rounded on any machine, where and while training says `medium`:
what it costs in accuracy can be measured everywhere. It is slower than either, and the run directory does not tell.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recsys_vae.cli.main import main

# Products of two matrices, whatever their overload, and where the factors stand among the arguments.
_FACTORS = {
    torch.ops.aten.mm: slice(0, 2),
    torch.ops.aten.bmm: slice(0, 2),
    torch.ops.aten.addmm: slice(1, 3),
    torch.ops.aten.addmm_: slice(1, 3),
    torch.ops.aten.baddbmm: slice(1, 3),
    torch.ops.aten.baddbmm_: slice(1, 3),
}


class RoundedProducts(TorchDispatchMode):
    """Rounds the dense float32 factors of matrix products to bfloat16 where the precision is ``medium``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        where = _FACTORS.get(func.overloadpacket)
        if where is not None and torch.get_float32_matmul_precision() == "medium":
            args = list(args)
            if all(
                factor.layout == torch.strided and factor.dtype == torch.float32 for factor in args[where]
            ):
                args[where] = [factor.bfloat16().float() for factor in args[where]]
        return func(*args, **(kwargs or {}))


if __name__ == "__main__":
    with RoundedProducts():
        sys.exit(main())
