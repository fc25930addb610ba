#!/bin/busybox sh
# Fetches / of the machine whose address is the query string, so that a test sees whom this machine can reach.
printf 'Content-Type: text/plain\r\n\r\n'
address=$(echo "$QUERY_STRING" | tr -cd '0-9a-f.:')
# By nc, since the wget of a static busybox crashes in the resolver.
answer=$(printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 3 "$address" 80 | sed '1,/^\r*$/d')
echo "${answer:-unreachable $address}"
