"""Make pairs for one noise class: INPUT has a noise of class N, TARGET a noise of another class.

    python merger_class.py --class-num 8 --path-songs SONGS --path-noises NOISES --iter-songs 10 --iter-noise 5 \\
        --input-dir data/train/input --target-dir data/train/target
"""

from common.cli import run
from common.data.mergers import merge, merger_parser
from common.labels import CLASS_NAMES


def main():
    parser = merger_parser(__doc__)
    names = ", ".join(f"{n} {name}" for n, name in enumerate(CLASS_NAMES))
    parser.add_argument("--class-num", type=int, choices=range(len(CLASS_NAMES)), required=True, metavar="N",
                        help=f"noise class of the input: {names}")
    merge("merger_class", parser.parse_args())


if __name__ == "__main__":
    run(main)
