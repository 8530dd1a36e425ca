"""The gradients of one backward pass through Horovod, measured with the loop of `paceline bench`.

Each tensor is submitted as it would become ready (allreduce_async_), then all are waited for: what
Horovod's DistributedOptimizer does in each step, without the step. The rules are those of
mpi_bench.c, next to this file; see there. Horovod moves CPU tensors over TCP (Gloo) whatever the
hosts, so its times are listed for each of ours that they are compared with.

    horovodrun -np 2 python horovod_bench.py --model resnet50 --counts 1000,2048000,...

Rank 0 prints one paceline.bench/1 record.
"""

import argparse
import json
import math
import os
import resource
import time

import horovod
import horovod.torch as hvd
import torch

ITERATIONS_MIN = 5
WARMUP_STEPS = 3
TRANSPORTS = ("tcp", "shm")


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def step(tensors):
    handles = [
        hvd.allreduce_async_(tensor, name=f"gradient.{index}", op=hvd.Sum)
        for index, tensor in enumerate(tensors)
    ]
    for handle in handles:
        hvd.synchronize(handle)


def check(tensors, rank, world_size):
    """One step on values whose sums are exact; returns wrong elements over all ranks."""
    for index, tensor in enumerate(tensors):
        tensor.fill_((rank + 1) * (index % 7 + 1))
    step(tensors)
    total = world_size * (world_size + 1) // 2
    wrong = sum(int((tensor != total * (index % 7 + 1)).sum()) for index, tensor in enumerate(tensors))
    wrong = hvd.allreduce(torch.tensor([wrong], dtype=torch.int64), op=hvd.Sum, name="wrong")
    for tensor in tensors:
        tensor.zero_()
    return int(wrong)


def percentile(ordered, percent):
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def measure(tensors, min_time):
    for _ in range(WARMUP_STEPS):
        before = time.perf_counter()
        step(tensors)
    estimate = torch.tensor([time.perf_counter() - before], dtype=torch.float64)
    estimate = float(hvd.broadcast(estimate, 0, name="estimate"))
    times = [0] * max(ITERATIONS_MIN, math.ceil(min_time / estimate))

    hvd.allreduce(torch.zeros(1), name="barrier")
    cpu = cpu_seconds()
    before = time.perf_counter_ns()
    for i in range(len(times)):
        step(tensors)
        after = time.perf_counter_ns()
        times[i] = after - before
        before = after
    cpu = torch.tensor([cpu_seconds() - cpu], dtype=torch.float64)
    cpu = float(hvd.allreduce(cpu, op=hvd.Sum, name="cpu"))
    of_all = hvd.allgather(torch.tensor([times], dtype=torch.int64), name="times")
    return [slowest / 1e3 for slowest in of_all.max(dim=0).values.tolist()], cpu


def result(model, transport, tensors, times_us, cpu, wrong, world_size):
    ordered = sorted(times_us)
    mean = math.fsum(ordered) / len(ordered)
    stddev = math.sqrt(math.fsum((t - mean) ** 2 for t in ordered) / len(ordered))
    percents = {"p50": 50, "p90": 90, "p99": 99, "p99_9": 99.9, "p99_99": 99.99}
    quantiles = {name: percentile(ordered, percent) for name, percent in percents.items()}
    count = sum(tensor.numel() for tensor in tensors)
    algbw = 4 * count / mean / 1e3
    return {
        "collective": "all_reduce",
        "transport": transport,
        "emulated": False,
        "algorithm": "library",
        "world_size": world_size,
        "dtype": "f32",
        "op": "sum",
        "count": count,
        "bytes": 4 * count,
        "model": model,
        "fusion_bytes": int(os.environ.get("HOROVOD_FUSION_THRESHOLD", 128 << 20)),
        "iterations": len(ordered),
        "batch": 1,
        "rounds": [{"mean": mean, "p50": quantiles["p50"], "p99": quantiles["p99"]}],
        "time_us": {"min": ordered[0], **quantiles, "max": ordered[-1], "mean": mean, "stddev": stddev},
        "algbw_gbs": algbw,
        "busbw_gbs": algbw * 2 * (world_size - 1) / world_size,
        "floor_pct": None,
        "cpu_s_per_gib": cpu / world_size / (4 * count * len(ordered) / 2**30),
        "wrong": wrong,
        "histogram": None,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--counts", required=True, help="elements of each tensor, in backward order")
    parser.add_argument("--min-time", type=float, default=0.2)
    parser.add_argument("--output", required=True, help="where rank 0 writes the record")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    hvd.init()
    rank, world_size = hvd.rank(), hvd.size()
    tensors = [torch.zeros(int(count)) for count in arguments.counts.split(",")]
    wrong = check(tensors, rank, world_size)
    times_us, cpu = measure(tensors, arguments.min_time)
    if rank == 0:
        report = {
            "schema": "paceline.bench/1",
            "peer": {"name": "Horovod", "version": f"{horovod.__version__} (Gloo, torch {torch.__version__})"},
            "config": {
                "world_size": world_size,
                "rounds": 1,
                "out_of_place": False,
                "check": "first",
                "warmup": WARMUP_STEPS,
                "iterations": None,
                "min_time_s": arguments.min_time,
            },
            "results": [
                result(arguments.model, transport, tensors, times_us, cpu, wrong, world_size)
                for transport in TRANSPORTS
            ],
        }
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(report, file)
    hvd.shutdown()


main()
