"""Make pairs with white noise: INPUT and TARGET are a song with two independent Gaussian noises.

    python merger_white.py --path-songs SONGS --iter-songs 10 --iter-white-noise 5 \\
        --input-dir data/train/input --target-dir data/train/target
"""

from common.cli import run
from common.data.mergers import merge, merger_parser


def main():
    merge("merger_white", merger_parser(__doc__, noises=False).parse_args(), white_share=1.0)


if __name__ == "__main__":
    run(main)
