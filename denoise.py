"""Denoise songs: `python denoise.py song.mp3` writes song.denoised.mp3."""

from common.cli import run
from common.denoising.__main__ import main

if __name__ == "__main__":
    run(main)
