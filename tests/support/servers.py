# SPDX-License-Identifier: BSD-2-Clause
"""Real servers for tests that need more than a socket."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ebpfmesh.model import Mesh
from support.topology import background, listening

NGINX = """
user root; daemon off; master_process off; pid {prefix}/pid; error_log stderr crit;
events {{ }}
http {{
  access_log off;
  server {{ listen 8080; listen [::]:8080; location / {{ return 200 "{name}\\n"; }} }}
}}
"""


@contextmanager
def nginx(mesh: Mesh, name: str, prefix: Path) -> Iterator[None]:
    """nginx at port 8080 of a function, answering with its name and a newline."""
    prefix.mkdir()
    (prefix / "conf").write_text(NGINX.format(name=name, prefix=prefix))
    command = ["nginx", "-e", "stderr", "-p", prefix, "-c", prefix / "conf"]
    with background(mesh, name, command, ready=listening(8080)):
        yield
