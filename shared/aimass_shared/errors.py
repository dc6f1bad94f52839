"""Every error that aimass raises on purpose, with a stable code and an HTTP status.

The tree, by who can act on it:

* AimassError
  + SettingsError            the person who wrote the configuration or the command line
    - UnknownSettingError, InvalidSettingError, MissingExtraError, PortInUseError
  + AccessError              the caller, who has no right
    - UnauthenticatedError, ForbiddenError, BadJoinTokenError, TooManyAttemptsError
  + RequestError             the caller, who sent something wrong
    - MalformedMessageError, BadTensorError, BodyTooLargeError, BodyTooSlowError, NotFoundError,
      MethodNotAllowedError, ConflictError
  + TrustError               the publisher of a release; the old model keeps running
    - BadSignatureError, BadDigestError, UnfitReleaseError, ReleaseRollbackError,
      SelfTestFailedError
  + CapacityError            nobody: try later or elsewhere
    - OverloadedError, DeadlineExceededError, NoActiveModelError, JobInterruptedError
  + LinkError                the network between the parts
    - BrokerUnavailableError, CloudUnavailableError, DownloadFailedError
  + ModelError               the author of a model
    - ModelLoadFailedError, UncuttableModelError, TrainingFailedError, DataError
  + RoundError               one client of a federated round
    - BadUpdateError, NoClientsError
  + StorageError             the disk
    - StateCorruptError, StorageFullError

Codes never change and are never re-used; docs/errors.md lists what to do for each.
"""

from http import HTTPStatus
from typing import ClassVar


class AimassError(Exception):
    """Base of all errors of aimass: `code` is stable, `status` is its HTTP form."""

    code: ClassVar[str] = "internal"
    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        """One line for a person: what is wrong, what to do, and the code to search for."""
        return f"{self.detail} [{self.code}]"


class SettingsError(AimassError):
    """The configuration or the command line is wrong."""

    code = "settings"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class UnknownSettingError(SettingsError):
    """A key that no setting has; the detail suggests the nearest one."""

    code = "unknown-setting"


class InvalidSettingError(SettingsError):
    """A value of the wrong type or outside its range."""

    code = "invalid-setting"


class MissingExtraError(SettingsError):
    """A feature whose optional dependencies are not installed; the detail says what to type."""

    code = "missing-extra"


class PortInUseError(SettingsError):
    """Another process listens on the port that was asked for."""

    code = "port-in-use"


class AccessError(AimassError):
    """The caller has no right to do this."""

    code = "access"
    status = HTTPStatus.FORBIDDEN


class UnauthenticatedError(AccessError):
    """No credential, or one that is not valid (any more)."""

    code = "unauthenticated"
    status = HTTPStatus.UNAUTHORIZED


class ForbiddenError(AccessError):
    """A valid credential without the scope that the route needs."""

    code = "forbidden"


class BadJoinTokenError(AccessError):
    """A join token that is malformed, unknown, expired or used up."""

    code = "bad-join-token"
    status = HTTPStatus.UNAUTHORIZED


class TooManyAttemptsError(AccessError):
    """Too many failed attempts from one address; the detail says how long to wait."""

    code = "too-many-attempts"
    status = HTTPStatus.TOO_MANY_REQUESTS


class RequestError(AimassError):
    """The caller sent something that cannot be worked with."""

    code = "request"
    status = HTTPStatus.BAD_REQUEST


class MalformedMessageError(RequestError):
    """Bytes that do not decode to the message that they claim to be."""

    code = "malformed-message"


class BadTensorError(RequestError):
    """A tensor of the wrong name, shape, type or byte count."""

    code = "bad-tensor"


class BodyTooLargeError(RequestError):
    """A body over the limit of its route or topic."""

    code = "body-too-large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodyTooSlowError(RequestError):
    """A body that did not arrive whole within the limit of its route."""

    code = "body-too-slow"
    status = HTTPStatus.REQUEST_TIMEOUT


class NotFoundError(RequestError):
    """A name that nothing has."""

    code = "not-found"
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowedError(RequestError):
    """A path that exists, but not for this HTTP method."""

    code = "method-not-allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED


class ConflictError(RequestError):
    """The thing exists already, or is in a state that forbids the step."""

    code = "conflict"
    status = HTTPStatus.CONFLICT


class TrustError(AimassError):
    """A release that must not run here."""

    code = "trust"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class BadSignatureError(TrustError):
    """Metadata that is unsigned, signed by the wrong key, expired or altered."""

    code = "bad-signature"


class BadDigestError(TrustError):
    """A file whose length or SHA-256 is not the signed one."""

    code = "bad-digest"


class UnfitReleaseError(TrustError):
    """A correctly signed release that this device cannot run (board, memory, versions)."""

    code = "unfit-release"


class ReleaseRollbackError(TrustError):
    """Metadata older than what this device has already seen."""

    code = "release-rollback"


class SelfTestFailedError(TrustError):
    """A slice whose outputs differ from the self-test vectors: floats beyond the tolerance."""

    code = "self-test-failed"


class CapacityError(AimassError):
    """The work cannot be done here and now."""

    code = "capacity"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class OverloadedError(CapacityError):
    """The queue is full or the deadline cannot be met; the detail carries the numbers.

    Attributes:
        retry_after_s: when it may be worth asking again (HTTP's Retry-After); 0 where waiting does
            not help, as with a deadline that is shorter than the work itself.
    """

    code = "overloaded"

    def __init__(self, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(CapacityError):
    """The deadline passed while the request was worked on."""

    code = "deadline-exceeded"
    status = HTTPStatus.GATEWAY_TIMEOUT


class NoActiveModelError(CapacityError):
    """No model is active yet."""

    code = "no-active-model"


class JobInterruptedError(CapacityError):
    """A job that was running when the coordinator stopped; start it again."""

    code = "job-interrupted"


class LinkError(AimassError):
    """A part that cannot be reached."""

    code = "link"
    status = HTTPStatus.BAD_GATEWAY


class BrokerUnavailableError(LinkError):
    """The MQTT broker does not answer or refuses the connection."""

    code = "broker-unavailable"


class CloudUnavailableError(LinkError):
    """The coordinator does not answer in time."""

    code = "cloud-unavailable"


class DownloadFailedError(LinkError):
    """A file could not be fetched whole; what is there is kept for the next try."""

    code = "download-failed"


class ModelError(AimassError):
    """A model that does not work."""

    code = "model"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class ModelLoadFailedError(ModelError):
    """A runtime refused the model file, or its vocabulary or contract does not fit it."""

    code = "model-load-failed"


class UncuttableModelError(ModelError):
    """A model, or a place in it, that cannot be cut; the detail names operator or tensor."""

    code = "uncuttable-model"


class TrainingFailedError(ModelError):
    """Training diverged or its data is unusable."""

    code = "training-failed"


class DataError(ModelError):
    """Data that are not of the layout that was asked for; the detail names file and place."""

    code = "bad-data"


class RoundError(AimassError):
    """A federated round that cannot go on as asked."""

    code = "round"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class BadUpdateError(RoundError):
    """An update that is malformed, not finite, of the wrong shape or over its limit."""

    code = "bad-update"


class NoClientsError(RoundError):
    """No device that could take part answered in time."""

    code = "no-clients"


class StorageError(AimassError):
    """The disk does not do what it should."""

    code = "storage"


class StateCorruptError(StorageError):
    """A state file whose checksum is wrong."""

    code = "state-corrupt"


class StorageFullError(StorageError):
    """A quota or the disk itself is full."""

    code = "storage-full"
    status = HTTPStatus.INSUFFICIENT_STORAGE
