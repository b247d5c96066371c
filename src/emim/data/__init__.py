"""The way from labelled videos to batches of clips: manifests, folders, readers, augmentation, loaders."""

__all__: list[str] = []
