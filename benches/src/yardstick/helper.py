"""One rank of another library, measured beside ours by `paceline bench --peer gloo|horovod`.

Each rank of the benchmark starts one, with its place on the command line:

    helper.py BACKEND RANK WORLD_SIZE DIRECTORY

All ranks are on one node and meet in DIRECTORY. Commands come on standard input and answers go to
standard output, a line of JSON each:

    {"begin": {"collective": "all_reduce", "count": 1024, "dtype": "f32", "op": "sum"}}
    {"begin": {"lengths": [1000, 2048000], "dtype": "f32", "op": "sum"}}
        makes buffers, runs once and checks the result: {"wrong": 0}
    {"run": {"batches": 20, "batch": 4}}
        runs so many operations: {"times_ns": [...]}, one time per batch, this rank's own

`count` is what each rank has of it where ranks have blocks, else all of it. With `lengths`, one
operation is a step as a user would make it: every tensor submitted, then waited for. The first line
is {"ready": NAME, "version": VERSION}, or, as any answer, {"error": WHY}.
"""

import datetime
import json
import os
import sys
import time

ROOT = 0


def answer(**what):
    sys.__stdout__.write(json.dumps(what) + "\n")
    sys.__stdout__.flush()


class Unsupported(Exception):
    """The library has no such thing."""


class Gloo:
    name = "Gloo"
    ops = {"sum": "SUM", "min": "MIN", "max": "MAX", "prod": "PRODUCT"}

    def __init__(self, rank, size, directory):
        import torch.distributed as dist

        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        self.dist, self.rank, self.size = dist, rank, size
        dist.init_process_group(
            "gloo",
            init_method=f"file://{os.path.join(os.path.abspath(directory), 'gloo')}",
            rank=rank,
            world_size=size,
            timeout=datetime.timedelta(seconds=120),
        )
        self.version = f"torch {torch.__version__}"

    def barrier(self):
        self.dist.barrier()

    def operation(self, collective, op, mine, whole, into):
        dist = self.dist
        op = getattr(dist.ReduceOp, self.ops[op])
        parts = list(whole.chunk(self.size)) if whole.numel() else []
        is_root = self.rank == ROOT
        calls = {
            "all_reduce": lambda: dist.all_reduce(whole, op=op),
            "broadcast": lambda: dist.broadcast(whole, ROOT),
            "reduce": lambda: dist.reduce(whole, ROOT, op=op),
            "all_gather": lambda: dist.all_gather(parts, mine),
            "gather": lambda: dist.gather(mine, parts if is_root else None, ROOT),
            "scatter": lambda: dist.scatter(mine, parts if is_root else None, ROOT),
            "all_to_all": lambda: dist.all_to_all_single(into, whole),
            "barrier": dist.barrier,
        }
        if collective not in calls:
            raise Unsupported(f"Gloo in torch has no {collective}")
        return calls[collective]

    def step(self, op, tensors):
        op = getattr(self.dist.ReduceOp, self.ops[op])

        def run():
            works = [self.dist.all_reduce(tensor, op=op, async_op=True) for tensor in tensors]
            for work in works:
                work.wait()

        return run


class Horovod:
    name = "Horovod"
    ops = {"sum": "Sum", "avg": "Average", "min": "Min", "max": "Max", "prod": "Product"}

    def __init__(self, rank, size, directory):
        place = os.path.join(directory, "horovod")
        if rank == 0:
            from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
            from horovod.runner.http.http_server import RendezvousServer

            self.server = RendezvousServer(0)
            port = self.server.start()
            self.server.init(get_host_assignments(parse_hosts(f"localhost:{size}"), size))
            with open(place + ".new", "w") as file:
                file.write(str(port))
            # Under its name only once it is whole.
            os.rename(place + ".new", place)
        give_up = time.monotonic() + 60
        while not os.path.exists(place):
            if time.monotonic() > give_up:
                raise RuntimeError("rank 0 has not started Horovod's rendezvous")
            time.sleep(0.01)
        with open(place) as file:
            port = file.read()
        os.environ.update(
            HOROVOD_RANK=str(rank),
            HOROVOD_SIZE=str(size),
            HOROVOD_LOCAL_RANK=str(rank),
            HOROVOD_LOCAL_SIZE=str(size),
            HOROVOD_CROSS_RANK="0",
            HOROVOD_CROSS_SIZE="1",
            HOROVOD_HOSTNAME="localhost",
            HOROVOD_GLOO_RENDEZVOUS_ADDR="127.0.0.1",
            HOROVOD_GLOO_RENDEZVOUS_PORT=port,
            HOROVOD_CONTROLLER="gloo",
            HOROVOD_CPU_OPERATIONS="gloo",
            HOROVOD_GLOO_IFACE="lo",
        )
        import horovod
        import horovod.torch as hvd

        hvd.init()
        self.hvd, self.rank, self.size = hvd, rank, size
        self.version = f"{horovod.__version__}, torch {torch.__version__}"

    def barrier(self):
        self.hvd.barrier()

    def operation(self, collective, op, mine, whole, into):
        hvd = self.hvd
        op = getattr(hvd, self.ops[op])

        def keep(result, into):
            # Horovod returns these in new tensors; a user who has a place for them copies.
            into.copy_(result)

        calls = {
            "all_reduce": lambda: hvd.allreduce_(whole, name="x", op=op),
            "broadcast": lambda: hvd.broadcast_(whole, ROOT, name="x"),
            "all_gather": lambda: keep(hvd.allgather(mine, name="x"), whole),
            "reduce_scatter": lambda: keep(hvd.reducescatter(whole, name="x", op=op), mine),
            "all_to_all": lambda: keep(hvd.alltoall(whole, name="x"), into),
            "barrier": hvd.barrier,
        }
        if collective not in calls:
            raise Unsupported(f"Horovod has no {collective}, or not on CPUs")
        return calls[collective]

    def step(self, op, tensors):
        hvd = self.hvd
        op = getattr(hvd, self.ops[op])

        def run():
            handles = [
                hvd.allreduce_async_(tensor, name=str(number), op=op)
                for number, tensor in enumerate(tensors)
            ]
            for handle in handles:
                hvd.synchronize(handle)

        return run


