#!/bin/bash
# Installs the Debian packages that the libvirt driver, the network driver and the tiny image need, if any is missing.
# With --with-keycloak also those that a real Keycloak needs (tools/install-keycloak.sh fetches that itself).
# Starts no service and changes no link, firewall rule or setting. Needs root. Can be run again at any time.
set -euo pipefail

packages=(
  qemu-system-x86 qemu-utils seabios libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
  dnsmasq-base nftables iptables iproute2 util-linux procps busybox-static syslinux mtools dosfstools cpio binutils openssl
  socat wireguard-go wireguard-tools isc-dhcp-client
)
if [ "${1:-}" = --with-keycloak ]; then
  packages+=(default-jre-headless maven)
elif [ $# -gt 0 ]; then
  echo 'usage: install-debian-packages.sh [--with-keycloak]' >&2
  exit 64
fi
missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo 'install-debian-packages: nothing is missing'
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "install-debian-packages: run as root to install: ${missing[*]}" >&2
  exit 1
fi

# While this runs, maintainer scripts must start no service (policy-rc.d, see invoke-rc.d(8)). A guard that was there
# before stays as it was.
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
  trap 'rm -f "$guard"' EXIT
  printf '#!/bin/sh\nexit 101\n' > "$guard"
  chmod 755 "$guard"
fi
export DEBIAN_FRONTEND=noninteractive
echo "install-debian-packages: installing ${missing[*]}"
apt-get -qq update
apt-get -qq -y --no-install-recommends install "${missing[@]}" > /dev/null
echo 'install-debian-packages: done'
