# SPDX-License-Identifier: BSD-2-Clause
"""The command line: click commands that ask the other modules and print what they answer.

No logic here. A command imports what it needs when it runs, so that ``--help`` and shell
completion cost no more than click itself.
"""
