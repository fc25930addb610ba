/** WireGuard peers: doors and addresses that no two have, and keys that nobody is told twice. */
import 'reflect-metadata';
import { createPrivateKey, createPublicKey } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { NetworkSpec } from '#libs/drivers/contract';
import { network, placeNetworks } from '#libs/kinds/network';
import type { Caller, KindDefinition } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { clientConfig } from './client-config.js';
import { wireguardpeer } from './index.js';
import { keyShape, newKeyPair } from './keys.js';
import { configOf, type WireguardpeerRow } from './wireguardpeer.resource.js';

let platform: Platform;
let caller: Caller;
let net: string;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, wireguardpeer] });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  net = (await make(network, { name: 'lan', subnet: '10.7.0.0/24' })).id;
  await place(net);
});

const place = (id: string) =>
  platform.db.tenantTransaction(caller.actor.tenantId, (tx) =>
    placeNetworks(tx, caller.actor.tenantId, platform.node.id, [id]),
  );

async function make(kind: KindDefinition, body: object): Promise<Record<string, any>> {
  const change = await platform.pipeline.create(caller, kind, body);
  await platform.done(caller, change);
  const { body: made } = await platform.reader.get(caller, kind, change.body.id);
  return { ...made, secrets: change.secrets, change };
}

const peer = (more: object = {}) => make(wireguardpeer, { name: `p-${newId().slice(-12)}`, network: 'lan', ...more });

async function doorOnNode(id = net) {
  await platform.node.look();
  return (platform.node.machine.get(id)!.spec as unknown as NetworkSpec).wireguard;
}

/** The tables in which a text stands. */
async function tablesWith(text: string): Promise<string[]> {
  const tables = await sql<{ name: string }>`select table_name as name from information_schema.columns
    where table_schema = 'public' and column_name = 'tenant_id'`.execute(platform.db.operator);
  const found: string[] = [];
  for (const { name } of tables.rows) {
    const rows = await sql`select 1 from ${sql.table(name)} t where strpos(t::text, ${text}) > 0 limit 1`.execute(
      platform.db.operator,
    );
    if (rows.rows.length > 0) found.push(name);
  }
  return found.sort();
}

function publicKeyOf(privateKey: string): string {
  // RFC 8410 §7: the DER around 32 bytes of an X25519 private key.
  const der = Buffer.concat([
    Buffer.from('302e020100300506032b656e04220420', 'hex'),
    Buffer.from(privateKey, 'base64'),
  ]);
  const key = createPublicKey(createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }));
  return Buffer.from(key.export({ format: 'jwk' }).x!, 'base64url').toString('base64');
}

describe('keys', () => {
  test('are pairs of Curve25519 as wg(8) writes them', () => {
    for (let i = 0; i < 20; i++) {
      const { privateKey, publicKey } = newKeyPair();
      expect(privateKey).toMatch(keyShape);
      expect(publicKey).toMatch(keyShape);
      expect(publicKeyOf(privateKey)).toBe(publicKey);
    }
  });
});

