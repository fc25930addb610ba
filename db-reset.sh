#!/bin/sh
# Creates the database that the settings name, or destroys and recreates it: it says so, and asks (--force does not).
# The same as `rhyzome db reset`; takes its options, e.g. --config FILE.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
exec "$root/bin/rhyzome.js" db reset "$@"
