"""Keeps an old prepare.py working, one made when the library was in data/: it imports data.dataset
and the like. A new one imports from pipeline.prepare."""
import sys
import types
from pathlib import Path

from pipeline import prepare
from pipeline.prepare import part_of_speech

__path__ = [str(Path(__file__).with_name("data"))]  # the folder, for data.check_dataset
_old = types.ModuleType("data.old")  # the names of today, and those that have changed since
vars(_old).update(
    vars(prepare), inputs=prepare.read_inputs, writing=prepare.write_options,
    arguments=prepare.dataset_parser, hub=prepare.hub_dataset, web=prepare.web_files,
    package=prepare.package_files, tokenizer_for=prepare.chosen_tokenizer)
sys.modules |= {f"{__name__}.{name}": _old for name in (
    "catalogue", "dataset", "errors", "files", "inputs", "prepare_args", "streams", "tokenizer")}
sys.modules[f"{__name__}.part_of_speech"] = part_of_speech
