"""Songs and noises on disk, the mixing law, merged pairs with their manifests, segments, and pools.

The merger scripts call `merger_cli`, training reads `pairs` and `pool`. Of the network only the sample rate is known.
"""
