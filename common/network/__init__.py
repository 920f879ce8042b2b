"""The Deep Complex U-Net: layers, transforms, weights files, and what it takes to compute with them.

From waveform to waveform it is `model`, from and to a file `checkpoints`, for speed `inference`, for others `export`.
Nothing here knows of audio files or training.
"""
