"""Former name of `runtime`."""

from sonolume.models.runtime import *  # noqa: F403
