"""Drives docker-compose.yml by the compose command at hand, for the tests of containers and their measurements."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IDS = (1, 2, 3, 4, 5)
PORT = 7000
IMAGE = "dgan-test"
# As root, the tests write reports as somebody else: root would get through where others do not.
USER = os.getuid() or 1001


def compose_command() -> list[str]:
    """`docker compose`, else `docker-compose`."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    assert shutil.which("docker-compose"), "neither `docker compose` nor `docker-compose` is there"
    return ["docker-compose"]


def docker(*arguments: str, check: bool = True) -> str:
    """What a docker command prints; nothing where it fails unchecked, for the engine tells of it on both outputs."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {arguments}: {done.returncode}\n{done.stderr}"
    return done.stdout.strip() if done.returncode == 0 else ""


class Cluster:
    """One project of docker-compose.yml, in a range of addresses of its own.

    Args:
        reports: Folder of the host that the evaluator writes to; an empty file is made beside it.
        variables: Variables of the compose file, such as DGAN_EPOCHS; of those set outside, only the build's count.
    """

    def __init__(self, reports: Path, **variables: str) -> None:
        self.name = f"dgan-test-{secrets.token_hex(4)}"
        self.reports = reports
        # A file .env of the user's is not the tests' affair.
        no_variables = reports.parent / f"{self.name}.env"
        no_variables.touch()
        self._command = [*compose_command(), "--project-name", self.name, "--env-file", str(no_variables)]
        outside = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("DGAN_") or key.startswith(("DGAN_BUILD", "DGAN_BASE", "DGAN_TORCH"))
        }
        # The folder is somebody's own: so the evaluator writes as its owner.
        own = {"DGAN_IMAGE": IMAGE, "DGAN_REPORTS": str(reports), "DGAN_USER": str(USER)}
        self._environment = {**outside, **own, "DGAN_SUBNET": f"10.{random.randint(100, 250)}", **variables}

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a compose command; what it says is part of the error where it fails."""
        done = subprocess.run(
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def containers(self) -> dict[str, str]:
        """Service -> id of its container, running or not."""
        listed = docker(
            *("ps", "--all", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.name}"),
            *("--format", '{{.Label "com.docker.compose.service"}} {{.ID}}'),
        )
        return dict(line.split() for line in listed.splitlines())

    def inspect(self, service: str) -> Any:
        """All that the engine knows of a service's container."""
        return json.loads(docker("inspect", self.containers()[service]))[0]

    def addresses(self, service: str) -> dict[str, str]:
        """Network -> address of a running container, without the project's name."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return {name.removeprefix(f"{self.name}_"): entry["IPAddress"] for name, entry in networks.items()}

    def network(self, name: str) -> str:
        """The engine's name of a network of the file."""
        return f"{self.name}_{name}"

    def healthy(self, ids: Sequence[int] = IDS) -> bool:
        """Whether these nodes are all up and pass their health check."""
        return all(
            self.inspect(f"node{i}")["State"].get("Health", {}).get("Status") == "healthy" for i in ids
        )

    def python(self, service: str, code: str, *arguments: str) -> Any:
        """What a program prints as JSON inside a running container."""
        return json.loads(docker("exec", self.containers()[service], "python", "-c", code, *arguments))

    def status(self, node_id: int) -> dict[str, Any]:
        """status.json of a running node; empty while there is none."""
        path = f"nodes/{node_id}/status.json"
        text = docker("exec", self.containers()[f"node{node_id}"], "cat", path, check=False)
        return json.loads(text) if text else {}

    def logs(self, service: str) -> list[str]:
        """Every line that a service has written, without Compose's prefix."""
        done = subprocess.run(
            ["docker", "logs", self.containers()[service]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()


@contextmanager
def running(reports: Path, **variables: str) -> Iterator[Cluster]:
    """A cluster that leaves nothing behind but the image and its reports."""
    reports.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        for folder in (reports, *reports.parents):
            folder.chmod(folder.stat().st_mode | 0o011)  # pytest's own folders let only their owner through
            if folder.parent == Path(tempfile.gettempdir()):
                break
        os.chown(reports, USER, USER)
    cluster = Cluster(reports, **variables)
    try:
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout", "5")
