"""Denoise songs: `python denoise.py song.mp3` writes song.denoised.mp3."""

from common.denoising.__main__ import command

if __name__ == "__main__":
    command()