describe('a WireGuard peer', () => {
  test('without a key gets one, which only the answer to its create tells', async () => {
    const { secrets, publicKey, address, change, id } = await peer();
    expect(publicKeyOf(secrets.privateKey)).toBe(publicKey);
    expect(secrets.config).toContain(`PrivateKey = ${secrets.privateKey}\n`);
    expect(secrets.config).toContain(`Address = ${address}/32\n`);
    expect(secrets.config).toContain('AllowedIPs = 10.7.0.0/24\n');
    expect(JSON.stringify(change.body)).not.toContain(secrets.privateKey);
    expect(await tablesWith(secrets.privateKey)).toEqual([]);
    const { row } = await platform.reader.get(caller, wireguardpeer, id);
    const later = clientConfig(configOf(row as WireguardpeerRow));
    expect(later).toContain('PrivateKey = <the private key>\n');
    expect(later.replace('<the private key>', secrets.privateKey)).toBe(secrets.config);
  });

  test('is behind the network’s door on the nodes, and the door’s key is told nobody else', async () => {
    const { privateKey: _, publicKey } = newKeyPair();
    const presharedKey = newKeyPair().privateKey;
    const one = await peer({ publicKey, presharedKey });
    expect(one.secrets).toBeUndefined();
    expect(one).toMatchObject({ publicKey, hasPresharedKey: true, allowedAddresses: ['10.7.0.0/24'] });
    expect(one).not.toHaveProperty('presharedKey');
    const two = await peer();
    const door = (await doorOnNode())!;
    expect(publicKeyOf(door.privateKey)).toBe(one.serverPublicKey);
    expect(two.serverPublicKey).toBe(one.serverPublicKey);
    expect(door.address).toBe(`${one.address.replace(/\.2$/, '.1')}/24`);
    expect(new Set(door.peers)).toEqual(
      new Set([
        { publicKey, presharedKey, allowedIps: [`${one.address}/32`] },
        { publicKey: two.publicKey, presharedKey: null, allowedIps: [`${two.address}/32`] },
      ]),
    );
    expect(await tablesWith(door.privateKey)).toEqual(['placement', 'wireguard_door']);
    await platform.done(caller, await platform.pipeline.update(caller, wireguardpeer, one.id, { presharedKey: null }));
    expect((await doorOnNode())!.peers.map((known) => known.presharedKey)).toEqual([null, null]);
    for (const { id } of [one, two]) {
      await platform.done(caller, await platform.pipeline.remove(caller, wireguardpeer, id));
    }
    expect(await doorOnNode()).toBeNull();
    // The next one finds the door as it was.
    expect((await peer()).serverPublicKey).toBe(one.serverPublicKey);
  });

  test('shows where the door is as soon as a node says so, under a new ETag', async () => {
    const one = await peer();
    expect(one.endpoint).toBeNull();
    const before = await platform.reader.get(caller, wireguardpeer, one.id);
    await platform.node.says(net, { wireguardEndpoint: '192.0.2.1:16384' });
    const after = await platform.reader.get(caller, wireguardpeer, one.id);
    expect(after.body.endpoint).toBe('192.0.2.1:16384');
    expect(after.etag).not.toBe(before.etag);
    expect(clientConfig(configOf(after.row as WireguardpeerRow))).toContain('Endpoint = 192.0.2.1:16384\n');
  });

  test('has a key and an address that no other one of the network has, of many that come at once', async () => {
    const { publicKey } = newKeyPair();
    const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => peer({ publicKey })));
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') {
        expect(outcome.reason).toMatchObject({
          code: 'already_exists',
          details: { errors: [{ pointer: '/publicKey' }] },
        });
      }
    }
    const many = await Promise.all(Array.from({ length: 10 }, () => peer()));
    expect(new Set(many.map(({ address }) => address)).size).toBe(10);
    expect(new Set(many.map(({ publicKey: key }) => key)).size).toBe(10);
  });

  test('of a network whose tunnel is full is refused', async () => {
    const { address, id } = await peer();
    const prefix = address.replace(/\.2$/, '');
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
      select ${caller.actor.tenantId}, gen_random_uuid(), 'wireguardpeer', 'many-' || n, 'ready', 't', 1
      from generate_series(3, 254) n`.execute(platform.db.operator);
    await sql`insert into wireguardpeer (tenant_id, id, network_id, public_key, address)
      select tenant_id, id, ${net}, id::text, (${prefix} || '.' || substr(name, 6))::inet from resource
      where tenant_id = ${caller.actor.tenantId} and name like 'many-%'`.execute(platform.db.operator);
    await expect(peer()).rejects.toMatchObject({ code: 'no_free_address' });
    await platform.done(caller, await platform.pipeline.remove(caller, wireguardpeer, id));
    expect((await peer()).address).toBe(address);
  });

  test('of each network comes by a port and through a tunnel of its own', async () => {
    const networks = await Promise.all(
      Array.from({ length: 8 }, (_, i) => make(network, { name: `n${i}`, subnet: '10.7.0.0/24' })),
    );
    const peers = await Promise.all(networks.map(({ name }) => peer({ network: name })));
    expect(new Set(peers.map(({ address }) => address)).size).toBe(8);
    const ports = await sql<{ port: number }>`select port from wireguard_door order by port`.execute(
      platform.db.operator,
    );
    expect(ports.rows.map(({ port }) => port)).toEqual(ports.rows.map((_, i) => 16_384 + i));
  });
});
