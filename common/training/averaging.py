"""One network whose weights are the mean of several, which were fine-tuned from one network for different noises.

Such networks lie so near each other that the mean of their weights computes about what the mean of their outputs
would be, at the price of one of them (model soups, Wortsman et al. 2022); what each alone takes for noise counts less.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from common.errors import UserError
from common.network.checkpoints import code_commit, load_weights
from common.network.model import Denoiser


def average(files: Sequence[str | Path]) -> tuple[Denoiser, dict]:
    """The mean of weights files, without confidence, and its info; a file given twice counts twice.

    Of what the files say of themselves, settings that differ become lists. Raises UserError for networks or transforms
    of different form.
    """
    loaded = [load_weights(file) for file in files]
    forms = [model.network.settings() | vars(model.stft) for model, _ in loaded]
    for file, form in zip(files, forms, strict=True):
        if form != forms[0]:
            differ = ", ".join(f"{name} {forms[0][name]} and {form[name]}" for name in form
                               if form[name] != forms[0][name])
            raise UserError(f"expected networks of one form, but {files[0]} and {file} have {differ}: average weights "
                            "that were fine-tuned from one network")
    model = loaded[0][0]
    states = [other.state_dict() for other, _ in loaded]
    model.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point()
                           else first for name, first in states[0].items()})
    model.confidence = None
    infos = [info for _, info in loaded]
    names = dict.fromkeys(name for info in infos for name in info.get("settings", {}))
    return model, {"method": _common([info.get("method") for info in infos]), "commit": code_commit(),
                   "settings": {name: _common([info.get("settings", {}).get(name) for info in infos])
                                for name in names},
                   "averaged": [str(file) for file in files]}


def _common(values):
    """The value, if it is one, else all that differ."""
    distinct = [value for i, value in enumerate(values) if value not in values[:i]]
    return distinct[0] if len(distinct) == 1 else distinct
