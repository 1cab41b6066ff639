"""What the scripts of Debian's packages would have written on a board whose first process is systemd."""

from __future__ import annotations

from collections.abc import Mapping

from tools.lab.kinds import BoardKind

_PAM = {
    "auth": "auth required pam_unix.so\n",
    "account": "account required pam_unix.so\n",
    "password": "password required pam_unix.so\n",
    "session": "session required pam_unix.so\nsession optional pam_systemd.so\n",
    "session-noninteractive": "session required pam_unix.so\n",
}

# An empty unit is a masked one. These are for terminals and for a kernel of the board's own.
_MASKED = (
    *("console-getty.service", "getty.target", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service"),
    *("systemd-modules-load.service", "systemd-sysctl.service"),
)

# With `container` set, systemd leaves alone what belongs to the machine below.
INIT = """\
#!/bin/sh
umount -l /mnt 2>/dev/null
hostname "$(cat /etc/hostname)"
export container=lab
exec /lib/systemd/systemd
"""


def configuration(kind: BoardKind) -> Mapping[str, str]:
    """Files by path: PAM, ssh that starts at boot, and services of the board's user that need no login."""
    return {
        **{f"etc/pam.d/common-{name}": lines for name, lines in _PAM.items()},
        **{f"etc/systemd/system/{name}": "" for name in _MASKED},
        "etc/systemd/system/multi-user.target.d/enabled.conf": "[Unit]\nWants=ssh.service\n",
        # the package has a folder there, which polkit would look for the bus in
        "etc/tmpfiles.d/run.conf": "L+ /var/run - - - - /run\n",
        "etc/hosts": f"127.0.0.1\tlocalhost\n127.0.1.1\t{kind.name}\n",
        f"var/lib/systemd/linger/{kind.user}": "",
    }
