#!/bin/bash
# Gets the server distribution of Keycloak from Maven's central repository and unpacks it, for `npm run test:keycloak`.
# Usage: install-keycloak.sh [DIR]   (default: .rhyzome/cache/keycloak in the checkout; then no setting is needed)
# Needs mvn, tar, sha256sum; `apt-get install maven default-jre-headless` has what is missing. Can be run again at any time.
set -euo pipefail

version=26.7.3
sha256=77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47
checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
target=${1:-$checkout/.rhyzome/cache/keycloak}

if [ -e "$target/version.txt" ] && grep -qF "$version" "$target/version.txt"; then
  echo "install-keycloak: Keycloak $version is in $target"
  exit 0
fi
if [ -e "$target" ]; then
  echo "install-keycloak: $target is there and is not Keycloak $version; remove it first" >&2
  exit 1
fi
for program in mvn tar sha256sum; do
  command -v "$program" > /dev/null && continue
  echo "install-keycloak: $program is missing (apt-get install maven default-jre-headless)" >&2
  exit 1
done

mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$(dirname "$target")/keycloak-download.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "install-keycloak: fetching Keycloak $version (180 MB)"
mvn -q -B dependency:copy "-Dartifact=org.keycloak:keycloak-quarkus-dist:$version:tar.gz" \
  "-DoutputDirectory=$work" -Dmdep.useBaseVersion=true
archive="$work/keycloak-quarkus-dist-$version.tar.gz"
echo "$sha256  $archive" | sha256sum --check --quiet
tar -xzf "$archive" -C "$work"
# Whole or not at all.
mv -T "$work/keycloak-$version" "$target"
echo "install-keycloak: Keycloak $version is in $target"
