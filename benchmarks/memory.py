"""Peak memory of an 80-step SLQ on a ResNet-18, at two caps, each in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import psutil

SIZE = 64


def one_run(cap: float, steps: int, samples: int) -> dict:
    """SLQ with one probe under `memory_cap=cap`; call it in a fresh process."""
    import torch
    import torch.nn.functional as F

    from lla_helpers import Hessian, slq
    from lla_helpers._torchvision import import_torchvision

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, SIZE, SIZE, generator=generator)
    y = torch.randint(0, 10, (samples,), generator=generator)
    torch.manual_seed(0)
    model = import_torchvision().models.resnet18(num_classes=10)
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    op = Hessian(model, F.cross_entropy, (x, y), memory_cap=cap)
    density = slq(op, steps, 1)
    return {
        "cap_GiB": cap,
        "parameters": op.shape[0],
        "basis_GiB": steps * op.shape[0] * 4 / 2**30,
        "before_GiB": before / 2**30,
        "peak_beyond_that_GiB": (peak_resident() - before) / 2**30,
        "seconds": time.perf_counter() - start,
        "products": op.products,
        "lambda_max": float(density.nodes.max()),
    }


def peak_resident() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def at_caps(caps: list[float], steps: int, samples: int, threads: int, tell) -> list[dict]:
    rows = []
    for cap in caps:
        tell(f"SLQ under a cap of {cap:g} GiB")
        code = (
            f"import torch; torch.set_num_threads({threads}); import json; "
            f"from benchmarks.memory import one_run; "
            f"print(json.dumps(one_run({cap}, {steps}, {samples})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows
