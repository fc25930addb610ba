/** A row of each table with tenant data, for the tests of the walls between tenants. */
import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { newId } from '#libs/core';
import type { Database } from '#libs/db';

export const NODE = newId();
export const OTHER_NODE = newId();

/**
 * One row a table with tenant data, for a tenant. A table that is not named here gets one from the catalogue; where its
 * checks want more than that, it cannot be made until it is named.
 */
const rows: Record<string, (tenant: string, id: string) => Record<string, unknown>> = {
  resource: (tenant_id, id) => ({
    tenant_id,
    id,
    kind: 'network',
    name: `n-${tenant_id}`,
    state: 'ready',
    created_by: 'x',
  }),
  resource_tag: (tenant_id, resource_id) => ({
    tenant_id,
    kind: 'network',
    key: 'k',
    value: 'v',
    resource_id,
    created_at: new Date(),
    name: 'n',
  }),
  dependency: (tenant_id, id) => ({
    tenant_id,
    resource_id: id,
    target_tenant_id: tenant_id,
    target_id: id,
    relation: 'test',
  }),
  job: (tenant_id, id) => ({
    tenant_id,
    id,
    resource_id: id,
    kind: 'network',
    resource_name: 'n',
    action: 'create',
    created_by: 'x',
  }),
  alarm: (tenant_id, id) => ({ tenant_id, id, code: 'job_overdue', severity: 'warning', cause: id, message: 'm' }),
  disk_tombstone: (tenant_id, id) => ({ tenant_id, id, node_id: NODE, kind: 'disk' }),
  orphan: (tenant_id, id) => ({ tenant_id, kind: 'network', id, node_id: NODE }),
  missing_placement: (tenant_id, resource_id) => ({ tenant_id, resource_id, node_id: NODE, kind: 'network' }),
  sweep_removal: (tenant_id, id) => ({ tenant_id, kind: 'network', id, node_id: NODE }),
  login_inventory: (tenant_id) => ({ tenant_id, mode: 'realm', items: 1 }),
  account_orphan: (tenant_id, id) => ({ tenant_id, mode: 'realm', kind: 'user', name: id }),
  account_removal: (tenant_id, id) => ({ tenant_id, mode: 'realm', kind: 'user', name: id }),
  job_step: (tenant_id, job_id) => ({ tenant_id, job_id, ordinal: 1, name: 's', state: 'running' }),
  event: (tenant_id, resource_id) => ({ tenant_id, type: 't', kind: 'network', resource_id, body: '{}' }),
  event_counter: (tenant_id) => ({ tenant_id, last: 1 }),
  audit: (tenant_id, id) => ({ tenant_id, id, actor: 'a', action: 'network.create', result: 'done' }),
  audit_digest: (tenant_id) => ({ tenant_id, batch: 1, ids: '{}', digest: Buffer.from('d') }),
  idempotency: (tenant_id, id) => ({
    tenant_id,
    subject: 's',
    key: id,
    request_hash: Buffer.from('h'),
    status: 202,
    headers: '{}',
    body: '{}',
  }),
  quota: (tenant_id) => ({ tenant_id, name: 'instances', max: 10, used: 0 }),
  tenant_issuer: (tenant_id) => ({ tenant_id, issuer: `https://issuer.example/${tenant_id}` }),
  subject: (tenant_id, resource_id) => ({ tenant_id, subject: 's', kind: 'user', resource_id }),
  access_rule: (tenant_id, grant_id) => ({
    tenant_id,
    grant_id,
    ordinal: 0,
    subject_type: 'group',
    subject: 'ops',
    verbs: '{read}',
    kinds: '{network}',
  }),
  access_grant: (tenant_id, id) => ({
    tenant_id,
    id,
    subject_type: 'group',
    subject: 'ops',
    verbs: '{read}',
    kinds: '{network}',
    rules: '[]',
  }),
  realm: (tenant_id, id) => ({ tenant_id, id, mode: 'realm', place_mode: 'realm' }),
  tenant_domain: (tenant_id) => ({ tenant_id, domain: `api.${tenant_id}.example` }),
  placement: (tenant_id, resource_id) => ({
    tenant_id,
    resource_id,
    node_id: NODE,
    kind: 'network',
    generation: 1,
    present: true,
  }),
  deed: (tenant_id, id) => ({ tenant_id, id, node_id: NODE, kind: 'k', resource_id: id, verb: 'v', repeatable: true }),
  move: (tenant_id, id) => ({
    tenant_id,
    id,
    resource_id: id,
    from_node: NODE,
    to_node: OTHER_NODE,
    mode: 'cold',
    may_stop: false,
    abandon_id: id,
  }),
  reservation: (tenant_id, resource_id) => ({
    tenant_id,
    resource_id,
    node_id: NODE,
    vcpus: 1,
    memory_mib: 1,
    disk_gib: 1,
  }),
  network: (tenant_id, id) => ({
    tenant_id,
    id,
    subnet: '10.0.0.0/24',
    gateway: '10.0.0.1',
    mtu: 1450,
    address_total: 253,
    address_hint: '10.0.0.2',
  }),
  lease: (tenant_id, id) => ({
    tenant_id,
    id,
    network_id: id,
    ip: '10.0.0.9',
    mac: '52:54:00:00:00:01',
    automatic: false,
  }),
  image: (tenant_id, id) => ({
    tenant_id,
    id,
    visibility: 'private',
    format: 'raw',
    size_bytes: 1,
    virtual_size_bytes: 1,
    sha256: 'a'.repeat(64),
  }),
  metric_sample: (tenant_id, resource_id) => ({ tenant_id, resource_id, source: 's', at: new Date(), metrics: '[]' }),
  deleted_disk: (tenant_id, id) => ({
    tenant_id,
    id,
    name: 'd',
    tags: '{}',
    created_by: 'x',
    created_at: new Date(),
    size_gib: 1,
    node_id: NODE,
    expires_at: new Date(),
  }),
  held_address: (tenant_id, resource_id) => ({ tenant_id, ip: '10.0.0.9', node_id: NODE, resource_id, revision: 1 }),
  network_part: (tenant_id, id) => ({ tenant_id, resource_id: id, network_id: id, kind: 'forward', spec: '{}' }),
  wireguard_door: (tenant_id, network_id) => ({
    tenant_id,
    network_id,
    port: tenant_id === 'a' ? 16_384 : 16_385,
    private_key: 'p',
    public_key: 'q',
  }),
  wireguardpeer: (tenant_id, id) => ({ tenant_id, id, network_id: id, public_key: 'k', address: '198.18.0.2' }),
  publicaddress: (tenant_id, id) => ({
    tenant_id,
    id,
    pool: 'public',
    ip: tenant_id === 'a' ? '203.0.113.1' : '203.0.113.2',
  }),
  portforward: (tenant_id, id) => ({
    tenant_id,
    id,
    public_address_id: id,
    protocol: 'tcp',
    port: 80,
    instance_id: id,
    network_id: id,
    network_asked: false,
  }),
  public_port: (tenant_id, id) => ({ tenant_id, public_address_id: id, protocol: 'tcp', port: 80, resource_id: id }),
  firewallrule: (tenant_id, id) => ({
    tenant_id,
    id,
    network_id: id,
    priority: 1,
    direction: 'in',
    action: 'allow',
    protocol: 'any',
  }),
  apitoken: (tenant_id, id) => ({
    tenant_id,
    id,
    hash: randomBytes(32),
    prefix: 'rhz_1234',
    subject: 's',
    roles: '{}',
    groups: '{}',
    expires_at: new Date(),
  }),
  instance: (tenant_id, id) => ({
    tenant_id,
    id,
    image_id: id,
    vcpus: 1,
    memory_mib: 64,
    desired_power_state: 'running',
    restart_policy: 'stay',
  }),
};

