# SPDX-License-Identifier: BSD-2-Clause
# ruff: noqa: E501  (a text is easier to read in one piece)
"""Sources that are refused, and friends that look like them.

A row is the text of a function, without the include that comes before it. The line that the refusal
must name ends in ``//!``; a text without one is refused as a whole. ``why`` is part of what is said.
"""

from dataclasses import dataclass

KEPT = "/sys/fs/bpf/ebpfmesh/lab/maps/mesh_flow4"


@dataclass(frozen=True)
class Row:
    """A hostile source."""

    name: str
    text: str
    why: str
    hook: str = "tc"


def body(*lines: str) -> str:
    """A function of these statements, which passes every packet."""
    return (
        "MESH_FUNCTION(p)\n{\n"
        + "".join(f"\t{line}\n" for line in lines)
        + ("\treturn mesh_next();\n}\n")
    )


def call(name: str, statement: str, hook: str = "tc", why: str = "") -> Row:
    """One that calls what it may not."""
    text = body("struct mesh_address x = p->source;", f"{statement} //!",
                "if (x.word[0] == 7)", "\treturn mesh_drop(1);")  # fmt: skip
    return Row(name, text, why or f"bpf_{name}() may not be called", hook)


def declared(name: str, declaration: str, why: str, *lines: str) -> Row:
    """One whose map is none that a function may have."""
    return Row(name, f"{declaration} //!\n" + body(*lines), why)


def packet(name: str, *lines: str, why: str = "it writes to the packet", hook: str = "tc") -> Row:
    """One that has a pointer to the packet, `data`, with 34 bytes behind it."""
    return Row(
        name,
        body(
            "u8 *data = (void *)(long)p->context->data, *end = (void *)(long)p->context->data_end;",
            "if (data + 34 > end)", "\treturn mesh_drop(1);", *lines,
        ),
        why,
        hook,
    )  # fmt: skip


def migration(name: str, *lines: str, why: str, before: str = "") -> Row:
    """One that migrates a map: `old` is 8 bytes, `new` 16."""
    text = (
        before + "struct two { u64 a; u64 b; };\nMESH_MAP(hash, mine, u32, struct two, 4);\n"
        "MESH_MIGRATE(mine, u64, old, new)\n{\n"
    )
    return Row(
        name, text + "".join(f"\t{x}\n" for x in (*lines, "return 1;")) + "}\n" + body(), why
    )


CTX = "it writes to the packet's context"
ASM = "#define CAT(a, b) a##b\n"
"""Assembly that the text does not show."""

RAW = "is not declared by MESH_MAP"
FIELD = "a field of the context that is not its business"

