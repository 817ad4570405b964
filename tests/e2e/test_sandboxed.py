# SPDX-License-Identifier: BSD-2-Clause
"""What a command of a mesh file meets in its sandbox, and what it tries to get out of it.

As the user it has by default, as root inside, and with CAP_NET_ADMIN: all of them are tried by
``exec``, which has what the command has.
"""

import ast
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.config.home import HOME as DESCRIBED
from ebpfmesh.runtime.sandbox import Sandbox
from support.command import COMMAND, ROOT, complaint, data, ebpfmesh
from support.processes import command_line
from support.sandboxed import PYTHON, one, said
from support.topology import mesh_of, needs, poll, running, wait_until

ESCAPE = (Path(__file__).parents[1] / "support/escape.py").read_text()
MESH = """
[mesh]
name = "boxes"
[[function]]
name = "plain"
command = ["sleep", "1000"]
[[function]]
name = "root"
command = ["sleep", "1000"]
user = "root"
[[function]]
name = "admin"
command = ["sleep", "1000"]
user = "root"
capabilities = ["NET_ADMIN", "NET_RAW", "DAC_OVERRIDE", "CHOWN", "SETUID", "SETGID", "SYS_CHROOT"]
[[function]]
name = "other"
command = ["sh", "-c", "echo secret >/tmp/file; exec sleep 1000"]
"""
EVERYBODY = ("plain", "root", "admin")
SYSCALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    words = [w if isinstance(w, bytes) else ctypes.c_ulong(w) for w in arguments]
    done = libc.syscall(ctypes.c_long(number), *words)
    return "done" if done >= 0 else errno.errorcode[ctypes.get_errno()]
"""


@pytest.fixture(scope="module", autouse=True)
def _up() -> Iterator[None]:
    with running(MESH) as mesh:
        for function in mesh.functions:
            wait_until(lambda name=function.name: is_sleep(name), what="its command runs")
        yield


def processes(name: str) -> list[int]:
    rows = data("show", "functions")["functions"]
    return next(row["processes"] for row in rows if row["name"] == name)


def is_sleep(name: str) -> bool:
    """Whether its command is there, and nothing that is about to become it."""
    return [command_line(one) for one in processes(name)] == [b"sleep\0001000\0"]


def inside(name: str, *words: object, code: int | None = 0, stdin: str = "") -> str:
    done = subprocess.run(
        [*COMMAND, "--mesh", "boxes", "exec", name, "--", *map(str, words)],
        input=stdin, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    if code is not None and done.returncode != code:
        pytest.fail(f"{words} in {name}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def python(name: str, script: str, *arguments: object) -> str:
    return inside(name, PYTHON, "-c", script, *arguments)


each = pytest.mark.parametrize("name", EVERYBODY)


# ---- who it is


def test_by_default_it_is_nobody_and_may_nothing() -> None:
    status = dict(line.split(":\t", 1) for line in inside("plain", "cat", "/proc/self/status")
                  .splitlines())  # fmt: skip
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "2")
    assert inside("plain", "id").startswith("uid=65534(nobody) gid=65534(nogroup) groups=65534")
    assert inside("root", "id").startswith("uid=0(root) gid=0(root) groups=0(root)")
    assert "0000000000000000" in inside("root", "grep", "CapPrm", "/proc/self/status")


@each
def test_a_command_and_exec_are_the_same(name: str) -> None:
    """Users, groups, capabilities, filters and namespaces."""
    keys = ("Cap", "NoNewPrivs", "Seccomp")
    (process,) = processes(name)
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    script = f"""
import os
lines = open("/proc/self/status").read().splitlines()
print([line for line in lines if line.startswith({keys!r})])
print(sorted(os.readlink(f"/proc/self/ns/{{kind}}") for kind in os.listdir("/proc/self/ns")))
"""
    found = python(name, script).splitlines()
    outer = [one for one in lines if one.startswith(keys)]
    assert found[0] == str(outer)
    names = {kind.name: str(kind.readlink()) for kind in Path(f"/proc/{process}/ns").iterdir()}
    assert found[1] == str(sorted(names.values()))
    own = {kind.name: str(kind.readlink()) for kind in Path("/proc/self/ns").iterdir()}
    same = {kind for kind, link in names.items() if own[kind] == link}
    assert same == {"time", "time_for_children"}


@each
def test_it_is_nobody_at_the_host(name: str) -> None:
    """Root of one function is not that of another, nor the host's."""
    (process,) = processes(name)
    uid = Path(f"/proc/{process}").stat().st_uid
    mesh = mesh_of(MESH)
    assert uid == Sandbox("boxes", mesh.function(name)).own + (name == "plain")
    assert uid >= 0x70000000
    others = [processes(other)[0] for other in EVERYBODY if other != name]
    assert uid not in {Path(f"/proc/{other}").stat().st_uid for other in others}


