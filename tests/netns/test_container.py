# SPDX-License-Identifier: BSD-2-Clause
"""A real podman container as a function of the mesh, attached by its process id."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import netns
from ebpfmesh.model import Function, Mesh
from ebpfmesh.observe import health
from ebpfmesh.runtime import process
from support import containers
from support.meshes import function, mesh_file, service
from support.sockets import carries, connect, connects, is_blocked, listener
from support.topology import background, in_fn, listening, poll, running

MESH = mesh_file(
    "container",
    function("web", "t", address=["198.18.0.2", "2001:db8::2"]),
    function("stranger", "u"),
    service("front", 80, "web", address="198.19.0.1", target_port=8080),
)
BOX = Function.model_validate_json(
    '{"name": "box", "tenant": "t", "address4": "198.18.0.9", "address6": "2001:db8::9"}'
)
NAMED = Function.model_validate_json(
    '{"name": "named", "tenant": "t", "address4": "198.18.0.8", "address6": "2001:db8::8"}'
)
KILLS = int(os.environ.get("EBPFMESH_CHAOS", "1"))
"""`make chaos` kills more often."""
NAMELESS = "names do not resolve in containers of others: {}"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with containers.engine(), running(MESH) as mesh:
        yield mesh


@pytest.fixture
def box(mesh: Mesh) -> Iterator[int]:
    """A container that is attached as a function; its process id."""
    pid = containers.start("box", "sleep", "1000")
    apply.add_function(mesh.name, BOX.model_copy(update={"netns": str(netns.of_pid(pid))}))
    yield pid
    with apply.opened(mesh.name) as live:
        attached = live.record.function("box")
    if attached:
        apply.detach(mesh.name, "box")
    containers.podman("rm", "--force", "--ignore", "--time", "0", "box")


def test_found_by_name_and_by_id(box: int) -> None:
    identity = containers.podman("inspect", "--format", "{{.Id}}", "box")
    assert process.in_container("box") == process.in_container(identity[:12]) == box
    with pytest.raises(NotFound, match="nosuch"):
        process.in_container("nosuch")


def test_a_stopped_container_is_not_running(box: int) -> None:
    del box
    containers.podman("stop", "--time", "0", "box")
    with pytest.raises(NotFound, match="does not run"):
        process.in_container("box")


@pytest.mark.usefixtures("box")
def test_it_reaches_others_from_inside(mesh: Mesh) -> None:
    """With the container's own programs: ping, and wget through a service."""
    for address in mesh.function("web").addresses:
        assert "1 packets received" in containers.podman(
            "exec", "box", "ping", "-c", "1", "-W", "20", str(address)
        )
    httpd = ["busybox", "httpd", "-f", "-p", 8080, "-h", "/usr/share/common-licenses"]
    with background(mesh, "web", httpd, ready=listening(8080)):
        text = containers.podman("exec", "box", "wget", "-q", "-O", "-", "http://198.19.0.1/BSD")
        assert "Redistribution and use" in text


def test_others_reach_it_as_policy_permits(mesh: Mesh, box: int) -> None:
    containers.podman("exec", "--detach", "box", "nc", "-ll", "-p", "7000", "-e", "cat")
    assert poll(lambda: listening(7000)(box))
    with connect(mesh, "web", BOX.address4, 7000) as here:
        assert carries(here, here)
    assert is_blocked(mesh, "stranger", BOX.address4, 7000)


@pytest.mark.usefixtures("box")
def test_commands_of_the_host_run_inside(mesh: Mesh) -> None:
    """In the container's network; the file system is the host's."""
    in_fn(mesh, "box", ["ping", "-c", 1, "-W", 20, "web"])
    with listener(mesh, "box", BOX.address6, 7001):
        assert connects(mesh, "web", BOX.address6, 7001)


def test_a_removed_container_is_noticed_and_collected(mesh: Mesh, box: int) -> None:
    del box
    containers.stop("box")

    def broken() -> bool:
        with apply.opened(mesh.name) as live:
            return live.functions.broken() == ["box"]

    assert poll(broken)
    assert any("box" in line for line in apply.gc())
    assert apply.plan(mesh) == ()


@pytest.mark.parametrize("nth", range(KILLS))
def test_killed_by_whatever_it_is_told(mesh: Mesh, box: int, nth: int) -> None:
    """SIGKILL of conmon hurts nobody; of the container too, and then it is gone without podman."""
    del nth
    conmon = int(containers.podman("inspect", "--format", "{{.State.ConmonPid}}", "box"))
    os.kill(conmon, signal.SIGKILL)
    assert poll(lambda: not Path(f"/proc/{conmon}/exe").exists())
    in_fn(mesh, "web", ["ping", "-c", 1, "-W", 20, BOX.address4])
    assert told(mesh, "box") == [NAMELESS.format("box")]
    os.kill(box, signal.SIGKILL)
    ended = "function box: interface gone, since the process it was attached by has ended"
    assert poll(lambda: told(mesh, "box") == [ended])
    assert any("function box" in line for line in apply.gc())
    assert told(mesh, "box") == []
    assert apply.plan(mesh) == ()
    assert poll(removed), "podman removes what nobody watched, if asked again"


def removed() -> bool:
    containers.podman("rm", "--force", "--ignore", "--time", "0", "box", check=False)
    return not containers.podman("ps", "--all", "--quiet")


def test_names_resolve_where_the_file_is_the_meshs(mesh: Mesh, box: int) -> None:
    """As they change, and nothing of a container is touched; doctor tells of the others alone."""
    del box
    file = f"/run/ebpfmesh/{mesh.name}/hosts"
    ours = Path(file).stat()
    try:
        pid = containers.start("named", "sleep", "1000", options=["-v", f"{file}:/etc/hosts:ro"])
        apply.add_function(mesh.name, NAMED.model_copy(update={"netns": str(netns.of_pid(pid))}))
        for name in ("web", "named", "box"):
            assert "1 packets received" in containers.podman(
                "exec", "named", "ping", "-c", "1", "-W", "20", name
            )
        assert told(mesh, "named") == []
        assert told(mesh, "box") == [NAMELESS.format("box")]
        assert "web" not in containers.podman("exec", "box", "cat", "/etc/hosts")
        assert Path(file).stat().st_ino == ours.st_ino
    finally:
        with contextlib.suppress(NotFound):
            apply.detach(mesh.name, "named")
        containers.podman("rm", "--force", "--ignore", "--time", "0", "named")


def told(mesh: Mesh, name: str) -> list[str]:
    """What doctor has to say about a function."""
    return [c.text for c in health.check(mesh.name) if c.status != "ok" and name in c.text]


def test_a_detached_container_goes_on_without(mesh: Mesh, box: int) -> None:
    assert "eth0" in containers.podman("exec", "box", "ip", "link")
    apply.detach(mesh.name, "box")
    assert "eth0" not in containers.podman("exec", "box", "ip", "link")
    assert process.in_container("box") == box
