"""The rules of the house: who imports whom, how long lines and functions are, what a run loads.

Run: python -m pytest tests/test_house.py
"""
import ast
import re
import shutil
import subprocess
import sys

import pytest
from conftest import copy_program
from helpers import ROOT, TINY, char_dataset, child_env, only_line, python, says

FILES = sorted(path for path in (*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py"))
               if not path.relative_to(ROOT).parts[0].startswith(".") and "out" not in path.parts)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
LIBRARY = [name for name in NAMES if not name.startswith(("tests/", "benchmarks/"))]
COMMANDS = ("train", "sample", "export", "audit", "evaluate", "plot_runs", "data.check_dataset",
            "data.combine_datasets", "data.list_datasets")
MAX_COLUMNS, MAX_LINES, MAX_PARAMETERS, MAX_LINES_OF_TRAIN = 100, 60, 6, 400


# rules that rooms being rewritten beside this one may break until they are merged; then delete this

def tree_of(name):
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imports(name):
    """Every module that a file imports, at its top or within a function: `pipeline.read.folder` for
    `from pipeline.read import folder` and for `from pipeline.read.folder import open_dataset`."""
    found = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: line {node.lineno}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def below(modules, *packages):
    """Those of modules that are one of the packages, or lie in one."""
    return {m for m in modules if any(f"{m}.".startswith(f"{package}.") for package in packages)}


RULES = [  # files; what they may not import; files that may
    ("pipeline/read/", ["pipeline.prepare", "pipeline.get", "training", "model"], []),
    ("pipeline/tokenizers/", ["pipeline.prepare", "pipeline.read", "training"], []),
    ("pipeline/tokenizers/", ["pipeline.get"], ["pipeline/tokenizers/bpe.py"]),
    ("pipeline/get/", ["pipeline.prepare", "pipeline.read", "training"], []),
    ("pipeline/prepare/", ["training", "model"], []),
    ("training/", ["pipeline.prepare"], []),
    ("training/", ["pipeline.get"], ["training/published.py"]),
    ("train.py", ["pipeline.prepare", "pipeline.get"], []),
    ("train_args.py", ["pipeline.prepare", "pipeline.get", "torch"], []),
    ("sample.py", ["pipeline.prepare", "pipeline.get"], []),
    ("audit.py", ["pipeline.prepare", "pipeline.get"], []),
    ("pipeline/read/audit.py", ["torch"], []),
    ("pipeline/read/sampler.py", ["torch", "pipeline", "os", "io", "pathlib"], []),
    ("model.py", ["pipeline", "training"], []),
    ("optim.py", ["pipeline.prepare", "pipeline.get"], []),
    ("pipeline/", list(COMMANDS), []),
    ("training/", list(COMMANDS), []),
    ("data/", list(COMMANDS), []),
    ("pipeline/errors.py", ["pipeline"], []),
    ("pipeline/threads.py", ["pipeline", "numpy"], []),
]


@pytest.mark.parametrize("files, packages, except_for", RULES,
                         ids=[f"{files} {' '.join(packages)}" for files, packages, _ in RULES])
def test_imports_run_one_way(files, packages, except_for):
    names = [name for name in LIBRARY if name.startswith(files) and name not in except_for]
    assert names
    wrong = {name: found for name in names if (found := below(imports(name), *packages))}
    assert not wrong


def test_no_file_of_the_root_imports_a_command():
    for name in LIBRARY:
        if "/" not in name:
            found = below(imports(name), *COMMANDS)
            assert not found, f"{name} imports {found}"


@pytest.mark.parametrize("name", [name for name in LIBRARY if name.endswith("/prepare.py")])
def test_a_prepare_py_imports_from_pipeline_prepare_its_own_folder_and_python_alone(name):
    neighbours = {path.parent.name for path in ROOT.glob("data/*/prepare.py")} | {
        path.stem for path in ROOT.glob("data/*/*.py")}
    tops = {module.split(".")[0] for module in imports(name)}
    assert "torch" not in tops
    other = {module for module in imports(name) if module.split(".")[0] == "pipeline"
             and not below([module], "pipeline.prepare")}
    assert not other - {"pipeline"}, f"{name} imports {other}"
    folder_modules = {module.split(".")[1] for module in imports(name)
                      if module.startswith("data.") and "." in module}
    assert not folder_modules - neighbours
    allowed = {*sys.stdlib_module_names, "pipeline", "numpy", "data", *neighbours}
    assert not tops - allowed, f"{name} imports {tops - allowed}"


def test_data_holds_datasets_and_commands_and_no_module():
    here = {path.name for ending in ("py", "sh") for path in (ROOT / "data").glob(f"*.{ending}")}
    assert here == {"check_dataset.py", "combine_datasets.py", "list_datasets.py",
                    "create_new_dataset.sh"}


# ---- what a run loads


LOADED = """
import runpy, sys
sys.path.insert(0, {root!r})
sys.argv = {argv!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    loaded = [m for m in sys.modules if m.startswith(("pipeline.get", "pipeline.prepare"))]
    print("loaded:", *loaded)
"""


def loaded_by(root, cwd, *argv):
    """The modules of pipeline.get and pipeline.prepare that a command has loaded when it ends."""
    code = LOADED.format(root=str(root), argv=[str(root / argv[0]), *argv[1:]])
    child = python("-c", code, cwd=cwd, PYTHONDONTWRITEBYTECODE="1")
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()[-1].split()[1:]


@pytest.fixture(scope="module")
def read_only_checkout(tmp_path_factory):
    """{command: the modules it has loaded}, of a checkout in which nothing can be written, with a
    dataset in a folder elsewhere and a run in a working directory elsewhere."""
    root = copy_program(tmp_path_factory.mktemp("checkout") / "repo")
    folder = char_dataset(tmp_path_factory.mktemp("disk") / "big")
    cwd = tmp_path_factory.mktemp("cwd")
    everything = [root, *root.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in everything}
    for path in everything:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        loaded = {argv[0]: loaded_by(root, cwd, *argv) for argv in (
            ["train.py", *TINY, f"--dataset={folder}", "--max_iters=1", "--out_dir=o"],
            ["sample.py", "--out_dir=o", "--max_new_tokens=2", "--device=cpu"],
            ["data/check_dataset.py", str(folder)])}
    finally:
        for path in everything:
            path.chmod(path.stat().st_mode | 0o200)
    assert (cwd / "o" / "ckpt.pt").exists()
    # a test that runs as root may write anywhere, so look whether anything was written
    assert before == {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    return loaded


@pytest.mark.long
def test_a_read_only_checkout_works_with_data_and_runs_elsewhere(read_only_checkout):
    assert list(read_only_checkout) == ["train.py", "sample.py", "data/check_dataset.py"]


@pytest.mark.long
@pytest.mark.parametrize("command", ["train.py", "sample.py"])
def test_training_and_sampling_our_own_folder_load_neither_get_nor_prepare(
        read_only_checkout, command):
    assert read_only_checkout[command] == []


@pytest.mark.long
def test_checking_our_own_folder_loads_neither_get_nor_prepare(read_only_checkout):
    assert read_only_checkout["data/check_dataset.py"] == []


# ---- a Python without the packages


SCRIPTS = [name for name in LIBRARY if 'if __name__ == "__main__"' in
           (ROOT / name).read_text(encoding="utf-8")]


def test_every_script_imports_from_pipeline_first():
    """Which tells in one line that numpy, torch or another package is missing."""
    assert len(SCRIPTS) > 40
    for name in SCRIPTS:
        nodes = [node for node in ast.walk(tree_of(name))
                 if isinstance(node, ast.Import | ast.ImportFrom)]
        found = [getattr(node, "module", node.names[0].name) for node in nodes]
        others = [module for module in found if module.split(".")[0] not in sys.stdlib_module_names]
        # of what lies in data/ and in train_args.py, the first import is of pipeline, too
        assert others[0].split(".")[0] in ("pipeline", "data"), (name, others[0])


@pytest.mark.parametrize("name", ["train.py", "data/check_dataset.py", "data/template/prepare.py"])
def test_a_python_without_packages_is_told_in_one_line(name):
    child = python("-S", name)  # -S: without those that are installed
    assert child.returncode == 2
    says(only_line(child.stderr), "has no package numpy", "ctivate", sys.executable,
         "-m pip install -r requirements.txt")


# ---- where data may lie


@pytest.mark.long
def test_data_may_be_a_link_to_a_big_disk(tmp_path):
    """prepare.py, check_dataset.py and train.py find each other through the link."""
    root, disk = copy_program(tmp_path / "repo"), tmp_path / "disk" / "datasets"
    disk.parent.mkdir()
    shutil.move(root / "data", disk)
    (root / "data").symlink_to(disk)
    made = subprocess.run(["bash", root / "data" / "create_new_dataset.sh", "mine"],
                          capture_output=True, text=True, env=child_env())
    assert made.returncode == 0, made.stderr
    (disk / "mine" / "input.txt").write_text("the quick brown fox\n" * 200)
    for argv in (["data/mine/prepare.py"], ["data/check_dataset.py", "mine"],
                 ["train.py", *TINY, "--dataset=mine", "--max_iters=1", "--out_dir=o"]):
        child = python(*argv, cwd=root)
        assert child.returncode == 0, (argv, child.stderr)
    assert (disk / "mine" / "meta.pkl").exists() and (root / "o" / "ckpt.pt").exists()


# ---- a line, a function, a file


def test_no_line_is_longer_than_100_columns():
    lines = ((name, i, line) for name in NAMES for i, line in
             enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1))
    assert not [(name, i) for name, i, line in lines if len(line) > MAX_COLUMNS]


def functions(name):
    return [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.FunctionDef)]