def pattern(count, rank, dtype):
    """Small whole numbers, so that sums are exact; each rank has others."""
    return ((torch.arange(count) % 1009 * (rank + 1)) % 1013).to(dtype)


def reduced(count, size, op, dtype):
    values = torch.stack([pattern(count, rank, torch.float64) for rank in range(size)])
    fold = {
        "sum": lambda: values.sum(0),
        "avg": lambda: values.mean(0),
        "min": lambda: values.min(0).values,
        "max": lambda: values.max(0).values,
        "prod": lambda: values.prod(0),
    }[op]
    return fold().to(dtype)


def differing(tensor, expected, op):
    if op in ("avg", "prod"):
        return int((~torch.isclose(tensor, expected)).sum())
    return int((tensor != expected).sum())


class Subject:
    """What is measured: an operation and how its result is checked."""

    def __init__(self, library, what):
        dtypes = {"f64": torch.float64, "f32": torch.float32, "i64": torch.int64, "i32": torch.int32}
        if what["dtype"] not in dtypes:
            raise Unsupported(f"{library.name} is measured with f64, f32, i64 and i32")
        if what["op"] not in library.ops:
            raise Unsupported(f"{library.name} is measured without {what['op']}")
        self.library, self.op, self.dtype = library, what["op"], dtypes[what["dtype"]]
        if "lengths" in what:
            self.collective = "step"
            self.tensors = [pattern(count, library.rank, self.dtype) for count in what["lengths"]]
            self.run = library.step(self.op, self.tensors)
        else:
            self.collective, self.count = what["collective"], what["count"]
            self.make_buffers()
            self.run = library.operation(self.collective, self.op, *self.tensors)

    def make_buffers(self):
        rank, size, count = self.library.rank, self.library.size, self.count
        whole = ("all_reduce", "broadcast", "reduce", "barrier")
        elements = count if self.collective in whole else count * size
        self.mine = pattern(count, rank, self.dtype)
        self.whole = pattern(elements, rank, self.dtype)
        self.into = torch.zeros(elements if self.collective == "all_to_all" else 0, dtype=self.dtype)
        self.tensors = [self.mine, self.whole, self.into]

    def wrong(self):
        rank, size = self.library.rank, self.library.size
        if self.collective == "step":
            return sum(
                differing(tensor, reduced(tensor.numel(), size, self.op, self.dtype), self.op)
                for tensor in self.tensors
            )
        if self.collective == "barrier" or rank != ROOT and self.collective in ("reduce", "gather"):
            return 0
        if self.collective in ("all_reduce", "reduce"):
            return differing(self.whole, reduced(self.count, size, self.op, self.dtype), self.op)
        if self.collective == "broadcast":
            return differing(self.whole, pattern(self.count, ROOT, self.dtype), "sum")
        if self.collective == "scatter":
            block = pattern(self.count * size, ROOT, self.dtype).chunk(size)[rank]
            return differing(self.mine, block, "sum")
        if self.collective == "reduce_scatter":
            whole = reduced(self.count * size, size, self.op, self.dtype)
            return differing(self.mine, whole.chunk(size)[rank], self.op)
        if self.collective == "all_to_all":
            sent = [pattern(self.count * size, other, self.dtype) for other in range(size)]
            blocks = torch.cat([of_rank.chunk(size)[rank] for of_rank in sent])
            return differing(self.into, blocks, "sum")
        blocks = torch.cat([pattern(self.count, other, self.dtype) for other in range(size)])
        return differing(self.whole, blocks, "sum")

    def begin(self):
        self.run()
        wrong = self.wrong()
        for tensor in self.tensors:
            # So that repeated reductions neither overflow nor become denormal.
            tensor.fill_(1 if self.op == "prod" else 0)
        return wrong

    def measure(self, batches, batch):
        times = [0] * batches
        self.library.barrier()
        before = time.perf_counter_ns()
        for number in range(batches):
            for _ in range(batch):
                self.run()
            after = time.perf_counter_ns()
            times[number] = after - before
            before = after
        return times


def main():
    global torch
    backend, rank, size, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    # What libraries print must not get between the answers.
    sys.stdout = sys.stderr
    import torch

    # One thread per rank, as the other contenders have.
    torch.set_num_threads(1)
    library = {"gloo": Gloo, "horovod": Horovod}[backend](rank, size, directory)
    answer(ready=library.name, version=library.version)
    subject = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if "begin" in command:
                subject = None
                subject = Subject(library, command["begin"])
                answer(wrong=subject.begin())
            else:
                answer(times_ns=subject.measure(**command["run"]))
        except Unsupported as error:
            answer(error=str(error))
    # Neither library ends in good order when ranks leave one by one.
    sys.stderr.flush()
    os._exit(0)


try:
    main()
except Exception as error:
    answer(error=f"{type(error).__name__}: {error}")
    raise SystemExit(1)
