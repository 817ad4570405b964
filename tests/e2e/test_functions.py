# SPDX-License-Identifier: BSD-2-Clause
"""Functions one by one: attach and detach in every way, commands inside, services and policies."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh.kernel import netns
from support import containers
from support.command import COMMAND, ROOT, complaint, data, ebpfmesh, lines
from support.topology import leftovers, poll, wait_until

MESH = """
[mesh]
name = "edge"
[[function]]
name = "one"
tenant = "t"
[[function]]
name = "two"
tenant = "u"
memory = "64M"
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("edge") / "edge.toml"
    file.write_text(MESH)
    ebpfmesh("up", file)
    yield file
    ebpfmesh("down")


@pytest.fixture(autouse=True)
def whole(edge: Path) -> Iterator[None]:
    """The mesh is that of the file after every test."""
    yield
    ebpfmesh("up", edge)


def inside(name: str, *words: object, code: int = 0, stdin: str = "") -> str:
    """What a command prints inside a function."""
    return ebpfmesh("exec", name, "--", *words, code=code, stdin=stdin).stdout


# ---- exec


@pytest.mark.parametrize("code", [0, 1, 5, 77, 255])
def test_exec_gives_the_exit_code(code: int) -> None:
    inside("one", "sh", "-c", f"exit {code}", code=code)


def test_exec_gives_the_signal() -> None:
    """exec becomes the command: a signal ends it as it would anywhere."""
    inside("one", "sh", "-c", "kill -TERM $$", code=-signal.SIGTERM)


