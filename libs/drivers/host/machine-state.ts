/** What a test that makes hosts must leave as it found it: the machine's own names, resolver, links and firewall. */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { createRunner } from './command.js';

/** Taken before and after, to be compared. */
export async function machineState(): Promise<Record<string, string>> {
  const { run } = createRunner();
  return {
    hostname: hostname(),
    resolver: await readFile('/etc/resolv.conf', 'utf8'),
    hosts: await readFile('/etc/hosts', 'utf8'),
    links: (await run(['ip', '-br', 'link'])).replaceAll(/ +/g, ' '),
    namespaces: await run(['ip', 'netns']),
    rules: await run(['nft', 'list', 'ruleset']),
    forwarding: await run(['sysctl', '-n', 'net.ipv4.ip_forward']),
  };
}
