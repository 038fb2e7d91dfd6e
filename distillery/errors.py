"""The errors that a caller can act on, as one tree.

Every message is one sentence that says what was expected, what came and what to do; the command
line prints it alone, without a traceback. Wrong arguments of a function are plain `ValueError`s.

    DistilleryError
    +-- ConfigError      an option, or a combination of options, that cannot be run
    +-- DataError        a dataset that cannot be read or used
    +-- ModelError       a base model that is missing, broken or does not fit
    +-- BundleError      a bundle that is broken or not one of ours
    +-- JobError         a job folder that belongs to another job, or is in use
    +-- TrainingError    a computation that went wrong, such as a loss that is not finite
    Cancelled            the caller asked to stop; not an error, so not below DistilleryError
"""


class DistilleryError(Exception):
    """Base class of everything a user can mend; `str(error)` is the sentence to show."""


class ConfigError(DistilleryError):
    """An option, or a combination of options, that cannot be run."""


class DataError(DistilleryError):
    """A dataset that cannot be read or used."""


class ModelError(DistilleryError):
    """A base model that is missing, broken or does not fit."""


class BundleError(DistilleryError):
    """A bundle that is broken or not one of ours."""


class JobError(DistilleryError):
    """A job folder that belongs to another job, or is in use."""


class TrainingError(DistilleryError):
    """A computation that went wrong, such as a loss that is not finite."""


class Cancelled(Exception):
    """The caller asked to stop; work up to the last checkpoint is kept."""
