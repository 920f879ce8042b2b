"""Songs and noises on disk, the mixing law, merged datasets with their manifests, segments, and pools of decoded audio.

The merger scripts call `mergers`; training reads `pairs` and `pool`. Of networks only the sample rate is known.
"""
