#!/bin/bash
# Turns the archive that mmdebstrap wrote into a bootable ext4 image; run under fakeroot by tools/guest/make.
#   debian-image.sh ROOT.TAR KERNEL_FOLDER IMAGE SIZE
# A tree with /opt/engine stays beside the image, as `root`: what runs in that guest also runs natively.
# Nothing is mounted: mkfs.ext4 fills the file system from a folder, so that no privilege is needed.
set -euo pipefail
archive=$1 kernel_folder=$2 image=$3 size=$4
root=$image.tree
mkdir "$root"
tar --numeric-owner -xf "$archive" -C "$root"

mkdir -p "$root/lib/modules"
cp -a --no-preserve=ownership "$kernel_folder"/lib/modules/* "$root/lib/modules/"

echo ostler >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 ostler\n::1 localhost\n' >"$root/etc/hosts"
# Fixed, so that a boot from a throwaway copy is not a first boot, which would preset every unit anew.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
tr -dc 'a-f0-9' <<<"$(sha256sum <"$archive")" | cut -c1-32 >"$root/etc/machine-id"
echo 'LABEL=ostler / ext4 errors=remount-ro 0 0' >"$root/etc/fstab"

cat >"$root/etc/systemd/network/80-dhcp.network" <<'END'
[Match]
Name=en* eth*

[Network]
DHCP=yes
END
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/volatile.conf"

enable() { # enable UNIT TARGET: what `systemctl enable` does, without running the guest's programs
  mkdir -p "$root/etc/systemd/system/$2.wants"
  ln -sf "/lib/systemd/system/$1" "$root/etc/systemd/system/$2.wants/$1"
}
enable systemd-networkd.service multi-user.target
enable systemd-resolved.service multi-user.target
ln -sf /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
# Periodic upkeep would run in the middle of a measurement.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
  e2scrub_reap.service systemd-networkd-wait-online.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# `ostler.autologin` on the kernel command line: a root shell instead of a login prompt (`./dev run`).
mkdir -p "$root/etc/systemd/system/serial-getty@.service.d" "$root/usr/local/sbin"
cat >"$root/etc/systemd/system/serial-getty@.service.d/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/usr/local/sbin/serial-login %I
END
cat >"$root/usr/local/sbin/serial-login" <<'END'
#!/bin/sh
case " $(cat /proc/cmdline) " in
  *" ostler.autologin "*) autologin="--autologin root" ;;
  *) autologin= ;;
esac
exec agetty $autologin --keep-baud 115200,57600,38400,9600 "$1" "${TERM:-vt220}"
END
chmod 755 "$root/usr/local/sbin/serial-login"

truncate -s "$size" "$image"
mkfs.ext4 -q -F -L ostler -m 0 -d "$root" "$image"
if [[ -d $root/opt/engine ]]; then
  mv "$root" "$(dirname "$image")/root"
else
  rm -rf "$root"
fi
