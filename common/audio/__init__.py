"""Reading and writing audio files, and streams of blocks.

`reading`, `writing`, `tags` and `signals` are for everyone; the other modules serve these. Nothing here knows of noise
or networks.
"""
