"""torch.distributed.all_reduce of f32 sums over Gloo, measured with the loop of `paceline bench`.

The rules are those of mpi_bench.c, next to this file; see there. Each rank is one process:

    RANK=0 WORLD_SIZE=2 gloo_bench.py --sizes 4,4096 --min-time 0.2 --store DIRECTORY/store

Rank 0 prints one paceline.bench/1 record.
"""

import argparse
import datetime
import json
import math
import os
import resource
import time

import torch
import torch.distributed as dist

ITERATIONS_MIN = 5
WARMUP_SECONDS = 0.02
BATCH_SECONDS = 10e-6


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def expected_values(count, world_size):
    index = torch.arange(count) % 1009
    return sum(((index * (rank + 1)) % 1013).float() for rank in range(world_size))


def count_wrong(tensor, world_size):
    wrong = (tensor != expected_values(tensor.numel(), world_size)).sum()
    dist.all_reduce(wrong)
    return int(wrong)


def estimate_seconds(tensor):
    """Warms up and returns rank 0's time of one operation, the same number on all ranks."""
    operations = 1
    while True:
        dist.barrier()
        start = time.perf_counter()
        for _ in range(operations):
            dist.all_reduce(tensor)
        elapsed = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
        dist.broadcast(elapsed, 0)
        if elapsed.item() >= WARMUP_SECONDS:
            return elapsed.item() / operations
        operations *= 2


def percentile(ordered, percent):
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def measure(size, min_time, rank, world_size):
    tensor = ((torch.arange(size // 4) % 1009 * (rank + 1)) % 1013).float()
    dist.all_reduce(tensor)
    wrong = count_wrong(tensor, world_size)
    tensor.zero_()

    estimate = estimate_seconds(tensor)
    batch = math.ceil(BATCH_SECONDS / estimate) if estimate < BATCH_SECONDS else 1
    iterations = max(ITERATIONS_MIN, math.ceil(min_time / (estimate * batch)))
    times = [0] * iterations

    dist.barrier()
    cpu = cpu_seconds()
    before = time.perf_counter_ns()
    for i in range(iterations):
        for _ in range(batch):
            dist.all_reduce(tensor)
        after = time.perf_counter_ns()
        times[i] = after - before
        before = after
    cpu = torch.tensor([cpu_seconds() - cpu], dtype=torch.float64)

    slowest = torch.tensor(times, dtype=torch.int64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    dist.all_reduce(cpu)
    return summary(size, world_size, [t / batch / 1e3 for t in slowest.tolist()], batch, cpu.item(), wrong)


def summary(size, world_size, times_us, batch, cpu, wrong):
    ordered = sorted(times_us)
    mean = math.fsum(ordered) / len(ordered)
    stddev = math.sqrt(math.fsum((t - mean) ** 2 for t in ordered) / len(ordered))
    percents = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}
    quantiles = {name: percentile(ordered, percent) for name, percent in percents.items()}
    operations = len(ordered) * batch
    algbw = size / mean / 1e3
    return {
        "collective": "all_reduce",
        "transport": "tcp",
        "emulated": False,
        "algorithm": "library",
        "world_size": world_size,
        "dtype": "f32",
        "op": "sum",
        "count": size // 4,
        "bytes": size,
        "model": None,
        "fusion_bytes": None,
        "iterations": operations,
        "batch": batch,
        "rounds": [{"mean": mean, "p50": quantiles["p50"], "p99": quantiles["p99"]}],
        "time_us": {"min": ordered[0], **quantiles, "max": ordered[-1], "mean": mean, "stddev": stddev},
        "algbw_gbs": algbw,
        "busbw_gbs": algbw * 2 * (world_size - 1) / world_size,
        "floor_pct": None,
        "cpu_s_per_gib": cpu / world_size / (size * operations / 2**30),
        "wrong": wrong,
        "histogram": None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", required=True)
    parser.add_argument("--min-time", type=float, default=0.2)
    parser.add_argument("--store", required=True)
    arguments = parser.parse_args()

    # One thread per rank, as the other contenders have: the reduction runs on the caller's anyway.
    torch.set_num_threads(1)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{os.path.abspath(arguments.store)}",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=120),
    )
    results = [
        measure(int(size), arguments.min_time, rank, world_size) for size in arguments.sizes.split(",")
    ]
    if rank == 0:
        report = {
            "schema": "paceline.bench/1",
            "peer": {"name": "Gloo", "version": f"torch {torch.__version__}"},
            "config": {
                "world_size": world_size,
                "rounds": 1,
                "out_of_place": False,
                "check": "first",
                "warmup": 1,
                "iterations": None,
                "min_time_s": arguments.min_time,
            },
            "results": results,
        }
        print(json.dumps(report), flush=True)
    dist.destroy_process_group()


main()
