"""data/create_new_dataset.sh with a path, with names of modules, and beside a linked data/.

Run: python -m pytest tests/test_create.py
(tests/test_prepare.py has it with a name, tests/test_streams.py with --streams_of.)
"""
import os
import shutil
import subprocess

import pytest
from conftest import copy_program
from helpers import child_env, only_line

from pipeline.read.folder import open_dataset


def create(repo, *argv, cwd):
    return subprocess.run(["bash", repo / "data/create_new_dataset.sh", *argv], env=child_env(),
                          cwd=cwd, capture_output=True, text=True)


def run_lines(text, cwd):
    """Type the commands in a shell, as printed."""
    return subprocess.run(["bash", "-ec", text], cwd=cwd, env=child_env(), capture_output=True,
                          text=True)


@pytest.mark.parametrize("typed", ["{disk}/big one/mine/", "../disk/big one/mine"])
def test_a_dataset_can_lie_anywhere_and_the_printed_commands_work(repo, tmp_path, typed):
    (tmp_path / "disk/big one").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    folder = tmp_path / "disk/big one/mine"
    made = create(repo, typed.format(disk=tmp_path / "disk"), cwd=tmp_path / "here")
    assert made.returncode == 0 and made.stderr == ""
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "get_dataset.sh", "prepare.py"]
    assert not any("NAME" in p.read_text() or "@" in p.read_text() for p in folder.iterdir())
    assert sorted(os.listdir(tmp_path / "disk/big one")) == ["mine"]
    assert f"  0. cd {repo}\n" in made.stdout
    (folder / "input.txt").write_text("abc" * 400)
    command = next(line[5:].split("  ")[0] for line in made.stdout.splitlines()
                   if line.startswith("  2. "))
    assert command.startswith("python ") and command.endswith("/mine/prepare.py")
    for cwd in (repo, tmp_path):  # its prepare.py knows where the program is
        run = run_lines(command, cwd)
        assert run.returncode == 0 and run.stdout.startswith("mine: train 1,080 tokens"), run.stderr
    run = run_lines(f'cd {tmp_path}; bash "{folder}/get_dataset.sh"', tmp_path)
    assert run.returncode == 0, run.stderr
    assert open_dataset(f"{folder}").num_tokens == {"train": 1080, "val": 120}
    assert "train.py --dataset=" in made.stdout and made.stdout.strip().endswith("one/mine")


def test_a_dataset_of_the_hub_is_one_line_to_change(repo):
    try:
        made = create(repo, "mystories", "--hub", "someone/some-stories", cwd=repo)
        folder = repo / "data/mystories"
        assert made.returncode == 0 and "python data/mystories/prepare.py" in made.stdout
        text = (folder / "prepare.py").read_text()
        assert text.count("someone/some-stories") == 2 and "TinyStories" not in text
        assert "tiny-stories" not in text + (folder / "get_dataset.sh").read_text()
        run = run_lines("bash data/mystories/get_dataset.sh --offline", repo)
        assert run.returncode == 2 and "someone/some-stories" in only_line(run.stderr)
    finally:
        shutil.rmtree(repo / "data/mystories", ignore_errors=True)


@pytest.mark.parametrize("hub", ["", "stories", "a/b/c", "a/", "a b/c", "https://x.y/z"])
def test_what_is_no_repository_of_the_hub_is_one_line(repo, hub):
    made = create(repo, "mystories", "--hub", hub, cwd=repo)
    assert made.returncode == 2 and "--hub" in only_line(made.stderr)
    assert not (repo / "data/mystories").exists()


def test_a_path_into_data_is_the_same_as_a_name(repo):
    try:
        made = create(repo, "data/by_path", cwd=repo)
        assert made.returncode == 0 and "--dataset=by_path\n" in made.stdout
        assert "data/by_path/" in (repo / "data/by_path/prepare.py").read_text()
        assert str(repo) not in (repo / "data/by_path/prepare.py").read_text()
    finally:
        shutil.rmtree(repo / "data/by_path", ignore_errors=True)


@pytest.mark.parametrize("path, facts", [
    ("no/such", ["no", "mkdir -p no"]), ("../two words", ["'two words' cannot be a name"]),
    ("./.x", ["'.x' cannot be a name"]), ("..", ["'..' cannot be a name"]), ("/x", ["/x"]),
    ("/", ["error"]), ("it's/x", ["it's/x"]), ("taken/", ["taken exists already"])])
def test_a_path_that_cannot_be_is_one_line_and_nothing_is_made(repo, tmp_path, path, facts):
    (tmp_path / "here/taken").mkdir(parents=True)
    (tmp_path / "here/it's").mkdir()
    run = create(repo, path, cwd=tmp_path / "here")
    assert run.returncode == 2 and run.stdout == ""
    assert all(fact in only_line(run.stderr) for fact in facts)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["here", "it's", "taken"]


@pytest.mark.parametrize("name", ["tokenizer", "dataset", "streams", "download", "json"])
def test_a_name_that_a_module_has_is_a_name_like_others(new_dataset, name):
    folder = new_dataset(name, "abc" * 100)
    run = subprocess.run(["bash", folder / "get_dataset.sh"], env=child_env(), capture_output=True,
                         text=True)
    assert run.returncode == 0 and run.stdout.startswith(f"{name}: train 270 tokens"), run.stderr


def test_data_may_be_a_link_to_another_disk(tmp_path):
    repo = copy_program(tmp_path / "repo")
    shutil.move(repo / "data", tmp_path / "disk")
    (repo / "data").symlink_to(tmp_path / "disk")
    assert create(repo, "mine", cwd=tmp_path).returncode == 0
    (repo / "data/mine/input.txt").write_text("abc" * 100)
    for command in ("python data/mine/prepare.py", "bash data/mine/get_dataset.sh",
                    "cd data/mine; bash get_dataset.sh"):
        run = run_lines(command, repo)
        assert run.returncode == 0 and run.stdout.startswith("mine: train 270 tokens"), run.stderr
    listed = run_lines("python data/list_datasets.py", repo)
    assert listed.returncode == 0 and "\n* mine " in listed.stdout
