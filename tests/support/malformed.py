# SPDX-License-Identifier: BSD-2-Clause
"""Malformed mesh files, each in its own way, and the error that each gets."""

import re

from ebpfmesh.errors import ConfigError

HEAD = '[mesh]\nname = "edge"\n'
TWO = HEAD + '[[function]]\nname = "a"\ntenant = "x"\n[[function]]\nname = "b"\n'
SERVED = TWO + '[[service]]\nname = "s"\naddress = "198.18.128.1"\nport = 80\nfunctions = ["a"]\n'
RANGE = SERVED.replace("80\n", '"8000-8099"\n') + 'target_port = "9000-9099"\n'


def function(*lines: str) -> str:
    return "\n".join([HEAD + "[[function]]", 'name = "a"', *lines])


ON_XDP = function('datapath = "af_xdp"', 'command = ["app"]\n')

IN_POOL = ON_XDP + 'frames_in = "p" # here\n'
POOL = '[[pool]]\nname = "p"\ntenant = "default"\nfunctions = ["a"]\nbytes = 2048\n'


def service(*lines: str) -> str:
    return "\n".join([TWO + "[[service]]", 'name = "s"', *lines])


def policy(*lines: str) -> str:
    return "\n".join([SERVED + "[[policy]]", *lines])


# (name, file with "# here" on the line at fault, words of the message, words of the hint)
MALFORMED: list[tuple[str, str, str, str]] = [
    # Not TOML
    ("no value", HEAD + "limits  # here", "Expected '='", "toml.io"),
    ("open string", HEAD + '[[function]]\nname = "a # here\n', "not TOML", ""),
    ("open array", HEAD + 'x = ["a", # here\n"b"\n[[function]]\n', "Unclosed array", ""),
    ("open array at end", HEAD + 'x = ["a", # here\n"b",\n', "not TOML", ""),
    ("open text at end", HEAD + 'x = """here # here\n\n\n', "Unterminated", ""),
    ("open header", HEAD + "[[function] # here\n", "not TOML", ""),
    ("key twice", HEAD + 'limits = {}\nname = [ # here\n"b"]\n', 'key "name" is given twice', ""),
    ("key twice later", TWO + 'name = "c" # here\n', 'key "name" is given twice', ""),
    ("table twice", HEAD + "[mesh] # here\n", "Cannot declare mesh twice", ""),
    ("bad date", HEAD + "x = 2020-13-01 # here\n", "not TOML", ""),
    ("nested deeply", HEAD + "x = " + "[" * 5000 + "# here", "nested too deeply", ""),
    ("nested and closed", HEAD + "x = " + "[" * 999 + "]" * 999 + "# here", "too deeply", ""),
    ("nested tables", HEAD + "x = " + "{a=[" * 999 + "]}" * 999 + "# here", "too deeply", ""),
    ("long integer", HEAD + "x = " + "1" * 5000 + "# here", "too many digits", ""),
    ("long key", HEAD + "\n" + "a." * 70 + "a = 1 # here", "64 parts", ""),
    ("control character", HEAD + 'x = "\x07" # here', "Illegal character", ""),
    # The shape of the file
    ("empty", "# here", ":1: \"mesh\" is missing", "[mesh]"),
    ("mesh is no table", 'mesh = "edge" # here', '"mesh" must be a table, not a string', "[mesh]"),
    ("unknown table", HEAD + "[[functions]] # here\n", 'unknown key "functions"', '"function"?'),
    ("unknown key at top", "foo = 1 # here\n" + HEAD, 'unknown key "foo"', "known: function"),
    ("one bracket", HEAD + "[function] # here\n", "must be an array, not a table", "[[function]]"),
    ("not tables", "function = [\n1] # here\n" + HEAD, "element 1", "[[function]]"),
    # Names that /etc/hosts has already
    ("function localhost", HEAD + '[[function]]\nname = "localhost" # here\n', "taken", "itself"),
    ("function is a service", TWO + '[[service]]\nname = "a" # here\naddress = "198.18.128.1"\n'
     'port = 80\nfunctions = ["b"]\n', "a function has that name", "rename"),
    # The table of the mesh
    ("no mesh name", "[mesh] # here\nlimits = {}", '[mesh]: "name" is missing', "letters"),
    ("bad mesh name", '[mesh]\nname = "Edge" # here', '"name" cannot be "Edge"', "lower-case"),
    ("long mesh name", f'[mesh]\nname = "{"a" * 33}" # here', '"name" cannot be', "32"),
    ("name of a number", "[mesh]\nname = 3 # here", "a string, not an integer", ""),
    ("key of mesh", HEAD + "prefxi = 1 # here", '[mesh]: unknown key "prefxi"', '"prefix"?'),
    ("unknown limit", HEAD + "limits = {flow = 1} # here", 'unknown key "flow"', '"flows"?'),
    ("limit too big", HEAD + "limits = {functions = 65536} # here", "65536", "1 to 65535"),
    ("limit too small", HEAD + "\n[mesh.limits]\nflows = 1 # here", "cannot be 1", "512 to"),
    ("limit of text", HEAD + 'limits.rules = "1" # here', "an integer, not a string", ""),
    ("limit is true", HEAD + "limits.rules = true # here", "an integer, not a boolean", ""),
    ("limit is huge", HEAD + f"limits.rules = 0x{'f' * 9000} # here", "64 bits", "1 to"),
    ("limits no table", HEAD + "limits = 3 # here", "must be a table", "functions ="),
    ("prefix with bits", HEAD + 'prefix = "198.18.0.1/16" # here', "bits", "198.18.0.0/16"),
    ("no prefix", HEAD + 'prefix = "x" # here', "not a prefix", "198.18.0.0/16"),
    ("prefix empty", HEAD + "prefix = [] # here", "is empty", "IPv4"),
    ("prefix is a number", HEAD + "prefix = [\n4] # here", "must be a string", ""),
    ("two prefixes", HEAD + 'prefix = ["10.0.0.0/8",\n"11.0.0.0/8"] # here', "second of IPv4", ""),
    ("bad prefix", HEAD + 'prefix = ["2001:db8::/64",\n"128.0.0.0/1"] # here', "link-local", ""),
    ("multicast prefix", HEAD + 'prefix = "ff02::/64" # here', "multicast", "unicast"),
    # One function
    ("no name", HEAD + "[[function]] # here\naudit = true\n", "function number 1", "letters"),
    ("misspelt name", HEAD + '[[function]]\nnam = "a" # here\n', 'unknown key "nam"', '"name"?'),
    ("bad name", HEAD + '[[function]]\nname = "a_b" # here', '"name" cannot be "a_b"', "hyphens"),
    ("hyphen", HEAD + '[[function]]\nname = "a-" # here', '"name" cannot be "a-"', "inner"),
    ("long name", HEAD + f'[[function]]\nname = "{"a" * 64}" # here', "cannot be", "63"),
    ("no text", HEAD + '[[function]]\nname = "" # here', 'cannot be ""', ""),
    ("line feed", HEAD + '[[function]]\nname = "a\\n" # here', r'cannot be "a\n"', ""),
    ("long at last", HEAD + f'[[function]]\nreplicas = 2\nname = "{"a" * 62}" # here', "-0", "63"),
    ("unknown key", function('tennant = "x" # here'), 'function "a": unknown key', '"tenant"?'),
    ("quoted key", function('"ten\\u0061nts" = "x" # here'), 'key "tenants"', '"tenant"?'),
    ("dotted key", function("audit.x = 1 # here"), "must be true or false, not a table", ""),
    ("bad tenant", function('tenant = "X" # here'), '"tenant" cannot be "X"', ""),
    ("no replica", function("replicas = 0 # here"), "cannot be 0", "1 to 65535"),
    ("replicas", function("replicas = 65536 # here"), "cannot be 65536", "1 to 65535"),
    ("half a replica", function("replicas = 1.5 # here"), "an integer, not a float", ""),
    ("shared address", function("replicas = 2", 'address = "198.18.0.1" # here'), "one func", ""),
    ("shared netns", function("replicas = 2", 'netns = "n" # here'), "not for 2", "leave out"),
    ("no address", function('address = "198.18.0.300" # here'), "not an IP address", "198.18"),
    ("with a length", function('address = "198.18.0.3/32" # here'), "not an IP", "leave out the /"),
    ("zone", function('address = "2001:db8::1%eth0" # here'), "zone", "leave out"),
    ("zeros", function('address = "198.18.0.010" # here'), "not an IP address", ""),
    ("address is a number", function("address = 3 # here"), "an array, not an integer", "IPv4"),
    ("address of a number", function("address = [\n3] # here"), "must be a string", ""),
    ("no addresses", function("address = [] # here"), "is empty", ""),
    ("two of one", function('address = [\n"198.18.0.1",\n"198.18.0.2"] # here'), "second", "IPv6"),
    ("two of six", function('address = ["2001:db8::1",\n"2001:db8::2"] # here'), "of IPv6", "IPv6"),
    *(
        (f"address {text}", function(f'address = "{text}" # here'), what, "unicast")
        for text, what in {
            "0.0.0.0": "unspecified",
            "0.1.2.3": "unspecified",
            "127.0.0.1": "loopback",
            "169.254.1.1": "link-local",
            "224.0.0.5": "multicast",
            "255.255.255.255": "broadcast",
            "::": "unspecified",
            "::1": "loopback",
            "::ffff:198.18.0.1": "IPv4-mapped",
            "fe80::1": "link-local",
            "ff02::1": "multicast",
        }.items()
    ),
    ("no CPU", function("cpu = 0 # here"), "cannot be 0", "0.01 to 8192"),
    ("CPU of text", function('cpu = "1" # here'), "a number, not a string", ""),
    ("CPU is true", function("cpu = true # here"), "a number, not a boolean", ""),
    ("CPU is infinite", function("cpu = inf # here"), "cannot be inf", "8192"),
    ("CPU is none", function("cpu = nan # here"), "cannot be nan", "8192"),
    ("memory unit", function('memory = "64X" # here'), '"memory" cannot be "64X"', "64M"),
    ("memory sign", function('memory = "-1M" # here'), '"memory" cannot be "-1M"', "64M"),
    ("little memory", function("memory = 1 # here"), "cannot be 1", "64M"),
    ("much memory", function('memory = "9999T" # here'), '"memory" cannot be "9999T"', "64M"),
    ("memory float", function("memory = 1e9 # here"), "an integer, not a float", "64M"),
    ("datapath", function('datapath = "ebpf" # here'), 'cannot be "ebpf"', '"af_xdp" or "xdp"'),
    ("program of none", function('program = "a.c" # here'), "is about datapath", "xdp"),
    (
        "program beside a command",
        function('datapath = "xdp"', 'source = "int a;"', 'command = ["a"] # here\n'),
        "a command would be another", "leave out command",
    ),
    (
        "program and source",
        function('datapath = "xdp"', 'source = "int a;"', 'program = "a.c" # here\n'),
        'both "program" and "source"', "name a C file",
    ),
    (
        "no program", function('datapath = "xdp"', 'program = "nosuch.c" # here\n'),
        "nosuch.c: No such file", "name a C file",
    ),
    (
        "AF_XDP alone", function('datapath = "af_xdp" # here'),
        "hands packets to a command, and there is none", "netns",
    ),
    ("frames", ON_XDP + "frames = 100 # here", "100 is no power of two", "64 or 128"),
    ("few frames", ON_XDP + "frames = 32 # here", "cannot be 32", "64 to 65536"),
    ("xdp of an uplink", HEAD + '[[uplink]]\nname = "u"\ninterface = "e"\nxdp = "on" # here',
     'cannot be "on"', 'or "off"'),
    ("ports of an uplink", HEAD + '[[uplink]]\nname = "u"\ninterface = "e"\n'
     'masquerade_ports = "9-8" # here', 'ends before it begins', '"8-9"'),
    ("frames of none", function("frames = 64 # here"), "is about datapath", "af_xdp"),
    ("queues", ON_XDP + "queues = 17 # here", "cannot be 17", "1 to 16"),
    ("queues of none", function("queues = 2 # here"), "is about datapath", "af_xdp"),
    ("frames in a pool of none", function('frames_in = "p" # here'), "is about datapath", "af_xdp"),
    ("no pool for frames", IN_POOL, '"a" is no member of that', "name it in functions"),
    ("another pool", IN_POOL + POOL.replace('"p"', '"q"'), "no member", "of its tenant"),
    ("other places", IN_POOL + POOL.replace("2048", "4096"), "has places of 4096", "bytes = 2048"),
    ("frames twice", IN_POOL + "frames = 64\n" + POOL, "are in pool", "leave out frames"),
    ("few places", IN_POOL + POOL + "members = 8\nslots = 256", "is 32 places", "more slots"),
    ("places for queues", IN_POOL + "queues = 8\n" + POOL + "slots = 256", "needs 64", "slots"),
    ("little room", ON_XDP + 'queues = 2\nmemory = "16M" # here', "8192 frames take 16M", "memory"),
    ("no room", ON_XDP + 'memory = "8M" # here', "4096 frames take 8M", "lower frames"),
    ("a port", ON_XDP + "ready = {port = 80} # here", '"ready" looks for a socket', "a file"),
    ("audit", function('audit = "no" # here'), "true or false, not a string", ""),
    ("netns", function('netns = "../x" # here'), 'cannot be "../x"', "/run/netns"),
    ("same netns", TWO + 'netns="n"\n[[function]]\nname="c"\nnetns="n" # here', "netns n", "one"),
    ("command", function('command = "iperf3 -s" # here'), "an array, not a string", "iperf3"),
    ("a word", function('command = ["a",\n3] # here'), 'element 2 of "command"', ""),
    ("no program", function('command = [\n"", # here\n"a"]'), "cannot hold", "program"),
    ("NUL", function('command = ["a",\n"\\u0000"] # here'), "cannot hold", "program"),
    ("user", function('command = ["a"]\nuser = "a b" # here'), 'cannot be "a b"', "www-data"),
    ("no number", function('command = ["a"]\nuser = 33 # here'), "a string, not an integer", ""),
    ("variable", function('command = ["a"]\nenv = {"a-b" = "c"} # here'), '"a-b"', "LANG"),
    ("NUL in a variable", function('command = ["a"]\nenv = {a = "\\u0000"} # here'), "hold", "NUL"),
    ("workdir", function('command = ["a"]\nworkdir = "a" # here'), 'cannot be "a"', "absolute"),
    *(
        (f"volume {text}", function(f'command = ["a"]\nvolumes = ["{text}"] # here'), what, hint)
        for text, what, hint in (
            ("a", 'cannot be "a"', "/srv/site"), ("tmp", 'cannot be "tmp"', "tmp:/"),
            ("/a/../b", "cannot be", "/srv/site"), ("/a:/b:/c", "cannot be", "/srv/site"),
            ("/a:/b:wr", "cannot be", ":rw"), ("/a:/", "cannot be at /", "another"),
            ("/a:/proc", "cannot be at /proc", "another"), ("/a/", "cannot be", "/srv/site"),
        )
    ),
    ("two volumes", function('command = ["a"]\nvolumes = ["/a", "/b:/a"] # here'), "two", "one"),
    ("rootfs", function('command = ["a"]\nrootfs = "/a:b" # here'), 'cannot be "/a:b"', "path"),
    ("image", function('command = ["a"]\nimage = "-v" # here'), 'cannot be "-v"', "image"),
    ("two roots", function('command = ["a"]\nrootfs = "/a"\nimage = "b" # here'), "both", "one"),
    ("a capability", function('command = ["a"]\ncapabilities = ["SYS_ADMIN"] # here'),
     "cannot be", "NET_RAW"),
    ("one twice", function('command = ["a"]\ncapabilities = ["KILL", "KILL"] # here'), "twice", ""),
    ("others' network", function('command=["a"]\nnetns="n"\ncapabilities = ["NET_RAW"] # here'),
     "that others made", "netns"),
    ("no pids", function('command = ["a"]\npids = 0 # here'), "cannot be 0", "1 to"),
    ("tmp", function('command = ["a"]\ntmp = "1X" # here'), '"tmp" cannot be "1X"', "64M"),
    ("two probes", function('command = ["a"]', 'ready = {port = 1, file = "/a"} # here'),
     'both "port" and "file"', "one"),
    ("a probe's key", function('command = ["a"]', "ready = {prt = 1} # here"), '"prt"', '"port"?'),
    ("a probe's port", function('command = ["a"]', "ready = {port = 0} # here"), "cannot be 0", ""),
    ("a probe's file", function('command = ["a"]', 'ready = {file = "a"} # here'), '"a"', "path"),
    ("a probe's time", function('command = ["a"]', "ready = {seconds = 0} # here"), "be 0", "1 to"),
    ("no port", function('command = ["a"]', 'ready = {protocol = "udp"} # here'), "none", "port"),
    ("nobody's probe", function('ready = {file = "/a"} # here'), "looks inside", "a command"),
    ("nothing to ask", function("ready = {seconds = 9} # here"), "what is waited for", "port"),
    ("health", function('command = ["a"]', "health = {failures = 0} # here"), "be 0", "1 to"),
    ("on_failure", HEAD + 'on_failure = "go on" # here', '"go on"', "keep"),
    ("nobody's user", function('user = "root" # here'), "there is none", "a command"),
    ("nobody's privilege", function("privileged = true # here"), "there is none", "a command"),
    ("no sandbox", function('command = ["a"]\nprivileged = true\ntmp = "1M" # here'),
     "has none", "privileged"),
    ("date", function("tenant = 2020-01-01 # here"), "not a date or time", ""),
    # Functions together
    ("same name", TWO + '[[function]]\nname = "a" # here', 'called "a"', "rename"),
    ("a replica", function("replicas=2") + '\n[[function]]\nname = "a-1" # here', '"a-1"', ""),
    ("all of them", function("replicas=2") + '\n[[function]]\nname = "a" # here', '"a"', "rename"),
    ("functions", function("[mesh.limits]\nfunctions=2\n[[function]]\nname='b'\nreplicas=2 # here"),
     "more than 2 functions", "limits.functions"),
    ("tenants", TWO + "tenant = 'y'\n[[function]] # here\nname='c'\n[mesh.limits]\ntenants = 2",
     "more than 2 tenants", "limits.tenants"),
    ("same address", function('address = "198.18.0.1"\n[[function]]\nname = "b"\n'
     'address = ["2001:db8::1",\n"198.18.0.1"] # here'), 'the address of function "a"', ""),
    ("pool too small", HEAD + 'prefix = "198.18.0.0/30"\n[[function]] # here\nname = "a"\n'
     'replicas = 3\n', 'is left for function "a-', "larger prefix"),
    # Services
    ("nothing but a name", TWO + "[[service]] # here\nname = 's'", '"address" is missing', ""),
    ("no port", service('address = "10.0.0.1"').replace("[[service]]", "[[service]] # here")
     + '\nfunctions = ["a"]', 'service "s": "port" is missing', "65535"),
    ("port 0", service("port = 0 # here"), "cannot be 0", "1 to 65535"),
    ("port 65536", service("port = 65536 # here"), "cannot be 65536", "1 to 65535"),
    ("target port", service("target_port = -1 # here"), "cannot be -1", "1 to 65535"),
    ("port of text", service('port = "80" # here'), "an integer, not a string", "quotes"),
    ("protocol", service('protocol = "sctp" # here'), 'cannot be "sctp"', '"tcp" or "udp"'),
    ("functions of text", service('functions = "a" # here'), "an array, not a string", ""),
    ("unknown function", SERVED.replace('["a"]', '["a",\n"aa"] # here'), '"aa"', '"a"?'),
    ("function twice", SERVED.replace('["a"]', '["a",\n"a"] # here'), "twice", "once"),
    ("service twice", SERVED + "[[service]]\nname = 's' # here\naddress = '198.18.128.2'\n"
     "port = 1\nfunctions = ['a']", 'two services called "s"', "rename"),
    ("service address", SERVED.replace('"198.18.128.1"', '["2001:db8::1",\n"ff02::1"] # here'),
     "multicast", ""),
    ("address of function", TWO.replace("tenant", 'address = "198.18.128.1"\ntenant')
     + '[[service]]\nname = "s"\naddress = "198.18.128.1" # here\nport = 1\nfunctions = ["b"]',
     'service "s": 198.18.128.1 is the address of function "a"', "another"),
    ("same frontend", SERVED + "[[service]]\nname = 't'\naddress = '198.18.128.1'\n"
     "port = 80 # here\nfunctions = ['b']", 'taken by "s"', "another"),
    ("wrong family", SERVED.replace('"x"', '"x"\naddress = "198.18.0.9"').replace(
        '"198.18.128.1"', '"2001:db8::8"').replace('["a"]', '["b",\n"a"] # here'),
     'function "a" has no IPv6 address', "IPv6"),
    ("services", SERVED + "[[service]] # here\nname = 't'\naddress = '198.18.128.2'\n"
     "port = 1\nfunctions = ['a']\n[mesh.limits]\nservices = 1", "more than 1 services", "limits."),
    ("reversed", service('port = "99-80" # here'), "ends before it begins", '"80-99"'),
    ("no range", service('port = "80-" # here'), 'cannot be "80-"', "8000-8099"),
    ("range with a sign", service('port = "-80" # here'), 'cannot be "-80"', "8000-8099"),
    ("long range", service('port = "80-65536" # here'), "cannot be", "1 to 65535"),
    ("port of a list", service("port = [80] # here"), "an integer or a string", "8000-8099"),
    ("lengths", RANGE.replace('"9000-9099"', '"9000-9098" # here'), "99 ports", "9000-9099"),
    ("target alone", RANGE.replace('"9000-9099"', "9000 # here"), "1 ports", "9000-9099"),
    ("overlap", RANGE + "[[service]]\nname = 't'\naddress = '198.18.128.1'\nport = 8050 # here\n"
     "functions = ['b']", 'tcp 198.18.128.1 port 8050 is taken by "s"', "another"),
    ("overlap of two", RANGE + "[[service]]\nname = 't'\naddress = '198.18.128.1'\n"
     "port = '8090-9000' # here\nfunctions = ['b']", "port 8090-8099 is taken", "another"),
    ("affinity", RANGE + 'affinity = "client" # here', 'cannot be "client"', '"source"'),
    ("weight", RANGE + "weights = {a = 101} # here", "101", "0 to 100"),
    ("weight below", RANGE + "\n[service.weights]\na = -1 # here", "-1", "0 to 100"),
    ("half a weight", RANGE + "weights = {a = 0.5} # here", "an integer, not a float", ""),
    ("weights no table", RANGE + "weights = 3 # here", "must be a table", "web-1"),
    ("weight of no name", RANGE + "weights = {A = 1} # here", '"A" cannot be "A"', "0 to 100"),
    ("weight of nobody", RANGE + "weights = {z = 1} # here", 'names "z"', "known: a"),
    ("weight of another", RANGE + "weights = {b = 1} # here", 'names "b"', "known: a"),
    ("many ports", RANGE.replace("[[service]]", "[[service]] # here")
     + "[mesh.limits]\nservices = 2", "more than 2 services", "limits."),
    ("hairpin", SERVED.replace('"198.18.128.1"', '"198.18.0.0" # here'), "of the mesh itself",
     "another"),
    ("hairpin6", function('address = "2001:db8::" # here'), "of the mesh itself", "another"),
    # Timeouts
    ("timeouts", HEAD + "timeouts = {tcp = 3} # here", 'unknown key "tcp"', "handshake"),
    ("timeout 0", HEAD + "timeouts = {udp = 0} # here", "cannot be 0", "1 to"),
    ("timeouts no table", HEAD + "timeouts = 30 # here", "must be a table", "udp ="),
    # Policies
    ("no to", SERVED + "[[policy]] # here\nfrom = 'any'", 'policy number 1: "to" is missing', ":"),
    ("source", policy('source = "any" # here'), 'unknown key "source"', "known:"),
    ("kind", policy('from = "tenent:x" # here', 'to = "any"'), '"tenent"', '"tenant"?'),
    ("bare name", policy('from = "a" # here', 'to = "any"'), '"a" is no kind', "function:NAME"),
    ("no name after", policy('from = "tenant:" # here', 'to = "any"'), "names nothing", "tenant:"),
    ("any with name", policy('from = "any:x" # here', 'to = "any"'), "not an identity", "any,"),
    ("bad name in it", policy('from = "tenant:X" # here', 'to = "any"'), '"X" is not a name', ""),
    ("no string", policy('from = {kind = "any"} # here', 'to = "any"'), "must be a string", ""),
    ("unknown tenant", policy('from = "tenant:xx" # here', "to = 'any'"), 'tenant "xx"', '"x"?'),
    ("unknown service", policy("from = 'any'", 'to = "service:ss" # here'), '"ss"', '"s"?'),
    ("no such function", policy("from = 'any'", "to = 'function:aa' # here"), '"aa"', '"a"?'),
    ("from service", policy('from = "service:s" # here', 'to = "any"'), "be a source", "tenant"),
    ("port alone", policy("from = 'any'", "to = 'any'", "port = 80 # here"), "needs a", "tcp"),
    ("port of ICMP", policy("from='any'", "to='any'", "protocol='icmp'", "port=8 # here"), "8", ""),
    ("big port", policy("from = 'any'", "to = 'any'", "port = 65536 # here"), "65536", "65535"),
    ("policy protocol", policy("from='any'", "to='any'", "protocol='ip' # here"), '"ip"', "icmp"),
    ("action", policy("from = 'any'", "to = 'any'", "action = 'drop' # here"), '"drop"', "deny"),
    ("priority", policy("from = 'any'", "to = 'any'", "priority = -1 # here"), "-1", "0 to 65535"),
    ("policy twice", policy("from='any'", "to='any'", "[[policy]] # here", "from='any'", "to='any'",
     "action = 'deny'"), "another one is about the same flows", "keep one"),
    ("ports", policy("from='any'", "to='any'", "port = '9-8' # here"), "ends before", '"8-9"'),
    ("ports alone", policy("from='any'", "to='any'", "port = '8-9' # here"), "port 8-9 ne", "tcp"),
    ("hidden key", policy("from='any'", "to='any'", "port_end = 9 # here"), "unknown key", "port"),
    ("type alone", policy("from='any'", "to='any'", "icmp_type = 8 # here"), "ICMP type 8", "icmp"),
    ("type of TCP", policy("from='any'", "to='any'", "protocol='tcp'", "icmp_type = 0 # here"),
     "ICMP type 0", "icmp"),
    ("big type", policy("from='any'", "to='any'", "protocol='icmp'", "icmp_type = 256 # here"),
     "cannot be 256", "0 to 255"),
    ("no prefix in it", policy("from = 'outside:x' # here", "to = 'any'"), "not a prefix", "/64"),
    ("host bits", policy("from = 'outside:192.0.2.1/24' # here", "to = 'any'"), "bits after",
     '"192.0.2.0/24"'),
    ("multicast outside", policy("from='any'", "to = 'outside:224.0.0.0/8' # here"), "multicast",
     "unicast"),
    ("nothing outside", policy("from='any'", "to='outside:' # here"), "names nothing", "outside:"),
    ("our prefix", policy("from = 'outside:198.18.4.0/24' # here", "to = 'any'"),
     "the mesh has 198.18.0.0/16", "functions or tenants"),
    ("our prefix6", policy("from = 'outside:2001:db8::/32' # here", "to = 'any'"),
     "the mesh has 2001:db8::/64", "functions or tenants"),
    ("our address", policy("from='any'", "to = 'outside:192.0.2.0/24' # here").replace(
        "198.18.128.1", "192.0.2.255"), 'service "s" has 192.0.2.255', "functions or tenants"),
    ("nested six deep", policy("\n[[policy]]\n".join(
        f"from = 'outside:10.0.0.0/{length}'{' # here' if length == 13 else ''}\nto = 'any'"
        for length in (10, 12, 13, 8, 11, 9))), "in 5 other prefixes", "10.0.0.0/12"),
    ("prefixes", policy("from = 'outside:10.0.0.0/8'", "to = 'outside:10.1.0.0/16' # here",
     "[mesh.limits]", "prefixes = 1"), "more than 1 prefixes", "limits.prefixes"),
    ("rules of ports", policy("from='any'", "to='any'", "[[policy]] # here", "from='any'",
     "to='tenant:x'", "protocol='tcp'", "port='1-14'", "[mesh.limits]", "rules = 6"),
     "more than 6 rules", "limits.rules"),
    ("rules", policy("from='any'", "to='any'", "[[policy]] # here", "from='tenant:x'", "to='any'",
     "[mesh.limits]", "rules = 1"), "more than 1 rules", "limits.rules"),
]  # fmt: skip


def assert_for_people(error: ConfigError) -> None:
    """One short line, with nothing of pydantic or Python in it, and a hint."""
    assert error.exit_code == 2
    assert error.hint
    for text in (error.message.removeprefix(str(error.file)), error.hint):
        assert len(text) < 300
        assert text.isprintable()
        assert not re.search(
            r"Input should|pydantic|validation|Value error|__|None\b"
            r"|(bool|dict|float|int|model|string|tuple)_type",
            text,
        )
