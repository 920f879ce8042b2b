"""Pairs with white noise only: two independent draws of Gaussian noise on the same song."""

from common.cli import run
from common.data.merger_cli import merge, merger_parser
from common.data.noises import WhiteNoises


def main():
    merge("merger_white", merger_parser(__doc__, noises=False).parse_args(), lambda _: WhiteNoises())


if __name__ == "__main__":
    run(main)
