"""Every error that emim raises on purpose.

All of them derive from `EmimError`. The message is one readable line that names the offending value or
file and says what to do; the command line prints that line and exits with a non-zero status.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BrokenClipsError",
    "CheckpointError",
    "ClipSizeError",
    "ConfigError",
    "DataError",
    "EmimError",
    "EmptyVideoError",
    "FrameIndexError",
    "ManifestError",
    "NoVideoStreamError",
    "NotAVideoError",
    "OpInputError",
    "PreemptedError",
    "ProcessError",
    "SingleFrameError",
    "SourceError",
    "TruncatedVideoError",
    "UnknownNameError",
    "VideoError",
    "VideoNotFoundError",
]


class EmimError(Exception):
    """Base of all errors raised on purpose by this package."""


class PreemptedError(EmimError):
    """The process was asked to end (SIGTERM); the state of the run is saved."""


class ProcessError(EmimError):
    """Another process of the same job has ended, or does not answer."""


class ClipSizeError(EmimError, ValueError):
    """A clip or token grid has a size that the module or network cannot take."""


class OpInputError(EmimError, ValueError):
    """Tensors given to an operator do not fit each other or the operator."""


class UnknownNameError(EmimError, ValueError):
    """A model, backend, class or option name that does not exist; the message names the nearest one."""


class ConfigError(EmimError, ValueError):
    """A recipe or override has an unknown key or a wrong value."""


class CheckpointError(EmimError):
    """A checkpoint cannot be read, or does not fit the model."""


class DataError(EmimError):
    """A data set folder or manifest is unusable."""


class ManifestError(DataError):
    """A row of a manifest is wrong; names file and row.

    Attributes:
        path: the manifest.
        row: line number in the file, from 1 (the header is line 1); None when the whole file is meant.
    """

    def __init__(self, path: Path | str, row: int | None, reason: str) -> None:
        self.path = Path(path)
        self.row = row
        where = f"{path}" if row is None else f"{path}, row {row}"
        super().__init__(f"{where}: {reason}")


class BrokenClipsError(DataError):
    """More training clips cannot be read than the run allows; lists them.

    Attributes:
        errors: one for each broken clip found.
        allowed: how many were allowed.
    """

    def __init__(self, errors: tuple[EmimError, ...], allowed: int) -> None:
        self.errors = errors
        self.allowed = allowed
        listed = "; ".join(str(error) for error in errors)
        super().__init__(
            f"{len(errors)} training clips cannot be read, {allowed} are allowed (data.max_skip_share): {listed}. "
            "`emim doctor` finds all of them and writes a manifest without them"
        )


class VideoError(EmimError):
    """A video cannot be read; names the file and says why.

    Attributes:
        path: the video file or frame folder.
        reason: why it cannot be read.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type[VideoError], tuple[Path, str]]:
        # Default pickling passes the formatted message alone, which loses path and reason on the way
        # from a loader worker to the main process.
        return type(self), (self.path, self.reason)


class VideoNotFoundError(VideoError):
    """There is no such file or folder."""


class EmptyVideoError(VideoError):
    """The file has zero bytes, or the folder or container holds no frame."""


class NotAVideoError(VideoError):
    """The content is not a video (a text or image file under a video's name, say)."""


class NoVideoStreamError(VideoError):
    """The container holds no video stream, for example only audio."""


class TruncatedVideoError(VideoError):
    """The file ends before the frames that it announces."""


class SingleFrameError(VideoError):
    """The video has one frame only, so it holds no motion."""


class FrameIndexError(VideoError, IndexError):
    """A frame index lies outside the video; names the index and the valid range."""


class SourceError(EmimError):
    """A live source (camera, network address) cannot be opened, or was lost for good; names it and says why.

    Attributes:
        name: the source as it may be shown, without a password.
        reason: why.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name}: {reason}")
