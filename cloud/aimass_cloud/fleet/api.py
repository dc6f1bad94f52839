"""Routes of the fleet. Need the dependencies `fleet` and `attempts`."""

from typing import Any

import msgspec
from litestar import Controller, MediaType, Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from aimass_cloud.access import Attempts, authorize_scope, peer, requires
from aimass_cloud.fleet.measurements import DeviceMeasured
from aimass_cloud.fleet.service import MAX_PAGE, Device, Fleet, PredictionPage
from aimass_shared.errors import BadJoinTokenError, ForbiddenError
from aimass_shared.messages import EnrollReply, EnrollRequest, Measurements, decode

MAX_ENROLL_BYTES = 64 << 10
MAX_MEASUREMENTS_BYTES = 256 << 10
MEASURE = "measurement:write"


class JoinTokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For which site and release channel a device may join, and for how long."""

    site: str
    channel: str = "stable"
    minutes: int | None = None


class JoinTokenReply(msgspec.Struct, frozen=True):
    """The text that the device's installer needs."""

    token: str


class Kept(msgspec.Struct, frozen=True):
    """How many measurements came and are kept: the device need not send them again."""

    kept: int


@get("/ca.pem", media_type=MediaType.TEXT, tags=["fleet"])
async def get_ca(fleet: NamedDependency[Fleet]) -> str:
    """The coordinator's CA; open to all: whoever holds a join token checks it against that."""
    return fleet.ca_pem


class EnrollController(Controller):
    """Enrolment: the join token is the credential."""

    path = "/api/v1/enroll"
    tags = ("fleet",)

    @post(request_max_body_size=MAX_ENROLL_BYTES)
    async def enroll(
        self,
        request: Request[Any, Any, Any],
        fleet: NamedDependency[Fleet],
        attempts: NamedDependency[Attempts],
    ) -> EnrollReply:
        """Turn a one-time join token and a CSR into a device's certificate."""
        address = peer(request.scope)
        attempts.check(address)
        try:
            return await fleet.enroll(decode(await request.body(), EnrollRequest))
        except BadJoinTokenError:
            attempts.failed(address)
            raise


class FleetController(Controller):
    """Devices and join tokens, for people and programs."""

    path = "/api/v1"
    tags = ("fleet",)

    @post("/join-tokens", guards=[requires("fleet:write")])
    async def create_join_token(
        self, fleet: NamedDependency[Fleet], data: JSONBody[JoinTokenRequest]
    ) -> JoinTokenReply:
        """A one-time token that lets one device join a site."""
        token = await fleet.create_join_token(data.site, data.channel, data.minutes)
        return JoinTokenReply(token.text())

    @get("/devices", guards=[requires("fleet:read")])
    async def list_devices(self, fleet: NamedDependency[Fleet]) -> list[Device]:
        """All devices with their desired and reported state."""
        return await fleet.devices()

    @get("/devices/{device:str}", guards=[requires("fleet:read")])
    async def get_device(self, fleet: NamedDependency[Fleet], device: FromPath[str]) -> Device:
        """One device."""
        return await fleet.device(device)

    @delete("/devices/{device:str}", guards=[requires("fleet:write")])
    async def revoke_device(self, fleet: NamedDependency[Fleet], device: FromPath[str]) -> None:
        """Revoke a device: its tokens are refused from now on."""
        await fleet.revoke(device)

    @get("/devices/{device:str}/predictions", guards=[requires("fleet:read")])
    async def list_predictions(
        self,
        *,
        fleet: NamedDependency[Fleet],
        device: FromPath[str],
        after: FromQuery[str] = "",
        limit: FromQuery[int] = MAX_PAGE,
    ) -> PredictionPage:
        """Stored predictions of a device, oldest first, page by page."""
        return await fleet.predictions(device, after, limit)

    @get("/measurements", guards=[requires("fleet:read")])
    async def list_measurements(
        self,
        *,
        fleet: NamedDependency[Fleet],
        model: FromQuery[str] = "",
        release: FromQuery[str] = "",
    ) -> list[DeviceMeasured]:
        """What slices cost on devices: the newest of each device, release, slice and batch."""
        return await fleet.measurements.find(model, release)

    @post(
        "/devices/{device:str}/measurements",
        guards=[requires(MEASURE)],
        request_max_body_size=MAX_MEASUREMENTS_BYTES,
    )
    async def add_measurements(
        self,
        request: Request[Any, Any, Any],
        fleet: NamedDependency[Fleet],
        device: FromPath[str],
    ) -> Kept:
        """What a device measured of itself; it is committed when this answers."""
        caller = authorize_scope(request.scope, MEASURE)
        if caller.kind == "device" and caller.id != device:
            raise ForbiddenError(f"device {caller.id} may speak of itself only")
        sent = decode(await request.body(), Measurements)
        return Kept(await fleet.measurements.record(device, sent))
