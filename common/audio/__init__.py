"""Reading and writing audio files, and streams of blocks.

Other rooms use `reading`, `writing`, `formats`, `tags` and `signals`. Nothing here depends on noise or networks.
"""
