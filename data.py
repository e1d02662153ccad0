"""For a prepare.py that was made when the library lay in data/: `from data.dataset import
write_dataset` and its like still work. A new one imports from pipeline.prepare."""
import sys
from pathlib import Path

from pipeline import prepare

__path__ = [str(Path(__file__).with_name("data"))]  # the folder, for data.check_dataset and the like
for _name in ("catalogue", "dataset", "errors", "files", "inputs", "prepare_args", "streams",
              "tokenizer"):
    sys.modules[f"{__name__}.{_name}"] = prepare
