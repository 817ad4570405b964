# SPDX-License-Identifier: BSD-2-Clause
"""The author's text: what is declared in it, what may not be in it, and at which line."""

import re
from pathlib import Path

import pytest

from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject import source
from ebpfmesh.inject.source import SOURCE_BYTES, Parameter, assemble, parse, read

FILE = Path("mine.c")
HEAD = '#include "mesh_function.h"\n'
BODY = "MESH_FUNCTION(p)\n{\n\treturn mesh_next();\n}\n"


def refused(text: str) -> str:
    """LINE: why."""
    with pytest.raises(FunctionRefused) as error:
        parse(FILE, text)
    return error.value.message.removeprefix(f"{FILE}:").strip()


def test_declarations_are_read() -> None:
    found = parse(
        FILE,
        HEAD
        + 'MESH_PARAMETER(u32, rate, 0x10UL, "packets " "a \\"second\\"");\n'
        + 'MESH_PARAMETER( s8 ,low, -5,"what /* is */ low"); // MESH_PARAMETER(u32, no, 1, "no");\n'
        + 'MESH_COUNTER(seen, "seen"); /* MESH_COUNTER(no, "no"); */ MESH_COUNTER(lost, "lost");\n'
        + 'MESH_REASON(3,\n\t"too much");\nMESH_TARGET(0, "cache");\n'
        + "MESH_MAP(lru_hash, flows, struct { int a; }, u64, 4 * 1024);\nMESH_RING(out, 4096);\n"
        + BODY,
    )
    assert found.parameters == {
        "rate": Parameter("rate", "u32", 16, 'packets a "second"', 2),
        "low": Parameter("low", "s8", -5, "what /* is */ low", 3),
    }
    assert found.counters == {"seen": "seen", "lost": "lost"}
    assert (found.reasons, found.targets) == ({3: "too much"}, {0: "cache"})
    assert found.maps == {"flows": 8, "out": 9}


MAP = "MESH_MAP(hash, flows, u32, u64, 8);\n"


@pytest.mark.parametrize(
    "text",
    [
        "MESH_MIGRATE(flows, u32, old, new) {",
        "MESH_MIGRATE (flows,unsigned  int,a,b)\n{",
        "MESH_MIGRATE(flows, struct flow_v1, old,\n\tnew) /* ; */ {",
    ],
)
def test_migrations_are_read(text: str) -> None:
    found = parse(FILE, HEAD + MAP + text + " return 1; }\n" + BODY)
    assert found.migrations == {"flows": 3}
    assert "int mesh_migration_flows(VIEW_CTX *ctx)" in assemble(found)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (MAP + "MESH_MIGRATE(other, u32, old, new) {}", "3: there is no map other to migrate"),
        ("MESH_MIGRATE(flows, u32, old, new) {}\n" + MAP, "2: there is no map flows to migrate"),
        (MAP + "MESH_MIGRATE(flows, u32, old) {}", "3: MESH_MIGRATE is read as it is written"),
        (MAP + "MESH_MIGRATE(flows, u32 *, old, new) {}", "3: MESH_MIGRATE is read"),
        (MAP + "MESH_MIGRATE(flows, u32, old, new);", "3: MESH_MIGRATE is read"),
        (MAP + 2 * "MESH_MIGRATE(flows, u32, a, b) {}\n", "4: flows was declared before"),
        ("#define X MESH_MIGRATE(flows, u32, a, b)", "2: declarations of a function stand in no"),
    ],
)
def test_migrations_are_refused(text: str, why: str) -> None:
    assert refused(HEAD + text + "\n" + BODY).startswith(why)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("#include <linux/if.h>", "nothing is included but mesh_function.h"),
        ('#include "/etc/passwd"', "nothing is included but mesh_function.h"),
        ('%:include "/etc/passwd"', "nothing is included but mesh_function.h"),
        ("/* */ # /* */ include /* */ HEADER", "nothing is included but mesh_function.h"),
        ('#inc\\\nlude "/etc/passwd"', "nothing is included but mesh_function.h"),
        ('#inc\\  \nlude "/etc/passwd"', "nothing is included but mesh_function.h"),
        ('/* a\n*/#include "/etc/passwd"', "nothing is included but mesh_function.h"),
        ("#if __has_include(</etc/shadow>)\n#endif", "nothing is included but mesh_function.h"),
        ('#include_next "mesh_function.h"', "no #include_next"),
        ('#import "mesh_function.h"', "no #import"),
        ('#embed "/etc/passwd"', "no #embed"),
        ('#line 1 "/etc/passwd"', "no #line"),
        ('# 1 "/etc/passwd"', "no #1"),
        ("#pragma clang section text=a", "no #pragma but unroll"),
        ('_Pragma("GCC warning")', "no _Pragma"),
        ('??=include "/etc/passwd"', "a trigraph"),
        ('asm("r0 = 0");', "no assembly"),
        ('__asm__ volatile ("r0 = 0");', "no assembly"),
        ('as\\\nm("r0 = 0");', "no assembly"),
        ('const char *a = R"(#include)";', "no raw strings"),
        ("int a;\r#include <linux/if.h>", "a control character"),
        ("int a;\0", "a control character"),
        ('MESH_COUNTER(a, "a"); MESH_COUNTER(a, "b");', "a was declared before"),
        ('MESH_COUNTER(mesh_a, "a");', "names that begin with mesh_ are the mesh's own"),
        ('MESH_REASON(16, "a");', "16 is not below 16"),
        ('MESH_REASON(1, "a"); MESH_REASON(1, "b");', "1 was declared before"),
        ('MESH_REASON(1, "");', "a text has 1 to 160 printable characters"),
        ("MESH_REASON(1, TEXT);", "MESH_REASON is read as it is written"),
        ('MESH_REASON(ONE, "a");', "MESH_REASON is read as it is written"),
        ('MESH_REASON(1, "\\x1b[31m");', "MESH_REASON is read as it is written"),
        ('MESH_REASON(1, "\u202e");', "a text has 1 to 160 printable characters"),
        ('#define R MESH_REASON(1, "a")', "declarations of a function stand in no macro"),
        ('MESH_PARAMETER(u8, a, 256, "a");', "256 is no u8"),
        ('MESH_PARAMETER(float, a, 1, "a");', "a parameter's type is one of"),
        ("MESH_MAP(prog, jump, u32, u32, 4);", "a map's kind is one of"),
        ("MESH_SHARED(16, u64, 4);", "MESH_SHARED is read as it is written"),
        (
            "MESH_SHARED(load, u64, 4);\nMESH_MIGRATE(load, u32, a, b) {}",
            "map load is shared, and cannot migrate",
        ),
        ("MESH_MAP(hash, mesh_flow4, u32, u32, 4);", "names that begin with mesh_"),
        ("MESH_FUNCTION(q) { return 0; }", "there must be one MESH_FUNCTION"),
    ],
)
def test_it_is_refused_at_its_line(line: str, why: str) -> None:
    first = len(HEAD.splitlines()) + 1
    said = refused(HEAD + line + "\n" + BODY)
    assert why in said
    number = int(re.match(r"\d+", said)[0])  # type: ignore[index]
    last = first + line.count("\n") + (0 if "FUNCTION" not in line else 1)
    assert first <= number <= last


