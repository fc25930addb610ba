/**
 * Disks, snapshots and images of tenants on a real hypervisor, as the guest sees them: what was written is there again,
 * in a disk made from a snapshot and in another tenant's machine; disks grow and come and go while the machine runs.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost } from '#libs/drivers/host';
import { canBuildTiny } from '../tools/tiny-image/index.js';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { booted, Guest } from './harness/guest.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

const missing = [await canHost(), canBuildTiny()].flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: disks on libvirt: ${missing.join('; ')}`);

const size = { vcpus: 1, memoryMiB: 128 };
const userData = '#!/bin/sh\necho "seed: $(hostname)" > /tmp/seeded\n';
const sshKeys = ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq0Vx0Jm1mXn2nYfLz7c2Qw4hN0kq0vS3lqfX0h2y8r me@acme'];

/** The guest loads what that needs when it has looked for its seed. */
const mountBoot = (guest: Guest) =>
  until('the boot volume', async () => {
    const said = await guest.run('mkdir -p /boot; mount -t vfat /dev/vda /boot 2>/dev/null && echo mounted', 30_000);
    return said.includes('mounted');
  });

describe.skipIf(missing.length > 0)('disks on libvirt', () => {
  let stack: Stack;
  let acme: Client;
  let globex: Client;
  let guest: Guest;
  const ok = async (answer: ReturnType<Client['post']>) =>
    expect((await answer).body).toMatchObject({ state: 'ready', job: { state: 'succeeded' } });

  beforeAll(async () => {
    stack = await sharedStack('libvirt');
    acme = await apiOf(stack, 'acme');
    globex = await apiOf(stack, 'globex');
    for (const api of [acme, globex]) await api.make('networks', { name: 'd-lan', subnet: '10.32.0.0/24' });
    const machine = { name: 'd-alpha', image: 'tiny', ...size, userData, sshKeys, interfaces: [{ network: 'd-lan' }] };
    await acme.make('instances', machine);
    await booted(acme, 'd-alpha');
    guest = await Guest.at(stack, acme, 'd-alpha');
  }, 300_000);

  afterAll(async () => {
    guest?.close();
    if (!acme) return;
    for (const [api, names] of [
      [acme, ['d-alpha']],
      [globex, ['d-beta']],
    ] as const) {
      for (const name of names)
        if ((await api.get(`/v1/instances/${name}`)).status === 200) await api.remove('instances', name);
      for (const plural of ['images', 'snapshots', 'disks']) {
        for (const { id, name, visibility } of (await api.get(`/v1/${plural}`)).body.items) {
          if (name.startsWith('d-') && visibility !== 'global') await api.delete(`/v1/${plural}/${id}?wait=60s`);
        }
      }
      for (const { id } of (await api.get('/v1/deleted-disks')).body.items) await api.delete(`/v1/deleted-disks/${id}`);
      await api.remove('networks', 'd-lan');
    }
    await until('an empty node', () => {
      const path = join(stack.data, 'agent', 'disk');
      return !existsSync(path) || readdirSync(path).length === 0;
    });
  }, 240_000);

  it('gives the guest its seed and what it is told of itself', async () => {
    await until(
      'the seed’s script',
      async () => (await guest.run('cat /tmp/seeded')).includes('seed: d-alpha'),
      30_000,
    );
    const asked = await guest.run(
      "printf 'GET /v1/identity HTTP/1.0\\r\\nHost: 169.254.169.254\\r\\n\\r\\n' | nc -w 5 169.254.169.254 80",
    );
    const { id } = (await acme.get('/v1/instances/d-alpha')).body;
    expect(JSON.parse(asked.slice(asked.indexOf('{')))).toMatchObject({ id, name: 'd-alpha', tenant: 'acme' });
    const keys = await guest.run(
      "printf 'GET /v1/ssh-keys HTTP/1.0\\r\\nHost: 169.254.169.254\\r\\n\\r\\n' | nc -w 5 169.254.169.254 80 | tail -n 1",
    );
    expect(keys).toContain('me@acme');
  }, 90_000);

  it('attaches a disk to the running machine, and takes what the guest reports of itself', async () => {
    await acme.make('disks', { name: 'd-data', sizeGiB: 1 });
    await ok(acme.post('/v1/disks/d-data/attach?wait=60s', { instance: 'd-alpha' }));
    await until('vdb', async () => (await guest.run('ls /sys/block')).includes('vdb'), 30_000);
    await guest.run('mkdir -p /mnt /old; mke2fs -F /dev/vdb >/dev/null 2>&1; mount -t ext4 /dev/vdb /mnt', 60_000);
    await guest.run('echo before > /mnt/file; sync');
    expect(await guest.run('cat /mnt/file')).toBe('before');
    expectProblem(await acme.post('/v1/disks/d-data/attach', { instance: 'd-alpha' }), 409, 'in_use');
    expectProblem(await acme.delete('/v1/disks/d-data'), 409, 'in_use');
    const report = '{"queue_length": 7}';
    await guest.run(
      `printf 'POST /v1/metrics HTTP/1.0\\r\\nHost: 169.254.169.254\\r\\nContent-Type: application/json\\r\\nContent-Length: ${report.length}\\r\\n\\r\\n${report}' | nc -w 5 169.254.169.254 80`,
    );
    const metrics = await until(
      'what the machine uses and what its guest reports',
      async () => {
        const { body } = await acme.get('/v1/instances/d-alpha/metrics');
        return body.builtIn && body.custom.length > 0 ? body : false;
      },
      40_000,
    );
    expect(JSON.stringify(metrics)).toContain('queue_length');
    expect(JSON.stringify(metrics)).toContain('cpu_seconds_total');
    const text = await acme.get('/v1/instances/d-alpha/metrics', { accept: 'text/plain' });
    expect(text.text).toMatch(/^queue_length\{.*\} 7$/m);
  }, 180_000);

  it('has what was there at the moment of a snapshot in a disk made from it', async () => {
    const snapshot = await acme.make('snapshots', { name: 'd-before', disk: 'd-data' });
    expect(snapshot.virtualSizeBytes).toBe(2 ** 30);
    await guest.run('echo after > /mnt/file; sync');
    await acme.make('snapshots', { name: 'd-middle', disk: 'd-data' });
    await guest.run('echo later > /mnt/file; sync');
    await acme.make('snapshots', { name: 'd-last', disk: 'd-data' });
    await acme.remove('snapshots', 'd-middle');
    await acme.make('disks', { name: 'd-copy', snapshot: 'd-before' });
    await ok(acme.post('/v1/disks/d-copy/attach?wait=60s', { instance: 'd-alpha' }));
    await until('vdc', async () => (await guest.run('ls /sys/block')).includes('vdc'), 30_000);
    await guest.run('mount -t ext4 /dev/vdc /old', 30_000);
    expect(await guest.run('cat /old/file')).toBe('before');
    expect(await guest.run('cat /mnt/file')).toBe('later');
    await guest.run('umount /old; sync');
    await ok(acme.post('/v1/disks/d-copy/detach?wait=60s', {}));
    await until('no vdc', async () => !(await guest.run('ls /sys/block')).includes('vdc'), 30_000);
  }, 240_000);

  it('grows under the running guest, and refuses to shrink', async () => {
    expect(Number(await guest.run('cat /sys/block/vdb/size'))).toBe(2 * 1024 ** 2);
    await ok(acme.patch('/v1/disks/d-data?wait=60s', { sizeGiB: 2 }));
    await until('2 GiB', async () => Number(await guest.run('cat /sys/block/vdb/size')) === 4 * 1024 ** 2, 30_000);
    expect(await guest.run('cat /mnt/file')).toBe('later');
    expectProblem(await acme.patch('/v1/disks/d-data', { sizeGiB: 1 }), 422, 'invalid', '/sizeGiB');
  }, 120_000);

  it('is set back to a snapshot while the machine is off, and is what it was', async () => {
    await guest.run('umount /mnt; sync');
    expectProblem(await acme.post('/v1/snapshots/d-before/restore', {}), 409, 'not_ready');
    guest.close();
    await ok(acme.post('/v1/instances/d-alpha/stop?wait=60s', {}));
    await ok(acme.post('/v1/snapshots/d-before/restore?wait=60s', {}));
    await ok(acme.post('/v1/instances/d-alpha/resize?wait=60s', { memoryMiB: 160 }));
    await ok(acme.post('/v1/instances/d-alpha/start?wait=60s', {}));
    await booted(acme, 'd-alpha', 2);
    guest = await Guest.at(stack, acme, 'd-alpha');
    await guest.run('mkdir -p /mnt; mount -t ext4 /dev/vdb /mnt', 30_000);
    expect(await guest.run('cat /mnt/file')).toBe('before');
    // It is as large as the disk has become since, and the machine has the memory that it was given.
    expect(Number(await guest.run('cat /sys/block/vdb/size'))).toBe(4 * 1024 ** 2);
    expect(Number(await guest.run("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))).toBeGreaterThan(
      110_000,
    );
  }, 240_000);

  it('becomes an image that another tenant boots from, also after it was withdrawn', async () => {
    await mountBoot(guest);
    expect(await guest.run('echo hello > /boot/hello.txt; sync; cat /boot/hello.txt; umount /boot')).toBe('hello');
    await acme.make('snapshots', { name: 'd-boot', disk: 'd-alpha' });
    // A disk from it is thin, on the same image, and holds what was written since.
    await acme.make('disks', { name: 'd-boot-copy', snapshot: 'd-boot' });
    await ok(acme.post('/v1/disks/d-boot-copy/attach?wait=60s', { instance: 'd-alpha' }));
    await until('vdc', async () => (await guest.run('ls /sys/block')).includes('vdc'), 30_000);
    expect(await guest.run('mount -t vfat /dev/vdc /boot; cat /boot/hello.txt; umount /boot', 30_000)).toBe('hello');
    await ok(acme.post('/v1/disks/d-boot-copy/detach?wait=60s', {}));
    const image = await acme.make('images', { name: 'd-golden', snapshot: 'd-boot' });
    expectProblem(
      await globex.post('/v1/instances', {
        name: 'd-beta',
        image: image.id,
        ...size,
        interfaces: [{ network: 'd-lan' }],
      }),
      422,
      'invalid',
      '/image',
    );
    await ok(acme.post('/v1/images/d-golden/publish?wait=60s', {}));
    const found = (await globex.get('/v1/images?visibility=published')).body.items;
    expect(found).toEqual([
      expect.objectContaining({ id: image.id, publisher: expect.objectContaining({ id: 'acme' }) }),
    ]);
    await globex.make('instances', { name: 'd-beta', image: image.id, ...size, interfaces: [{ network: 'd-lan' }] });
    await ok(acme.post('/v1/images/d-golden/withdraw?wait=60s', {}));
    expect((await globex.get(`/v1/images/${image.id}`)).status).toBe(404);
    await acme.remove('images', 'd-golden');
    await booted(globex, 'd-beta');
    const other = await Guest.at(stack, globex, 'd-beta');
    await mountBoot(other);
    expect(await other.run('cat /boot/hello.txt')).toBe('hello');
    other.close();
  }, 300_000);

  it('can be had back after its deletion, with what it holds', async () => {
    await guest.run('umount /mnt; sync');
    await ok(acme.post('/v1/disks/d-data/detach?wait=60s', {}));
    for (const name of ['d-before', 'd-last']) await acme.remove('snapshots', name);
    const { id } = (await acme.get('/v1/disks/d-data')).body;
    await acme.remove('disks', 'd-data');
    expect((await acme.get('/v1/disks/d-data')).status).toBe(404);
    const back = await acme.post(`/v1/deleted-disks/${id}/restore`, { name: 'd-again' });
    expect(back.body).toMatchObject({ id, name: 'd-again', state: 'ready' });
    await ok(acme.post('/v1/disks/d-again/attach?wait=60s', { instance: 'd-alpha' }));
    await until('vdb', async () => (await guest.run('ls /sys/block')).includes('vdb'), 30_000);
    await guest.run('mount -t ext4 /dev/vdb /mnt', 30_000);
    expect(await guest.run('cat /mnt/file')).toBe('before');
    await guest.run('umount /mnt');
  }, 180_000);

  it('tells within 5 s that the guest has switched itself off', async () => {
    void guest.run('poweroff -f', 1_000).catch(() => undefined);
    const began = Date.now();
    await until(
      'off',
      async () => (await acme.get('/v1/instances/d-alpha')).body.powerState === 'stopped',
      20_000,
      200,
    );
    expect(Date.now() - began).toBeLessThan(5_000);
    expect((await acme.get('/v1/instances/d-alpha')).body.desiredPowerState).toBe('stopped');
  }, 60_000);
});
