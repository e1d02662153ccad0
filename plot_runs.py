"""
The folders of runs -> a picture: loss over tokens and over time, learning rate, tokens a second.

    python plot_runs.py out/mydata                   # writes out/mydata/loss.png, as train.py does when it ends
    python plot_runs.py out/mydata out/mydata-2      # side by side, labelled by what differs in their arguments: runs.png
    python plot_runs.py out/* --out=all.png

A run may still be going. Needs matplotlib: pip install matplotlib
"""
import argparse
from pathlib import Path

from pipeline.errors import Parser, one_line_errors
from training.plots import plot

# columns that each row fills; a number as Python writes it: no spreadsheet's, no NaN














def main(argv=None):
    parser = Parser(prog="python plot_runs.py", usage="python plot_runs.py out/RUN [out/RUN ...] [--out=FILE]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dirs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, help="where to write (default loss.png in a run's folder, runs.png for several)")
    args = parser.parse_args(argv)
    path = args.out or (args.out_dirs[0] / "loss.png" if len(args.out_dirs) == 1 else Path("runs.png"))
    plot(args.out_dirs, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