def test_it_is_a_function() -> None:
    assert refused(HEAD) == "there must be one MESH_FUNCTION"


def test_a_text_has_an_end(tmp_path: Path) -> None:
    file = tmp_path / "long.c"
    file.write_bytes((HEAD + BODY).encode().ljust(SOURCE_BYTES))
    assert read(file).text.startswith(HEAD)
    file.write_bytes((HEAD + BODY).encode().ljust(SOURCE_BYTES + 1))
    with pytest.raises(FunctionRefused, match="larger than 256 KiB"):
        read(file)


def test_a_text_is_text(tmp_path: Path) -> None:
    file = tmp_path / "bytes.c"
    file.write_bytes(b"int a;\nint b\xff;\n")
    with pytest.raises(FunctionRefused, match=re.escape("bytes.c:2: not UTF-8")):
        read(file)


@pytest.mark.parametrize(
    "line",
    [
        "#pragma unroll\n",
        "#pragma clang loop unroll(disable)\n",
        "#\n",
        "#error don't\n",
        "#define A(x) \\\n\tx\n",
        '// #include "a.h"\n',
        '/* #include "a.h"\n#include "b.h" */\n',
        'const char *a = "#include \\" //";\n',
        "int assemble, has_asm;\n",
        '/* asm("") _Pragma("") it\'s */\n',
    ],
)
def test_a_friend_is_taken(line: str) -> None:
    parse(FILE, HEAD + line + BODY)


def test_lines_stay_where_they_are() -> None:
    text = assemble(parse(FILE, HEAD + "int a;\n" + BODY))
    own = text.split('#line 1 "mine.c"\n')[1].splitlines()
    assert own[1] == "int a;"
    assert "#include" not in own[0].split("//")[0]


def test_a_name_that_is_no_name_is_not_given_to_the_compiler() -> None:
    assert parse(Path('a"\n#include "b".c'), HEAD + BODY).alias == "function.c"


def test_only_who_asks_for_the_transport_gets_it() -> None:
    flag = "#define MESH_VIEW_TRANSPORT"
    assert flag not in assemble(parse(FILE, HEAD + BODY))
    for word in source.TRANSPORT:
        text = assemble(parse(FILE, HEAD + BODY.replace("mesh_next()", f"p->{word}")))
        assert text.splitlines()[1:3] == ["#define MESH_VIEW_IP", flag]
    for word in source.IP:
        text = assemble(parse(FILE, HEAD + BODY.replace("mesh_next()", f"p->{word}")))
        assert "#define MESH_VIEW_IP" in text
        assert flag not in text
