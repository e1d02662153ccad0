"""
Draw runs: loss over tokens and over time, learning rate, tokens per second.

    python plot_runs.py out/mydata                   # out/mydata/loss.png, as train.py writes it
    python plot_runs.py out/mydata out/mydata-2      # runs.png: both, labelled by what differs
    python plot_runs.py out/* --out=all.png

A run may still be going. The pictures need matplotlib: pip install matplotlib
"""
import argparse
from pathlib import Path

from pipeline.errors import Parser, one_line_errors
from training.plots import plot


def main(argv=None):
    parser = Parser(prog="python plot_runs.py",
                    usage="python plot_runs.py out/RUN [out/RUN ...] [--out=FILE]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dirs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, help="the picture to write (default: loss.png in the "
                                                 "folder of one run, runs.png for several)")
    args = parser.parse_args(argv)
    one_run = args.out_dirs[0] / "loss.png"
    path = args.out or (one_run if len(args.out_dirs) == 1 else Path("runs.png"))
    plot(args.out_dirs, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