def test_it_does_not_get_the_callers_environment() -> None:
    """Not what keeps it either: it can read of the first process of its sandbox."""
    done = subprocess.run(
        [*COMMAND, "exec", "plain", "--", "sh", "-c", "env; cat /proc/*/environ"],
        env=os.environ | {"SECRET": "of the caller"}, capture_output=True, text=True, check=True,
        cwd=ROOT,
    )  # fmt: skip
    assert "SECRET" not in done.stdout
    assert "EBPFMESH" not in done.stdout
    assert "PATH=/usr/local/sbin" in done.stdout


# ---- what it sees


@each
def test_it_sees_its_own_processes_alone(name: str) -> None:
    found = inside(name, "sh", "-c", "cat /proc/[0-9]*/comm; exit").split()
    assert sorted(found) in (["bwrap", "sh", "sleep"], ["bwrap", "cat", "sh", "sleep"])


@each
def test_it_sees_no_files_of_others(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("the host's")
    script = (
        "ls -A / /run /tmp /var /dev/shm /sys/fs/bpf; ls /root /home /srv /boot;"
        " cat $1 && exit 9; exit 0"
    )
    found = inside(name, "sh", "-c", script, "sh", tmp_path / "file")
    assert set(found.split("\n\n")[0].split()) == {
        "/:", "bin", "dev", "etc", "lib", "lib64", "opt", "proc", "run", "sbin", "sys", "tmp",
        "usr", "var", *(p.name for p in Path("/").glob("lib*")),
    }  # fmt: skip
    for empty in ("/run:", "/tmp:", "/dev/shm:", "/sys/fs/bpf:"):
        assert f"{empty}\n\n" in found or found.endswith(f"{empty}\n"), found
    assert inside("other", "cat", "/tmp/file") == "secret\n"


def test_it_sees_no_description_of_a_mesh() -> None:
    """Variables of all functions are in /etc/ebpfmesh, which is in /etc."""
    made = not DESCRIBED.exists()
    DESCRIBED.mkdir(exist_ok=True)
    secret = DESCRIBED / ".test-of-a-sandbox"
    try:
        secret.write_text("secret")
        with running(MESH.replace('"boxes"', '"later"')):
            for name in EVERYBODY:
                said = ebpfmesh("--mesh", "later", "exec", name, "--", "cat", secret, code=1)
                assert "secret" not in said.stdout
    finally:
        secret.unlink(missing_ok=True)
        if made:
            DESCRIBED.rmdir()


def test_who_becomes_another_reads_no_secrets() -> None:
    """Files of the host that one group may read, for a function that may have any group."""
    become = "import os, sys; os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[2]))"
    read = f"{become}; print(open(sys.argv[3]).read())"
    group = Path("/etc/shadow").stat().st_gid
    with pytest.raises(pytest.fail.Exception, match="PermissionError"):
        python("admin", read, group, 1, "/etc/shadow")
    assert python("admin", read, 1, 1, "/etc/hostname").strip()


@each
def test_no_mount_is_the_hosts(name: str) -> None:
    """Nor can one be written to that is not its own."""
    places = {"/tmp", "/run", "/dev/shm"}
    for line in inside(name, "cat", "/proc/self/mounts").splitlines():
        _, place, kind, options, *_ = line.split()
        if place.startswith("/dev/") and kind == "devtmpfs":
            assert place in {
                f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom", "tty")
            }
        elif place not in places | {"/proc", "/dev/pts"}:
            assert options.split(",")[0] == "ro", line
        assert "nosuid" in options, line


@each
def test_it_changes_nothing_of_the_machine(name: str) -> None:
    script = """
import os, sys
for path in sys.argv[1:]:
    try:
        open(path, "r+b").write(b"1")
    except OSError:
        continue
    print(path)
"""
    places = (
        "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
        "/sys/kernel/mm/ksm/run", "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/unified/cgroup.procs", "/etc/hosts", "/etc/passwd", "/usr/bin/env",
        "/proc/1/oom_score_adj",
    )  # fmt: skip
    assert [p for p in python(name, script, *places).split() if p != "/proc/1/oom_score_adj"] == []


# ---- what it tries


@each
def test_system_calls_that_lead_out_are_refused(name: str) -> None:
    """By number, as a program would that brings its own C library."""
    script = (
        SYSCALL
        + """
found = {
    "bpf": call(321, 0, 0, 0),
    "perf_event_open": call(298, 0, 0, 0, 0, 0),
    "unshare": call(272, 0x10000000),
    "setns": call(308, 0, 0),
    "mount": call(165, b"x", b"/tmp", b"tmpfs", 0, 0),
    "umount2": call(166, b"/tmp", 2),
    "pivot_root": call(155, b"/tmp", b"/tmp"),
    "open_tree": call(428, 0, 0, 0),
    "move_mount": call(429, 0, 0, 0, 0, 0),
    "fsopen": call(430, 0, 0),
    "clone with a user namespace": call(56, 0x10000000 | 17, 0, 0, 0, 0),
    "clone with a time namespace": call(56, 0x80 | 17, 0, 0, 0, 0),
    "keyctl": call(250, 0, 0),
    "add_key": call(248, 0, 0, 0, 0, 0),
    "init_module": call(175, 0, 0, 0),
    "kexec_load": call(246, 0, 0, 0, 0),
    "userfaultfd": call(323, 0),
    "io_uring_setup": call(425, 1, 0),
    "open_by_handle_at": call(304, 0, 0, 0),
    "reboot": call(169, 0, 0, 0, 0),
    "swapon": call(167, 0, 0),
    "sethostname": call(170, b"x", 1),
    "clone3": call(435, 0, 0),
    "of tomorrow": call(900),
    "vsock": call(41, 40, 1, 0),
    "alg": call(41, 38, 5, 0),
    "type": call(16, 0, 0x5412, 0),
    "type, in 64 bits": call(16, 0, 0x100005412, 0),
}
print({key: value for key, value in found.items()})
"""
    )
    found = ast.literal_eval(python(name, script))
    expected = dict.fromkeys(found, "EPERM")
    expected |= {"clone3": "ENOSYS", "of tomorrow": "ENOSYS"}
    expected |= {"vsock": "EAFNOSUPPORT", "alg": "EAFNOSUPPORT"}
    assert found == expected


@each
def test_devices_cannot_be_made(name: str) -> None:
    script = """
import os, stat
try: os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(254, 0))
except PermissionError: print("no")
"""
    assert python(name, script) == "no\n"


@each
def test_no_socket_of_the_host_is_reached(name: str, tmp_path: Path) -> None:
    """Neither by its path nor by an abstract name, as a daemon of the mesh would have."""
    script = """
import socket, sys
for name in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as one:
        try: one.connect(name.replace("@", "\\0"))
        except OSError: continue
        print(name)
"""
    run = Path("/run/ebpfmesh-test.sock")
    with ExitStack() as stack:
        for place in (str(run), str(tmp_path / "socket"), "\0ebpfmesh-test"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(place)
            server.listen()
        stack.callback(run.unlink)
        assert python(name, script, run, tmp_path / "socket", "@ebpfmesh-test") == ""


@each
def test_no_other_namespace_is_entered(name: str) -> None:
    (other,) = processes("other")
    for words in (
        ("nsenter", "--net=/run/netns/ebpfmesh.boxes.other", "true"),
        ("nsenter", "-t", 1, "-n", "true"),
        ("unshare", "-r", "true"),
        ("unshare", "-n", "true"),
        ("sh", "-c", f"kill -0 {other}"),
        ("ip", "netns", "add", "x"),
        ("chroot", "/proc/1/root/../..", "ls", "/root"),
    ):
        inside(name, "sh", "-c", '"$@" 2>/dev/null && exit 9; exit 0', "sh", *words)


@each
def test_the_hosts_interfaces_stay(name: str) -> None:
    """Through the number that its namespace has for the host's: its own host side, and others'."""
    before = {row["name"]: row["ifindex"] for row in data("show", "functions")["functions"]}
    others = list(before.values())
    found = json.loads(python(name, ESCAPE, "--spare", *others))
    assert len(found) == 2 * len(others)
    assert set(found.values()) <= {"Operation not permitted", "Permission denied"}
    after = data("show", "functions")["functions"]
    assert {row["name"]: row["ifindex"] for row in after} == before
    assert {row["state"] for row in after} == {"up"}


def test_with_net_admin_its_own_network_is_its_own() -> None:
    """Interfaces, addresses and filters; and what it deletes is its own."""
    inside("admin", "ip", "link", "add", "x0", "type", "veth", "peer", "x1")
    inside("admin", "ip", "address", "add", "192.0.2.1/32", "dev", "x0")
    inside("admin", "ip", "link", "del", "x0")
    inside("plain", "ip", "link", "add", "x0", "type", "veth", code=2)
    inside("root", "ip", "link", "add", "x0", "type", "veth", code=2)


def test_who_deletes_its_own_interface_hurts_itself_alone() -> None:
    """A veth pair ends with either end; the mesh says so, and the next up makes it anew."""
    keys = ('user = "root"', 'capabilities = ["NET_ADMIN"]')
    text = one("import time; time.sleep(1000)", *keys) + '[[function]]\nname = "g"\n'
    states = lambda: {  # noqa: E731
        row["name"]: row["state"]
        for row in data("--mesh", "bound", "show", "functions")["functions"]
    }
    with running(text) as mesh:
        line = [*COMMAND, "--mesh", "bound", "exec", "f", "--", "ip", "link", "del", "eth0"]
        subprocess.run(line, check=True, cwd=ROOT)
        assert states() == {"f": "interface gone", "g": "up"}
        apply.up(mesh)
        assert states() == {"f": "up", "g": "up"}


@each
def test_its_pins_and_programs_are_not_there(name: str) -> None:
    needs("bpftool")
    for words in (
        ("bpftool", "prog", "show"),
        ("bpftool", "link", "show"),
        ("bpftool", "map", "show"),
    ):
        assert "mesh_" not in inside(name, *words, code=None)


# ---- what it can do


@each
def test_ping_and_low_ports_need_no_capability(name: str) -> None:
    inside(name, "ping", "-4", "-c", 1, "-W", 20, "other")
    inside(name, "ping", "-6", "-c", 1, "-W", 20, "other")
    python(name, "import socket; socket.create_server(('', 80)); socket.create_server(('', 53))")


def test_exec_ends_as_its_command() -> None:
    text = "line\n" * 20000
    assert inside("plain", "cat", stdin=text) == text
    inside("plain", "sh", "-c", "exit 77", code=77)
    inside("plain", "sh", "-c", "kill -TERM $$", code=-15)
    inside("plain", "nosuchprogram", code=127)
    assert inside("plain", "printf", "%s|", "a b", "", "$HOME") == "a b||$HOME|"


def test_exec_inherits_no_more_than_inputs_and_outputs() -> None:
    read, write = os.pipe()
    try:
        done = subprocess.run(
            [*COMMAND, "exec", "plain", "--", "ls", "/proc/self/fd"],
            capture_output=True, text=True, check=True, cwd=ROOT, pass_fds=(read, write),
        )  # fmt: skip
    finally:
        os.close(read)
        os.close(write)
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is the directory itself


def test_exec_needs_a_command_that_runs() -> None:
    text = '[mesh]\nname = "short"\n[[function]]\nname = "f"\ncommand = ["true"]\n'
    with running(text):
        ended = lambda: data("--mesh", "short", "show", "functions")["functions"][0]["exit_status"]  # noqa: E731
        assert poll(lambda: ended() == 0)
        said = complaint("--mesh", "short", "exec", "f", "--", "true", code=3)
        assert "does not run" in str(said)


NGINX = """error_log stderr; pid /run/nginx.pid; events {}
http { access_log off; server { listen 80; location / { return 204; } } }
"""
SERVERS = {
    "nginx": (
        ["nginx", "-e", "stderr", "-c", "/conf", "-g", "daemon off;"], 80,
        'volumes = ["{conf}:/conf", "tmp:/var/lib/nginx"]',
    ),
    "dnsmasq": (["dnsmasq", "-k", "-C", "/dev/null", "--user", "--pid-file", "-R"], 53, ""),
    "iperf3": (["iperf3", "-s", "-p", "443"], 443, ""),
    "python3": (["python3", "-m", "http.server", "80", "--bind", "::"], 80, ""),
    "busybox": (["busybox", "httpd", "-f", "-p", "80", "-h", "/usr/share/doc"], 80, ""),
}  # fmt: skip
"""Each with its port and what it needs of the mesh file."""


@pytest.mark.parametrize("program", SERVERS)
def test_servers(tmp_path: Path, program: str) -> None:
    needs(program)
    (tmp_path / "conf").write_text(NGINX)
    command, port, keys = SERVERS[program]
    text = f'[mesh]\nname = "bound"\n[[function]]\nname = "f"\ncommand = {json.dumps(command)}\n'
    client = '[[function]]\nname = "client"\n'
    probe = f"import socket; socket.create_connection(('f', {port}), 2)"
    line = [*COMMAND, "--mesh", "bound", "exec", "client", "--", PYTHON, "-c", probe]
    with running(text + keys.format(conf=tmp_path / "conf") + "\n" + client):
        answers = lambda: subprocess.run(line, capture_output=True, check=False).returncode == 0  # noqa: E731
        assert poll(answers), said("bound")


def test_a_fork_bomb_stays_in_its_cgroup() -> None:
    """It gets as many processes as it was given, without those that keep it."""
    script = """
import os, time
count = 1
try:
    while count < 5000:
        if not os.fork(): time.sleep(1000)
        count += 1
except BlockingIOError: print(count, flush=True)
time.sleep(1000)
"""
    with running(one(script, "pids = 40")):
        wait_until(lambda: said("bound"), what="it has had enough", seconds=20)
        assert 30 <= int(said("bound")) < 40
        inside("plain", "true")
