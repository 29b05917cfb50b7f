"""What the other checks rest on: no way out of the network, nothing left, faults that fit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import MEMORY, MakeWheel, children, folder_prefix
from container import Container, cgroups_of, wait_for
from versions import Fault, Misfit

CONNECT = """
import errno, socket, sys
for family, address in ((socket.AF_INET, "192.168.1.10"), (socket.AF_INET6, "2001:db8::1")):
    with socket.socket(family) as s:
        s.settimeout(5)
        print(errno.errorcode.get(s.connect_ex((address, 1883))))
"""


def left() -> list[object]:
    """What there is of containers now."""
    return [*Path(MEMORY).glob(f"{folder_prefix()}*"), *cgroups_of(os.getpid()), *children()]


@pytest.mark.parametrize(
    ("init", "says"),
    [("#!/bin/sh\necho I am no init\n", "I am no init"), ("#!/bin/sh\nsleep 1000\n", "")],
    ids=["ends", "hangs"],
)
def test_a_container_that_does_not_boot_leaves_nothing(place, wheels, network, init, says):
    def spoil(root: Path) -> None:
        program = root / "usr/lib/systemd/systemd"
        program.write_text(init)
        program.chmod(0o755)

    before = left()
    with pytest.raises(AssertionError) as failed, place() as folder:
        Container(folder, wheels, change=spoil, patience_s=2)
    assert says in str(failed.value), "its console is told, since it is gone"
    assert left() == before


def test_a_container_that_boots_leaves_nothing_and_has_no_way_out(
    place: Callable[[], AbstractContextManager[Path]], wheels: Path, network: None
) -> None:
    """The example's broker is unreachable: no packet is ever sent to it."""
    before = left()
    with place() as folder:
        container = Container(folder, wheels)
        try:
            assert len(left()) > len(before), "there is something to be left"
            said = container.run("python3", "-c", CONNECT).stdout
            assert said.split() == ["ENETUNREACH", "ENETUNREACH"]
            routes = container.run("cat", "/proc/net/route").stdout.splitlines()
            assert len(routes) == 1, "the heading alone"
        finally:
            container.remove()
    assert left() == before


KILLED = """
import os, sys
from pathlib import Path
from container import Container, leave_the_network
leave_the_network()
container = Container(Path(sys.argv[1]), Path(sys.argv[2]))
print(container._leader, os.getpid(), flush=True)
os.kill(os.getpid(), 9)
"""


def test_checks_that_are_killed_leave_nothing(wheels, network):
    """kill -9: no fixture has an end then."""
    folder = Path(tempfile.mkdtemp(prefix=folder_prefix(), dir=MEMORY))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(folder), str(wheels)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=False)
    assert done.returncode == -9
    leader, process = done.stdout.split()
    wait_for(lambda: not Path(f"/proc/{leader}").exists(), 20, "the container is gone")
    wait_for(lambda: not folder.exists(), 20, "its folder is gone")
    wait_for(lambda: not cgroups_of(int(process)), 20, "its control groups are gone")


def test_this_process_has_no_way_out_either(network):
    """The brokers and subscribers of the checks are in the containers' network."""
    assert len(Path("/proc/thread-self/net/route").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault("Scheduler.laze", ""), "Scheduler.laze is defined in no module"),
        (Fault("NoSuchClass.work", ""), "NoSuchClass.work is defined in no module"),
        (Fault("add_arguments", ""), "add_arguments is defined in \\['node/"),
        (
            Fault("Scheduler.run_due", "if True:\npass"),
            "does not compile: expected an indented block",
        ),
        (
            Fault("Scheduler.run_due", "Scheduler.run_due = nothing"),
            "name 'nothing' is not defined",
        ),
    ],
    ids=["no method", "no class", "several", "indentation", "names"],
)
def test_a_fault_that_does_not_fit_makes_no_version(make_wheel: MakeWheel, fault, why):
    with pytest.raises(Misfit, match=why):
        make_wheel("0.2.0", fault)


def test_a_version_is_what_it_says(make_wheel: MakeWheel):
    """The number is its own, and the fault is in it."""
    wheel = make_wheel("9.8.7", Fault("Scheduler.run_due", "Scheduler.run_due = 'spoilt'"))
    sys_path = f"import sys; sys.path.insert(0, {str(wheel)!r}); "
    program = (
        sys_path
        + "import node, node.sensors.scheduler as s; print(node.__version__, s.Scheduler.run_due)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["9.8.7", "spoilt"]
