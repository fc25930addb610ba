#!/bin/busybox sh
# Fetches / of the machine whose IPv4 address is the query string, so that a test sees whom this machine can reach.
printf 'Content-Type: text/plain\r\n\r\n'
address=$(echo "$QUERY_STRING" | tr -cd '0-9.')
wget -T 3 -q -O - "http://$address/" || echo "unreachable $address"