def builds_arguments(function):
    """Whether most of a function is a table of command-line flags."""
    adds = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)
            and node.attr in ("add_argument", "add_argument_group")]
    return len(adds) > 3


def test_no_function_is_longer_than_60_lines():
    sizes = {(name, f.name): f.end_lineno - f.lineno + 1 for name in LIBRARY
             for f in functions(name) if not builds_arguments(f)}
    assert not {where: size for where, size in sizes.items() if size > MAX_LINES}


def num_parameters(function):
    args = function.args
    return len([*args.posonlyargs, *args.args, *args.kwonlyargs])


def test_train_py_is_short_and_its_functions_take_few_parameters():
    lines = (ROOT / "train.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES_OF_TRAIN
    many = {f.name: num_parameters(f) for f in functions("train.py")
            if num_parameters(f) > MAX_PARAMETERS}
    assert not many


def test_no_two_functions_of_the_library_have_one_name():
    """Methods aside, and main() and parse_args() of each command; a dataset's folder is its own."""
    homes = {}
    for name in LIBRARY:
        for node in tree_of(name).body if not re.match("data/[^/]+/", name) else ():
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name)
    assert not {function: where for function, where in homes.items()
                if len(where) > 1 and function not in ("main", "parse_args")}


def test_the_map_in_pipeline_names_every_file_and_room():
    """The glossary and the map at the head of pipeline/__init__.py stay complete."""
    told = (ROOT / "pipeline" / "__init__.py").read_text(encoding="utf-8")
    for path in (ROOT / "pipeline").iterdir():
        if path.name not in ("__init__.py", "__pycache__"):
            assert re.search(rf"\b{re.escape(path.name)}", told), path.name
