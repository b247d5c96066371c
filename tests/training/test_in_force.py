"""What a recipe says is what its run does: optimiser, schedule, gradients, mixing and averages of real steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from emim.models.trained_model import load_model
from emim.nn.blocks import DropPath
from emim.training.memory import _Checkpointed
from emim.training.module import ClassificationModule
from emim.training.recipe import find_recipe, load_recipe
from emim.training.run import train

# The published recipe on a tiny network and tiny clips; 33 clips make 8 steps of 2 passes an epoch.
RECIPE = "ssv2_s16_k400"
TINY = [
    "model.name=uniformer_tiny_emim",
    "model.checkpoint=null",
    "preprocessing.num_frames=4",
    "preprocessing.size=32",
    "trainer.epochs=2",
    "trainer.global_batch=4",
    "trainer.batch_size=2",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "optim.warmup_epochs=1",
    "data.workers=0",
]
STEPS_PER_EPOCH, EPOCHS = 8, 2


@dataclass
class Watched:
    """What was seen of a run.

    Attributes:
        groups: the optimiser's groups at each step, without the parameters.
        norms: norm of the whole gradient at each step, after clipping.
        after: the parameters after each step, by name.
        passes: clip positions and clips of each pass.
        module: what was trained.
        model: the file of the trained network.
    """

    groups: list[list[dict[str, Any]]] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    after: list[dict[str, Tensor]] = field(default_factory=list)
    passes: list[tuple[list[int], Tensor]] = field(default_factory=list)
    module: ClassificationModule | None = None
    model: Path = Path()


def watch(generated: Path, output: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Watched:
    seen = Watched()
    step = ClassificationModule.training_step

    def seeing_step(self: ClassificationModule, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        seen.module = self
        seen.passes.append((batch["index"].tolist(), batch["clip"].clone()))
        return step(self, batch, batch_idx)

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        seen.groups.append([{key: value for key, value in group.items() if key != "params"} for group in groups])

    def after(*_: Any) -> None:  # the step itself goes backwards and clips, so it shows only now
        assert seen.module is not None
        norms = [p.grad.norm() for p in seen.module.model.parameters() if p.grad is not None]
        seen.norms.append(torch.stack(norms).norm().item())
        seen.after.append({name: p.detach().clone() for name, p in seen.module.model.named_parameters()})

    monkeypatch.setattr(ClassificationModule, "training_step", seeing_step)
    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        words = [f"data.path={generated}", "data.val=null", "data.val_share=0", f"output={output}", *TINY, *more]
        seen.model = train(load_recipe(find_recipe(RECIPE), words), progress_bar=False).model
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_the_recipes_optimiser_schedule_and_mixing(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(generated, tmp_path, monkeypatch, "trainer.activation_checkpointing=[1, 0, 2, 0]")
    total, warmup = STEPS_PER_EPOCH * EPOCHS, STEPS_PER_EPOCH
    peak, floor = 2e-4 * 4 / 32, 1e-6  # linear in the clips a step; repeated augmentation does not count
    expected = [
        floor + (peak - floor) * k / warmup
        if k < warmup
        else floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (k - warmup) / (total - warmup)))
        for k in range(total)
    ]
    assert len(seen.groups) == total
    for groups, rate in zip(seen.groups, expected, strict=True):  # set anew for every step
        assert [group["lr"] for group in groups] == pytest.approx([rate] * len(groups))
        assert {group["weight_decay"] for group in groups} == {0.05, 0.0}
        assert {(group["eps"], *group["betas"]) for group in groups} == {(1e-8, 0.9, 0.999)}

    assert len(seen.passes) == 2 * total  # two passes a step
    for index, clip_BCTHW in seen.passes:
        assert index[0::2] == index[1::2]  # each clip twice, side by side
        assert len(index) == 4
        assert not torch.equal(clip_BCTHW[0], clip_BCTHW[1])  # with draws of their own

    module = seen.module
    assert module is not None
    mixer = module.mixer
    assert (mixer.mixup_alpha, mixer.cutmix_alpha, mixer.switch_prob, mixer.prob, mixer.label_smoothing) == (
        0.8, 1.0, 0.5, 1.0, 0.1
    )  # fmt: skip
    assert max(part.rate for part in module.model.modules() if isinstance(part, DropPath)) == 0.3
    stages = (module.model.blocks1, module.model.blocks2, module.model.blocks3, module.model.blocks4)
    assert [sum(isinstance(block.forward, _Checkpointed) for block in stage) for stage in stages] == [1, 0, 2, 0]
    assert module.trainer.gradient_clip_val == 20


def test_gradients_are_clipped_and_rates_fall_from_layer_to_layer(
    generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(generated, tmp_path, monkeypatch, "optim.clip_grad=0.01", "optim.layer_decay=0.5", "trainer.epochs=1")
    assert len(seen.norms) == STEPS_PER_EPOCH
    assert seen.norms == pytest.approx([0.01] * STEPS_PER_EPOCH, rel=1e-3)  # without it, none is below 0.1
    for groups in seen.groups:
        assert {round(math.log2(max(g["lr"] for g in groups) / group["lr"])) for group in groups} == set(range(8))


def test_the_averaged_weights_are_the_model(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(generated, tmp_path, monkeypatch, "trainer.ema=0.9", "trainer.epochs=1", "optim.lr=0.1")
    average = seen.after[0]
    for weights in seen.after[1:]:
        average = {name: 0.9 * average[name] + 0.1 * value for name, value in weights.items()}
    for name, value in load_model(seen.model)[0].named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(average["head.weight"], seen.after[-1]["head.weight"], atol=1e-5)
