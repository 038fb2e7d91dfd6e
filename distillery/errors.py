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
    +-- ServiceError     a service that refuses a request, or cannot be reached
        +-- WaitTimeout  a job that goes on after the time that its caller had
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


class ServiceError(DistilleryError):
    """A service that refuses a request, or cannot be reached."""

    def __init__(
        self, message: str, *, code: str = "unreachable", status: int | None = None,
        request_id: str | None = None,
    ) -> None:  # fmt: skip
        """Take the sentence, the service's stable `code`, the HTTP status and the request's id."""
        super().__init__(message)
        self.code, self.status, self.request_id = code, status, request_id


class WaitTimeout(ServiceError):
    """A job that goes on after the time that its caller had."""


class Cancelled(Exception):
    """The caller asked to stop; work up to the last checkpoint is kept."""
