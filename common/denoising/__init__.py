"""Denoising of long audio, files and folders; `python -m common.denoising`. Modules here know nothing of training."""
