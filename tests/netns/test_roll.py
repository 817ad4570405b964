# SPDX-License-Identifier: BSD-2-Clause
"""Commands that take the place of others, one replica after the other, while clients ask.

Served by nginx, which closes a connection of its own accord after 50 requests, and says so: what is
left of them at the end of ``drain_seconds`` is closed by its graceful stop, be a request on its way
or not.
"""

import contextlib
import json
import pwd
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.errors import MeshError
from ebpfmesh.model import Mesh
from ebpfmesh.observe import functions
from ebpfmesh.observe.view import opened
from support import containers, keepalive
from support.agreeing import disagreements, is_well
from support.processes import command_line
from support.sockets import connect
from support.topology import background, mesh_of, wait_until

NGINX = """
daemon off; worker_processes 1; pid /tmp/pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
  access_log off; keepalive_requests {requests};
  client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c;
  uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
  server {{ listen 8080; root {root}; }}
}}
"""
MESH = """
[mesh]
name = "roll"
{settings}
[[function]]
name = "client"
[[function]]
name = "web"
replicas = {replicas}
command = {command}
stop_signal = "SIGQUIT"
stop_seconds = 20
{more}
[[service]]
name = "web"
address = "198.19.0.1"
port = 80
target_port = 8080
functions = ["web"]
"""
DRAIN = "drain_seconds = 20"
"""Time for fifty requests of each connection, also where who asks has to wait for a core."""


@pytest.fixture(autouse=True)
def _gone() -> Iterator[None]:
    yield
    apply.down("roll")


class Site:
    """Two versions of a server in a directory, and the meshes that have one of them."""

    def __init__(self, place: Path, requests: int = 50) -> None:
        self.place = place
        place.chmod(0o755)
        for version in ("one", "two"):
            self._write(version, requests, f"{place}/{version}")
            (place / version).mkdir()
            (place / version / "version").write_text(f"{version}\n")
        self._write("image", requests, "/site")

    def _write(self, name: str, requests: int, root: str) -> None:
        (self.place / f"{name}.conf").write_text(NGINX.format(requests=requests, root=root))

    def command(self, name: str) -> list[str]:
        return ["nginx", "-e", "stderr", "-c", f"{self.place}/{name}.conf"]

    def text(
        self, version: str | list[str], more: str = "", settings: str = "", replicas: int = 3
    ) -> str:
        words = self.command(version) if isinstance(version, str) else version
        more = f'{more}\nvolumes = ["{self.place}"]' if "volumes" not in more else more
        more = f"{more}\n{DRAIN}" if "drain_seconds" not in more else more
        return MESH.format(
            command=json.dumps(words), more=more, settings=settings, replicas=replicas
        )

    def mesh(self, version: str | list[str], **others: object) -> Mesh:
        return mesh_of(self.text(version, **others))  # type: ignore[arg-type]

    def image(self, version: str) -> str:
        """An image of this version: of the host's programs, and a site of its own."""
        name, tar = f"localhost/{version}:latest", self.place / f"{version}.tar"
        with tarfile.open(tar, "w") as file:
            for link in ("bin", "sbin", "lib", "lib64"):
                entry = tarfile.TarInfo(link)
                entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{link}"
                file.addfile(entry)
            file.add(self.place / version, "site")
        containers.podman("import", str(tar), name)
        return self.text(
            "image", more=f'image = "{name}"\nvolumes = ["/usr", "{self.place}/image.conf"]'
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def of(name: str) -> functions.Function:
    with opened("roll") as view:
        return next(row for row in functions.read(view) if row.name == name)


def unready() -> dict[str, str]:
    with opened("roll") as view:
        return dict(view.unready)


def lines(name: str) -> list[str]:
    """The command lines in a function, without those that keep it."""
    words = [command_line(one).decode() for one in of(name).processes]
    return [line.replace("\0", " ").strip() for line in words]


class Clients:
    """wrk, and ten keep-alive connections, that ask the service."""

    def __init__(self, wrk: "subprocess.Popen[str]", counted: Path) -> None:
        self._wrk = wrk
        self._counted = counted

    def now(self) -> Counter[str]:
        """What the ten have counted."""
        text = self._counted.read_text() if self._counted.exists() else "{}"
        return Counter(json.loads(text))

    def ask(self, rounds: int) -> Counter[str]:
        """What they have after so many more rounds."""
        end = self.now()["rounds"] + rounds
        wait_until(lambda: self.now()["rounds"] >= end, what="they asked", seconds=60)
        return self.now()

    def ask_until(self, version: str) -> None:
        """All that they were asked for a while was answered by this version alone."""

        def answered() -> bool:
            before, found = self.now(), self.ask(10)
            return {key for key in found if found[key] > before[key]} - {"reopened", "rounds"} == {
                version
            }

        wait_until(answered, what=f"only {version} answers", seconds=60)

    def end(self) -> str:
        """What wrk counted."""
        self._wrk.send_signal(signal.SIGINT)
        said, _ = self._wrk.communicate(timeout=60)
        return said


@contextlib.contextmanager
def clients(mesh: Mesh) -> Iterator[Clients]:
    load = ["wrk", "-t1", "-c10", "-d600s", "--timeout", "20s", "http://198.19.0.1/version"]
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "counted")
        ten = [sys.executable, "-I", keepalive.__file__, "198.19.0.1", "80", file]
        with background(mesh, "client", load) as wrk, background(mesh, "client", ten):
            yield Clients(wrk, file)


