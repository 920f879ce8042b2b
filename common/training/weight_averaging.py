"""The mean of the weights of several networks that were fine-tuned from one network for different noises.

Such weights lie so close together that the network of their mean computes nearly the mean of their outputs, at the
cost of one network (model soups, Wortsman et al. 2022).
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.network.checkpoints import code_commit, load_weights
from common.network.model import Denoiser


def average(files: Sequence[str | Path]) -> tuple[Denoiser, dict]:
    """Return the mean of weights files, without confidences and classifier, and its info.

    A file given twice counts twice. Settings that differ between the files become lists. Raises UserError for networks
    or transforms of different form.
    """
    loaded = [load_weights(file) for file in files]
    forms = [model.network.settings() | {"compression": float(model.network.compression)} | vars(model.stft)
             for model, _ in loaded]
    for file, form in zip(files, forms, strict=True):
        differ = [f"{name} {forms[0][name]} and {form[name]}" for name in form if form[name] != forms[0][name]]
        if differ:
            raise UserError(f"expected networks of one form, but {files[0]} and {file} have {', '.join(differ)}: "
                            "average weights that were fine-tuned from one network")
    model = loaded[0][0]
    states = [other.state_dict() for other, _ in loaded]
    model.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point()
                           else first for name, first in states[0].items()})
    model.confidence = model.print_confidence = model.classifier = None
    infos = [info for _, info in loaded]
    names = dict.fromkeys(name for info in infos for name in info.get("settings", {}))
    settings = {name: _common([info.get("settings", {}).get(name) for info in infos]) for name in names}
    return model, {"method": _common([info.get("method") for info in infos]), "commit": code_commit(),
                   "settings": settings, "averaged": [str(file) for file in files]}


def _common(values):
    """Return the value if all are equal, otherwise the list of different ones."""
    distinct = [value for i, value in enumerate(values) if value not in values[:i]]
    return distinct[0] if len(distinct) == 1 else distinct
