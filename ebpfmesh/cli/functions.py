# SPDX-License-Identifier: BSD-2-Clause
"""Commands for one function: attach, detach, exec."""

from typing import TYPE_CHECKING, Any

import click

from ebpfmesh.cli import complete, output
from ebpfmesh.cli.base import NO_WAIT, WAIT, Command, settings
from ebpfmesh.cli.choose import need_change, the_mesh, the_mesh_if_any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ebpfmesh.apply import OnStep
    from ebpfmesh.operation import Operation


@click.command(
    cls=Command,
    examples=(
        "ip netns add cache && ebpfmesh attach cache --netns cache --tenant operator",
        "ebpfmesh attach shop --container shop --ip 198.18.7.7 --datapath xdp",
        "ebpfmesh attach probe --pid $(pgrep -nx probe) --audit",
    ),
)
@click.argument("name", required=False)
@click.option("--netns", "namespace", metavar="N", help="A network namespace, by name or path.")
@click.option("--pid", metavar="P", type=click.IntRange(min=1), help="A process in it.")
@click.option("--container", metavar="C", help="A container of podman or docker, name or id.")
@click.option("--iface", metavar="I", help="The host side of a container's own veth pair.")
@click.option("--uplink", metavar="I", help="An interface of the host's to the outside.")
@click.option("--masquerade", is_flag=True, help="Flows to the outside leave by that uplink.")
@click.option("--masquerade-ports", metavar="P", help="And with which ports, such as 50000-59999.")
@click.option("--ip", "ips", metavar="A", multiple=True, help="Its address; one of each family.")
@click.option("--tenant", metavar="T", default="default", show_default=True,
              shell_complete=complete.tenants, help="Its tenant.")  # fmt: skip
@click.option("--audit", is_flag=True, help="Only count what policy forbids on its way in.")
@click.option(
    "--datapath",
    type=click.Choice(["tc", "af_xdp", "xdp"]),
    default="tc",
    show_default=True,
    help="How it gets its packets: by sockets, a port, or XDP.",
)
@click.option("--frames", metavar="N", type=int, help="Room of each queue of a port, in packets.")
@click.option("--queues", metavar="N", type=int, help="Queues of a port.")
@click.option("--force", is_flag=True, help="Attach beside programs of others there.")
def attach(
    name: str | None,
    uplink: str | None,
    ips: tuple[str, ...],
    tenant: str,
    audit: bool,
    force: bool,
    **where: Any,
) -> None:
    """Make a container a function of the mesh, called NAME.

    It gets an interface of its own, and addresses from the mesh's prefixes unless --ip says
    which. With --iface it keeps the interface and the addresses it has.

    With --uplink an interface of the host's becomes an uplink instead, called NAME or as the
    interface is: functions and published services are reached from outside by it. All else that
    comes in there stays the host's. --ip is the address of the host's on which services are
    published, if it has several. With --masquerade what functions open to the outside leaves by
    it at once, IPv4 as that address.

    With --datapath af_xdp it has its packets in mapped memory, as far as `ebpfmesh port` hands it
    that; with xdp an XDP program of its own has them at that interface, whole and without offloads.
    """
    from ebpfmesh import apply

    need_change("attach")
    mesh = the_mesh()
    keys = ("datapath", "frames", "queues")
    settled = {key: value for key in keys if (value := where.pop(key)) is not None}
    given = {key: where.pop(key) or None for key in ("masquerade", "masquerade_ports")}
    given = {key: value for key, value in given.items() if value is not None}
    if uplink is not None:
        if audit or any(where.values()) or settled != {"datapath": "tc"}:
            what = "--uplink goes with --ip, --masquerade, --masquerade-ports and --force alone"
            raise click.UsageError(what)
        _attach_uplink(mesh, name or uplink, uplink, ips, force, given)
        return
    if given:
        raise click.UsageError("--masquerade is for an --uplink")
    if name is None:
        raise click.UsageError("Missing argument 'NAME'.")
    request = apply.Request(
        mesh=mesh, name=name, tenant=tenant, audit=audit, addresses=ips, force=force,
        settings=settled, **where,
    )  # fmt: skip
    with output.steps(f"function {name}") as step:
        row = apply.attach(request, step)
    addresses, interface = list(map(str, row.function.addresses)), row.attachment.interface
    if settings().json:
        output.data(mesh=mesh, name=name, tenant=tenant, addresses=addresses, interface=interface)
    else:
        text = "  ".join([f"tenant {tenant}", *addresses, f"interface {interface}"])
        output.done(f"+ function {name}  {text}")


