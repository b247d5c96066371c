"""Which frames and places a decision rests on.

Shape suffixes: B batch, C channels, K classes, T frames; H and W the grid of the last features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emim.models import UniFormer


def class_relevance(model: UniFormer, clip_BCTHW: Tensor, class_index: int) -> Tensor:
    """How much each frame and place of the last features speaks for a class: gradient times feature.

    The head is linear in the mean of the features, so the sum over channels of feature times gradient is exactly what
    a place adds to the class's logit. What all classes get alike is taken off, since it decides nothing: the logit is
    compared with the mean over the classes. Negative values speak against the class.

    Args:
        model: the network; it runs in evaluation mode and is left as it was.
        clip_BCTHW: normalised clip.
        class_index: the class.

    Returns:
        relevance_BTHW; its sum over T, H and W is the class's logit less the mean logit, but for the bias of the head.

    Raises:
        IndexError: there is no such class.
    """
    if not 0 <= class_index < model.num_classes:
        raise IndexError(f"class {class_index} is not one of the {model.num_classes} classes")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            features_BCTHW = model.forward_features(clip_BCTHW)
        with torch.enable_grad():
            features_BCTHW = features_BCTHW.detach().float().requires_grad_()
            logits_BK = model.forward_head(features_BCTHW)
            over_others = (logits_BK[:, class_index] - logits_BK.mean(1)).sum()
            (gradient_BCTHW,) = torch.autograd.grad(over_others, features_BCTHW)
        return (gradient_BCTHW * features_BCTHW).sum(1).detach()
    finally:
        model.train(was_training)
