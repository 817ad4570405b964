# SPDX-License-Identifier: BSD-2-Clause
"""What people are told of the tables and keys of a mesh file; the models say the rest."""

from ebpfmesh.model import Parts, Rate, Shares

TABLES = {
    "mesh": "The mesh as a whole. While it is up reject, host, on_failure and timeouts can change.",
    "mesh.limits": "How many entries the maps have room for.",
    "mesh.timeouts": "How many seconds a flow lives without a packet.",
    "function": "A container, or with `replicas` a group of containers that are alike.",
    "function.ready": "When a function is ready: one of `port`, `command` and `file`.",
    "function.health": "Whether it still is: as `ready`, or one of `port`, `command` and `file`.",
    "function.rate": (
        "What a function may send and get a second; each key limits one thing. Bits are those of "
        "whole Ethernet frames, K, M, G and T powers of 1000."
    ),
    "service": "An address and a port, or a range of ports, in front of functions.",
    "policy": "Who may open flows to whom; answers need no rule.",
    "uplink": "An interface of the host's to the outside, see [uplink.md](uplink.md).",
    "remote": "A machine beyond an uplink, as a backend, see [uplink.md](uplink.md).",
    "tenant": "What a tenant has of what all share, and may inject; all of it can change in place.",
    "tenant.rate": (
        "What all functions of a tenant may send and get together; what goes from one to another "
        "counts both ways."
    ),
    "tenant.flows": "Its part of `limits.flows`, for flows that its functions open.",
    "tenant.half_open": "Its part of `limits.half_open`, for connections that they begin.",
    "tenant.events": (
        "Its part of the MiB of events that nobody has read, about what its functions send. One is "
        "104 bytes, and what it has of the packet."
    ),
    "tenant.fragments": "Its part of `limits.fragments`, for what they send in fragments.",
    "pool": "Memory that functions of one tenant share, see [pool.md](pool.md).",
    "inject": "A program of yours that packets meet in the kernel, see `ebpfmesh inject --help`.",
}
"""What each table is."""
WITHOUT = {
    ("mesh", "prefix"): " and ".join(
        f"`{Parts.model_fields[key].default}`" for key in ("prefix4", "prefix6")
    ),
    ("function", "replicas"): "one function, called as the table says",
    ("function", "address"): "assigned",
    ("function", "addresses"): "assigned",
    ("function", "netns"): "one of its own",
    ("function", "cpu"): "no limit",
    ("function", "memory"): "no limit",
    ("function", "rate"): "no limit",
    **{("function.rate", key): "no limit" for key in Rate.model_fields},
    **{("tenant.rate", key): "no limit" for key in Rate.model_fields},
    ("tenant", "rate"): "no limit",
    ("function", "user"): "`nobody`",
    ("function", "workdir"): "`/`, or the image's",
    ("function", "rootfs"): "the host's /usr, /etc and /opt",
    ("function", "image"): "the host's /usr, /etc and /opt",
    ("function", "tmp"): "`64M`",
    ("function", "ready"): "with a command: the target ports of services that name it listen",
    ("function", "health"): "it is not looked at again",
    ("function.ready", "port"): "those of services that name it, if there is no other probe",
    ("function.health", "port"): "as `ready`, if there is no other probe",
    ("service", "target_port"): "`port`",
    ("service", "weights"): "1 each",
    ("service", "publish"): "functions alone reach it",
    ("uplink", "address"): "the first of each family that the interface has",
    ("policy", "port"): "any",
    **{
        (f"tenant.{key}", kind): text
        for key in Shares.model_fields
        for kind, text in (
            ("guarantee", "as much as others without one: of half the table what is left"),
            ("maximum", "its guarantee, and all that is guaranteed to nobody"),
        )
    },
    ("tenant", "pools"): "`1G`",
    ("pool", "bytes"): "`2K`",
    ("pool", "members"): "as many as there are",
    ("tenant", "log"): "2 MiB of each function",
    ("inject", "tenant"): "the operator's",
    ("inject", "file"): "`source`",
    ("inject", "source"): "`file`",
    ("policy", "icmp_type"): "any",
}
"""What holds without a key, where that is no default of the model's."""
_PROBE = {
    "port": ("A port that listens, at an address that others reach.", "8080"),
    "protocol": ("Whose port.", '"udp"'),
    "command": (
        "A command in the sandbox of the function's own that ends with 0, within five seconds.",
        '["curl", "-sf", "localhost:8080"]',
    ),
    "file": ("A file that is there, as the function's command sees it.", '"/run/ready"'),
}
_SHARE = {
    "guarantee": ("As much is there for it, whatever others do; three quarters can be.", "4096"),
    "maximum": ("More it never has.", "16384"),
}
ABOUT: dict[str, dict[str, tuple[str, str]]] = {
    "mesh": {
        "name": ("What the mesh is called: in pins, namespaces and `--mesh`.", '"edge"'),
        "prefix": ("Where functions get addresses from that are given none.", '"198.18.0.0/16"'),
        "hook": (
            "How programs are attached; auto: by link where functions send, if the kernel can.",
            '"clsact"',
        ),
        "expedited": (
            "While the mesh is changed, the kernel's grace periods are shorter, for everybody.",
            "true",
        ),
        "reject": (
            "Who sends what no rule allows, or what no service or function takes, is told so.",
            "true",
        ),
        "count_flows": (
            "Packets, bytes and age of each flow are in `show flows`; each packet costs more.",
            "true",
        ),
        "host": (
            "The host's own processes reach services, see [uplink.md](uplink.md#the-host-itself).",
            "true",
        ),
        "on_failure": (
            "Where a function does not get ready, all that `up` did is undone, or it is kept.",
            '"keep"',
        ),
        "limits": ("How much there is room for.", "{functions = 2048}"),
        "timeouts": ("How long a flow lives without a packet.", "{udp = 30}"),
    },
    "mesh.limits": {
        "functions": ("Functions, each replica one.", "2048"),
        "tenants": ("Tenants.", "32"),
        "services": ("Services; a range of ports counts as the prefixes it is made of.", "64"),
        "rules": ("Policies; a range of ports counts as the prefixes it is made of.", "65536"),
        "prefixes": ("Prefixes of the outside that policies name.", "64"),
        "flows": ("Flows that are remembered; the oldest makes room.", "65536"),
        "half_open": ("TCP flows of which one side was heard.", "16384"),
        "fragments": ("Datagrams in fragments that are on their way.", "1024"),
        "sockets": ("Deprecated: has no effect any more, and is warned of.", "8192"),
    },
    "mesh.timeouts": {
        "handshake": ("Seconds; TCP until both sides were heard.", "30"),
        "established": ("Seconds; TCP.", "3600"),
        "closing": ("Seconds; TCP after both sides closed, or one reset.", "60"),
        "udp": ("Seconds.", "30"),
        "icmp": ("Seconds.", "10"),
    },
    "function": {
        "name": ("What it is called, in /etc/hosts of all functions too.", '"web"'),
        "tenant": ("Functions of one tenant may talk to one another.", '"vendor"'),
        "replicas": (
            "As many functions NAME-0, NAME-1, …: a group, which policies and services call NAME.",
            "2",
        ),
        "address": (
            "Its addresses; without, one of each of the mesh's prefixes, by its name.",
            '["198.18.0.10", "2001:db8::10"]',
        ),
        "addresses": (
            "Those of single replicas, where they shall not be assigned.",
            '{web-0 = "198.18.0.11"}',
        ),
        "netns": (
            "A network namespace that is there already; without, it gets one of its own.",
            '"given"',
        ),
        "command": (
            "What runs in it from the beginning, in a sandbox, see `ebpfmesh exec --help`.",
            '["iperf3", "-s"]',
        ),
        "user": (
            "Who its command is, by name or number. `root` and `nobody` are this function's own.",
            '"www-data"',
        ),
        "env": ("Variables its command has, besides PATH and HOME.", '{LANG = "C.UTF-8"}'),
        "workdir": ("Where its command begins.", '"/srv/site"'),
        "volumes": (
            "What of the host its command sees, read-only unless `:rw`; `tmp`: an empty directory.",
            '["/srv/site", "/srv/data:/data:rw", "tmp:/var/lib/nginx"]',
        ),
        "rootfs": ("A directory that is its command's root, read-only.", '"/srv/alpine"'),
        "image": (
            "An image podman or containerd has, as its command's root, read-only; never pulled.",
            '"docker.io/library/redis:7"',
        ),
        "capabilities": ("What its command may do besides, in its sandbox.", '["NET_RAW"]'),
        "ready": (
            "When it gets new flows of services, and what `up` waits for.",
            "{port = 8080}",
        ),
        "health": (
            "Whether it still gets them: looked at again and again while `ebpfmesh serve` runs.",
            "{interval = 10}",
        ),
        "pids": ("Processes and threads its command may have, with three that keep it.", "64"),
        "tmp": (
            "Bytes there are in its /tmp, its /run, its /dev/shm and each `tmp` volume.",
            '"256M"',
        ),
        "privileged": (
            "Its command has no sandbox, and is root of the host with the host's files.",
            "true",
        ),
        "restart": (
            "When `ebpfmesh serve` starts its command again; a failure is any status but 0.",
            '"on-failure"',
        ),
        "stop_signal": ("What asks its command to end, at `stop` and when it goes.", '"SIGQUIT"'),
        "stop_seconds": ("Seconds that it has for it; what is left then is killed.", "10"),
        "drain_seconds": (
            "Seconds that its connections have to end before another command takes its place.",
            "30",
        ),
        "cpu": ("CPUs it may use.", "0.5"),
        "memory": ("Bytes it may use; K, M, G and T are powers of 1024.", '"64M"'),
        "rate": (
            "What it may send and get: bits a second both ways, or a table; see below.",
            '"100M"',
        ),
        "audit": ("What policy would drop on its way in passes, and is counted.", "true"),
        "datapath": (
            "tc: sockets; af_xdp: frames for its command; xdp: for XDP (docs/packet-functions.md).",
            '"af_xdp"',
        ),
        "program": (
            "With xdp: an XDP program in C that is all of the function.",
            '"examples/packet/echo.c"',
        ),
        "source": ("The text of such a program, instead of a file.", "'''…'''"),
        "frames": ("Frames that a queue has room for (2 KiB) with af_xdp; a power of two.", "1024"),
        "queues": ("Queues of its interface, with af_xdp; a flow's packets come by one.", "2"),
        "frames_in": ("The pool that its frames are in, with af_xdp (docs/port.md).", '"frames"'),
    },
    "function.ready": {
        **_PROBE,
        "seconds": ("How long `up` waits for it; `--wait` says another time.", "120"),
    },
    "function.health": {
        **_PROBE,
        "interval": ("Seconds between two looks.", "10"),
        "failures": ("So many in a row, and it gets no new flows.", "1"),
    },
    "function.rate": {
        "send": ("What it sends; more waits in a queue at its own interface.", '"100M"'),
        "receive": ("What it gets; more is dropped (`RATE`).", '"1G"'),
        "send_pps": ("Packets it sends; more is dropped (`RATE`).", '"50k"'),
        "receive_pps": ("Packets it gets; more is dropped (`RATE`).", "50000"),
    },
    "service": {
        "name": ("What it is called, in /etc/hosts of all functions too.", '"portal"'),
        "address": ("Where clients reach it.", '"198.18.128.10"'),
        "port": ("The port clients use, or a range of them.", '"8000-8099"'),
        "target_port": ("The functions' own; as many. Without: the same.", '"9000-9099"'),
        "protocol": ("What it speaks.", '"udp"'),
        "functions": (
            "Who answers: functions, and groups of replicas; it may be empty.",
            '["web"]',
        ),
        "affinity": ("source: a client keeps its function, whatever its port.", '"source"'),
        "weights": (
            "Part of the new flows that a function gets, or each of a group; 0 drains it.",
            "{web = 2, web-1 = 0}",
        ),
        "publish": (
            "Ports of uplinks at which the outside reaches it, by the host's address there.",
            '["uplink0:80"]',
        ),
    },
    "uplink": {
        "name": ("What it is called, for `publish`.", '"uplink0"'),
        "interface": (
            "Which interface of the host it is: a NIC, or a veth that plays one.",
            '"eth0"',
        ),
        "address": ("Where services are published on it.", '"192.0.2.10"'),
        "xdp": (
            "auto: XDP is there, at a veth while it is needed; native; generic; off (uplink.md).",
            '"off"',
        ),
        "masquerade": (
            "What functions open to the outside leaves by it at once, IPv4 as its address.",
            "true",
        ),
        "masquerade_ports": (
            "The ports it then has there; the host's own sockets must have others.",
            '"50000-59999"',
        ),
    },
    "remote": {
        "name": ("What services and rules call it, as they call functions.", '"db-0"'),
        "address": ("Its addresses, by which it is known.", '["192.0.2.20", "2001:db8:2::20"]'),
        "uplink": ("By which uplink it is reached, and its packets come in.", '"uplink0"'),
        "tenant": ("Its tenant, as a function has one.", '"vendor"'),
    },
    "tenant": {
        "name": ("Which tenant.", '"vendor"'),
        "rate": ("What its functions may send and get together; more is dropped.", '"1G"'),
        "flows": ("Flows.", "{guarantee = 4096, maximum = 16384}"),
        "half_open": ("TCP flows of which one side was heard.", "{maximum = 1024}"),
        "fragments": ("Datagrams in fragments that are on their way.", "{guarantee = 512}"),
        "events": ("Events that are not read yet.", '{guarantee = "128K", maximum = "256K"}'),
        "log": (
            "Bytes of what its functions' commands say that are kept, an equal part of each.",
            '"64M"',
        ),
        "pools": ("Bytes of the pools that its functions share, together.", '"256M"'),
        "inject": ("How many functions it may inject.", "2"),
        "ways": ("Which way.", '["ingress"]'),
        "instructions": ("Instructions that one may have.", "512"),
        "map_bytes": ("Bytes of maps that one may have.", "1048576"),
        "ns_median": ("Nanoseconds that one may cost a packet, median; live, too.", "100"),
        "ns_worst": ("Nanoseconds for the packet that costs most.", "500"),
    },
    "tenant.flows": _SHARE,
    "tenant.half_open": _SHARE,
    "tenant.fragments": _SHARE,
    "tenant.events": {
        key: (about, example)
        for (key, (about, _)), example in zip(_SHARE.items(), ('"128K"', '"256K"'), strict=True)
    },
    "tenant.rate": {
        "send": ("What they send; more is dropped (`TENANT_RATE`).", '"100M"'),
        "receive": ("What they get; more is dropped (`TENANT_RATE`).", '"1G"'),
        "send_pps": ("Packets they send.", '"50k"'),
        "receive_pps": ("Packets they get.", "50000"),
    },
    "pool": {
        "name": ("What it is called, for `ebpfmesh.port.Pool`.", '"frames"'),
        "tenant": ("Whose it is; its members are functions of this tenant.", '"vendor"'),
        "functions": ("Whose commands share it: functions, and groups.", '["decode", "filter"]'),
        "slots": ("Places for messages, each member has as many; a power of two.", "4096"),
        "bytes": ("Bytes of a place.", '"64K"'),
        "members": ("Room for so many, without making it anew for one that comes.", "8"),
    },
    "inject": {
        "name": ("What it is called, for `swap`, `eject` and `show injected`.", '"bucket"'),
        "file": ("A C file, by its path from the mesh file.", '"token_bucket.c"'),
        "source": ("Its text itself, in the place of a file.", "'MESH_FUNCTION(p) { … }'"),
        "at": (
            "Whose packets meet it, and which way: FUNCTION or tenant:NAME, /egress or /ingress.",
            '"web/ingress"',
        ),
        "tenant": ("With whose rights; without: the operator's.", '"vendor"'),
        "parameters": ("Parameters of it, other than the file says.", "{rate = 1000000}"),
    },
    "policy": {
        "from": (
            "Who opens a flow: `any`, `outside`, `outside:PREFIX`, `function:NAME`, `tenant:NAME`.",
            '"function:phone"',
        ),
        "to": ("Who receives it: as `from`, or `service:NAME`.", '"service:portal"'),
        "protocol": ("What it is about.", '"tcp"'),
        "port": (
            "The service's, or the receiver's own; or a range. It needs a protocol.",
            '"8000-8099"',
        ),
        "icmp_type": ("With protocol `icmp`.", "8"),
        "action": ("What it says; reject drops and tells the sender.", '"deny"'),
        "priority": (
            "The lowest decides of the rules that match; of equals deny, then reject, then allow.",
            "10",
        ),
    },
}
"""What each key of a table is for, and a value for example, as it stands in a file."""
