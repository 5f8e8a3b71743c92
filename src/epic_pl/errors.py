"""The errors that epic_pl raises on purpose: each message names the culprit and the way out."""


class EpicError(Exception):
    """Base of every error that a user can mend; the command line prints it without a traceback."""


class AssetError(EpicError):
    """A pretrained encoder or a demo file could not be fetched or is not what it should be."""


class EncoderError(EpicError):
    """An encoder's name, architecture or inputs are not supported."""


class DataError(EpicError):
    """A dataset's files, rows, labels or pictures are missing or broken."""


class CheckpointError(EpicError):
    """A checkpoint does not fit the model that should load it."""


class CacheError(EpicError):
    """A feature store is missing, incomplete, damaged, or not the one that is asked for."""


class ConfigError(EpicError):
    """Options that cannot hold together."""


class TrainingError(EpicError):
    """Training cannot go on, for example because the loss is not finite."""


def first_line(error: BaseException) -> str:
    """Of another library's message, without a full stop; the error's type where it has none."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
