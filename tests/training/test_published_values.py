"""Every value of the published recipes, as it is in force after reading the file."""

from __future__ import annotations

import pytest

from emim.data.augment.randaugment import RandAugment
from emim.models import create_model
from emim.training.batch_plan import plan_batches
from emim.training.config import RunConfig
from emim.training.memory import checkpoint_activations
from emim.training.recipe import find_recipe, load_recipe

# network, frames, epochs, warm-up, learning rate, at batch, drop path, gradient norm, checkpointed blocks, test clips
ROWS = {
    "ssv1_s16_in1k": ("small", 16, 60, 5, 2e-4, 32, 0.2, 20, (0, 0, 0, 0), 1),
    "ssv1_s16_k400": ("small", 16, 60, 5, 2e-4, 32, 0.25, 20, (0, 0, 0, 0), 1),
    "ssv1_b32_k400": ("base", 32, 60, 5, 4e-4, 64, 0.55, 20, (0, 0, 20, 0), 1),
    "ssv2_s16_k400": ("small", 16, 50, 5, 2e-4, 32, 0.3, 20, (0, 0, 0, 0), 1),
    "ssv2_b16_k400": ("base", 16, 50, 5, 2.5e-4, 40, 0.4, 20, (0, 0, 0, 0), 1),
    "ssv2_b32_k400": ("base", 32, 50, 5, 8e-4, 128, 0.45, 20, (0, 0, 20, 0), 2),
    "k400_s16": ("small", 16, 110, 10, 2e-4, 64, 0.0875, 20, (0, 0, 0, 0), 4),
    "k400_b16": ("base", 16, 110, 10, 5e-4, 160, 0.3, 5, (0, 0, 20, 0), 4),
    "k400_b32": ("base", 32, 110, 10, 8e-4, 256, 0.4, 20, (5, 8, 20, 0), 4),
    "diving48_s16_k400": ("small", 16, 50, 5, 2e-4, 32, 0.3, 20, (0, 0, 0, 0), 1),
}


def recipe(name: str) -> RunConfig:
    return load_recipe(find_recipe(name))


@pytest.mark.parametrize("name", ROWS)
def test_what_differs_between_the_recipes(name: str) -> None:
    config = recipe(name)
    optim, trainer = config.optim, config.trainer
    assert (
        config.model.name.removeprefix("uniformer_").removesuffix("_emim"), config.preprocessing.num_frames,
        trainer.epochs, optim.warmup_epochs, optim.lr, optim.lr_batch, config.model.drop_path, optim.clip_grad,
        trainer.activation_checkpointing, config.preprocessing.clips,
    ) == ROWS[name]  # fmt: skip
    assert str(config.model.checkpoint).endswith("_in1k.pth") == (name.endswith("in1k") or name.startswith("k400"))
    assert trainer.global_batch == optim.lr_batch


@pytest.mark.parametrize("name", ROWS)
def test_what_they_share(name: str) -> None:
    config = recipe(name)
    optim, mix, augment, pre = config.optim, config.mix, config.augment, config.preprocessing
    assert (optim.weight_decay, optim.eps, optim.min_lr, optim.layer_decay) == (0.05, 1e-8, 1e-6, 1.0)
    assert (mix.mixup, mix.cutmix, mix.switch_prob, mix.prob, mix.label_smoothing) == (0.8, 1.0, 0.5, 1.0, 0.1)
    assert (augment.crop_scale, augment.crop_ratio) == ((0.08, 1.0), (0.75, 1.3333))
    assert (augment.erasing, augment.randaugment) == (0.25, "rand-m7-n4-mstd0.5-inc1")
    assert RandAugment.parse("rand-m7-n4-mstd0.5-inc1") == RandAugment(7, 4, 0.5, increasing=True)
    assert (pre.size, pre.training_size, pre.fit, pre.crops, pre.antialias) == (224, 224, "crop", 3, False)
    assert not pre.square_pixels
    assert (pre.mean, pre.std) == ((0.45,) * 3, (0.225,) * 3)
    assert (config.trainer.repeats, config.trainer.keep, config.trainer.ema) == (2, "last", 0.0)
    assert config.model.stem_stride == 1
    assert config.model.window == 7


@pytest.mark.parametrize("name", ROWS)
def test_sampling_and_flips_are_those_of_the_data_set(name: str) -> None:
    config = recipe(name)
    kinetics = name.startswith("k400")
    assert config.preprocessing.sampling == ("dense" if kinetics else "segment")
    assert config.preprocessing.stride == 4
    assert config.augment.flip == (0.0 if name.startswith("ssv") else 0.5)
    assert not config.augment.flip_map
    assert config.augment.reverse == 0.0


@pytest.mark.parametrize("name", ROWS)
def test_fewer_clips_a_step_scale_the_rate_linearly(name: str) -> None:
    config = recipe(name)
    plan = plan_batches(config.trainer, config.optim, world=8, fits=1)
    assert (plan.global_batch, plan.batch_size, plan.lr) == (config.optim.lr_batch, 1, config.optim.lr)
    per_32 = 1e-4 if name.startswith("k400") else 2e-4
    assert plan.lr == pytest.approx(per_32 * plan.global_batch / 32)


@pytest.mark.parametrize("name", ["k400_b32", "ssv2_s16_k400"])
def test_the_checkpointed_blocks_exist(name: str) -> None:
    config = recipe(name)
    checkpoint_activations(create_model(config.model.name, 4), config.trainer.activation_checkpointing)