/** They get rows of each tenant with the others'. */
export const filledByTriggers = ['tenant_access'];

/** In an order in which what is referred to comes first. */
export const order = [
  'resource',
  'job',
  'network',
  'image',
  'instance',
  'disk',
  'wireguard_door',
  'tenant_user',
  'tenant_group',
];

/** Of a type, what any column of it takes. */
const samples: Record<string, (id: string) => unknown> = {
  uuid: (id) => id,
  text: () => 'x',
  boolean: () => false,
  integer: () => 1,
  bigint: () => 1,
  jsonb: () => '{}',
  'timestamp with time zone': () => new Date(),
  inet: () => '10.0.0.1',
  cidr: () => '10.0.0.0/24',
  ARRAY: () => '{}',
};

export async function rowOf(db: Database, table: string, tenant: string, id: string): Promise<Record<string, unknown>> {
  const make = rows[table];
  if (make) return make(tenant, id);
  const needed = await sql<{ name: string; type: string }>`
    select column_name as name, data_type as type from information_schema.columns
    where table_schema = 'public' and table_name = ${table} and is_nullable = 'NO' and column_default is null
      and is_identity = 'NO' and is_generated = 'NEVER'`.execute(db.operator);
  return Object.fromEntries(
    needed.rows.map(({ name, type }) => {
      const sample = samples[type];
      if (name !== 'tenant_id' && !sample)
        throw new Error(`Give libs/db/test-rows.ts a row of ${table}: ${name} is ${type}.`);
      return [name, name === 'tenant_id' ? tenant : sample!(id)];
    }),
  );
}
