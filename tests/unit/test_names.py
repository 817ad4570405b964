# SPDX-License-Identifier: BSD-2-Clause
"""The check that what comments name exists, on a tree of a few files."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "names.py"
TREE = {
    "bpf/lib/flow.h": '/* Of a flow. */\nint flow_find(void);\nMESH_MAP("hash", mesh_flow4);\n',
    "ebpfmesh/plan.py": '"""Plans."""\n\n\nclass Plan:\n    def steps(self): ...\n',
    "scripts/go.sh": "#!/bin/sh\ngo() { :; }\n",
}
RIGHT = [
    ("bpf/a.c", "/* See lib/flow.h: flow_find() fills mesh_flow4. */\n"),
    ("bpf/a.c", 'char *text = "/* gone.h */"; // flow.h\n'),
    ("a.py", '"""As ``Plan.steps`` of ebpfmesh/plan.py and ``plan``; bpf/lib/ has the rest."""\n'),
    ("a.py", "text = 'gone.h has gone()'\n"),
    ("a.sh", "# what go() in scripts/go.sh does\n"),
    ("a.md", "The file `flow.h`.\n\n```\ncat gone.h # gone()\n```\n"),
    ("a.c", "/* check_cfg() in linux/kernel/bpf/verifier.c; bcc/helpers.h */\n"),
    ("a.md", "/sys/fs/bpf/ebpfmesh/edge and <linux/bpf.h>\n"),
]
WRONG = [
    ("bpf/a.c", "int a;\n/*\n * As in lib/gone.h.\n */\n", "3: lib/gone.h"),
    ("bpf/a.c", "int a; // flow_gone() does\n", "1: flow_gone"),
    ("bpf/a.c", "/* written to mesh_gone */\n", "1: mesh_gone"),
    ("bpf/a.c", "/* lib/plan.py */\n", "1: lib/plan.py"),
    ("a.py", "a = 1\n# as plan.h\n", "2: plan.h"),
    ("a.py", 'class A:\n    """A.\n\n    As ``Plan.gone``.\n    """\n', "4: Plan.gone"),
    ("a.py", 'A = 1\n"""As ``gone`` is."""\n', "2: gone"),
    ("a.sh", "# gone.sh\n", "1: gone.sh"),
    ("a.md", "```\nfence\n```\n\none\n| flow.h | gone.h |\n", "6: gone.h"),
    ("a.md", "`bpf/gone/` has it\n", "1: bpf/gone/"),
]


def names(root: Path, file: str, text: str) -> "subprocess.CompletedProcess[str]":
    for name, content in {**TREE, file: text}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return subprocess.run(
        [sys.executable, SCRIPT, root], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(("file", "text"), RIGHT)
def test_what_exists_is_not_told(tmp_path: Path, file: str, text: str) -> None:
    done = names(tmp_path, file, text)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("file", "text", "told"), WRONG)
def test_what_does_not_is(tmp_path: Path, file: str, text: str, told: str) -> None:
    done = names(tmp_path, file, text)
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{file}:{told}\n", "")
