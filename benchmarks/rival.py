"""What the benchmarks share: parts of a nanoGPT checkout (--nanogpt PATH), and paired timing."""
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


def paired(a, b, rounds):
    """(median seconds of a, of b, median of the ratios a / b), timed A B A B ...

    The first round is not counted: it may compile, or find cold caches.
    """
    pairs = [(seconds(a), seconds(b)) for _ in range(rounds + 1)][1:]
    a_times, b_times = zip(*pairs)
    ratios = [x / y for x, y in pairs]
    return tuple(map(statistics.median, (a_times, b_times, ratios)))
