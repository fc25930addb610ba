#!/bin/busybox sh
# Answers with the hostname and the addresses of this machine.
printf 'Content-Type: text/plain\r\n\r\n'
echo "$(hostname) $(ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1 | tr '\n' ' ')"
