"""Training: configuration and recipes, the trainer, checkpoints of a run, and its folder."""

__all__: list[str] = []
