"""What a board runs to say of itself what it is: POSIX sh for every board, and Python where there is one."""

from __future__ import annotations

MARK = "edgedeploy-probe:"

# Runtimes are published as wheels for these, from the first to the last.
PYTHONS = ((3, 8), (3, 13))
_PYTHONS = [f"3.{minor}" for minor in range(PYTHONS[0][1], PYTHONS[1][1] + 1)]

# Any Python runs this, so that one that is too old can say so.
PYTHON_PROBE = f"""
import os, struct, sys
print("{MARK}python_version=%d.%d.%d" % tuple(sys.version_info[:3]))
print("{MARK}python_bits=%d" % (struct.calcsize("P") * 8))
print("{MARK}python=%s" % sys.executable)
try:
    print("{MARK}python_libc=%s" % os.confstr("CS_GNU_LIBC_VERSION"))
except (AttributeError, ValueError, OSError):
    pass
try:
    with open(sys.argv[1], "rb") as agent:
        import hashlib
        print("{MARK}agent_sha256=%s" % hashlib.sha256(agent.read()).hexdigest())
except (IOError, OSError):
    pass
try:
    from importlib.machinery import PathFinder
    print("{MARK}numpy=%s" % ("yes" if PathFinder.find_spec("numpy", sys.argv[2:] + sys.path) else "no"))
except (ImportError, AttributeError, ValueError):
    pass
"""

# What a cut link left in tmp and has lain there for two days (`find` counts whole ones) is nobody's any more.
# The subshell around the test write is needed: a redirection that fails ends a POSIX shell. What the kernel said of it
# is brought back, in the words of the C locale.
# What the shell can do by itself starts no program: a slow board starts each for milliseconds.
# A file is run under the root because neither `mount` nor its options tell what a security module forbids besides.
# ssh-keygen is asked for -Y without a purpose: one that is too old for it does not know the option.
# The ELF header of `od` itself tells the user land's width and machine where there is no getconf.
PROBE = f"""
say() {{ printf '{MARK}%s=%s\\n' "$1" "$2"; }}
sh=/bin/sh
[ -x $sh ] || sh=/system/bin/sh
runs() {{
  printf '#!%s\\nexit 0\\n' "$sh" > "$1" && chmod 700 "$1" && "$1"
  status=$?
  rm -f -- "$1"
  return $status
}}
lies() {{
  for each; do
    if [ -e "$each" ] || [ -L "$each" ]; then return 0; fi
  done
  return 1
}}
printf '\\n'
root=$1
case $root in
  '~') root=$HOME ;;
  '~/'*) root=$HOME/${{root#'~/'}} ;;
  /*) ;;
  *) root=$HOME/$root ;;
esac
name=$(uname -srm)
say machine "${{name##* }}"
say kernel "${{name% *}}"
say user_land_bits "$(getconf LONG_BIT 2>/dev/null)"
say libc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say elf "$(echo $(od -An -tu1 -j4 -N16 /proc/self/exe 2>/dev/null))"
for loader in /lib/ld-musl-*; do
  if [ -e "$loader" ]; then say musl "$loader"; fi
done
if [ -e /system/bin/linker64 ]; then say bionic yes; fi
if read -r name size </proc/meminfo && [ "$name" = MemTotal: ]; then say memory "$size"; fi 2>/dev/null
sed -n -e 's/^Features[^:]*:/{MARK}isa=Features:/p' -e 's/^flags[^:]*:/{MARK}isa=flags:/p' /proc/cpuinfo 2>/dev/null |
  sort -u | head -n 16
model=/sys/firmware/devicetree/base/model
if [ -r $model ]; then say model "$(tr -d '\\0' <$model)"; fi 2>/dev/null
umask 077
trouble=$(
  LC_ALL=C
  export LC_ALL
  exec 2>&1
  if ! [ -d "$root/agents" ] || ! [ -d "$root/tmp" ] || ! [ -d "$root/objects/sha256" ]; then
    mkdir -p -- "$root/agents" "$root/tmp" "$root/objects/sha256"
  fi && cd -- "$root" && : > "tmp/probe.$$" && echo writable
)
if [ "${{trouble%writable}}" = "$trouble" ]; then
  say trouble "$(printf '%s\n' "$trouble" | tail -n 1)"
else
  root=$(cd -- "$root" && pwd -P)
  say writable yes
  if ( runs "$root/tmp/probe.$$" ) 2>/dev/null; then
    say executable yes
  else
    for place in "$HOME" /data/local/tmp /var/tmp /opt /tmp; do
      if ( runs "$place/.edgedeploy-probe.$$" ) 2>/dev/null; then
        say executable_place "$place"
        break
      fi
    done
  fi
  if lies "$root"/tmp/*; then
    find "$root/tmp" -type f -mtime +1 -exec rm -f -- {{}} + 2>/dev/null
  elif ! lies "$root"/objects/sha256/*; then
    say empty yes
  fi
fi 2>/dev/null
say root "$root"
disk=$(df -P -k -- "$root" 2>/dev/null)
say disk "${{disk##*
}}"
for release in "$root/current/" "$root/previous/"; do
  if [ -d "$release" ]; then say release "$(du -s -k -- "$release" 2>/dev/null)"; fi
done
if command -v tar >/dev/null 2>&1; then say tar yes; fi
case $(LC_ALL=C ssh-keygen -Y </dev/null 2>&1) in *'requires an argument'*) say ssh_keygen yes ;; esac
agent=$root/agents/$3.pyz
python=$2
if [ -r "$root/runtimes/current" ]; then
  {{ IFS= read -r digest; IFS= read -r its_python; }} < "$root/runtimes/current"
  bundle=$root/runtimes/$digest
  case $digest in
    '' | *[!0-9a-f]*) ;;
    *)
      if [ ! -f "$bundle/bundle.json" ] || {{ [ -n "$5" ] && [ "$2" != "$its_python" ]; }}; then
        :
      elif [ -f "$bundle/bin/python3" ]; then
        for loader in "$bundle"/lib/ld-linux*; do :; done
        say bundle "$digest"
        say manifest "$(head -n 1 "$bundle/bundle.json")"
        say loader "$loader"
        "$loader" --library-path "$bundle/lib" "$bundle/bin/python3" -c "$4" "$agent" "$bundle/site" \\
          </dev/null 2>/dev/null
        exit 0
      elif [ -n "$its_python" ]; then
        say bundle "$digest"
        say manifest "$(head -n 1 "$bundle/bundle.json")"
        python=$its_python
        site=$bundle/site
      fi
      ;;
  esac
fi
told=
if command -v "$python" >/dev/null 2>&1; then
  say python_found yes
  told=$("$python" -c "$4" "$agent" ${{site:+"$site"}} </dev/null 2>/dev/null)
  printf '%s\\n' "$told"
fi
case $told in
  {" | ".join(f"*python_version={version}.*" for version in _PYTHONS)}) exit 0 ;;
esac
for other in "$2" {" ".join(f"python{version}" for version in reversed(_PYTHONS))}; do
  if [ "$other" != "$python" ] && command -v "$other" >/dev/null 2>&1; then
    version=$("$other" -c 'import sys; print("%d.%d" % sys.version_info[:2])' </dev/null 2>/dev/null)
    case $version in
      {" | ".join(_PYTHONS)})
        say other_python "$version $(command -v "$other")"
        exit 0
        ;;
    esac
  fi
done
exit 0
"""
