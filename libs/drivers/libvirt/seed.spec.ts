import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { InstanceSpec } from '#libs/drivers/contract';
import { createRunner } from '#libs/drivers/host';
import { openPlaces, type Place } from './places.js';
import { ensureSeed, seedFiles, wantSeed } from './seed.js';

const ref = { tenantId: 'acme', kind: 'instance', id: '00000000-0000-0000-0000-000000000001' };
const spec = {
  interfaces: [
    { networkId: '', mac: '52:54:00:00:00:0A', ip: '10.0.0.5', ip6: null },
    { networkId: '', mac: '52:54:00:00:00:0b', ip: '10.0.1.5', ip6: 'fd00::5' },
    { networkId: '', mac: '52:54:00:12:34:56', ip: '10.0.2.5', ip6: 'fd00:1::5054:ff:fe12:3456' },
  ],
  guest: { hostname: 'web-1', tags: {}, userData: null, sshKeys: ['ssh-ed25519 AAAA "a" me'] },
} as unknown as InstanceSpec;

describe('what a seed says', () => {
  it('is name, keys and networks', () => {
    const files = seedFiles(ref, spec);
    expect(JSON.parse(files['meta-data'])).toEqual({ 'instance-id': ref.id, 'local-hostname': 'web-1' });
    expect(files['user-data'].split('\n')[0]).toBe('#cloud-config');
    expect(JSON.parse(files['user-data'].slice('#cloud-config'.length))).toEqual({
      hostname: 'web-1',
      ssh_authorized_keys: ['ssh-ed25519 AAAA "a" me'],
    });
    expect(JSON.parse(files['network-config'])).toEqual({
      version: 2,
      ethernets: {
        eth0: { match: { macaddress: '52:54:00:00:00:0a' }, 'set-name': 'eth0', dhcp4: true },
        eth1: {
          match: { macaddress: '52:54:00:00:00:0b' },
          'set-name': 'eth1',
          ...{ dhcp4: true, 'accept-ra': true, dhcp6: true },
        },
        // Its address is made from its MAC.
        eth2: {
          match: { macaddress: '52:54:00:12:34:56' },
          'set-name': 'eth2',
          ...{ dhcp4: true, 'accept-ra': true },
        },
      },
    });
  });

  it('leaves user data as it is, the keys beside it', () => {
    const userData = '#!/bin/sh\necho "ü"\n';
    const files = seedFiles(ref, { ...spec, guest: { ...spec.guest, userData } });
    expect(files['user-data']).toBe(userData);
    expect(JSON.parse(files['meta-data'])).toMatchObject({ 'public-keys': ['ssh-ed25519 AAAA "a" me'] });
  });
});

const runner = createRunner();
const hasTools = await runner.run(['mformat', '--version']).then(
  () => true,
  () => false,
);
if (!hasTools) console.warn('skipped: seeds: mtools is missing; tools/install-debian-packages.sh installs it');

describe.skipIf(!hasTools)('the volume of a seed', () => {
  let dir: string;
  let place: Place;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rz-seed-'));
    place = openPlaces(dir).of(ref.id);
    await mkdir(place.dir, { recursive: true });
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));
  const file = (name: string) => runner.run(['mtype', '-i', place.seed, `::${name}`]);

  it('is written when it changes, also after it was cut short, and readable by nobody else', async () => {
    await ensureSeed(runner, place);
    expect(await readdir(place.dir)).toEqual([]);
    const files = seedFiles(ref, spec);
    await wantSeed(place, files);
    await mkdir(join(place.dir, 'seed.new', 'left'), { recursive: true });
    await ensureSeed(runner, place);
    const { ino, size, mode } = await stat(place.seed);
    expect([size, mode & 0o777]).toEqual([1024 ** 2, 0o600]);
    expect(await runner.run(['mlabel', '-i', place.seed, '-s', '::'])).toContain('CIDATA');
    for (const [name, text] of Object.entries(files)) expect(await file(name)).toBe(text);
    await ensureSeed(runner, place);
    expect((await stat(place.seed)).ino).toBe(ino);
    await wantSeed(place, { ...files, 'user-data': 'ü'.repeat(200_000) });
    await ensureSeed(runner, place);
    expect(await file('user-data')).toBe('ü'.repeat(200_000));
    expect((await readdir(place.dir)).sort()).toEqual(['seed-wanted.json', 'seed.img', 'seed.json']);
    for (const name of ['seed-wanted.json', 'seed.json']) {
      expect((await stat(join(place.dir, name))).mode & 0o077).toBe(0);
    }
  });
});
