"""Models, and the releases that are signed from them: TUF repository, blobs, and their routes."""

from aimass_cloud.registry.api import ModelsController, ReleasesController
from aimass_cloud.registry.files import BlobsController, TufController
from aimass_cloud.registry.keys import SigningKeys
from aimass_cloud.registry.service import NewModel, Registry
from aimass_cloud.registry.tuf import TufRepository

__all__ = [
    "BlobsController",
    "ModelsController",
    "NewModel",
    "Registry",
    "ReleasesController",
    "SigningKeys",
    "TufController",
    "TufRepository",
]
