"""A local web page and a JSON endpoint that name the action in a video; `emim serve` starts it. Needs `emim[serve]`."""

__all__: list[str] = []