HOSTILE = (
    # It never ends, or would take all there is.
    Row("endless", "MESH_FUNCTION(p)\n{\n\tfor (;;) //!\n\t\t;\n}\n", "it never ends"),
    Row("endless, maybe", 'MESH_COUNTER(turns, "turns");\n'
        + body("u32 n = p->length;", "while (n != 1) { //!", "\tn = n * 3 + 1;",
               "\tmesh_count(turns);", "}"), "the verifier"),
    Row("ten million turns", body("u64 n = mesh_now();", "#pragma clang loop unroll(disable)",
                                  "for (int i = 0; i < 10000000; i++) //!", "\tn += n >> 3 ^ i;",
                                  "return mesh_drop(n);"), "too "),
    Row("instructions", ASM + body("u64 n = mesh_now();", "#pragma unroll",
        "for (int i = 0; i < 3000; i++)", "\tn = (n ^ n >> 7) * 5; //!", "return mesh_drop(n);"),
        "instructions, of 4096"),
    declared("a map of 16 GB", "MESH_MAP(array, big, u32, u64, 2000000000);", "its maps would take"),
    declared("a map of huge values",
             "MESH_MAP(hash, big, u32, struct { u8 x[1 << 20]; }, 65536);", "its maps would take"),
    declared("a map with every number", "MESH_MAP(hash, big, u64, u64, -1);", "its maps would take"),
    declared("a ring of 1 GB", "MESH_RING(big, 1 << 30);", "its maps would take"),
    declared("half a ring", "MESH_RING(odd, 5000);", "no power of two"),
    Row("nine maps", "".join(f"MESH_MAP(array, m{i}, u32, u64, 1);\n" for i in range(8))
        + "MESH_MAP(array, m8, u32, u64, 1); //!\n" + body(), "more than 8 maps"),
    declared("a value that no CPU has room for",
             "MESH_MAP(percpu_array, wide, u32, struct { u8 x[65536]; }, 1);", "map wide: "),
    Row("stack of 1 KB", "MESH_RING(out, 4096);\n" + body("u8 x[1024] = {};",
        "out.ringbuf_output(&x, sizeof(x), 0);"), "more than 512 bytes of stack"),
    Row("stack of 504 bytes", "MESH_RING(out, 4096);\n" + body("u64 x[63] = {};", "x[0] = p->length;",
        "out.ringbuf_output(&x, sizeof(x), 0);"), "more than 480 bytes of stack"),
    # The packet.
    packet("a new source", "*(u32 *)(data + 26) = 1; //!"),
    packet("a byte", "data[0] ^= 1; //!"),
    packet("by memcpy", "__builtin_memcpy(data, &p->source, 6); //!"),
    packet("by another name", "u8 *to = p->length & 1 ? data : data + 6;", "*to = 1; //!"),
    packet("through a number", "u64 to = (u64)data;", "to ^= mesh_now() & 7;",
           "*(u8 *)to = 1; //!"),
    packet("shifted there and back", "u64 to = (u64)data;", "u64 n = mesh_now() & 1;",
           "to = to << n >> n;", "*(u8 *)to = 1; //!"),
    packet("divided", "u64 n = (mesh_now() & 1) + 1;", "*(u8 *)((u64)data / n) = 1; //!"),
    packet("added atomically", "__sync_fetch_and_add((u32 *)(data + 26), 1); //!"),
    packet("read into", "mesh_read(p, 0, data, 4); //!"),
    packet("at XDP", "data[0] = 1; //!", hook="xdp"),
    packet("beyond its end", "if (data[40] == 7) //!", "\treturn mesh_drop(1);", why="outside of the packet"),
    packet("far before it", "if (data[-1] == 7) //!", "\treturn mesh_drop(1);", why="the verifier"),
    packet("where its number says", "if (data[data[0]] == 7) //!", "\treturn mesh_drop(1);",
           why="the verifier"),
    call("skb_store_bytes", "bpf_skb_store_bytes(p->context, 26, &x, 4, 0);"),
    call("l3_csum_replace", "bpf_l3_csum_replace(p->context, 24, 1, 2, 2);"),
    call("l4_csum_replace", "bpf_l4_csum_replace(p->context, 50, 1, 2, 2);"),
    call("skb_change_tail", "bpf_skb_change_tail(p->context, 60, 0);"),
    call("skb_change_head", "bpf_skb_change_head(p->context, 14, 0);"),
    call("skb_change_proto", "bpf_skb_change_proto(p->context, 0x86dd, 0);"),
    call("skb_change_type", "bpf_skb_change_type(p->context, 0);"),
    call("skb_adjust_room", "bpf_skb_adjust_room(p->context, 8, 0, 0);"),
    call("skb_pull_data", "bpf_skb_pull_data(p->context, 60);"),
    call("skb_vlan_push", "bpf_skb_vlan_push(p->context, 0x8100, 1);"),
    call("xdp_adjust_head", "bpf_xdp_adjust_head(p->context, 14);", "xdp"),
    call("xdp_adjust_tail", "bpf_xdp_adjust_tail(p->context, -14);", "xdp"),
    call("xdp_adjust_meta", "bpf_xdp_adjust_meta(p->context, -8);", "xdp"),
    # Its context.
    Row("mark", body("p->context->mark = 1; //!"), CTX),
    Row("cb", body("p->context->cb[0] = 1; //!"), CTX),
    Row("priority", body("p->context->priority = p->length; //!"), CTX),
    Row("mark, atomically", body("__sync_fetch_and_add(&p->context->mark, 1); //!"), CTX),
    Row("another's cb", body("if (p->context->cb[2] == 7) //!", "\treturn mesh_drop(1);"), FIELD),
    Row("another's mark", body("if (p->context->mark == 7) //!", "\treturn mesh_drop(1);"), FIELD),
    Row("socket", body("if (p->context->sk) //!", "\treturn mesh_drop(1);"), FIELD),
    Row("metadata", body("if (p->context->data_meta == 7) //!", "\treturn mesh_drop(1);"), FIELD),
    Row("queue", body("if (p->context->rx_queue_index == 7) //!", "\treturn mesh_drop(1);"), FIELD,
        "xdp"),
    Row("context, a little further", body("u32 *x = (u32 *)((char *)p->context + (mesh_now() & 4));",
        "if (*x == 7)", "\treturn mesh_drop(1);"), "it computes with the context's address"),
    # Out of its place.
    call("redirect", "return bpf_redirect(1, 0);"),
    call("redirect_peer", "return bpf_redirect_peer(1, 0);"),
    call("clone_redirect", "bpf_clone_redirect(p->context, 1, 0);"),
    call("trace_printk", 'bpf_trace_printk("%d", p->length);'),
    call("probe_read", "bpf_probe_read_kernel(&x, 8, (void *)0xffffffff81000000);"),
    call("get_current_pid_tgid", "x.word[0] = bpf_get_current_pid_tgid();"),
    call("send_signal", "bpf_send_signal(9);"),
    call("a helper without a name", "((int (*)(void))199)();", why="helper 199 may not be called"),
    call("a kernel function", "bpf_dynptr_from_skb(p->context, 0, &x);",
         why="a call of another function"),
    call("a function of nobody", "int gone(int); x.word[0] = gone(1);", why="cannot call non-static helper function"),
    Row("a function through a pointer",
        body("int (*f)(int) = (void *)(long)mesh_now();", "return f(1); //!"),
        "a call through a pointer"),
    Row("a function of its own", "__attribute__((noinline)) int other(int x)\n{\n\treturn x + 1;\n}\n"
        + body("return other(p->length); //!"), "cannot call non-static helper function"),
    Row("itself", "static u32 again(u32 x)\n{\n\treturn x > 1 ? again(x / 2) * x + again(x / 3) : 2;\n}\n"
        + body("return again(p->length); //!"), "a call of another function"),
    Row("a map operation in a macro", "MESH_MAP(hash, mine, u32, u64, 4);\n"
        "#define FIND(key) mine.lookup(&key)\n"
        + body("u32 key = 1;", "if (FIND(key)) //!", "\treturn mesh_drop(1);"), "macro"),
    # The maps of others.
    declared("pinned", f'BPF_TABLE_PINNED("hash", u32, u64, theirs, 4, "{KEPT}");',
             "opens a pinned object"),
    declared("pinned as a number", 'BPF_TABLE_PINNED("hash$1", u32, u64, theirs, 4, "");', "opens a"),
    declared("extern", 'BPF_TABLE("extern", u32, u64, theirs, 4);', "extern"),
    declared("shared", 'BPF_TABLE_SHARED("hash", u32, u64, theirs, 4);', RAW),
    declared("public", 'BPF_TABLE_PUBLIC("hash", u32, u64, theirs, 4);', RAW),
    declared("programs", "BPF_PROG_ARRAY(jump, 4);", RAW),
    declared("perf events", "BPF_PERF_OUTPUT(events);", RAW),
    declared("a perf array", "BPF_PERF_ARRAY(counts, 4);", RAW),
    declared("devices", "BPF_DEVMAP(devices, 4);", RAW),
    declared("sockets", "BPF_SOCKHASH(sockets, u32, 4);", RAW),
    declared("a plain BCC map", "BPF_HASH(mine, u32, u64, 4);", RAW),
    declared("not what it is called", 'MESH_MAP(prog, jump, u32, u32, 4);', "a map's kind is one of"),
    Row("a tail call", "BPF_PROG_ARRAY(jump, 4);\n" + body("jump.call(p->context, 1); //!"),
        "bpf_tail_call() may not be called"),
    Row("declared as another", "#if 0\nMESH_MAP(hash, jump, u32, u32, 4); //!\n#endif\n"
        "BPF_PROG_ARRAY(jump, 4);\n" + body(), "a kind that functions do not have"),
    Row("declared and not there", "#if 0\nMESH_MAP(hash, gone, u32, u32, 4); //!\n#endif\n" + body(),
        "is not compiled"),
    Row("a descriptor", body("u32 key = 0;",
        "if (bpf_map_lookup_elem_((u64)bpf_pseudo_fd(1, 5), &key)) //!", "\treturn mesh_drop(1);"),
        "a map that is not its own"),
    Row("the value of a descriptor", body("u64 *x = (u64 *)bpf_pseudo_fd(2, 5);", "return *x;"),
        "a map that is not its own"),
    Row("a map by its place", body("u64 *x = (u64 *)bpf_pseudo_fd(5, 0);", "return *x;"),
        "a map that is not its own"),
    Row("its own parameters", 'MESH_PARAMETER(u32, limit, 1, "limit");\n'
        + body("*(u32 *)&mesh_parameters()->limit = 7;"), "the verifier: write into map forbidden"),
    Row("beyond its map", "MESH_MAP(array, mine, u32, u64, 4);\n" + body("u32 key = 0;",
        "u64 *x = mine.lookup(&key);", "if (x && x[1] == 7) //!", "\treturn mesh_drop(1);"),
        "outside of the allowed memory range"),
    Row("without a look", "MESH_MAP(hash, mine, u32, u64, 4);\n" + body("u32 key = 0;",
        "u64 *x = mine.lookup(&key);", "if (*x == 7) //!", "\treturn mesh_drop(1);"), "invalid mem access"),
    # What the kernel keeps to itself.
    Row("the stack before it", "MESH_RING(out, 4096);\n"
        + body("struct { u8 x[64]; } x;", "out.ringbuf_output(&x, sizeof(x), 0); //!"), "stack"),
    Row("an address of the context", 'MESH_COUNTER(seen, "seen");\n'
        + body("mesh_add(seen, (u64)p->context);"), "it computes with the context's address"),
    Row("an address of a map", "MESH_MAP(array, mine, u32, u64, 4);\n" + body("u32 key = 0;",
        "u64 *x = mine.lookup(&key);", "if (x)", "\t*x = (u64)x; //!"), "the verifier"),
    packet("an address of the packet", "return mesh_drop((u64)data >> 20 & 15);", why="the verifier"),
    packet("bits of an address", "if ((u64)data & 4096)", "\treturn mesh_drop(1);",
           why="the verifier"),
    # What is to be written into the payload: a number, not where something is.
    Row("the context's address, written", body(
        "return mesh_write(mesh_next(), 0, (u64)p->context, 8);"), "it computes with the context's address"),
    packet("the packet's address, written", "return mesh_write(mesh_next(), 0, (u64)data, 8);",
           why="the verifier"),
    Row("a map's address, written", "MESH_MAP(array, mine, u32, u64, 4);\n" + body("u32 key = 0;",
        "u64 *x = mine.lookup(&key);", "return mesh_write(mesh_next(), 0, (u64)x, 8);"), "the verifier"),
    Row("half of a map's address, written", ASM + "MESH_MAP(array, mine, u32, u64, 4);\n" + body(
        "u32 key = 0;", "u64 *x = mine.lookup(&key);",
        'CAT(as, m) volatile("*(u32 *)(r10 - 496) = %0" : : "r"(x)); //!'), "the verifier"),
    Row("half of the context's address, written", ASM + body(
        'CAT(as, m) volatile("*(u32 *)(r10 - 496) = %0" : : "r"(p->context)); //!'), "the verifier"),
    *(Row(f"a write of {name}", ASM + body(f'CAT(as, m) volatile("{code}" : : "r"(mesh_now())); //!'), why)
      for name, code, why in (
        ("a whole word", "*(u64 *)(r10 - 496) = %0", "more than 480 bytes of stack"),
        ("half a word", "*(u16 *)(r10 - 496) = %0", "more than 480 bytes of stack"),
        ("a word across two", "*(u32 *)(r10 - 494) = %0", "more than 480 bytes of stack"),
        ("what is before it", "*(u32 *)(r10 - 500) = %0", "more than 480 bytes of stack"),
        ("what is before that", "*(u32 *)(r10 - 512) = %0", "more than 480 bytes of stack"),
        ("a word by another name", "r1 = r10; r1 += -496; *(u32 *)(r1 + 0) = %0", "more than 480 bytes of stack"),
        ("a sum", "lock *(u32 *)(r10 - 496) += %0", "more than 480 bytes of stack"),
    )),
    # Assembly, hidden from the text.
    Row("what the mesh keeps, overwritten", ASM + body(
        'CAT(as, m) volatile("*(u64 *)(r10 - 512) = %0" : : "r"(mesh_now())); //!'),
        "more than 480 bytes of stack"),
    Row("what the mesh keeps, taken", ASM + body("u64 x;",
        'CAT(as, m) volatile("%0 = *(u64 *)(r10 - 512)" : "=r"(x)); //!',
        "*(u32 *)x = 1;"), "what the mesh keeps"),
    Row("what the mesh keeps, from somewhere", ASM + body(
        "u64 x = mesh_now() & 511;",
        'CAT(as, m) volatile("r1 = r10; r1 -= %0; *(u64 *)(r1 - 8) = %0" : : "r"(x)); //!'),
        "the verifier"),
    Row("a jump out of it", ASM + body('CAT(as, m) volatile("goto +2000"); //!'), "a jump out of"),
    Row("a jump to before it", ASM + body('CAT(as, m) volatile("goto -2000"); //!'), "a jump out of"),
    Row("a call by number", ASM + body('CAT(as, m) volatile("call 9"); //!'), "bpf_skb_store_bytes()"),
    Row("an old load", ASM + body('CAT(as, m) volatile("r6 = %0; r0 = *(u8 *)skb[14]" : : "r"(p->context)); //!'),
        "a load of the old kind"),
    Row("a file as code", ASM + body('CAT(as, m) volatile(".incbin \\"/etc/shadow\\"");'), "/etc/shadow"),
    # What migrates a map's entries.
    migration("migration: endless", "for (;;) //!", "\t;", why="infinite loop detected"),
    migration("migration: endless, maybe", "u64 n = *old;", "while (n != 1)", "\tn = n * 3 + mesh_random(); //!",
              "new->a = n;", why="the verifier"),
    migration("migration: beyond the new value", "(&new->b)[1] = 1; //!",
              why="outside of the allowed memory range"),
    migration("migration: before the old value", "new->a = old[-1]; //!",
              why="outside of the allowed memory range"),
    migration("migration: where its number says", "((u64 *)new)[*old] = 1; //!", why="the verifier"),
    migration("migration: at a number", "*(u64 *)*old = 1; //!", why="the verifier"),
    migration("migration: its own map", "u32 key = 0;", "struct two *x = mine.lookup(&key); //!",
              "new->a = x ? x->a : 0;", why="a map, in a migration"),
    migration("migration: another map", "u32 key = 0;", "u64 *x = other.lookup(&key); //!",
              "new->a = x ? *x : 0;", why="a map, in a migration",
              before="MESH_MAP(array, other, u32, u64, 4);\n"),
    migration("migration: writes a map", "u32 key = 0;", "other.update(&key, new); //!",
              why="a map, in a migration", before="MESH_MAP(array, other, u32, u64, 4);\n"),
    migration("migration: a descriptor", "u32 key = 0;",
              "new->a = !!bpf_map_lookup_elem_((u64)bpf_pseudo_fd(1, 5), &key); //!",
              why="a map, in a migration"),
    migration("migration: a parameter", "new->a = mesh_get(limit);", why="a map, in a migration",
              before='MESH_PARAMETER(u32, limit, 1, "limit");\n'),
    migration("migration: counts", "mesh_count(seen);", why="a map, in a migration",
              before='MESH_COUNTER(seen, "seen");\n'),
    migration("migration: a ring", "u64 x = *old;", "out.ringbuf_output(&x, sizeof(x), 0); //!",
              why="a map, in a migration", before="MESH_RING(out, 4096);\n"),
    migration("migration: prints", 'bpf_trace_printk("%d", *old); //!',
              why="bpf_trace_printk() may not be called"),
    migration("migration: redirects", "bpf_redirect(1, 0); //!", why="bpf_redirect() may not be called"),
    migration("migration: signals", "bpf_send_signal(9); //!", why="bpf_send_signal() may not be called"),
    migration("migration: stack of 1 KB", "u64 x[128] = {};", "x[*old & 127] = 1;", "new->a = x[1];",
              why="stack"),
    migration("migration: an address", "new->a = (u64)old; //!", why="the verifier"),
    migration("migration: instructions", "u64 n = *old;", "#pragma unroll",
              "for (int i = 0; i < 3000; i++)", "\tn = (n ^ n >> 7) * 5; //!", "new->a = n;",
              why="instructions, of 4096"),
    migration("migration: assembly", 'CAT(as, m) volatile("call 9"); //!', before=ASM,
              why="bpf_skb_store_bytes() may not be called"),
    migration("migration: an error", "new->c = 1; //!", why="no member named 'c'"),
    Row("migration of no map", "MESH_MIGRATE(gone, u64, old, new) //!\n{\n\treturn 1;\n}\n" + body(),
        "there is no map gone to migrate"),
    Row("migration of a ring", "MESH_RING(out, 4096);\n"
        "MESH_MIGRATE(out, u64, old, new) //!\n{\n\treturn 1;\n}\n" + body(), "is a ringbuf"),
    Row("migration of huge values", "struct huge { u8 x[1 << 24]; };\nMESH_MAP(hash, m, u32, u32, 4);\n"
        "MESH_MIGRATE(m, struct huge, old, new) //!\n{\n\treturn 1;\n}\n" + body(),
        "16777216 bytes are no old value"),
    Row("migration of nothing", "struct none {};\nMESH_MAP(hash, m, u32, u32, 4);\n"
        "MESH_MIGRATE(m, struct none, old, new)\n{\n\treturn 1;\n}\n" + body(), "zero-sized leaf"),
    Row("migration of what is not there", "#if 0\nMESH_MAP(hash, m, u32, u32, 4);\n"
        "MESH_MIGRATE(m, u32, old, new) //!\n{\n\treturn 1;\n}\n#endif\n" + body(), "is not compiled"),
    Row("migration under another name", "MESH_MAP(hash, m, u32, u32, 4);\n#define mesh_old_m mine\n"
        "MESH_MIGRATE(m, u64, old, new)\n{\n\treturn 1;\n}\n" + body(), "inside a macro"),
    Row("migration by another's name", "MESH_MAP(hash, m, u32, u32, 4);\n#define mesh_migration_m mine\n"
        "MESH_MIGRATE(m, u64, old, new)\n{\n\treturn 1;\n}\n" + body(), "no program came out"),
    Row("migration from a map of its own",
        "MESH_MAP(hash, m, u32, u32, 4);\nMESH_MAP(hash, mine, u32, u64, 4);\n#undef BPF_TABLE\n"
        "#define BPF_TABLE(kind, key, value, name, count) struct { value *(*lookup)(void *); } name\n"
        "MESH_MIGRATE(m, u64, old, new) //!\n{\n\treturn 1;\n}\n" + body(),
        "is not compiled"),
    Row("migration of what is unaligned",
        "struct wide { u64 x; } __attribute__((aligned(16)));\nMESH_MAP(hash, m, u32, struct wide, 4);\n"
        "MESH_MIGRATE(m, u32, old, new) //!\n{\n\treturn 1;\n}\n" + body(), "aligned to 8 bytes"),
    # Texts.
    Row("assembly", body('asm volatile("r0 = 0"); //!'), "no assembly"),
    Row("a file", '#include "/etc/shadow" //!\n' + body(), "nothing is included"),
    Row("a system header", "#include <linux/bpf.h> //!\n" + body(), "nothing is included"),
    Row("a file by a macro", '#define F "/etc/shadow"\n#include F //!\n' + body(),
        "nothing is included"),
    Row("a joined include", '#inc\\\nlude "/etc/shadow"\n' + body(), "nothing is included"),
    Row("a digraph", '%:include "/etc/shadow" //!\n' + body(), "nothing is included"),
    Row("whether a file is there", "#if __has_include(</etc/shadow>) //!\n#endif\n" + body(),
        "nothing is included"),
    Row("another's line", '#line 1 "/etc/passwd" //!\n' + body("return x;"), "no #line"),
    Row("a marker of the compiler", '# 1 "/etc/passwd" //!\n' + body("return x;"), "no #1"),
    Row("a pragma", "#pragma clang diagnostic ignored \"-Weverything\" //!\n" + body(), "no #pragma"),
    Row("an error far down", "/* \\\n\n\n*/\n#define A(x) \\\n\tx\n\n"
        + body("A(u32 \\", "  x) = nothing; //!"), "undeclared identifier 'nothing'"),
    Row("an error in a macro", "#define A(x) (x + nothing)\n" + body("return A(1); //!"),
        "undeclared identifier 'nothing'"),
    Row("a comment without end", body() + "/* //!\n", "unterminated /* comment"),
    Row("a condition without end", "#if 1 //!\n" + body(), "unterminated conditional"),
    Row("the last line joined", body() + "int x \\", "expected"),
    Row("two functions", body() + body().replace("(p)", "(p) //!", 1),
        "one MESH_FUNCTION"),
    Row("no function", "int x;\n", "one MESH_FUNCTION"),
    Row("the entry itself", "int mesh_entry(struct __sk_buff *ctx)\n{\n\treturn 0;\n}\n" + body(),
        "redefinition of 'mesh_entry'"),
    Row("a long error", "#error " + "no " * 50000 + "//!\n" + body(), "no no no"),
    Row("many errors", body(*(f"x{i} = 1;" for i in range(5000))), "undeclared identifier 'x0'"),
    Row("a bomb of macros", "#define A0 1+1\n" + "".join(
        f"#define A{i} A{i - 1}+A{i - 1}+A{i - 1}+A{i - 1}\n" for i in range(1, 16))
        + "int x = A15;\n" + body(), "the compiler takes more"),
    Row("a bomb of brackets", "int x = " + "(" * 100000 + "1" + ")" * 100000 + "; //!\n" + body(),
        "bracket nesting level exceeded"),
)  # fmt: skip