def check_nothing_lost(found: Counter[str], said: str) -> None:
    assert found["reopened"], found
    assert not [key for key in found if key.startswith("lost")], found
    assert int(re.findall(r"(\d+) requests in", said)[0]) > 1000
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said


def roll(before: str, after: str) -> list[str]:
    """Roll under load, and see that nothing is lost; what it said."""
    mesh = mesh_of(before)
    apply.up(mesh)
    told: list[str] = []
    where = {f"web-{n}": (of(f"web-{n}").id, of(f"web-{n}").interface) for n in range(3)}

    def step(text: str) -> None:
        told.append(text)
        assert len(unready()) <= 1, text

    with clients(mesh) as asking:
        asking.ask_until("one")
        done = apply.up(mesh_of(after), step)
        asking.ask_until("two")
        found, said = asking.now(), asking.end()
    check_nothing_lost(found, said)
    assert [(one.kind, one.name) for one in done] == [
        ("roll-function", f"web-{number}") for number in range(3)
    ]
    assert where == {f"web-{n}": (of(f"web-{n}").id, of(f"web-{n}").interface) for n in range(3)}
    assert unready() == {}
    assert disagreements(mesh_of(after)) == []
    assert is_well("roll")
    return told


@contextlib.contextmanager
def asked(mesh: Mesh) -> Iterator[Clients]:
    """Clients of a mesh that is as it was, and lose nothing meanwhile."""
    with clients(mesh) as asking:
        asking.ask_until("one")
        yield asking
        found, said = asking.ask(20), asking.end()
    check_nothing_lost(found, said)


def test_another_command_loses_nothing(site: Site) -> None:
    told = roll(site.text("one"), site.text("two"))
    assert any(re.fullmatch(r"web-2: draining, \d+ connections?", step) for step in told), told
    begun = [step for step in told if step.endswith((": draining", ": ready"))]
    assert begun == [
        word for n in range(3) for word in (f"web-{n}: draining", f"function web-{n}: ready")
    ]


def test_another_image_loses_nothing(site: Site) -> None:
    with containers.engine("overlay"):
        roll(site.image("one"), site.image("two"))
        apply.down("roll")


def failing(site: Site, name: str = "web-1") -> list[str]:
    """A command that is the second version, but in one replica ends at once."""
    command = " ".join(site.command("two"))
    return ["sh", "-c", f"[ $(uname -n) != {name} ] || {{ echo no room; exit 3; }}; exec {command}"]


DIED = 'function "web-1": its command exited 3 before it was ready; it said: no room'


def test_one_that_does_not_get_ready_undoes_those_before_it(site: Site) -> None:
    before = site.mesh("one")
    apply.up(before)
    with asked(before) as asking:

        def met(step: str) -> None:
            """Who asks has met the second version of the first before the next one is begun."""
            most_are_ready(step)
            if step == "web-1: draining":
                wait_until(lambda: asking.now()["two"], what="two answers", seconds=60)

        with pytest.raises(MeshError, match=re.escape(DIED)) as caught:
            apply.up(site.mesh(failing(site)), met)
        assert "all is as before" in caught.value.hint
        assert asking.now()["two"]
        asking.ask_until("one")
    assert unready() == {}
    assert all("one.conf" in lines(f"web-{number}")[0] for number in range(3))
    assert disagreements(before) == []
    assert is_well("roll")


def test_it_may_be_kept_and_rolls_on_when_it_is_mended(site: Site) -> None:
    keep = 'on_failure = "keep"'
    apply.up(site.mesh("one", settings=keep))
    bad = site.mesh(failing(site), settings=keep)
    with asked(bad):
        with pytest.raises(apply.Unready, match=re.escape(DIED)) as caught:
            apply.up(bad, most_are_ready)
        assert [one.name for one in caught.value.done] == ["web-0", "web-1"]
        assert unready() == {"web-1": DIED}
        assert "one.conf" in lines("web-2")[0]
        with pytest.raises(apply.Unready, match=re.escape(DIED)) as caught:
            apply.up(bad, most_are_ready)
        (left,) = caught.value.others
        assert left.message.startswith('function "web-2" is left as it is: web-1 is not ready')
        assert [(one.kind, one.name) for one in caught.value.done] == [("start-function", "web-1")]
    assert [(one.kind, one.name) for one in apply.plan(bad)] == [
        ("roll-function", "web-2"), ("start-function", "web-1"),
    ]  # fmt: skip
    better = site.mesh("two", settings=keep)
    told: list[str] = []
    apply.up(better, told.append)
    begun = [step.partition(":")[0] for step in told if step.endswith(": draining")]
    assert begun == ["web-1", "web-0", "web-2"]  # first who serves nobody
    assert unready() == {}
    assert disagreements(better) == []


