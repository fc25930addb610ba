#!/bin/bash
# Builds the tiny test image: Debian's cloud kernel + busybox on a bootable FAT disk, about 12 MiB of qcow2.
# Usage: build.sh OUT.qcow2 [CACHE_DIR]   (cache: $RHYZOME_TINY_CACHE, else beside OUT)
# Its machine takes its addresses by DHCP and SLAAC, prints address=, hostname= and address6= on ttyS0, answers HTTP on
# port 80, powers off on the ACPI power button, gives a root shell on ttyS0 and runs the script of a NoCloud seed. Needs no root, no loop device and leaves nothing but OUT and the kernel in the cache.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C

out=${1:?usage: build.sh OUT.qcow2 [CACHE_DIR]}
cache=${2:-${RHYZOME_TINY_CACHE:-$(dirname "$out")}}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$cache" "$(dirname "$out")"
cache=$(cd "$cache" && pwd)
out="$(cd "$(dirname "$out")" && pwd)/$(basename "$out")"
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

fetch_kernel() { # puts vmlinuz and the modules into $work/kernel, from a package that is downloaded once and not installed
  local package deb
  deb=$(find "$cache" -maxdepth 1 -name 'linux-image-*.deb' | sort | tail -n 1)
  if [ -z "$deb" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || { echo 'no kernel package known; run apt-get update' >&2; exit 3; }
    mkdir "$work/download"
    chmod 755 "$work" "$work/download"
    (cd "$work/download" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2)
    deb="$cache/$(basename "$work"/download/*.deb)"
    mv "$work"/download/*.deb "$deb"
  fi
  dpkg-deb -x "$deb" "$work/kernel"
}

add_modules() { # $1: file in /lib that lists them in their order; the others: modules
  local order="$root/lib/$1" name file
  shift
  : > "$order"
  for name in "$@"; do
    file=$(find "$work/kernel/lib/modules" -name "$name.ko" | head -n 1)
    [ -n "$file" ] || continue # built in
    strip --strip-debug -o "$root/lib/$name.ko" "$file" 2>/dev/null || cp "$file" "$root/lib/$name.ko"
    echo "$name" >> "$order"
  done
}

make_initrd() { # busybox, the modules that a virtual machine needs, and init
  local root="$work/root"
  mkdir -p "$root"/{bin,dev,proc,sys,lib,etc,tmp,mnt,seed,www/cgi-bin}
  cp "$busybox" "$root/bin/busybox"
  add_modules order $modules
  add_modules order-seed $seed_modules
  install -m 755 "$here/init" "$root/init"
  install -m 755 "$here"/{udhcpc.script,console,seed,address6} "$root/lib/"
  install -m 755 "$here/index.cgi" "$here/reach.cgi" "$root/www/cgi-bin/"
  (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -9n) > "$work/initrd.gz"
}

make_disk() { # a FAT disk without a partition table that syslinux boots
  truncate -s 24M "$work/disk.raw"
  mkfs.vfat -F 16 -n RHYZTINY "$work/disk.raw" > /dev/null
  cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
  cp "$here/syslinux.cfg" "$work/syslinux.cfg"
  mcopy -i "$work/disk.raw" "$work/vmlinuz" "$work/initrd.gz" "$work/syslinux.cfg" ::/
  syslinux --install "$work/disk.raw"
  qemu-img convert -c -f raw -O qcow2 "$work/disk.raw" "$work/tiny.qcow2"
}

# The order is the order of loading: each finds what it needs loaded before it.
modules='virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net virtio_blk virtio_balloon evdev button'
# Only for a seed, which lies on a disk of a virtio-scsi controller; loaded beside the rest.
seed_modules='scsi_common scsi_mod virtio_scsi sd_mod fat vfat nls_cp437 nls_ascii'
busybox=$(command -v busybox) || { echo 'busybox is missing' >&2; exit 3; }
fetch_kernel
make_initrd
make_disk
mv "$work/tiny.qcow2" "$out.part"
mv "$out.part" "$out"
