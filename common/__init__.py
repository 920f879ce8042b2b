"""The library behind the scripts and notebooks, in rooms.

Imports go one way: audio, network, denoising, data, evaluation, training, notebook, demo. A room knows those before it
and the modules beside this file (errors, small files, the command line), no others.
"""

from common import missing_packages

missing_packages.install()