def most_are_ready(step: str) -> None:
    assert len(unready()) <= 1, step


def test_a_connection_that_does_not_end_has_so_much_time(tmp_path: Path) -> None:
    """And none else is waited for, nor what a function itself has begun."""
    site = Site(tmp_path, requests=1_000_000)
    before, after = (
        site.mesh(version, more="drain_seconds = 1", replicas=2) for version in ("one", "two")
    )
    apply.up(before)
    told: list[str] = []
    links = [connect(before, "client", before.service("web").address4, 80) for _ in range(20)]
    with contextlib.ExitStack() as stack:
        for link in links:
            stack.enter_context(link)
        apply.up(after, told.append)
    counted = [re.fullmatch(r"web-\d: draining, (\d+) connections?", step) for step in told]
    assert sum(int(found[1]) for found in counted if found) == len(links)
    assert disagreements(after) == []


def test_who_is_alone_is_waited_for(site: Site) -> None:
    """Who connects meanwhile is answered later: nobody refuses, and the kernel asks again."""
    before, after = (site.mesh(version, replicas=1) for version in ("one", "two"))
    apply.up(before)
    (step,) = apply.plan(after)
    assert step.describe().endswith("  (alone behind web, which waits for it)")
    begun = site.place / "begun"

    def step_by_step(text: str) -> None:
        assert "draining, " not in text
        if text == "stop web-0":
            begun.touch()

    ask = f"until [ -e {begun} ]; do sleep 0.02; done; curl -sm 60 http://198.19.0.1/version"
    outside = ["ip", "netns", "exec", "ebpfmesh.roll.client"]  # of its cgroup
    with (
        background(before, "client", ["sh", "-c", ask]) as first,
        background(before, None, [*outside, "sh", "-c", ask]) as second,
    ):
        apply.up(after, step_by_step)
        assert [one.communicate(timeout=60)[0] for one in (first, second)] == ["two\n"] * 2


def test_who_is_stopped_stays_so(site: Site) -> None:
    apply.up(site.mesh("one", replicas=2))
    apply.stop("roll", "web-1")
    after = site.mesh("two", replicas=2)
    apply.up(after)
    assert unready() == {"web-1": "stopped"}
    assert not of("web-1").processes
    apply.start("roll", "web-1")
    wait_until(lambda: "two.conf" in "".join(lines("web-1")), what="it runs")


def test_a_restart_rolls_too(site: Site) -> None:
    mesh = site.mesh("one")
    apply.up(mesh)
    before = {name: of(name).processes for name in ("web-0", "web-1", "web-2")}
    with asked(mesh):
        done = apply.restart("roll", "web", most_are_ready)
    assert [step.describe() for step in done] == [
        f"~ function web-{number}  restarted" for number in range(3)
    ]
    assert not any({*of(name).processes} & {*there} for name, there in before.items())
    assert unready() == {}


def test_variables_wait_for_the_next_start(site: Site) -> None:
    ready, sleep = "ready = {command = ['true']}\n", ["sleep", "1000"]
    apply.up(site.mesh(sleep, more=ready, replicas=1))
    before = of("web-0").processes
    after = site.mesh(sleep, more=f'{ready}env = {{SECRET = "b"}}', replicas=1)
    (step,) = apply.up(after)
    assert step.describe() == "~ function web-0  env changed, at the next start"
    assert of("web-0").processes == before
    apply.restart("roll", "web")
    environ = Path(f"/proc/{of('web-0').processes[0]}/environ").read_text()
    assert "SECRET=b" in environ.split("\0")


def test_another_user_is_so_where_the_function_is(site: Site) -> None:
    apply.up(site.mesh("one", replicas=1))
    where = of("web-0").netns
    after = site.mesh("one", more='user = "bin"', replicas=1)
    assert [step.kind for step in apply.up(after)] == ["roll-function"]
    assert of("web-0").netns == where
    assert Path(f"/proc/{of('web-0').processes[0]}").stat().st_uid == pwd.getpwnam("bin").pw_uid
    assert disagreements(after) == []
    assert apply.restart("roll", "web")
