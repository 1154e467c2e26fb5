#!/bin/sh
# PID 1 of an emulated instance, in mount, PID, UTS and IPC namespaces of its own. It gives the instance a root
# of its own, in which every folder of this computer is seen through an overlay, so that nothing that is written
# there reaches the computer; then it adopts orphans until it is killed, and everything below it with it.
#   DISK  what the instance has for itself    NAME  its hostname    KEEP  a folder to show although its top is not
set -eu
root=$DISK/root
mount -t tmpfs -o mode=755 instance "$root"
for path in /*; do
    name=${path#/}
    if [ -L "$path" ]; then
        cp -P "$path" "$root/$name"
        continue
    fi
    [ -d "$path" ] || continue
    case $DISK/ in "$path"/*) [ "$name" = tmp ] || continue ;; esac
    mkdir "$root/$name"
    case $name in
    lost+found | home | run | mnt | media) ;;
    proc) mount -t proc proc "$root/proc" ;;
    sys | dev) mount --rbind "$path" "$root/$name" ;;
    tmp) mount --bind "$DISK/tmp" "$root/tmp" ;;
    *)
        mkdir -p "$DISK/upper/$name" "$DISK/work/$name"
        mount -t overlay overlay \
            -o "lowerdir=$path,upperdir=$DISK/upper/$name,workdir=$DISK/work/$name" "$root/$name"
        ;;
    esac
done
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mkdir -p "$root/run/sshd" "$root/home/ubuntu"
mount --bind "$DISK/home" "$root/home/ubuntu"
if [ -n "$KEEP" ] && [ ! -e "$root$KEEP" ]; then
    mkdir -p "$root$KEEP"
    mount --bind "$KEEP" "$root$KEEP"
fi
while IFS='	' read -r source target; do
    mkdir -p "$root$target"
    mount --bind "$source" "$root$target"
done <"$DISK/mounts"
hostname "$NAME"
mkdir "$root/.old"
cd "$root"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
trap 'exit 0' TERM
echo ready
exec >/dev/null 2>&1 </dev/null
while :; do
    sleep 1000000 &
    wait $! || :
done
