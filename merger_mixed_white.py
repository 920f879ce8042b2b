"""Pairs with real and white noises: either noise of a pair is white with probability one half."""

from common.cli import run
from common.data.merger_cli import merge, merger_parser
from common.data.noises import MixedNoises


def main():
    merge("merger_mixed_white", merger_parser(__doc__).parse_args(), MixedNoises)


if __name__ == "__main__":
    run(main)