def _attach_uplink(
    mesh: str,
    name: str,
    interface: str,
    ips: tuple[str, ...],
    force: bool,
    given: dict[str, object],
) -> None:
    from ebpfmesh import apply
    from ebpfmesh.observe import uplinks

    with output.steps(f"uplink {name}") as step:
        row = apply.attach_uplink(
            mesh, name, interface, addresses=ips, force=force, on_step=step, **given
        )
    addresses = list(map(str, row.addresses))
    without = uplinks.without_xdp(mesh).get(name)
    warnings = [f"uplink {name}: no XDP: {without}"] if without else []
    if settings().json:
        output.data(
            mesh=mesh, name=name, addresses=addresses, interface=interface, warnings=warnings
        )
    else:
        output.done("  ".join([f"+ uplink {name}", f"interface {interface}", *addresses]))
        for text in warnings:
            output.warn(text)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh detach cache",
        "ebpfmesh detach web-1 --mesh edge",
        "ebpfmesh --json detach probe --if-exists",
    ),
)
@click.argument("name", shell_complete=complete.detachable)
@click.option("--uplink", is_flag=True, help="NAME is an uplink.")
@click.option(
    "--if-exists", is_flag=True, help="It is fine if there is no such function, or no mesh."
)
def detach(name: str, uplink: bool, if_exists: bool) -> None:
    """Take function NAME out of the mesh, or all replicas of that name; undoes attach.

    Services lose it as a backend, rules about it go. A namespace that was there before stays. With
    --uplink the interface is the host's alone again, and what was published there no longer is.
    """
    from ebpfmesh import apply

    need_change("detach")
    mesh = the_mesh_if_any() if if_exists else the_mesh()
    if uplink:
        done: Sequence[Operation] = ()
        if mesh is not None:
            with output.steps(f"uplink {name}") as step:
                done = apply.detach_uplink(mesh, name, step, missing_ok=if_exists)
        output.operations(mesh or "", done)
        return
    gone: tuple[str, ...] = ()
    if mesh is not None:
        with output.steps(f"function {name}") as step:
            gone = apply.detach(mesh, name, step, missing_ok=if_exists)
    if settings().json:
        output.data(mesh=mesh, name=name, functions=gone)
        return
    for function in gone:
        output.done(f"- function {function}")
    if not gone:
        output.say(f"there is no function {name}")


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    cls=Command,
    examples=(
        "ebpfmesh exec phone -- ping -c 3 camera",
        "ebpfmesh exec phone -- curl -s http://portal/",
        "ebpfmesh exec phone -- bash",
    ),
)
@click.argument("name", shell_complete=complete.functions)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, command: tuple[str, ...]) -> None:
    """Run COMMAND inside function NAME.

    In its network namespace and its cgroup, with its limits; names of functions and services
    resolve. The exit code is the command's own.

    Where the mesh file gives the function a command, COMMAND runs in that command's sandbox:
    beside it, as its user, with its files, variables, capabilities and system calls. A sandbox
    shows /usr, /etc and /opt of the host, read-only (or the rootfs or image that the file names),
    its volumes, a /tmp, /run and /dev/shm of its own, and no process but its own.

    Anywhere else it is root as in a container, with the host's files: without CAP_NET_ADMIN, which
    would reach the host's interfaces. To change what is inside: ip netns exec ebpfmesh.MESH.NAME.
    """
    from ebpfmesh import apply
    from ebpfmesh.runtime import enter, process

    need_change("exec")
    command = command[1:] if command[0] == "--" else command
    if not command:
        raise click.UsageError("no command to run", click.get_current_context())
    mesh = the_mesh()
    home = apply.home(mesh, name)
    if found := apply.sandbox(mesh, name):
        enter.enter(found, home, command)
    process.execute(home, command)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh stop web",
        "ebpfmesh stop web-1 --mesh edge",
        "ebpfmesh --json stop web-0",
    ),
)
@click.argument("name", shell_complete=complete.functions_and_groups)
def stop(name: str) -> None:
    """End the command of function NAME, or of all replicas of that name.

    Services send new flows to others first; then its processes get its `stop_signal`, and SIGKILL
    `stop_seconds` later. The function stays in the mesh with its addresses, rules and services. It
    is stopped until `start`, `restart`, or an `up` of a file by which it is made anew: one that
    finds it as the file says leaves it stopped.
    """
    from ebpfmesh import apply

    need_change("stop")
    mesh = the_mesh()
    with output.steps(f"stop {name}") as step:
        done = apply.stop(mesh, name, step)
    output.operations(mesh, done)


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh start web",
        "ebpfmesh start web-1 --mesh edge",
        "ebpfmesh --json start web-0",
    ),
)
@click.argument("name", shell_complete=complete.functions_and_groups)
@WAIT
@NO_WAIT
def start(name: str, wait: float | None, no_wait: bool) -> None:
    """Start the command of function NAME, or of all replicas of that name, where it does not run.

    Be it that somebody stopped it, or that it ended by itself. It runs as the mesh file says, from
    the beginning. Until it is ready services send it nothing; that is waited for as `up` does. If
    it does not get ready all stays as it is then, and the exit code is 1.
    """
    from ebpfmesh import apply

    need_change("start")
    mesh = the_mesh()
    seconds = 0 if no_wait else wait
    _started(mesh, name, lambda step: apply.start(mesh, name, step, wait=seconds))


@click.command(
    cls=Command,
    examples=(
        "ebpfmesh restart web",
        "ebpfmesh restart web-1 --mesh edge",
        "ebpfmesh --json restart web-0",
    ),
)
@click.argument("name", shell_complete=complete.functions_and_groups)
@WAIT
@NO_WAIT
def restart(name: str, wait: float | None, no_wait: bool) -> None:
    """End the command of function NAME as `stop` does, and start it as `start` does.

    All replicas of a name, one after the other: services send new flows to others, those that are
    connected have `drain_seconds` to end, and the next is not touched before this one is ready. The
    first that does not get ready ends it, with exit code 1.
    """
    from ebpfmesh import apply

    need_change("restart")
    mesh = the_mesh()
    seconds = 0 if no_wait else wait
    _started(mesh, name, lambda step: apply.restart(mesh, name, step, wait=seconds))


def _started(mesh: str, name: str, do: "Callable[[OnStep], tuple[Operation, ...]]") -> None:
    """Do it, and tell what was done, be it that what is started does not get ready."""
    from ebpfmesh import apply

    try:
        with output.steps(f"function {name}") as step:
            done = do(step)
    except apply.Unready as error:
        output.operations(mesh, error.done)
        raise
    output.operations(mesh, done)


COMMANDS = (attach, detach, exec_, stop, start, restart)
