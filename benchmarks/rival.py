"""What the benchmarks share: parts of a nanoGPT checkout (--nanogpt PATH), and timing in turns."""
import argparse
import ast
import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(os.path.abspath(__file__)).parents[1]
sys.path.insert(0, str(ROOT))
from pipeline.threads import set_environment

STARTED_WITH = dict(os.environ)  # for processes that choose their threads, or nanoGPT its own way
set_environment()  # before torch is imported: what both sides compute in this process


def parser(doc):
    """A parser that has --nanogpt already."""
    p = argparse.ArgumentParser(description=doc,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nanogpt", type=Path, required=True,
                   help="a checkout of github.com/karpathy/nanoGPT")
    return p


def function_of(script, name, namespace):
    """The function `name` of a script that cannot be imported, defined in namespace."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)
                 and node.name == name]
    exec(compile(tree, str(script), "exec"), namespace)
    return namespace[name]


def iteration_of(script, namespace):
    """One iteration of nanoGPT's loop as a function: the statements in the `while True:` of its
    train.py from the first micro-batch to zero_grad, word for word. They run in namespace."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    loop = next(node.body for node in tree.body if isinstance(node, ast.While))
    first = next(i for i, node in enumerate(loop) if "micro_step in range" in ast.unparse(node))
    last = next(i for i, node in enumerate(loop) if "optimizer.zero_grad" in ast.unparse(node))
    tree.body = loop[first : last + 1]
    code = compile(tree, str(script), "exec")
    return lambda: exec(code, namespace)


def module_of(script, name="rival_module"):
    """A script as a module, under a name that hides none of ours."""
    spec = importlib.util.spec_from_file_location(name, script)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds(work):
    t0 = time.perf_counter()
    work()
    return time.perf_counter() - t0


def in_turn(works, rounds):
    """{name: seconds of each round} of the functions in works, timed A B C A B C ...

    The first round is not counted: it may compile, or find cold caches. On a GPU each function has
    to wait for its work by synchronize(), or only the launching of kernels is timed.
    """
    timed = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {name: [times[name] for times in timed] for name in works}


def paired(a, b, rounds):
    """(median seconds of a, of b, median of the ratios a / b), timed by in_turn()."""
    times = in_turn({"a": a, "b": b}, rounds)
    ratios = [x / y for x, y in zip(times["a"], times["b"])]
    return tuple(map(statistics.median, (times["a"], times["b"], ratios)))


def synchronize(device):
    """Wait until the device has done all that it was given. CPUs have at once."""
    if device.type == "cuda":
        import torch
        torch.cuda.synchronize(device)
