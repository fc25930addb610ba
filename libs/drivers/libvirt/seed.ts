/**
 * What a guest is told of itself, as cloud-init's NoCloud data source reads it (cloudinit.readthedocs.io, NoCloud): a FAT
 * volume labelled CIDATA with the files meta-data, user-data and network-config. JSON is YAML, too.
 */

import { existsSync } from 'node:fs';
import { chmod, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import ipaddr from 'ipaddr.js';
import type { InstanceSpec, Ref } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { readJson, sync, writeJson } from './folders.js';
import type { Place } from './places.js';
import { toDiskError } from './qcow2.js';

export interface SeedFiles {
  'meta-data': string;
  'user-data': string;
  'network-config': string;
}

/** The files of a seed. Pure. */
export function seedFiles(ref: Ref, { guest, interfaces }: InstanceSpec): SeedFiles {
  const { hostname, userData, sshKeys } = guest;
  const metaData = {
    'instance-id': ref.id,
    'local-hostname': hostname,
    // Beside user data that is not ours to change; without it the keys stand there.
    ...(userData !== null && sshKeys.length > 0 && { 'public-keys': sshKeys }),
  };
  const config = { hostname, ...(sshKeys.length > 0 && { ssh_authorized_keys: sshKeys }) };
  // Named, since a renderer that matches by MAC alone still writes the entry's name as the interface's.
  const ethernets = interfaces.map(({ mac, ip6 }, n) => [
    `eth${n}`,
    {
      match: { macaddress: mac.toLowerCase() },
      'set-name': `eth${n}`,
      dhcp4: true,
      ...(ip6 !== null && { 'accept-ra': true, ...(!isFromMac(ip6, mac) && { dhcp6: true }) }),
    },
  ]);
  return {
    'meta-data': JSON.stringify(metaData, null, 1),
    'user-data': userData ?? `#cloud-config\n${JSON.stringify(config, null, 1)}\n`,
    'network-config': JSON.stringify({ version: 2, ethernets: Object.fromEntries(ethernets) }, null, 1),
  };
}

/**
 * Whether an address is the one that SLAAC makes of a MAC (RFC 4291, appendix A): then no DHCPv6 server answers, and a guest
 * that asked would wait in vain.
 */
function isFromMac(ip6: string, mac: string): boolean {
  const [a = 0, b, c, d, e, f] = mac.split(':').map((octet) => Number.parseInt(octet, 16));
  const identifier = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
  const octets = ipaddr.parse(ip6).toByteArray().slice(-8);
  return octets.every((octet, n) => octet === identifier[n]);
}

const wantedFile = (place: Place) => join(place.dir, 'seed-wanted.json');

/** Notes what the next start is to tell the guest, also a start that nobody gives a spec for. */
export async function wantSeed(place: Place, files: SeedFiles): Promise<void> {
  const last = await readJson<SeedFiles>(wantedFile(place));
  if (JSON.stringify(last) === JSON.stringify(files)) return;
  await writeJson(wantedFile(place), files);
  await chmod(wantedFile(place), 0o600);
}

/**
 * Writes the volume that is wanted unless it is there. Only for a machine that is off. Undo: removing the instance's
 * directory. Throws DriverError `disk_full`.
 */
export async function ensureSeed(runner: Runner, place: Place): Promise<void> {
  const files = await readJson<SeedFiles>(wantedFile(place));
  if (!files) return;
  const told = join(place.dir, 'seed.json');
  const last = existsSync(place.seed) ? await readJson<SeedFiles>(told) : null;
  if (last && JSON.stringify(last) === JSON.stringify(files)) return;
  const source = join(place.dir, 'seed.new');
  const volume = `${place.seed}.new`;
  try {
    await rm(told, { force: true });
    for (const path of [source, volume]) await rm(path, { recursive: true, force: true });
    // It may hold passwords: nobody else may list or read.
    await mkdir(source, { mode: 0o700 });
    const paths = Object.keys(files).map((name) => join(source, name));
    for (const [name, text] of Object.entries(files)) await writeFile(join(source, name), text, { mode: 0o600 });
    await writeFile(volume, '', { mode: 0o600 });
    // 2048 sectors of 512 bytes (mformat(1)).
    await runner.run(['mformat', '-i', volume, '-C', '-T', '2048', '-h', '2', '-s', '16', '-v', 'CIDATA', '::']);
    await runner.run(['mcopy', '-i', volume, ...paths, '::']);
    await rm(source, { recursive: true });
    // Before it is said to be told: a power cut would leave an empty one, and nobody would write it again.
    await sync(volume);
    await rename(volume, place.seed);
    await writeJson(told, files);
    await chmod(told, 0o600);
  } catch (error) {
    for (const path of [source, volume]) await rm(path, { recursive: true, force: true });
    throw toDiskError(error, false);
  }
}
