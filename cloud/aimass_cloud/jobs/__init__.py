"""Long work beside the API: training, slicing, federated rounds."""

from aimass_cloud.jobs.api import jobs_router
from aimass_cloud.jobs.service import Job, Jobs, Progress, Work

__all__ = ["Job", "Jobs", "Progress", "Work", "jobs_router"]
