"""Time of two training processes against one: ``python benchmarks/processes.py``.

The random data and settings of step_overhead.py, DeepFM, the regularizer in mode global. Every repetition starts one
process alone and then two together, each with one thread, and takes the time of an epoch after one to warm up (imports
are not counted); printed is the median of the ratios of neighbours, two processes over one. The global batch is the
same, so every process of two has half the rows. The machine needs a free core a process, or the ratio says nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from step_overhead import SETTINGS, build, data, seconds

from sllmr_plugin import SelectiveConfig, wrap


def epoch(setting: str, steps: int) -> tuple[float, int]:
    """Train in this process, alone or with others; return seconds of an epoch, and the number of parameters."""
    dim, batch_size, n_users, n_items = SETTINGS[setting]
    x, y, table = data(steps * batch_size, n_users, n_items)
    model = build("deepfm", dim, n_users, n_items)
    model = wrap(model, table, user="user_id", item="item_id", config=SelectiveConfig(gate="none"))
    times = [seconds(model, x, y, batch_size, time.perf_counter) for _ in range(2)]
    return times[-1], sum(parameter.numel() for parameter in model.parameters())


def work(rank: int, world: int, folder: Path, setting: str, steps: int) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    took, n_parameters = epoch(setting, steps)
    if rank == 0:
        (folder / "result").write_text(f"{took} {n_parameters}")
    if world > 1:
        dist.destroy_process_group()


def measure(world: int, setting: str, steps: int) -> tuple[float, int]:
    """Start processes; return the seconds of the first one's epoch, and the number of parameters."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", __file__, "--setting", setting, "--steps", str(steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen([*command, "--work", str(rank), str(world), folder], env=environment)
            for rank in range(world)
        ]
        if any(process.wait() for process in running):
            raise SystemExit("a process has failed")
        took, n_parameters = (Path(folder) / "result").read_text().split()
    return float(took), int(n_parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, help="default: both")
    parser.add_argument("--steps", type=int, default=40, help="training steps of a timing (default 40)")
    parser.add_argument("--repeats", type=int, default=3, help="alternating repetitions (default 3)")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        rank, world, folder = arguments.work
        work(int(rank), int(world), Path(folder), arguments.setting, arguments.steps)
        return
    print(f"{'setting':12}{'parameters':>11}{'MB a step':>11}{'one, ms/step':>14}{'two / one':>11}")
    for setting in [arguments.setting] if arguments.setting else SETTINGS:
        alone, ratios = [], []
        for _ in range(arguments.repeats):
            took, n_parameters = measure(1, setting, arguments.steps)
            alone.append(took / arguments.steps * 1000)
            ratios.append(measure(2, setting, arguments.steps)[0] / took)
        cells = f"{n_parameters:>11,}{n_parameters * 4 / 1e6:>11.1f}{statistics.median(alone):>14.1f}"
        print(f"{setting:12}{cells}{statistics.median(ratios):>10.2f}x", flush=True)


if __name__ == "__main__":
    main()