FRIENDLY = {
    "a longer loop": body("u32 n = 0;", "#pragma unroll",
                             "for (u32 i = 0; i < 32; i++)", "\tn += p->length ^ i;",
                             "return mesh_drop(n);"),
    "an unrolled loop": body("u32 n = 0;", "#pragma unroll", "for (int i = 0; i < 4; i++)",
                             "\tn ^= p->source.word[i];", "return mesh_drop(n);"),
    "almost all of the stack": "MESH_RING(out, 4096);\n" + body("u64 x[56] = {};", "x[0] = p->length;",
                                                            "out.ringbuf_output(&x, sizeof(x), 0);"),
    "all that a write may say": body(
        "u32 at = p->length;", "u64 value = mesh_now();",
        "if (p->payload_length == 7)", "\treturn mesh_write(mesh_drop(1), at, value, at);",
        "if (p->payload_length == 8)", "\treturn mesh_write(mesh_next(), -8, -1, -1);",
        "return mesh_write(mesh_write(mesh_next_dscp(1), 0xffffffff, 1, 0), at, value, 9);"),
    "eight maps": "".join(f"MESH_MAP(array, m{i}, u32, u64, 1);\n" for i in range(8)) + body(),
    "a map of 8 MB": "MESH_MAP(array, big, u32, u64, 1048576);\n" + body(),
    "reading the packet in place": packet("", "if (data[20] == 7 && *(u32 *)(data + 26) == 8)",
                                          "\treturn mesh_drop(2);").text,
    "counting atomically": "MESH_MAP(array, mine, u32, u64, 4);\n" + body(
        "u32 key = 1;", "u64 *x = mine.lookup(&key);", "if (x)", "\t__sync_fetch_and_add(x, 1);"),
    "copying to the stack": "MESH_RING(out, 4096);\n" + body(
        "u8 x[40] = {};", "__builtin_memcpy(x, &p->source, 16);", "mesh_read(p, 0, x + 16, 20);",
        "out.ringbuf_output(&x, sizeof(x), 0);"),
    "a record made in place": "MESH_RING(out, 4096);\n" + body(
        "u64 *x = out.ringbuf_reserve(16);", "if (!x)", "\treturn mesh_drop(1);", "x[0] = mesh_now();",
        "x[1] = p->length;", "out.ringbuf_submit(x, 0);"),
    "every kind of map": "".join(
        f"MESH_MAP({kind}, {kind}_map, u32, u64, 16);\n"
        for kind in ("hash", "lru_hash", "percpu_hash", "lru_percpu_hash", "array", "percpu_array"))
    + body("u32 key = p->length & 7;", "u64 one = 1;", "hash_map.update(&key, &one);",
           "lru_hash_map.increment(key);", "percpu_hash_map.update(&key, &one);",
           "lru_percpu_hash_map.update(&key, &one);", "array_map.increment(key);",
           "percpu_array_map.update(&key, &one);", "hash_map.delete(&key);"),
    "functions of its own": "static inline u32 twice(u32 x)\n{\n\treturn x * 2;\n}\n"
    "static u32 more(u32 x)\n{\n\treturn twice(x) + 1;\n}\n" + body("return mesh_drop(more(p->length));"),
    "a map in a function": "MESH_MAP(hash, mine, u32, u64, 4);\nstatic u64 *find(u32 key)\n{\n"
    "\treturn mine.lookup(&key);\n}\n" + body("u64 *x = find(3);", "if (x)", "\treturn mesh_drop(*x);"),
    "a division": body("u64 n = mesh_now();", "return mesh_drop(n / (p->length + 1) + n % 7);"),
    "a division by nothing": body("return mesh_drop(100 / p->length);"),
    "a shift by a number": body("return mesh_drop(p->length << (p->ttl & 31));"),
    "conditions": "#define SEEN 1\n#if SEEN && defined(SEEN)\n#define A \\\n\t1\n#else\n#error no\n#endif\n"
    + body("return mesh_drop(A);"),
    "words that look like others": "/* asm #include #line */\nstruct asm_count { u32 pragma; };\n"
    + body("struct asm_count include = { p->length }; // asm(\"\")", "return mesh_drop(include.pragma);"),
    "a migration that calls what it may": "MESH_MAP(lru_hash, mine, u32, u64, 4);\n"
    "MESH_MIGRATE(mine, u32, old, new)\n{\n\tif (mesh_random() == 7)\n\t\treturn 0;\n"
    "\t*new = *old + mesh_now() + bpf_get_smp_processor_id();\n\treturn 1;\n}\n" + body(),
    "a switch": body("switch (p->ttl) {", "case 1: return mesh_drop(1);", "case 64: return mesh_drop(3);",
                     "case 255: return mesh_redirect(4);", "}"),
}  # fmt: skip
"""Texts that are taken at both hooks."""
