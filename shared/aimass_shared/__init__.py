"""What the coordinator and the device must agree on, and nothing else.

No I/O, no client, no server, no runtime: numbers, bytes and rules. Runs on Python 3.10.
"""

from importlib.metadata import version

__version__ = version("aimass")
