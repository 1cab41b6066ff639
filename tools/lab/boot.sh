# Mounts a virtual board inside namespaces of its own and becomes its first process.
# Arguments: the shared root, the board's storage, the folder of its hardware, its init, paths that it lacks.
set -e
lower=$1 storage=$2 hardware=$3 init=$4 without=$5
root=$storage/merged
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$storage/upper,workdir=$storage/work" "$root"
cd "$root"
for pattern in $without; do rm -rf ./$pattern; done
mount -t proc proc proc
for name in cpuinfo meminfo loadavg uptime; do
  [ ! -f "$hardware/proc/$name" ] || mount --bind "$hardware/proc/$name" "proc/$name"
done
# What systemd writes there on a machine of its own would set this machine's kernel.
[ "$init" != systemd ] || { mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys; }
mount --bind "$hardware/proc/boot_id" proc/sys/kernel/random/boot_id
mount --bind "$hardware/sys" sys
if [ "$init" = systemd ]; then
  mkdir -p sys/fs/cgroup
  mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 sys/fs/cgroup
fi
mount -t tmpfs -o mode=755,size=4m tmpfs dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
  mknod -m 666 "dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,size=64m tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "dev/${number#*:}"; done
mount -t tmpfs -o mode=755,size=64m tmpfs run # systemd takes no new units in where less than 16 MiB are free
mkdir -p run/sshd run/vcio
mount --bind "$hardware/vcio" run/vcio
if [ -d data/local/tmp ]; then
  mkdir -p sdcard
  mount -t tmpfs -o mode=777,size=16m,noexec,nosuid tmpfs sdcard
fi
pivot_root . mnt
# Nothing of the machine below, the disks of other boards least of all, is the board's to hold.
umount -l mnt
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /usr/sbin/init