def test_exec_passes_stdin_stdout_and_stderr() -> None:
    text = "line\n" * 20000
    assert inside("one", "cat", stdin=text) == text
    done = ebpfmesh("exec", "one", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_exec_passes_every_argument() -> None:
    words = ["a b", "", "--json", "-v", "$HOME", "--"]
    assert inside("one", "printf", "%s|", *words) == "|".join(words) + "|"
    assert ebpfmesh("exec", "one", "echo", "--mesh", "x").stdout == "--mesh x\n"


def test_exec_is_in_the_function() -> None:
    """Its namespace, its cgroup, its names; and the process is the command itself."""
    found = inside(
        "two", "sh", "-c", "readlink /proc/self/ns/net; cat /proc/self/cgroup; hostname -I"
    )
    assert str((netns.RUN / "ebpfmesh.edge.two").stat().st_ino) in found
    assert f"/ebpfmesh/edge.{netns.current()}/two" in found
    assert data("show", "functions")["functions"][1]["addresses"][0] in found
    assert inside("one", "getent", "-s", "files", "hosts", "two").split()[-1] == "two"


def test_exec_ends_with_its_function(edge: Path) -> None:
    """What runs inside is of the function: it ends when the function goes."""
    process = subprocess.Popen([*COMMAND, "exec", "two", "--", "sleep", "1000"], cwd=ROOT)
    try:
        listed = lambda: [f["processes"] for f in data("show", "functions")["functions"]]  # noqa: E731
        assert poll(lambda: [process.pid] in listed())
        name = Path(f"/proc/{process.pid}/comm")
        assert poll(lambda: name.read_text() == "sleep\n")
        ebpfmesh("detach", "two")
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert len(lines("up", edge)) == 1


# ---- attach


@pytest.fixture
def box() -> Iterator[str]:
    """A namespace of the user's own, by name; with a process in it."""
    netns.create("box")
    yield "box"
    netns.remove("box")


def reaches_one(name: str) -> bool:
    done = subprocess.run(
        [*COMMAND, "exec", name, "--", "ping", "-c", "1", "-W", "20", "one"],
        check=False, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    return done.returncode == 0


@pytest.mark.parametrize("by", ["name", "path", "pid"])
def test_attach_by_namespace(box: str, by: str) -> None:
    before = leftovers()
    place = netns.RUN / box
    sleeper = subprocess.Popen(["ip", "netns", "exec", box, "sleep", "1000"])
    try:
        wait_until(lambda: inode_of(sleeper.pid) == place.stat().st_ino, what="it is in the box")
        where = {
            "name": ("--netns", box),
            "path": ("--netns", place),
            "pid": ("--pid", sleeper.pid),
        }
        (said,) = lines("attach", "guest", *where[by], "--tenant", "t", "--ip", "198.18.9.9")
        assert said.startswith("+ function guest  tenant t  198.18.9.9  ")
        assert reaches_one("guest")
        assert lines("detach", "guest") == ["- function guest"]
    finally:
        sleeper.kill()
        sleeper.wait()
    assert poll(lambda: leftovers() == before)


def inode_of(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def test_attach_twice_and_detach_twice(box: str) -> None:
    found = data("attach", "guest", "--netns", box, "--tenant", "t")
    assert (found["mesh"], found["name"], len(found["addresses"])) == ("edge", "guest", 2)
    assert "guest" in complaint("attach", "guest", "--netns", box, code=2)[0]
    gone = {"mesh": "edge", "name": "guest", "functions": ["guest"]}
    assert data("detach", "guest") == gone
    assert data("detach", "guest", "--if-exists") == gone | {"functions": []}
    complaint("detach", "guest", code=3)


def test_detach_of_what_may_not_be_there_needs_no_mesh(edge: Path) -> None:
    ebpfmesh("down")
    try:
        assert data("detach", "guest", "--if-exists") == {
            "mesh": None,
            "name": "guest",
            "functions": [],
        }
        assert ebpfmesh("detach", "guest", "--if-exists").stderr == "there is no function guest\n"
        assert complaint("detach", "guest", code=3)[0] == "no mesh is up"
    finally:
        ebpfmesh("up", edge)


def test_attach_takes_no_address_of_another(box: str) -> None:
    taken = data("show", "functions")["functions"][0]["addresses"][0]
    error, _ = complaint("attach", "guest", "--netns", box, "--ip", taken, code=2)
    assert taken in error
    assert "one" in error


def test_attach_by_interface(box: str) -> None:
    with netns.rtnetlink() as ip, netns.rtnetlink(netns.RUN / box) as inner:
        with (netns.RUN / box).open() as target:
            peer = {"ifname": "eth0", "net_ns_fd": target.fileno()}
            ip.link("add", ifname="boxhost", kind="veth", peer=peer)
        host = ip.link_lookup(ifname="boxhost")[0]
        ip.addr("add", index=host, address="198.18.77.254", prefixlen=24)
        ip.link("set", index=host, state="up")
        index = inner.link_lookup(ifname="eth0")[0]
        inner.link("set", index=index, state="up")
        inner.addr("add", index=index, address="198.18.77.1", prefixlen=24)
        inner.route("add", dst="default", gateway="198.18.77.254")
        try:
            found = data("attach", "guest", "--iface", "boxhost", "--tenant", "t")
            assert (found["addresses"], found["interface"]) == (["198.18.77.1"], "boxhost")
            assert reaches_one("guest")
            ebpfmesh("detach", "guest")
            assert ip.link_lookup(ifname="boxhost") == [host]
        finally:
            ip.link("del", index=host)


def test_attach_a_container() -> None:
    """A real container, found by its name; removed under the mesh, seen and collected."""
    with containers.engine():
        containers.start("guest", "sleep", "1000")
        (said,) = lines("attach", "box", "--container", "guest", "--tenant", "t")
        assert said.startswith("+ function box")
        address = data("show", "functions")["functions"][0]["addresses"][0]
        assert "1 packets received" in containers.podman(
            "exec", "guest", "ping", "-c", "1", "-W", "20", address
        )
        assert reaches_one("box")
        containers.stop("guest")
        assert poll(lambda: "gone" in ebpfmesh("show", "functions").stdout)
        complaint("exec", "box", "--", "true", code=3)
        assert "- function box of mesh edge" in lines("gc")


def test_audit_only_counts(box: str) -> None:
    ebpfmesh("attach", "guest", "--netns", box, "--tenant", "v", "--audit")
    assert "audit" in ebpfmesh("show", "functions").stdout
    inside("one", "ping", "-c", 1, "-W", 20, "guest")
    rows = [row for row in data("show", "drops")["drops"] if row["audited"]]
    assert [row["function"] for row in rows] == ["guest"]
    assert "would drop" in ebpfmesh("show", "drops").stdout


# ---- services and policies


def test_policies_take_effect_at_once() -> None:
    ping = ("ping", "-c", 1, "two", "-W")
    inside("one", *ping, 0.2, code=1)
    (said,) = lines("policy", "add", "tenant:t", "function:two")
    assert said.startswith("+ policy")
    inside("one", *ping, 20)
    assert any("tenant:t" in line for line in ebpfmesh("show", "policies").stdout.splitlines())
    (said,) = lines("policy", "del", "tenant:t", "function:two")
    assert said.startswith("- policy")
    inside("one", *ping, 0.2, code=1)


def test_services_take_effect_at_once() -> None:
    address = ("--address", "198.19.0.7", "--port", 80)
    lines("service", "add", "web", *address, "--target-port", 8080, "--function", "two")
    lines("policy", "add", "function:one", "service:web")
    httpd = subprocess.Popen(
        [*COMMAND, "exec", "two", "--", "busybox", "httpd", "-f", "-p", "8080", "-h", "/etc"],
        cwd=ROOT,
    )
    try:
        curl = ("curl", "-sS", "-m", 20, "http://web/debian_version")
        assert poll(lambda: exec_code("one", *curl) == 0)
        assert inside("one", *curl) == Path("/etc/debian_version").read_text()
        (row,) = data("show", "services")["services"]
        assert [(b["function"], b["alive"]) for b in row["backends"]] == [("two", True)]
        assert any("web" in str(flow["service"]) for flow in data("show", "flows")["flows"])
        lines("service", "del", "web")
        assert exec_code("one", "curl", "-sS", "-m", 0.3, "http://198.19.0.7/") != 0
    finally:
        httpd.terminate()
        httpd.wait()


def exec_code(name: str, *words: object) -> int:
    line = [*COMMAND, "exec", name, "--", *map(str, words)]
    return subprocess.run(line, check=False, capture_output=True, cwd=ROOT).returncode


def test_verbose_tells_the_steps(box: str) -> None:
    done = ebpfmesh("-v", "attach", "guest", "--netns", box)
    assert "… function guest: interface" in done.stderr.splitlines()
    quiet = ebpfmesh("-q", "detach", "guest")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    assert os.environ.get("EBPFMESH_VERBOSE") is None
