# SPDX-License-Identifier: BSD-2-Clause
"""How a run measured, in sentences for its report: those that are true of what was in it."""

from collections.abc import Iterator

from ebpfmesh.bench.kinds import KINDS
from ebpfmesh.bench.results import Results
from ebpfmesh.bench.stats.analyse import COSTS
from ebpfmesh.bench.stats.intervals import LEAST_ROUNDS, rank
from ebpfmesh.bench.words import count, percent

TAKES = {
    "pps": (
        "Packets per second: frames made in the kernel enter the sender's host-side interface, and "
        "are counted and dropped in the receiver's namespace; a burst counts only if 99.9 % of it "
        "arrived. They are 64 bytes long and one flow, unless said otherwise, and one-way, so that "
        "connection tracking never calls the flow established, unless it is said to be answered."
    ),
    "wire": (
        "From a wire: frames of 64 bytes are made in the kernel and sent out of the other end of "
        "the veth that plays the uplink, so that XDP there, or NAPI with GRO where there is no "
        "XDP, meets them; they are counted and dropped in the function. A CPU second is one of all "
        "that works for them, the generator included. testpmd has a core of its own, which always "
        "polls: it gets more than it can forward, and of it only that core counts."
    ),
    "taken": (
        "Taken by a program: the same, in bursts of 1 024, each taken whole by a program on the "
        "same core before the next; it looks at each packet."
    ),
    "flood": (
        "Beside a flood: for each frame of a flow come 32 of a source that is denied, by the "
        "mesh's deny list or in the table raw of iptables, as fast as the core takes them."
    ),
    "tcp": (
        "TCP bulk from outside: iperf3, one connection, to a published service, or over the rules "
        "of iptables from the other side of its wire. A CPU second is one of both iperf3 with the "
        "softirqs they raise, as they tell it."
    ),
    "itself": (
        "testpmd alone: two devices of its own that make packets up and throw them away, by the "
        "CPU time of the core that forwards."
    ),
    "refused": (
        "Packets refused: frames made in the same way, which the mesh drops and counts under the "
        "reason that was meant, each of them, or the measurement does not count."
    ),
    "stream": "TCP bulk: iperf3, one connection unless said otherwise, as the receiver counts it.",
    "rr": (
        "Half round trip: sockperf ping-pong over one TCP connection, a message at a time; "
        "percentiles are of all messages of a measurement."
    ),
    "connect": (
        "New connections: nginx, and a client in the kernel that answers its segments without "
        "sockets and costs next to nothing; every connection is opened, accepted and closed, or "
        "the measurement does not count."
    ),
    "http": (
        "HTTP requests: wrk with nginx, eight connections; client and server take most of the time."
    ),
    "change": (
        "Services and rules added, one by one, of which only the adding is timed: to other paths "
        "by their own commands, where iptables writes the list that a rule stands in anew, as "
        "kube-proxy does, and iptables-append only adds to its end; to the mesh by the calls of "
        "its command line, or by the command itself, from start to exit."
    ),
    "update": (
        "Changes under traffic: the same, or a program exchanged, while numbered packets run; what "
        "was lost, reordered or late is counted, and beside it the longest time without a packet "
        "where nothing was changed, since a machine has pauses of its own."
    ),
    "load": (
        "CPU by load: datagrams of 1400 bytes, paced by iperf3 from a function to a service. The "
        "CPU is that of all that the load keeps at work, the sender, the receiver and the path's "
        "own processes with the kernel's work for them, in percent of one core, by the clocks of "
        "processes; before each load nothing is sent for a while."
    ),
    "attach": (
        "One function more: a network namespace that is there is connected, to the mesh by the "
        "call of its command line, to another path by a veth pair, addresses and routes, and no "
        "rule."
    ),
}
"""By what measures a kind."""
ALWAYS = (
    (
        "All paths stand side by side, each in a host namespace of its own with the same "
        "functions, services and policies. The measured services and rules stand last among the "
        "others."
    ),
    "A measurement counts only if the path's own counters saw its packets.",
)
ONE_CORE = (
    "Sender, path and receiver share one core, unless two are named, so that a figure is the cost "
    "of the whole way."
)


def sentences(results: Results) -> Iterator[str]:
    """What to know about how the figures came about."""
    kinds = dict.fromkeys(m.kind for m in results.measurements if m.kind in KINDS)
    yield (
        f"{count(results.scenario['rounds'])} rounds, each with every measurement once, in random "
        f"order (seed {results.seed}); what is compared stands together in a round."
    )
    yield from ALWAYS
    takes = dict.fromkeys(KINDS[kind].take for kind in kinds)
    if takes.keys() & {"pps", "stream", "rr", "connect", "http"}:
        yield ONE_CORE
    yield from (TAKES[take] for take in takes if take in TAKES)
    if "build" in kinds:
        yield "What building a path takes is measured once, its memory roughly."
    if any(m.kind in COSTS for m in results.measurements):
        yield "The mesh's own cost: on meshes made for it, after the rounds; judged by medians."
    yield "Figures are medians over the rounds, ratios medians of the ratios within rounds."
    yield from _intervals(results.scenario["rounds"])


def _intervals(rounds: int) -> Iterator[str]:
    k, coverage = rank(rounds)
    if coverage:
        ends = f"from number {k} to number {rounds + 1 - k} of the {rounds} rounds, sorted"
        yield (
            f"Intervals are exact, whatever the distribution: {ends}, which hold the true median "
            f"with a probability of {percent(coverage)} (binomial)."
        )
    yield (
        "Better and worse, and whether a goal holds or fails, are said only if all of the interval "
        f"is on one side, and never of fewer than {LEAST_ROUNDS} rounds, whose intervals cannot "
        "reach 95 %. An interval wider than a fifth of its value is called noisy."
    )
