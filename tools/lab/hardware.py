"""The files by which a virtual board looks like its kind: /sys, /proc, firmware, and what only it has in its root."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.lab import debian, sensors
from tools.lab.kinds import BoardKind
from tools.lab.system import LabError

SAMPLES = Path(__file__).parents[2] / "tests" / "boards"

_PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
{user}:x:{uid}:{uid}::{home}:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""

_SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM {pam}
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp /usr/lib/openssh/sftp-server
"""

# The supervisor of a service starts it again when it ends, as an init system would.
_INIT = """\
#!/bin/sh
umount -l /mnt 2>/dev/null
hostname "$(cat /etc/hostname)"
export QEMU_CPU={core}
while :; do
  {service}
  sleep 0.5
done
"""

# Neither server hands its own variables on. adb gives a shell to the user `shell`, as a phone that is no developer's
# own build does.
_SERVICES = {
    "ssh": "/usr/sbin/sshd -D -e -o SetEnv=QEMU_CPU={core}",
    "adb": "setpriv --reuid=2000 --regid=2000 --clear-groups env -i ADBD_PORT=5555 QEMU_CPU={core} "
    "HOME=/data/local/tmp PATH=/usr/bin:/bin:/usr/sbin:/sbin TMPDIR=/data/local/tmp "
    "/usr/lib/android-sdk/platform-tools/adbd",
}

_VCGENCMD = """\
#!/bin/sh
# Errors of the firmware come as text, with exit code 0.
file=/run/vcio/$1
if [ -f "$file" ]; then cat "$file"; else echo 'error=1 error_msg="Command not registered"'; fi
"""

_NVPMODEL = """\
#!/bin/sh
[ "$1" = -q ] || { echo "nvpmodel: only -q is here" >&2; exit 1; }
printf 'NV Power Mode: 15W\\n0\\n'
"""

_GETPROP = """\
#!/bin/sh
if [ $# -eq 0 ]; then cat /system/build.properties; exit; fi
sed -n "s/^\\\\[$1\\\\]: \\\\[\\\\(.*\\\\)\\\\]\\$/\\\\1/p" /system/build.properties
"""

_DUMPSYS = """\
#!/bin/sh
case $1 in
  battery) cat <<END
Current Battery Service state:
  AC powered: false
  USB powered: false
  Wireless powered: false
  Dock powered: false
  status: 3
  health: 2
  present: true
  level: $(cat /sys/class/power_supply/battery/capacity)
  scale: 100
  voltage: $(($(cat /sys/class/power_supply/battery/voltage_now) / 1000))
  temperature: $(($(cat /sys/class/thermal/thermal_zone4/temp) / 100))
  technology: Li-ion
END
  ;;
  *) echo "Can't find service: $1" ;;
esac
"""


@dataclass(frozen=True, slots=True)
class File:
    """A file of one board's own root."""

    content: str
    mode: int = 0o644


def sample(kind: BoardKind, name: str) -> str | None:
    """One of the sample outputs of the board, None where it has none. Raises LabError where all are missing."""
    if not (SAMPLES / kind.sample / "source.toml").is_file():
        raise LabError(f"{SAMPLES / kind.sample} is missing, whose samples the board {kind.name} shows; restore it.")
    path = SAMPLES / kind.sample / name
    return path.read_text("utf-8") if path.is_file() else None


def sysfs_tree(kind: BoardKind) -> dict[str, str]:
    """All of the board's /sys by path, as it looks at rest; files that cannot be read are left out."""
    tree: dict[str, str] = {}
    for path in sorted((SAMPLES / kind.sample).glob("*.sysfs")):
        for line in path.read_text("utf-8").splitlines():
            name, _, value = line.partition(" =")
            if value.strip():
                tree[name] = value.strip()
    cpus = kind.cpus if kind.emulated else (os.cpu_count() or 1)
    for path_text in [each for each in tree if each.startswith("/sys/devices/system/cpu/cpu")]:
        if int(path_text.split("/")[5][3:]) >= cpus:
            del tree[path_text]
        elif path_text.endswith("scaling_governor"):
            tree[path_text] = kind.governor
    cpus_text = f"0-{cpus - 1}" if cpus > 1 else "0"
    for name in ("online", "possible", "present"):
        tree[f"/sys/devices/system/cpu/{name}"] = cpus_text
    model = sample(kind, "model.txt")
    if model is not None:
        tree["/sys/firmware/devicetree/base/model"] = model.rstrip("\n\0 ") + "\0"
    state = sensors.at_rest(kind)
    tree.update({path: value for path, value in sensors.sysfs_values(kind, state, tree).items() if path in tree})
    return tree


