"""Measurements that come with the package: how long its parts take on this machine."""

__all__: list[str] = []
