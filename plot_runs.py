"""
Draw runs: loss over tokens and over time, learning rate, tokens per second.

    python plot_runs.py out/mydata                   # out/mydata/loss.png, as train.py writes it
    python plot_runs.py out/mydata out/mydata-2      # runs.png: both, labelled by what differs
    python plot_runs.py out/* --out=all.png
    python plot_runs.py out/* --html all.html        # a page: the mouse reads the curves off

A run may still be going. The pictures need matplotlib: pip install matplotlib
Pages need plotly, which they then hold: pip install plotly
"""
import argparse
from pathlib import Path

from pipeline.errors import Parser, one_line_errors
from training.plots import plot, write_curves_page


def main(argv=None):
    parser = Parser(prog="python plot_runs.py",
                    usage="python plot_runs.py out/RUN [out/RUN ...] [--out=FILE | --html=PAGE]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dirs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, help="the picture to write (default: loss.png in the "
                                                 "folder of one run, runs.png for several)")
    parser.add_argument("--html", type=Path, metavar="PAGE",
                        help="write a page for a browser instead of a picture")
    args = parser.parse_args(argv)
    if args.html:
        if args.out:
            parser.error("--out and --html cannot go together")
        write_curves_page(args.out_dirs, args.html)
        print(f"wrote {args.html}")
        return
    one_run = args.out_dirs[0] / "loss.png"
    path = args.out or (one_run if len(args.out_dirs) == 1 else Path("runs.png"))
    plot(args.out_dirs, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    with one_line_errors():
        main()
