# SPDX-License-Identifier: BSD-2-Clause
"""What an author of a packet function's program may try: it gets no file, no map, no address.

The program is compiled and loaded as `up` does it, and attached nowhere.
"""

import pytest

from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject import whole

BODY = "int nf(struct xdp_md *ctx)\n{{\n\t{}\n\treturn XDP_TX;\n}}\n"
ZERO = "u32 zero = 0; "
COUNT = 'BPF_TABLE("hash", u32, u64, seen, 16);\n'
CONFIG = 'BPF_TABLE("KIND", u32, u64, mesh_config, 1);\n' + BODY.format(
    ZERO + "mesh_config.lookup(&zero);"
)
INNER = 'BPF_TABLE("array", u32, u32, inner, 1);\nBPF_HASH_OF_MAPS(outer, u32, "inner", 4);\n'
BY_NUMBER = (
    'unsigned long map; asm volatile(".byte 0x18, 0x11, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0" '
    ': "=r"(map)); if (map) return 1;'
)
FIB = "struct bpf_fib_lookup fib = {}; return bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);"
SOCKET = "struct bpf_sock_tuple t = {}; return !!bpf_sk_lookup_tcp(ctx, &t, 12, 0, 0);"
FILES = {
    "of the host's": '#include "/etc/shadow"',
    "of the compiler's": '#include "/proc/self/environ"',
    "above it": '#include "../../../../../etc/passwd"',
    "without an end": '#include "/dev/zero"',
    "in the machine code": 'asm(".incbin \\"/etc/passwd\\"");',
}
REFUSED = {
    "a map of the mesh's by its pin": (
        'BPF_TABLE_PINNED("array", u32, u64, c, 1, "/sys/fs/bpf/ebpfmesh/m/maps/mesh_config");\n'
        + BODY.format(ZERO + "c.lookup(&zero);"),
        "failed to open",
    ),
    "by its name": (CONFIG.replace("KIND", "extern"), "undefined table"),
    "by a number": (BODY.format(BY_NUMBER), "not its own"),
    "programs": ("BPF_PROG_ARRAY(p, 4);\n" + BODY.format("p.call(ctx, 0);"), "tail_call"),
    "other devices": (
        "BPF_DEVMAP(d, 4);\n" + BODY.format("return d.redirect_map(0, 0);"),
        "redirect_map",
    ),
    "maps of maps": (INNER + BODY.format(ZERO + "outer.lookup(&zero);"), "of a kind"),
    "the kernel's memory": (
        BODY.format("char b[8]; bpf_probe_read_kernel(b, 8, (void *)0xffffffff81000000);"),
        "may not be called",
    ),
    "the host's log": (BODY.format('bpf_trace_printk("x");'), "trace_printk"),
    "the host's routes": (BODY.format(FIB), "may not be called"),
    "sockets": (BODY.format(SOCKET), "may not be called"),
    "the address of its context": (
        COUNT + BODY.format(ZERO + "u64 at = (u64)(long)ctx; seen.update(&zero, &at);"),
        "the verifier",
    ),
    "that of a packet": (
        COUNT + BODY.format(ZERO + "u64 at = (u64)(long)ctx->data; seen.update(&zero, &at);"),
        "the verifier",
    ),
    "bytes behind the packet": (
        BODY.format("char *p = (void *)(long)ctx->data; p[3000] = 1;"),
        "the verifier",
    ),
    "a loop without an end": (BODY.format("for (;;)\n\t\t;"), "the verifier"),
    "too much memory": (
        'BPF_TABLE("hash", u32, u64, all, 500000000);\n' + BODY.format(ZERO + "all.lookup(&zero);"),
        "of 1073741824 they may",
    ),
    "a pin that cannot be": (
        f'BPF_TABLE("array", u32, u64, {"m" * 256}, 1);\n' + BODY.format(""),
        "too long",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_it_gets_no_file(what: str) -> None:
    with (
        pytest.raises(FunctionRefused, match=r"file"),
        whole.built("nf.c", f"{FILES[what]}\n{BODY.format('')}"),
    ):
        pass


@pytest.mark.parametrize("what", REFUSED)
def test_it_does_not_get(what: str) -> None:
    text, why = REFUSED[what]
    with pytest.raises(FunctionRefused, match=why), whole.built("nf.c", text):
        pass


def test_a_map_that_is_called_as_the_meshs_is_its_own() -> None:
    with whole.built("nf.c", CONFIG.replace("KIND", "array")) as (_, maps):
        assert set(maps) == {"mesh_config"}
