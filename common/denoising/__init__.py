"""Long audio through a network: noise prints, which weights, files and folders; `python -m common.denoising`.

`files` denoises an array or a file, `auto` chooses weights. Nothing here knows of training.
"""
