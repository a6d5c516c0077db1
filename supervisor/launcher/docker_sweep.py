"""Containers outlive whoever started them: those of a launcher that is gone are removed."""

from supervisor.launcher.docker_client import Api
from supervisor.launcher.docker_container import remove
from supervisor.launcher.docker_profile import GATEWAY_LABEL, LAUNCHER_LABEL


def sweep(api: Api, gateway: str, launcher: str) -> int:
    """Remove the gateway's containers that another launcher has started; gives how many; blocks.

    Raises:
        docker.errors.APIError: the daemon refuses.
    """
    found = api.containers(all=True, filters={"label": f"{GATEWAY_LABEL}={gateway}"})
    stale = [each["Id"] for each in found if each["Labels"].get(LAUNCHER_LABEL) != launcher]
    for container in stale:
        remove(api, container)
    return len(stale)