def write_hardware(kind: BoardKind, folder: Path) -> None:
    """Write the files that the board's boot mounts: folder/sys, folder/proc and, on a Raspberry Pi, folder/vcio."""
    for path, value in sysfs_tree(kind).items():
        write_value(folder / path.lstrip("/"), value)
        if path.endswith("energy_uj"):
            (folder / path.lstrip("/")).chmod(0o400)  # as the kernel has it: root alone may read it
    state = sensors.at_rest(kind)
    values = sensors.proc_values(kind, state, up_s=0, idle_s=0, used_bytes=0)
    cpuinfo = sample(kind, "cpuinfo.txt")
    if kind.emulated and cpuinfo is not None:  # native code asks the processor itself, which is the machine's own
        values["cpuinfo"] = cpuinfo.rstrip("\n") + "\n"
    random = secrets.token_hex(16)
    values["boot_id"] = "-".join((random[:8], random[8:12], random[12:16], random[16:20], random[20:]))
    for name, value in values.items():
        write_value(folder / "proc" / name, value)
    (folder / "vcio").mkdir(exist_ok=True)
    if sample(kind, "get_throttled.txt") is not None:
        for name, value in sensors.firmware_values(kind, state, sample(kind, "pmic_read_adc.txt")).items():
            write_value(folder / "vcio" / name, value)


def write_value(path: Path, value: str) -> None:
    """Replace a small file's content in place and in one write, so that a reader sees the old value or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = value.encode() if value.endswith("\0") else value.encode() + b"\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        # newlines cover the rest of a longer value until the file is cut
        os.pwrite(file, content.ljust(os.fstat(file).st_size, b"\n"), 0)
        os.ftruncate(file, len(content))
    finally:
        os.close(file)


def own_files(kind: BoardKind, *, host_key: str, public_keys: str) -> Mapping[str, File]:
    """What the board has in its root besides the packages, by path; keys as OpenSSH writes them."""
    phone, systemd = kind.link == "adb", kind.init == "systemd"
    uid, home = _account(kind)
    users = ("root", "sshd", kind.user)
    service = _SERVICES[kind.link].format(core=kind.qemu_cpu)
    init = debian.INIT if systemd else _INIT.format(service=service, core=kind.qemu_cpu)
    files = {
        "etc/passwd": File(_PASSWD.format(user=kind.user, uid=uid, home=f"/{home}")),
        "etc/group": File(f"root:x:0:\ndaemon:x:1:\ntty:x:5:\n{kind.user}:x:{uid}:\nnogroup:x:65534:\n"),
        "etc/shadow": File("".join(f"{name}:*:19000::::::\n" for name in users), 0o600),
        "etc/hostname": File(f"{kind.name}\n"),
        "etc/machine-id": File(f"{secrets.token_hex(16)}\n"),
        "usr/sbin/init": File(init, 0o755),
    }
    if systemd:
        files.update({path: File(content) for path, content in debian.configuration(kind).items()})
    if phone:
        files["usr/bin/getprop"] = File(_GETPROP, 0o755)
        files["usr/bin/dumpsys"] = File(_DUMPSYS, 0o755)
        files["system/build.properties"] = File(sample(kind, "getprop.txt") or "")
    else:
        files["etc/ssh/sshd_config"] = File(_SSHD_CONFIG.format(pam="yes" if systemd else "no"))
        files["etc/ssh/ssh_host_ed25519_key"] = File(host_key, 0o600)
        files["root/.ssh/authorized_keys"] = File(public_keys, 0o600)
        files[f"{home}/.ssh/authorized_keys"] = File(public_keys, 0o600)
    if sample(kind, "get_throttled.txt") is not None:
        files["usr/bin/vcgencmd"] = File(_VCGENCMD, 0o755)
    release = sample(kind, "nv_tegra_release.txt")
    if release is not None:
        files["etc/nv_tegra_release"] = File(release)
        files["usr/sbin/nvpmodel"] = File(_NVPMODEL, 0o755)
    return files


def write_own_files(kind: BoardKind, upper: Path, *, host_key: str, public_keys: str) -> None:
    """Write `own_files` into the board's layer over the shared root."""
    for path, file in own_files(kind, host_key=host_key, public_keys=public_keys).items():
        target = upper / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.content)
        target.chmod(file.mode)
    uid, folder = _account(kind)
    home = upper / folder
    home.mkdir(parents=True, exist_ok=True)
    for owned in (home, *home.rglob("*")):
        os.chown(owned, uid, uid)
    for private in (upper / "root", upper / "root/.ssh", home / ".ssh"):
        if private.exists():
            private.chmod(0o700)


def _account(kind: BoardKind) -> tuple[int, str]:
    """The number of the board's user, and where below its root that user is at home."""
    return (2000, "data/local/tmp") if kind.link == "adb" else (1000, f"home/{kind.user}")
