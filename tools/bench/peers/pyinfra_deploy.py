"""What the bench `fleet` has pyinfra do on every board: bring a file, have it hashed there, ask what the board is."""

import os

from pyinfra import host
from pyinfra.facts.server import Arch
from pyinfra.operations import files, server

destination = host.data.get("destination")
files.put(name="put", src=os.environ["BENCH_SOURCE"], dest=destination)
server.shell(name="hash", commands=[f"echo '{os.environ['BENCH_SHA256']}  {destination}' | sha256sum -c"])
host.get_fact(Arch)
